"""What changing a cache's secret changes: which functions have the new one, and whose turn is next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from infiniray.cluster.membership import FILL_SHARE, Membership
from infiniray.core.ids import NodeId
from infiniray.errors import ConfigError, PoolFull

__all__ = ["Rotation", "check_room", "check_spare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotation:
    """How far a change of the secret is. It holds none.

    The batch that is at work are the nodes that leave the membership: they are emptied, changed, and taken back.
    """

    #: nodes of a shard that may be away at a time
    batch: int
    #: nodes whose functions have the new secret in their settings, or are about to get it
    renewed: frozenset[NodeId] = frozenset()
    #: the batch at work holds nothing any more: its functions may be changed
    is_emptied: bool = False
    #: nodes that have been taken back
    done: frozenset[NodeId] = frozenset()

    def left(self, members: Membership) -> frozenset[NodeId]:
        """Nodes that have not had their turn."""
        return frozenset(members.all_nodes) - self.done

    def next_batch(self, members: Membership, minimum: int) -> frozenset[NodeId]:
        """Of each shard the next nodes, as long as ``minimum`` stay."""
        return frozenset(node for nodes in members.nodes.values() for node in self._next_of(nodes, minimum))

    def _next_of(self, nodes: tuple[NodeId, ...], minimum: int) -> Iterator[NodeId]:
        n_away = min(self.batch, len(nodes) - minimum)
        yield from [node for node in nodes if node not in self.done][:n_away]

    def emptied(self, nodes: frozenset[NodeId]) -> Rotation:
        return replace(self, is_emptied=True, renewed=self.renewed | nodes)

    def taken_back(self, nodes: frozenset[NodeId]) -> Rotation:
        return replace(self, is_emptied=False, done=self.done | nodes)

    def again(self, nodes: frozenset[NodeId]) -> Rotation:
        """These have another turn."""
        return replace(self, done=self.done - nodes)


def check_spare(members: Membership, minimum: int) -> None:
    """Whether every shard can do without a node for a while.

    Raises:
        ConfigError: one has no more than its widest scheme needs.
    """
    short = [shard for shard, nodes in members.nodes.items() if len(nodes) <= minimum]
    if short:
        n_wanted = sum(max(len(nodes), minimum + 1) for nodes in members.nodes.values())
        raise ConfigError(
            detail=f"{short[0]} has {len(members.nodes[short[0]])} functions, and its widest scheme needs {minimum}: "
            f"none can be emptied to get a new secret; have {n_wanted} for the time (`infiniray scale --nodes`)"
        )


def check_room(
    members: Membership, stats: Mapping[str, Mapping[str, Any]], *, batch: int, minimum: int, node_bytes: int
) -> None:
    """Whether what each shard stores fits while a batch of its nodes is away.

    Raises:
        PoolFull: it does not.
    """
    for shard, nodes in members.nodes.items():
        n_nodes = max(len(nodes) - batch, minimum)
        room_bytes = round(FILL_SHARE * n_nodes * node_bytes)
        if stats[shard]["stored_bytes"] > room_bytes:
            raise PoolFull(need_bytes=stats[shard]["stored_bytes"], free_bytes=room_bytes)
