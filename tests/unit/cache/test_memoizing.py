"""Keys of memoized calls. No Ray."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from infiniray.errors import ConfigError, InvalidKey
from infiniray.memoizing import memoized


def through(key: str, fn: Callable[[], Any]) -> tuple[str, Any]:
    """What a cache would be asked for."""
    return key, fn()


def area(width: Any, height: Any = 2, *more: Any, unit: str = "m", **options: Any) -> str:
    return f"{width}x{height}"


KEY = memoized(through, None)(area).key  # type: ignore[attr-defined]


def test_a_call_goes_through_the_cache_with_its_arguments() -> None:
    key, value = memoized(through, None)(area)(3, height=4)
    assert value == "3x4"
    assert key.startswith(f"{__name__}.area:")


def test_calls_that_mean_the_same_have_the_same_key() -> None:
    assert KEY(3) == KEY(3, 2) == KEY(width=3) == KEY(3, unit="m")
    assert KEY(1, a=1, b=2) == KEY(1, b=2, a=1)


def test_calls_that_differ_have_different_keys() -> None:
    calls = [KEY(3), KEY(3, 3), KEY("3"), KEY(b"3"), KEY(3.0), KEY(True), KEY(1), KEY(None), KEY((3, 2))]
    calls += [KEY(3, 2, 4), KEY(3, unit="cm"), KEY(3, a=1), KEY(3, a=2), KEY(3, b=1), KEY(((3,), 2)), KEY("x" * 5000)]
    assert len(set(calls)) == len(calls)
    assert max(map(len, calls)) < 200


def test_a_key_is_the_same_in_another_process() -> None:
    code = f"import {__name__} as me; print(me.KEY(3, 'a', options=None))"
    paths = [path for path in sys.path if path]
    script = f"import sys; sys.path[:0] = {paths!r}; {code}"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.strip() == KEY(3, "a", options=None)


@pytest.mark.parametrize("argument", [[1], {"a": 1}, {1}, object(), (1, [2])])
def test_arguments_without_one_text_need_a_key_function(argument: Any) -> None:
    with pytest.raises(InvalidKey, match=r"give memoize\(key=\.\.\.\)"):
        KEY(argument)
    by_length = memoized(through, lambda values: f"of-{len(values)}")(lambda values: len(values))
    assert by_length([1, 2]) == ("of-2", 2)


def test_the_wrapped_function_is_there() -> None:
    wrapped = memoized(through, None)(area)
    assert wrapped.__wrapped__ is area  # type: ignore[attr-defined]
    assert wrapped.__name__ == "area"


def test_coroutine_functions_need_the_asynchronous_handle() -> None:
    async def fetch() -> None: ...

    with pytest.raises(ConfigError, match=r"cache\.aio\.memoize"):
        memoized(through, None)(fetch)
