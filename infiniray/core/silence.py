"""Nodes that do not answer in time are noticed."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infiniray.core.context import Context
    from infiniray.core.node import Node

__all__ = ["Silence"]


class Silence:
    """I tell nodes when the time is up in which they should have been heard of.

    Nearly every answer comes in time, so that nobody waits any more costs nothing, and one timer serves all nodes:
    those that may be silent for equally long stand in line in the order in which their time is up.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        #: {how long they may be silent: [(until when, who)]}; those whose ``silent_until_s`` is another are not
        #: waited for any more
        self._lines: dict[float, deque[tuple[float, Node]]] = {}
        self._timer_s = math.inf

    def expect(self, node: Node, within_s: float) -> None:
        """It is to be heard of in so many seconds. Until then its ``silent_until_s`` says so; anything else calls it
        off."""
        until_s = node.silent_until_s = self._context.now_s + within_s
        line = self._lines.get(within_s)
        if line is None:
            line = self._lines[within_s] = deque()
        line.append((until_s, node))
        if until_s < self._timer_s:
            self._set(until_s)

    def on_timer(self) -> None:
        """Some time is up."""
        self._timer_s = math.inf
        late: list[tuple[float, Node]] = []
        for line in self._lines.values():
            while line and (line[0][0] <= self._context.now_s or line[0][0] != line[0][1].silent_until_s):
                late.append(line.popleft())
        for until_s, node in late:
            if until_s == node.silent_until_s:
                node.silent_until_s = math.inf
                node.on_silence()
        heads_s = [line[0][0] for line in self._lines.values() if line]
        if heads_s and min(heads_s) < self._timer_s:
            self._set(min(heads_s))

    def _set(self, until_s: float) -> None:
        self._timer_s = until_s
        self._context.set_timer(("silence", 0), until_s - self._context.now_s)
