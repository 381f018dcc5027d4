"""What outlives a shard's process: which instance of each node has its current copy, kept in Ray's control store.

See :mod:`infiniray.core.custody` for what counts on it. The control store lives with the Ray head: what is written here
survives shards, the supervisor and Ray's workers, not the head.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from infiniray.cluster import rayapi
from infiniray.cluster.membership import supervisor_name
from infiniray.core.ids import InstanceId, NodeId
from infiniray.errors import StaleEpoch

__all__ = ["ShardRegistry", "copies_on_record", "forget_shard"]


class ShardRegistry:
    """I speak for one incarnation of a shard: I keep its record of copies, and get it slots for backups.

    Two incarnations are kept apart without a compare-and-swap, for each writes only under keys of its own epoch. A new
    one raises the *fence* to its epoch, then reads the record; an old one writes its record, then reads the fence, and
    takes nothing for written if that is higher than its own epoch. In whatever order: the old one learns that it was
    deposed, or the new one reads what was written.

    What the new one has read it writes down as its own at once. From then on nothing that an old one still writes is
    ever read again, not even if the new one ends before it has anything else to write.
    """

    def __init__(self, cache: str, shard: str, epoch: int) -> None:
        self._cache = cache
        self._shard = shard
        self._epoch = epoch
        # one thread: a call that was given up on still ends before the next one begins
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="registry")

    async def open(self) -> dict[NodeId, InstanceId]:
        """Raise the fence; what earlier incarnations had on record.

        Raises:
            StaleEpoch: there is a later incarnation.
            CacheUnavailable: the control store cannot be reached.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    async def register(self, copies: Mapping[NodeId, InstanceId]) -> None:
        """Replace the record. Raises: StaleEpoch: there is a later incarnation."""
        text = json.dumps(copies)
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, text)

    async def confirm(self) -> None:
        """Raises: StaleEpoch: there is a later incarnation."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._refuse_if_stale)

    async def acquire_slot(self, node: NodeId) -> bool:
        supervisor = rayapi.find_actor(supervisor_name(self._cache))
        return bool(await rayapi.awaited(supervisor.acquire_slot.remote(self._shard, node)))

    async def release_slot(self, node: NodeId) -> None:
        supervisor = rayapi.find_actor(supervisor_name(self._cache))
        await rayapi.awaited(supervisor.release_slot.remote(self._shard, node))

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _open(self) -> dict[NodeId, InstanceId]:
        rayapi.store_put(_fence_key(self._cache, self._shard, self._epoch), b"")
        self._refuse_if_stale()
        copies, _ = copies_on_record(self._cache, self._shard)
        self._write(json.dumps(copies))
        return copies

    def _write(self, text: str) -> None:
        rayapi.store_put(_record_key(self._cache, self._shard, self._epoch), text)
        self._refuse_if_stale()
        for key in (_record_key, _fence_key):  # of this epoch or later there is one of each: the others say nothing
            for epoch in _epochs(key(self._cache, self._shard)):
                if epoch < self._epoch:
                    rayapi.store_delete(key(self._cache, self._shard, epoch))

    def _refuse_if_stale(self) -> None:
        fence = max(_epochs(_fence_key(self._cache, self._shard)), default=0)
        if fence > self._epoch:
            raise StaleEpoch(seen=self._epoch, current=fence)


def forget_shard(cache: str, shard: str) -> None:
    """Delete all that is on record of a shard that has left for good."""
    for prefix in (_record_key(cache, shard), _fence_key(cache, shard)):
        rayapi.store_delete_all(prefix)


def copies_on_record(cache: str, shard: str) -> tuple[dict[NodeId, InstanceId], int]:
    """The newest record of a shard, and the epoch of the incarnation that wrote it; empty and 0 if there is none."""
    epoch = max(_epochs(_record_key(cache, shard)), default=0)
    text = rayapi.store_get(_record_key(cache, shard, epoch)) if epoch else None
    return ({NodeId(node): InstanceId(instance) for node, instance in json.loads(text).items()} if text else {}), epoch


def _epochs(prefix: str) -> list[int]:
    """Those of the keys that begin with ``prefix``."""
    return [int(key.rpartition("/")[2]) for key in rayapi.store_keys(prefix)]


def _record_key(cache: str, shard: str, epoch: int | str = "") -> str:
    """Without an epoch: what those of all epochs begin with."""
    return f"{cache}/copies/{shard}/{epoch}"


def _fence_key(cache: str, shard: str, epoch: int | str = "") -> str:
    return f"{cache}/fence/{shard}/{epoch}"
