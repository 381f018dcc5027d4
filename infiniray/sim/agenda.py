"""Virtual time for experiments: what is to happen, as tuples on a heap."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

__all__ = ["Agenda", "Timeout"]

Act = Callable[[Any], None]
#: Timeouts wait in boxes of so many seconds, and are looked at when their box's time comes.
BOX_S = 1.0


class Timeout:
    """What is to happen unless it is called off before."""

    __slots__ = ("act", "is_off", "time_s", "what")

    def __init__(self, time_s: float, act: Act, what: Any) -> None:
        self.time_s = time_s
        self.act = act
        self.what = what
        self.is_off = False


class Agenda:
    """I call what is due, at its time. Things of the same time happen in the order in which they were planned.

    :class:`~infiniray.sim.clock.VirtualClock` does the same with closures. Here a thing is a bound method and one
    argument, because an experiment plans tens of millions; and timeouts, most of which are called off long before
    their time, never reach the heap if they are.
    """

    __slots__ = ("_boxes", "_n_planned", "_plan", "now_s")

    def __init__(self, start_s: float) -> None:
        self.now_s = start_s
        self._plan: list[tuple[float, int, Act, Any]] = []
        self._n_planned = 0
        self._boxes: dict[int, list[Timeout]] = {}

    def __len__(self) -> int:
        """How much is on the heap."""
        return len(self._plan)

    def at(self, time_s: float, act: Act, what: Any) -> None:
        """Plan ``act(what)``. A time that is past counts as now."""
        self._n_planned = n = self._n_planned + 1
        heapq.heappush(self._plan, (time_s, n, act, what))

    def unless_called_off(self, time_s: float, act: Act, what: Any) -> Timeout:
        """Plan ``act(what)``, unless ``is_off`` of what is returned is set before."""
        timeout = Timeout(time_s, act, what)
        box = int(time_s // BOX_S)
        if box * BOX_S <= self.now_s:
            self.at(time_s, self._time_out, timeout)
        elif (waiting := self._boxes.get(box)) is not None:
            waiting.append(timeout)
        else:
            self._boxes[box] = [timeout]
            self.at(box * BOX_S, self._open, box)
        return timeout

    def run(self, goes_on: Callable[[], bool]) -> None:
        """Let happen what is planned, until ``goes_on()``, asked every so often, says no, or nothing is planned."""
        plan, pop = self._plan, heapq.heappop
        now_s = self.now_s
        while plan and goes_on():
            for _ in range(min(64, len(plan))):
                time_s, _, act, what = pop(plan)
                if time_s > now_s:
                    self.now_s = now_s = time_s
                act(what)

    def _open(self, box: int) -> None:
        for timeout in self._boxes.pop(box):
            if not timeout.is_off:
                self.at(timeout.time_s, self._time_out, timeout)

    def _time_out(self, timeout: Timeout) -> None:
        if not timeout.is_off:
            timeout.act(timeout.what)
