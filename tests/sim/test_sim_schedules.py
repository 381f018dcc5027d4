"""Seeded schedules find nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from functools import cache

import pytest

from infiniray.sim.schedules import ScheduleResult, run_schedule


@cache
def results(first: int) -> list[ScheduleResult]:
    """Of ten schedules."""
    return [run_schedule(seed) for seed in range(first, first + 10)]


@pytest.mark.parametrize("first", range(0, 80, 10))
def test_promises_are_kept(first: int) -> None:
    assert sum(result.hits for result in results(first)) > 50
    assert sum(result.resets for result in results(first)) > 0  # the luck is bad enough to matter
    assert sum(result.recoveries for result in results(first)) > 0


def test_everything_that_can_happen_happens() -> None:
    happened = Counter[str]()
    for result in (result for first in range(0, 80, 10) for result in results(first)):
        happened.update(asdict(result.counters))
        happened.update(asdict(result.backups))
    assert {name for name, n in happened.items() if not n} == set()
    assert {result.is_lucky for result in results(0)} == {True, False}


def test_same_seed_same_story() -> None:
    first, second = (run_schedule(7, keeps_story=True).story for _ in range(2))
    assert first == second
    assert len(first) > 1000
    assert run_schedule(8, keeps_story=True).story != first
