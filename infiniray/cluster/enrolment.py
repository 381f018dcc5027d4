"""How a shard's process becomes its shard's current incarnation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from infiniray.cluster import rayapi
from infiniray.cluster.membership import Membership, supervisor_name
from infiniray.cluster.registry import ShardRegistry
from infiniray.core.ids import InstanceId, NodeId

__all__ = ["Enrolment", "enroll", "renewed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What an incarnation begins with: its epoch, who is in the cache, and what those before it had on record."""

    membership: Membership
    epoch: int
    registry: ShardRegistry
    on_record: Mapping[NodeId, InstanceId]


async def enroll(membership: Membership, shard: str, incarnation: str) -> Enrolment:
    """Get an epoch from the supervisor, and raise the fence against earlier incarnations.

    Raises:
        CacheUnavailable: the supervisor, or Ray's control store, is away.
    """
    supervisor = rayapi.find_actor(supervisor_name(membership.name))
    current, epoch = await rayapi.awaited(supervisor.enroll.remote(shard, incarnation))
    registry = ShardRegistry(membership.name, shard, epoch)
    try:
        on_record = await registry.open()
    except BaseException:
        registry.close()
        raise
    return Enrolment(membership=current, epoch=epoch, registry=registry, on_record=on_record)


async def renewed(membership: Membership) -> Membership:
    """The membership as the supervisor knows it now."""
    supervisor = rayapi.find_actor(supervisor_name(membership.name))
    current: Membership = await rayapi.awaited(supervisor.membership.remote())
    return current
