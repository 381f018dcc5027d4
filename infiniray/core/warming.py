"""Warm-up: invoking nodes that nobody uses, so that they are not reclaimed as idle (FAST'20 section 4.2)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from infiniray.core.policy import Warm

if TYPE_CHECKING:
    from infiniray.core.node import Node
    from infiniray.core.shard import ShardState

__all__ = ["Warming"]

#: An interval has so many ticks. Nodes that are due within one are invoked together.
TICKS = 64


class Warming:
    """I have each node invoked that has not been for ``warm_interval_s``, whatever the last invocation was for; or, as
    the paper does, at every interval.

    A warm-up costs the request fee and a millisecond; its answer tells at once whether the instance was reclaimed.
    """

    def __init__(self, shard: ShardState) -> None:
        self._shard = shard
        self._context = shard.context
        self._policy = policy = shard.context.policy
        self._tick_s = policy.warm_interval_s / TICKS if policy.warm is not Warm.NONE else 0.0
        #: {tick since the epoch: whom to look at then}
        self._due: dict[int, list[Node]] = {}

    def watch(self, node: Node) -> None:
        """From now on. The first time is anywhere in an interval, so that nodes do not march in step."""
        if self._tick_s > 0:
            self._plan(node, self._now() + 1 + int(self._context.fraction("warm", node.id) * TICKS))
            self._set_timer()

    def on_timer(self) -> None:
        now = self._now()
        for tick in [tick for tick in self._due if tick <= now]:
            for node in self._due.pop(tick):
                if self._shard.nodes.get(node.id) is node:  # else it has left
                    self._look_at(node, now)
        if self._due:
            self._set_timer()

    def _look_at(self, node: Node, now: int) -> None:
        wait = 0
        if self._policy.warm is not Warm.FIXED:
            wait = TICKS + math.floor((node.touched_s - self._context.now_s) / self._tick_s)
        if wait <= 0:
            wait = TICKS
            if self._policy.warm is not Warm.HOLDING or node.custody.holdings:
                node.warm()
        self._plan(node, now + wait)

    def _plan(self, node: Node, tick: int) -> None:
        self._due.setdefault(tick, []).append(node)

    def _now(self) -> int:
        return round(self._context.now_s / self._tick_s)

    def _set_timer(self) -> None:
        self._context.set_timer(("warm", 0), min(self._due) * self._tick_s - self._context.now_s)
