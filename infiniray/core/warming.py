"""Warm-up: invoking nodes that nobody uses, so that they are not reclaimed as idle (FAST'20 section 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infiniray.core.alarm import Alarm
from infiniray.core.policy import Warm

if TYPE_CHECKING:
    from infiniray.core.node import Node
    from infiniray.core.shard import ShardState

__all__ = ["Warming"]

#: Nodes that are due within this share of an interval are warmed together. (The last warm-up took moments, too, and is
#: no reason to look twice.)
EARLY_SHARE = 0.02
#: A node that is busy when a pair is due is asked again after this share of an interval.
_BUSY_SHARE = 0.05


class Warming:
    """I have each node invoked that has not been for ``warm_interval_s``, whatever the last invocation was for; or, as
    the paper does, at every interval.

    A warm-up costs the request fee and a millisecond; its answer tells at once whether the instance was reclaimed.
    Where pairs are sent (:mod:`~infiniray.core.pairing`) a node that is used is warmed as well: requests meet its
    current instance, not its replica.
    """

    def __init__(self, shard: ShardState) -> None:
        self._shard = shard
        self._context = shard.context
        self._next: Alarm[Node] = Alarm(shard.context, "warm", self._on_time, early_share=EARLY_SHARE)

    def watch(self, node: Node) -> None:
        """From now on. The first time is anywhere in an interval, so that nodes do not march in step."""
        policy = self._context.policy
        if policy.warm is not Warm.NONE and policy.warm_interval_s > 0:
            self._next.set(node, self._context.fraction("warm", node.id) * policy.warm_interval_s)

    def forget(self, node: Node) -> None:
        """The node has left."""
        self._next.call_off(node)

    def on_timer(self) -> None:
        self._next.ring()

    def _on_time(self, node: Node) -> None:
        policy = self._context.policy
        is_unconditional = policy.warm is Warm.FIXED or (policy.warm_replicas and node.custody.holdings)
        since_s = 0.0 if is_unconditional else node.touched_s
        due_s = since_s + policy.warm_interval_s - self._context.now_s
        if due_s <= EARLY_SHARE * policy.warm_interval_s:
            due_s = policy.warm_interval_s
            is_wanted = policy.warm is not Warm.HOLDING or bool(node.custody.holdings)
            if is_wanted and not self._shard.is_recovering:  # another instance might answer than the one on record
                is_warmed = node.warm()
                if not is_warmed and policy.warm_replicas:
                    due_s *= _BUSY_SHARE
        self._next.set(node, due_s)
