"""What is run beside what, where there are several workers."""

from __future__ import annotations

import pytest
from workers import scope_of


def test_one_worker_has_all_that_starts_a_ray() -> None:
    on_ray = {scope_of(test) for test in ("tests/ray/test_a.py::test", "tests/cluster/test_b.py::test[x::y/z.py]")}
    assert len(on_ray) == 1
    assert not on_ray & {scope_of("tests/unit/cluster/test_a.py::test"), scope_of("tests/conformance/test_b.py::test")}


@pytest.mark.parametrize("test", ["test", "test[tests/ray/]", "TestCase::test[a::b]"])
def test_all_others_stay_with_those_of_their_file(test: str) -> None:
    assert scope_of(f"tests/unit/test_a.py::{test}") == "tests/unit/test_a.py"
