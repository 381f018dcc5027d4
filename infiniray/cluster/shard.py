"""The shard as a Ray actor: clients' calls in, values out. What it does with them is :mod:`infiniray.runtime`'s."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from infiniray.cluster.assembly import assemble
from infiniray.cluster.codec_tasks import TaskCoder
from infiniray.cluster.membership import Membership
from infiniray.config import Config
from infiniray.errors import KeyNotFound, StaleEpoch
from infiniray.runtime.driver import ShardDriver
from infiniray.values import Packed

__all__ = ["Shard"]

T = TypeVar("T")

#: Answers to requests that may come again are kept for the last so many.
_REMEMBERED = 4096


class Shard:
    """I own a segment of the key ring and the nodes in it (DESIGN section 6: a proxy).

    Every call carries the caller's epoch and the seconds that it has left. I answer with a value, or with an
    :class:`~infiniray.errors.InfiniRayError`. All my state lives on the actor's event loop.

    Args:
        shard: my name in the ring.
        secret: what my nodes and I prove each other's right with, as hex.
        endpoint_url: the function platform; None for AWS's own.
    """

    def __init__(
        self, *, membership: Membership, shard: str, config: Config, secret: str, endpoint_url: str | None
    ) -> None:
        self._membership = membership
        self._shard = shard
        self._config = config
        self._secret = secret
        self._endpoint_url = endpoint_url
        self._coder: TaskCoder | None = None
        self._starting: asyncio.Future[ShardDriver] | None = None
        self._answers: OrderedDict[str, asyncio.Future[Any]] = OrderedDict()

    # ------------------------------------------------------------ objects

    async def put(
        self, epoch: int, key: str, head: str, payload: Any, refs: list[Any], *,
        request: str, ttl_s: float | None, timeout_s: float,
    ) -> None:  # fmt: skip
        """Store a serialized value. ``payload`` is small ``bytes``, or a view of Ray's shared memory, whose reference
        is in ``refs`` if it is large."""
        driver = await self._at(epoch)
        expires_s = None if ttl_s is None else time.time() + ttl_s

        async def store() -> None:
            with self._coder_of(driver).object_in_store(payload, refs):
                await driver.put(key, head, memoryview(payload), expires_s=expires_s, timeout_s=timeout_s)

        await self._once(request, store)

    async def get(self, epoch: int, key: str, *, raw: bool, timeout_s: float) -> Packed:
        """The value: it is unpickled into itself wherever the answer is used.

        Raises:
            KeyNotFound, ObjectLost: a miss.
        """
        driver = await self._at(epoch)
        facts, data = await driver.get(key, timeout_s=timeout_s)
        return Packed(facts.head, data, raw=raw)

    async def delete(self, epoch: int, key: str, *, request: str, timeout_s: float) -> bool:
        driver = await self._at(epoch)
        return await self._once(request, lambda: driver.delete(key))

    async def touch(self, epoch: int, key: str, *, ttl_s: float | None, timeout_s: float) -> bool:
        driver = await self._at(epoch)
        return await driver.touch(key, None if ttl_s is None else time.time() + ttl_s)

    async def exists(self, epoch: int, key: str, *, timeout_s: float) -> bool:
        driver = await self._at(epoch)
        return driver.state.table.lookup(key, time.time()) is not None

    async def ttl(self, epoch: int, key: str, *, timeout_s: float) -> float | None:
        """Seconds until the object expires, None for never.

        Raises:
            KeyNotFound: there is none.
        """
        driver = await self._at(epoch)
        now_s = time.time()
        record = driver.state.table.lookup(key, now_s)
        if record is None:
            raise KeyNotFound(key=key)
        return None if record.expires_s is None else record.expires_s - now_s

    async def list(self, epoch: int, prefix: str, limit: int | None) -> list[tuple[str, int, float | None]]:
        """(key, bytes, expiry) of my objects whose key begins with ``prefix``: the first ``limit`` by key."""
        driver = await self._at(epoch)
        now_s = time.time()
        rows = [
            (record.facts.key, record.facts.size_bytes, record.expires_s)
            for record in driver.state.table
            if record.facts.key.startswith(prefix) and not record.is_expired(now_s)
        ]
        return sorted(rows) if limit is None else heapq.nsmallest(limit, rows)

    # ------------------------------------------------------------ the shard itself

    async def health(self) -> dict[str, Any]:
        """That I run, and where my nodes find me."""
        driver = await self._driver()
        return {"shard": self._shard, "epoch": self._membership.epoch, "address": driver.address}

    async def stats(self) -> dict[str, Any]:
        driver = await self._driver()
        return {**driver.stats(), "codec": self._coder_of(driver).stats()}

    async def close(self) -> None:
        """Close connections and end what is going on. Calls after that fail."""
        starting, self._starting = self._starting, None
        if starting is not None:
            await (await starting).close()

    # ------------------------------------------------------------ machinery

    async def _at(self, epoch: int) -> ShardDriver:
        """The running driver, for a caller of this epoch."""
        current = self._membership.epoch
        if epoch != current:  # an earlier one is outdated; of a later one I have not heard yet
            raise StaleEpoch(seen=epoch, current=current)
        return await self._driver()

    async def _driver(self) -> ShardDriver:
        """Started by the first call, since an actor that Ray restarted gets no other sign."""
        if self._starting is None:
            self._starting = asyncio.ensure_future(self._start())
        try:
            return await asyncio.shield(self._starting)
        except Exception:
            self._starting = None  # let the next call try again
            raise

    async def _start(self) -> ShardDriver:
        coder = TaskCoder.of(self._config.codec)
        secret = bytes.fromhex(self._secret)
        driver = assemble(self._membership, self._shard, self._config, secret, self._endpoint_url, coder)
        self._coder = coder
        await driver.start()
        return driver

    def _coder_of(self, driver: ShardDriver) -> TaskCoder:
        assert self._coder is not None
        return self._coder

    async def _once(self, request: str, act: Callable[[], Awaitable[T]]) -> T:
        """Do what a request asks for; when it comes again, answer as before (DESIGN section 6)."""
        answer = self._answers.get(request)
        if answer is None:
            answer = self._answers[request] = asyncio.ensure_future(act())
            if len(self._answers) > _REMEMBERED:
                self._answers.popitem(last=False)
        try:
            return await answer  # type: ignore[no-any-return]
        except BaseException:
            self._answers.pop(request, None)  # what failed may be tried again
            raise
