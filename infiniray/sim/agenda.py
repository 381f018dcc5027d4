"""Virtual time for experiments: what is to happen, as tuples on a heap."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

__all__ = ["Agenda"]

Act = Callable[[Any], None]


class Agenda:
    """I call what is due, at its time. Things of the same time happen in the order in which they were planned.

    :class:`~infiniray.sim.clock.VirtualClock` does the same with closures. Here a thing is a bound method and one
    argument, because an experiment plans tens of millions.
    """

    __slots__ = ("_n_planned", "_plan", "now_s")

    def __init__(self, start_s: float) -> None:
        self.now_s = start_s
        self._plan: list[tuple[float, int, Act, Any]] = []
        self._n_planned = 0

    def __len__(self) -> int:
        return len(self._plan)

    def at(self, time_s: float, act: Act, what: Any) -> None:
        """Plan ``act(what)``. A time that is past counts as now."""
        self._n_planned = n = self._n_planned + 1
        heapq.heappush(self._plan, (time_s, n, act, what))

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
