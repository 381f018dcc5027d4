"""Virtual time: what is to happen, in order."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

__all__ = ["VirtualClock"]


class VirtualClock:
    """I call what is due, at its time. Things of the same time happen in the order in which they were planned."""

    def __init__(self, start_s: float = 0.0) -> None:
        self.now_s = start_s
        self.n_happened = 0
        self._plan: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    @property
    def n_planned(self) -> int:
        """How much is to happen yet."""
        return len(self._plan)

    def at(self, time_s: float, happen: Callable[[], None]) -> None:
        heapq.heappush(self._plan, (max(time_s, self.now_s), next(self._order), happen))

    def after(self, delay_s: float, happen: Callable[[], None]) -> None:
        self.at(self.now_s + delay_s, happen)

    def run(self, until_s: float = float("inf")) -> None:
        """Let happen what is due until then; time stops there."""
        while self._plan and self._plan[0][0] <= until_s:
            self.now_s, _, happen = heapq.heappop(self._plan)
            self.n_happened += 1
            happen()
        if until_s != float("inf"):
            self.now_s = max(self.now_s, until_s)
