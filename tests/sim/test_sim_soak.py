"""Soaks: schedules until the time is over, and what is told of one that breaks a promise, fails or hangs."""

from __future__ import annotations

import signal

import pytest

from infiniray.core.reading import Read
from infiniray.core.shard import ShardState
from infiniray.core.storing import Repair
from infiniray.sim import soak as soaking
from infiniray.sim.schedules import run_schedule
from infiniray.sim.soak import SCHEDULES_PER_SEED, SoakResult, soak
from infiniray.sim.violation import Violation


def test_a_soak_runs_until_its_seconds_are_over_and_one_schedule_at_least() -> None:
    told: list[int] = []
    result = soak(seconds=0, n_steps=20, on_schedule=lambda sums: told.append(sums.schedules))
    assert (result.schedules, result.steps, result.violations, result.seeds_failed) == (1, 20, 0, [])
    assert told == [1]
    assert result.events > 0


def test_time_is_looked_at_after_each_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = iter([100.0, 104.0, 108.0, 112.0, 112.0])
    monkeypatch.setattr(soaking.time, "monotonic", lambda: next(times_s))
    result = soak(seconds=10, n_steps=5)
    assert (result.schedules, result.elapsed_s) == (3, 12.0)


def test_soaks_of_different_seeds_have_no_schedule_in_common(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(soaking, "run_schedule", lambda seed, *args, **kw: ran.append(seed) or run_schedule(seed, 1))
    soak(seconds=0, seed=0)
    soak(seconds=0, seed=3)
    assert ran == [0, 3 * SCHEDULES_PER_SEED]


def test_a_planted_bug_is_told_with_its_seed_its_story_and_its_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Repair, "siblings", lambda self: ())
    found: list[Violation] = []
    result = until_violation(found)
    assert result.seeds_failed == [found[0].seed]
    assert f"seed {found[0].seed}, step {found[0].n_steps}: chunks of" in str(found[0])
    assert str(found[0]).endswith(f"replay: infiniray soak --replay {found[0].seed}")
    assert 0 < len(found[0].story) <= soaking.STORY_LIMIT
    with pytest.raises(Violation) as again:
        run_schedule(found[0].seed, keeps_story=True)
    assert str(again.value) == str(found[0])
    assert again.value.story[-len(found[0].story) :] == found[0].story


def test_an_error_of_the_code_itself_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ShardState, "pin")
    found: list[Violation] = []
    until_violation(found)
    assert "AttributeError" in str(found[0])


def test_a_schedule_that_hangs_is_a_violation_and_the_next_one_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGPROF)
    monkeypatch.setattr(Read, "on_settled", hang)
    found: list[Violation] = []
    result = until_violation(found, limit_s=0.5)
    assert "it hangs: no end within 0.5 s of processor time" in str(found[0])
    assert found[0].story
    assert result.schedules >= 2
    assert signal.getsignal(signal.SIGPROF) == before
    assert signal.getitimer(signal.ITIMER_PROF)[0] == 0.0


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_ends_a_soak_with_what_it_has() -> None:
    def interrupt(sums: SoakResult) -> None:
        if sums.schedules == 2:
            signal.raise_signal(signal.SIGINT)

    result = soak(seconds=600, n_steps=5, on_schedule=interrupt)
    assert (result.schedules, result.steps, result.is_interrupted) == (2, 10, True)


def hang(self: Read, settled: object) -> None:
    while True:
        pass


def until_violation(found: list[Violation], limit_s: float = 60.0) -> SoakResult:
    """A soak that ends after the schedule that follows the first violation, or after forty."""

    def enough(sums: SoakResult) -> None:
        if sums.schedules >= 40 or (sums.violations and sums.schedules > 1):
            raise KeyboardInterrupt

    return soak(seconds=600, limit_s=limit_s, on_violation=found.append, on_schedule=enough)
