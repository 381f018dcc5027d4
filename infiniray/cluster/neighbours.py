"""Other shards of the same cache, as a shard calls them when keys move."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from infiniray.cluster import rayapi
from infiniray.cluster.arrivals import Offer
from infiniray.cluster.membership import Membership, shard_actor_name
from infiniray.errors import CacheUnavailable

__all__ = ["RayNeighbours"]

T = TypeVar("T")

#: For the former owner to end its writes and say what it has.
_OFFERS_TIMEOUT_S = 40.0
#: For one object to be read there, or deleted.
_OBJECT_TIMEOUT_S = 30.0
#: That the answer may take longer than the shard was given.
_GRACE_S = 5.0


class RayNeighbours:
    """I find other shards by their names, so that a restarted one is found as well.

    Args:
        membership: mine, as it is now: whoever I call catches up with it first.
    """

    def __init__(self, shard: str, membership: Callable[[], Membership]) -> None:
        self._shard = shard
        self._membership = membership

    async def offers(self, shard: str) -> list[Offer]:
        rows = await self._call(shard, "offers", self._shard, timeout_s=_OFFERS_TIMEOUT_S)
        return [Offer(*row) for row in rows]

    async def fetch(self, shard: str, key: str) -> tuple[str, Any, float | None]:
        head, data, expires_s = await self._call(shard, "fetch_moved", key, timeout_s=_OBJECT_TIMEOUT_S)
        return head, data, expires_s

    async def let_go(self, shard: str, key: str) -> None:
        await self._call(shard, "let_go", key, timeout_s=_OBJECT_TIMEOUT_S)

    async def _call(self, shard: str, method: str, what: str, *, timeout_s: float) -> Any:
        membership = self._membership()
        actor = rayapi.find_actor(shard_actor_name(membership.name, shard))
        answer = getattr(actor, method).remote(membership.epoch, what, timeout_s=timeout_s)
        return await _in_time(rayapi.awaited(answer), timeout_s + _GRACE_S, shard)


async def _in_time(answer: Awaitable[T], timeout_s: float, whose: str) -> T:
    try:
        return await asyncio.wait_for(answer, timeout_s)
    except (asyncio.TimeoutError, TimeoutError):
        raise CacheUnavailable(detail=f"{whose} did not answer within {timeout_s:g} s") from None
