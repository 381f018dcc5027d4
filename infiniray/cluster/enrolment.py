"""How a shard's process becomes its shard's current incarnation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from infiniray.cluster import rayapi
from infiniray.cluster.membership import Membership, supervisor_name
from infiniray.cluster.registry import ShardRegistry
from infiniray.core.ids import InstanceId, NodeId
from infiniray.errors import CacheUnavailable
from infiniray.runtime.keys import KeyRing

__all__ = ["Enrolment", "enroll", "renewed"]

T = TypeVar("T")

#: A supervisor, or a control store, that takes longer counts as away.
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What an incarnation begins with: its epoch, who is in the cache, the secrets that nodes may have, and what the
    incarnations before it had on record."""

    membership: Membership
    epoch: int
    keys: KeyRing
    registry: ShardRegistry
    on_record: Mapping[NodeId, InstanceId]


async def enroll(membership: Membership, shard: str, incarnation: str) -> Enrolment:
    """Get an epoch from the supervisor, and raise the fence against earlier incarnations.

    Raises:
        CacheUnavailable: the supervisor, or Ray's control store, is away.
        StaleEpoch: there is a later incarnation by now.
    """
    supervisor = rayapi.find_actor(supervisor_name(membership.name))
    answer = rayapi.awaited(supervisor.enroll.remote(shard, incarnation))
    current, epoch, keys = await _in_time(answer, "the supervisor")
    registry = ShardRegistry(membership.name, shard, epoch)
    try:
        on_record = await _in_time(registry.open(), "Ray's control store")
    except BaseException:
        registry.close()
        raise
    return Enrolment(membership=current, epoch=epoch, keys=keys, registry=registry, on_record=on_record)


async def renewed(membership: Membership) -> Membership:
    """The membership as the supervisor knows it now.

    Raises:
        CacheUnavailable: it is away.
    """
    supervisor = rayapi.find_actor(supervisor_name(membership.name))
    return await _in_time(rayapi.awaited(supervisor.membership.remote()), "the supervisor")


async def _in_time(answer: Awaitable[T], whose: str) -> T:
    try:
        return await asyncio.wait_for(answer, _PATIENCE_S)
    except (asyncio.TimeoutError, TimeoutError):
        raise CacheUnavailable(detail=f"{whose} did not answer within {_PATIENCE_S:g} s") from None
