"""Time and timers of one shard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from infiniray.core.ids import Timer

__all__ = ["Clock", "Timers"]


class Clock:
    """Unix time, taken once and carried on by the loop's monotonic clock: a jump of the wall clock fires no timer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._offset_s = time.time() - loop.time()

    def now_s(self) -> float:
        return self._loop.time() + self._offset_s

    def to_loop(self, at_s: float) -> float:
        """The loop's time at Unix time ``at_s``."""
        return at_s - self._offset_s


class Timers:
    """Named timers; setting one that is set moves it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, fire: Callable[[Timer], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._fire = fire
        self._set: dict[Timer, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._set)

    def set(self, timer: Timer, at_s: float) -> None:
        self.cancel(timer)
        self._set[timer] = self._loop.call_at(self._clock.to_loop(at_s), self._fired, timer)

    def cancel(self, timer: Timer) -> None:
        handle = self._set.pop(timer, None)
        if handle is not None:
            handle.cancel()

    def clear(self) -> None:
        for timer in list(self._set):
            self.cancel(timer)

    def _fired(self, timer: Timer) -> None:
        del self._set[timer]
        self._fire(timer)
