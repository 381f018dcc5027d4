"""Reading time lines, drawing Poisson counts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from infiniray.errors import ConfigError
from infiniray.faas.local.policies import poisson, read_timeline


def test_a_time_line_is_minutes_and_counts_in_order(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("minute,count,more\n3,2,x\n0.5,1,x\n2,0,x\n")
    assert read_timeline(file) == [(0.5, 1), (3.0, 2)]


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("1,1\n2,many\n")
    with pytest.raises(ConfigError, match="line 2"):
        read_timeline(file)


def test_a_missing_time_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_timeline(tmp_path / "none.csv")


def test_poisson_counts_have_their_mean_and_variance() -> None:
    draw = random.Random(1).random
    counts = [poisson(draw, 3.0) for _ in range(4000)]
    mean = sum(counts) / len(counts)
    assert mean == pytest.approx(3.0, abs=0.15)
    assert sum((n - mean) ** 2 for n in counts) / len(counts) == pytest.approx(3.0, abs=0.3)


def test_a_mean_of_nothing_is_nothing() -> None:
    assert poisson(random.Random(1).random, 0.0) == 0
