"""Seeded schedules, one after the other, until the time is over: the search for a promise that is not kept."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

from infiniray.sim.schedules import STEPS, ScheduleResult, run_schedule
from infiniray.sim.violation import Violation

__all__ = ["SCHEDULES_PER_SEED", "SoakResult", "replay", "soak"]

#: Soaks of different seeds have no schedule in common.
SCHEDULES_PER_SEED = 1_000_000
#: A violation is told with so much of its story's end; a replay has all of it.
STORY_LIMIT = 200
#: Of one that hangs, so much.
REPLAY_LIMIT = 1_000_000


@dataclass(slots=True, kw_only=True)
class SoakResult:
    """What became of the schedules that ran: sums over all of them, those that broke a promise included."""

    seed: int
    schedules: int = 0
    steps: int = 0
    events: int = 0
    hits: int = 0
    misses: int = 0
    resets: int = 0
    failures: int = 0
    recoveries: int = 0
    #: of the schedules that broke a promise, one each
    seeds_failed: list[int] = field(default_factory=list)
    elapsed_s: float = 0.0
    is_interrupted: bool = False

    @property
    def violations(self) -> int:
        return len(self.seeds_failed)

    def to_json_dict(self) -> dict[str, object]:
        return {
            "schedules": self.schedules,
            "steps": self.steps,
            "violations": self.violations,
            "seeds_failed": self.seeds_failed,
            "seed": self.seed,
            "events": self.events,
            "hits": self.hits,
            "misses": self.misses,
            "resets": self.resets,
            "failures": self.failures,
            "recoveries": self.recoveries,
            "elapsed_s": round(self.elapsed_s, 3),
            "interrupted": self.is_interrupted,
        }

    def add(self, result: ScheduleResult) -> None:
        self.schedules += 1
        self.steps += result.n_steps
        self.events += result.n_events
        self.hits += result.hits
        self.misses += result.misses
        self.resets += result.resets
        self.failures += result.failures
        self.recoveries += result.recoveries

    def add_violation(self, violation: Violation) -> None:
        self.schedules += 1
        self.steps += violation.n_steps
        self.seeds_failed.append(violation.seed)


def soak(
    *,
    seconds: float,
    seed: int = 0,
    n_steps: int = STEPS,
    limit_s: float = 60.0,
    on_schedule: Callable[[SoakResult], None] = lambda result: None,
    on_violation: Callable[[Violation], None] = lambda violation: None,
) -> SoakResult:
    """Run the schedules of ``seed`` for ``seconds``: one at least, and the last one to its end. Ctrl-C ends it early.

    Args:
        limit_s: processor time that one schedule may take. One that takes more hangs, which is a violation.
        on_schedule: is told of the sums after each schedule.
        on_violation: is told of each violation at once, with the end of its story.

    Raises:
        ValueError: this is not the main thread, where alone a schedule that hangs can be stopped.
    """
    result = SoakResult(seed=seed)
    start_s = time.monotonic()
    number = seed * SCHEDULES_PER_SEED
    try:
        while True:
            try:
                with _limited(limit_s):
                    result.add(run_schedule(number, n_steps, keeps_story=True, story_limit=STORY_LIMIT))
            except Violation as violation:
                result.add_violation(violation)
                on_violation(violation)
            number += 1
            result.elapsed_s = time.monotonic() - start_s
            on_schedule(result)
            if result.elapsed_s >= seconds:
                break
    except KeyboardInterrupt:
        result.is_interrupted = True
    result.elapsed_s = time.monotonic() - start_s
    return result


def replay(seed: int, n_steps: int = STEPS, *, limit_s: float = 60.0) -> ScheduleResult:
    """Run one schedule again, with its whole story.

    Raises:
        Violation: it breaks a promise, or hangs.
    """
    with _limited(limit_s):
        return run_schedule(seed, n_steps, keeps_story=True, story_limit=REPLAY_LIMIT)


@contextlib.contextmanager
def _limited(limit_s: float) -> Iterator[None]:
    """Break off what takes more processor time. Not wall-clock time: a busy machine is not the schedule's fault."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Violation(f"it hangs: no end within {limit_s:g} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)
