"""What is written down of a call, and values that tell a mix from a whole."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest
from history import Operation, Outcome, Recorder, Verb
from stamps import Damaged, identify, stamped

from infiniray.errors import KeyNotFound, ObjectLost, PlatformError, WriteFailed


def fails(error: Exception) -> Callable[[], int]:
    def act() -> int:
        raise error

    return act


def recorder() -> Recorder:
    return Recorder(worker=3, clock_ns=count(100).__next__)


def test_an_answer_is_written_down_with_its_times() -> None:
    book = recorder()
    written, read = book.put("k", 5, lambda: None), book.get("k", lambda: 5)
    assert written == Operation(verb=Verb.PUT, key="k", invoked_ns=100, returned_ns=101, value=5, worker=3)
    assert read == Operation(verb=Verb.GET, key="k", invoked_ns=102, returned_ns=103, value=5, worker=3)
    assert book.operations == [written, read]
    assert str(read).endswith("worker 3: get k 5 -> ok")


@pytest.mark.parametrize("error", [KeyNotFound(key="k"), ObjectLost(key="k", have=1, need=2)])
def test_a_miss_says_why(error: KeyNotFound) -> None:
    read = recorder().get("k", fails(error))
    assert read.outcome is Outcome.MISS
    assert read.detail == f"{type(error).__name__}: {error}"


def test_a_failed_write_is_indeterminate_and_a_failed_read_is_not() -> None:
    book, error = recorder(), WriteFailed(key="k", stored=1, need=3, detail="")
    for operation in (book.put("k", 1, fails(error)), book.delete("k", fails(error))):
        assert operation.outcome is Outcome.INDETERMINATE
        assert operation.is_retryable
    assert book.get("k", fails(error)).outcome is Outcome.ERROR


@pytest.mark.parametrize("error", [RuntimeError("?"), PlatformError(operation="INVOKE", function="f", detail="?")])
def test_what_is_not_retryable_is_told_apart(error: Exception) -> None:
    assert not recorder().get("k", fails(error)).is_retryable


def test_damage_is_an_answer_that_has_no_value() -> None:
    read = recorder().get("k", lambda: identify(np.zeros(4, np.uint64)))
    assert (read.outcome, read.value) == (Outcome.OK, None)
    assert "4 words of a value of 0" in read.detail


@pytest.mark.parametrize("value", [0, 1, 7_000_123, (1 << 40) + 3])
@pytest.mark.parametrize("n_bytes", [16, 24, 100_000])
def test_a_value_says_which_it_is(value: int, n_bytes: int) -> None:
    words = stamped(value, n_bytes)
    assert words.nbytes == n_bytes
    assert identify(words) == value


def test_a_mix_is_seen_wherever_it_is() -> None:
    for place in (1, 500, 999):
        mix = stamped(1, 8000)
        mix[place] = stamped(2, 8000)[place]
        with pytest.raises(Damaged, match="a mix of 2 values: 1, 2"):
            identify(mix)


def test_cut_swapped_and_foreign_bytes_are_seen() -> None:
    words = stamped(1, 8000)
    with pytest.raises(Damaged, match="999 words of a value of 1000"):
        identify(words[:-1])
    swapped = words.copy()
    swapped[[1, 2]] = words[[2, 1]]
    with pytest.raises(Damaged, match="a mix"):
        identify(swapped)
    with pytest.raises(Damaged, match="not a value: bytes"):
        identify(b"x" * 16)


def test_what_cannot_be_stamped_is_refused() -> None:
    for n_bytes in (0, 8, 17):
        with pytest.raises(ValueError, match="two words"):
            stamped(1, n_bytes)
