"""What outlives every incarnation of a shard: which instance of each node has its current copy."""

from __future__ import annotations

from infiniray.core.ids import InstanceId, NodeId

__all__ = ["SimRegistry"]


class SimRegistry:
    """I keep the record, and take entries only from the incarnation with the highest epoch that I have heard of."""

    def __init__(self) -> None:
        self.copies: dict[NodeId, InstanceId] = {}
        self.epoch = 0
        #: nothing can be written down; who tries does so again
        self.is_away = False

    def raise_epoch(self, epoch: int) -> None:
        self.epoch = max(self.epoch, epoch)

    def register(self, epoch: int, node: NodeId, instance: InstanceId) -> bool:
        """Write it down; False if another incarnation has taken over."""
        if not self.is_current(epoch):
            return False
        self.copies[node] = instance
        return True

    def is_current(self, epoch: int) -> bool:
        """Whether no later incarnation has begun."""
        return epoch >= self.epoch
