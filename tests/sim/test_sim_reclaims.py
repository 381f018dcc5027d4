"""Time lines of reclaims: read, scaled, and refused when they are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from infiniray.errors import ReclaimsError
from infiniray.sim.reclaims import Sample, read_reclaims


def lines(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "reclaims.csv"
    path.write_text(text)
    return path


def test_times_are_in_the_unit_that_the_header_names(tmp_path: Path) -> None:
    assert list(read_reclaims(lines(tmp_path, "hour,reclaimed\n-0.1,2.01\n0.5,6.98\n"))) == [
        Sample(0.0, 2),
        Sample(1800.0, 7),
    ]
    assert list(read_reclaims(lines(tmp_path, "minutes,n\n1,1\n"))) == [Sample(60.0, 1)]


def test_for_a_smaller_pool_the_sum_is_scaled_whatever_the_single_counts(tmp_path: Path) -> None:
    path = lines(tmp_path, "minute,n\n" + "".join(f"{i},1\n" for i in range(100)))
    samples = list(read_reclaims(path, scale=64 / 400))
    assert sum(sample.n for sample in samples) == 16
    assert {sample.n for sample in samples} == {0, 1}
    assert sum(sample.n for sample in read_reclaims(path, scale=3.0)) == 300


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("day,n\n1,1\n", "not 'hour,count'"),
        ("", "not 'hour,count'"),
        ("hour,n\n1,-1\n", "negative"),
        ("hour,n\n2,1\n1,1\n", "times must rise"),
        ("hour,n\n1,x\n", "not two numbers"),
        ("hour,n\n1,nan\n", "not two numbers"),
        ("hour,n\n1\n", "not two numbers"),
    ],
)
def test_what_is_no_time_line_is_refused_with_its_line(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(ReclaimsError, match=what):
        list(read_reclaims(lines(tmp_path, text)))
