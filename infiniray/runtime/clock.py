"""Time and timers of one shard."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
import time
from collections.abc import Callable

from infiniray.core.ids import Timer

__all__ = ["Clock", "Timers"]

#: Entries of timers that were moved or cancelled stay until they come up, or there are this many more than live ones.
_MAX_DEAD = 1024


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
    """Named timers; setting one that is set moves it.

    Every operation sets three and cancels them half a millisecond later, so both are cheap: a heap of tuples, and one
    alarm at the loop for the earliest of them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, fire: Callable[[Timer], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._fire = fire
        self._numbers = itertools.count()
        #: (when, number, timer), of which those in ``_set`` live
        self._heap: list[tuple[float, int, Timer]] = []
        self._set: dict[Timer, tuple[float, int, Timer]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s = math.inf  # when it rings, Unix time

    def __len__(self) -> int:
        return len(self._set)

    def set(self, timer: Timer, at_s: float) -> None:
        entry = self._set[timer] = (at_s, next(self._numbers), timer)
        heapq.heappush(self._heap, entry)
        if at_s < self._alarm_s:
            self._ring_at(at_s)
        if len(self._heap) > 2 * len(self._set) + _MAX_DEAD:
            self._heap = list(self._set.values())
            heapq.heapify(self._heap)

    def cancel(self, timer: Timer) -> None:
        self._set.pop(timer, None)

    def clear(self) -> None:
        self._set.clear()
        self._heap.clear()
        self._stop_alarm()

    def _ring_at(self, at_s: float) -> None:
        self._stop_alarm()
        self._alarm_s = at_s
        self._alarm = self._loop.call_at(self._clock.to_loop(at_s), self._rang)

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._alarm_s = math.inf

    def _rang(self) -> None:
        """Fire what is due, earliest first; whatever that sets and is due already fires with the next alarm."""
        due_s = max(self._alarm_s, self._clock.now_s())
        last = next(self._numbers)
        self._alarm, self._alarm_s = None, -math.inf  # setting one meanwhile moves no alarm
        try:
            while self._heap and self._heap[0][0] <= due_s:
                entry = heapq.heappop(self._heap)
                if self._set.get(entry[2]) is not entry:
                    continue
                if entry[1] > last:
                    heapq.heappush(self._heap, entry)
                    break
                del self._set[entry[2]]
                self._fire(entry[2])
        finally:
            self._alarm_s = math.inf
            while self._heap and self._set.get(self._heap[0][2]) is not self._heap[0]:
                heapq.heappop(self._heap)
            if self._heap:
                self._ring_at(self._heap[0][0])
