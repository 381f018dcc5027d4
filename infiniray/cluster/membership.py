"""Who is in a cache, as its clients and shards see it: an immutable value with an epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from infiniray.config import Config
from infiniray.core.ids import NodeId
from infiniray.core.ring import Ring
from infiniray.faas.deploy.scope import node_names

__all__ = ["FILL_SHARE", "Membership", "plan", "shard_actor_name", "supervisor_name"]

#: Nodes are filled up to this share by what others hand on: evictions begin only when chunks do not fit exactly.
FILL_SHARE = 0.95
_FIRST_EPOCH = 1


def supervisor_name(cache: str) -> str:
    """The Ray actor that knows who is in ``cache``."""
    return f"{cache}:supervisor"


def shard_actor_name(cache: str, shard: str) -> str:
    return f"{cache}:{shard}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """One version of a cache's membership, and the settings that its clients follow. It holds no secret."""

    name: str
    ring: Ring
    #: {shard: its nodes}; of all that run, also of those that own no keys yet, or any more
    nodes: Mapping[str, tuple[NodeId, ...]]
    #: default deadline of a request
    deadline_s: float
    #: values below this travel inside the call
    inline_max_bytes: int
    #: for objects from this size on, shards may want to hand the reference to a codec task
    task_min_bytes: int
    #: by which keys were owned before, while they move (:mod:`infiniray.cluster.arrivals`); None: all have moved
    former: Ring | None = None
    #: nodes that are drained (:mod:`infiniray.core.draining`)
    leaving: frozenset[NodeId] = frozenset()

    @property
    def epoch(self) -> int:
        return self.ring.epoch

    @property
    def shards(self) -> tuple[str, ...]:
        return tuple(self.nodes)

    @property
    def all_nodes(self) -> tuple[NodeId, ...]:
        return tuple(sorted(node for nodes in self.nodes.values() for node in nodes))

    def raised(self, epoch: int) -> Membership:
        """The same, as a later version."""
        ring = Ring(epoch=epoch, shards=self.ring.shards, virtual_nodes=self.ring.virtual_nodes)
        return replace(self, ring=ring)

    def actor_of(self, key: str) -> str:
        """The name of the actor that owns ``key``."""
        return shard_actor_name(self.name, self.ring.owner(key))

    @property
    def actors(self) -> tuple[str, ...]:
        return tuple(shard_actor_name(self.name, shard) for shard in self.shards)


def plan(config: Config) -> Membership:
    """The first membership of a cache; the same configuration gives the same one.

    Raises:
        ConfigError: too few nodes for the widest scheme.
    """
    shards = {f"shard-{i}": 1.0 for i in range(config.ring.shards)}
    ring = Ring(epoch=_FIRST_EPOCH, shards=shards, virtual_nodes=config.ring.virtual_nodes)
    nodes = [NodeId(name) for name in node_names(config)]
    return Membership(
        name=config.name,
        ring=ring,
        nodes=ring.assign(nodes, config.widest_scheme),
        deadline_s=config.limits.deadline_s,
        inline_max_bytes=config.limits.inline_max_bytes,
        task_min_bytes=config.codec.task_min_bytes,
    )
