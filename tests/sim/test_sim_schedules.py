"""Seeded schedules find nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import pytest

from infiniray.sim.schedules import run_schedule


@pytest.mark.parametrize("first", range(0, 80, 10))
def test_promises_are_kept(first: int) -> None:
    results = [run_schedule(seed) for seed in range(first, first + 10)]
    assert sum(result.hits for result in results) > 50
    assert sum(result.resets for result in results) > 0  # the luck is bad enough to matter
    assert sum(result.recoveries for result in results) > 0


def test_everything_that_can_happen_happens() -> None:
    results = [run_schedule(seed) for seed in range(30)]
    happened = Counter[str]()
    for result in results:
        happened.update(asdict(result.counters))
        happened.update(asdict(result.backups))
    assert {name for name, n in happened.items() if not n} == set()
    assert {result.is_lucky for result in results} == {True, False}


def test_same_seed_same_story() -> None:
    first, second = (run_schedule(7, keeps_story=True).story for _ in range(2))
    assert first == second
    assert len(first) > 1000
    assert run_schedule(8, keeps_story=True).story != first
