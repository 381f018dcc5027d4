"""When things are due: one timer of the shard's for all of a kind."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from infiniray.core.context import Context

__all__ = ["Alarm"]

_T = TypeVar("_T", bound=Hashable)


class Alarm(Generic[_T]):
    """I call ``act`` with what is due, each thing once, unless it was called off or put off before.

    Most of what a shard waits for comes in time, so a timer for each thing would be set and cancelled for nothing. My
    one timer runs to the first thing that was outstanding when it was set. What was called off since stays in my heap
    until the timer fires, at the latest when it would have been due.

    Args:
        timer: the first half of the timer's name; whoever is told that it fired calls :meth:`ring`.
        early_share: what is due after this share less of its delay is due already when something else is, so that
            things that recur in step with each other share a timer's firing.
    """

    def __init__(self, context: Context, timer: str, act: Callable[[_T], None], *, early_share: float = 0.0) -> None:
        self._context = context
        self._timer = timer
        self._act = act
        self._early_share = early_share
        self._due_s: dict[_T, float] = {}
        self._heap: list[tuple[float, int, float, _T]] = []  # (due, tie, due at the earliest, what)
        self._n_set = 0
        self._rings_s = inf

    def __contains__(self, what: _T) -> bool:
        """Whether it is to be called."""
        return what in self._due_s

    def due_s(self, what: _T) -> float | None:
        """When it is due; None if it is not."""
        return self._due_s.get(what)

    def set(self, what: _T, after_s: float) -> None:
        """It is due after so long, and not when it was due before."""
        due_s = self._context.now_s + after_s
        self._due_s[what] = due_s
        self._n_set = n = self._n_set + 1
        heapq.heappush(self._heap, (due_s, n, due_s - self._early_share * after_s, what))
        if due_s < self._rings_s:
            self._ring_at(due_s)

    def call_off(self, what: _T) -> None:
        """It is not due any more."""
        self._due_s.pop(what, None)

    def ring(self) -> None:
        """The timer has fired."""
        self._rings_s = -inf  # what is set meanwhile needs no timer of its own
        for what, due_s in self._take_due():
            if self._due_s.get(what) == due_s:  # those before may have called it off
                del self._due_s[what]
                self._act(what)
        self._rings_s = inf
        self._take_outdated()
        if self._heap:
            self._ring_at(self._heap[0][0])

    def _take_due(self) -> list[tuple[_T, float]]:
        heap, now_s = self._heap, self._context.now_s
        due: list[tuple[_T, float]] = []
        while heap and heap[0][2] <= now_s:
            due_s, _, _, what = heapq.heappop(heap)
            due.append((what, due_s))
        return due

    def _take_outdated(self) -> None:
        heap = self._heap
        while heap and self._due_s.get(heap[0][3]) != heap[0][0]:
            heapq.heappop(heap)

    def _ring_at(self, time_s: float) -> None:
        self._rings_s = time_s
        self._context.set_timer_at((self._timer, 0), time_s)
