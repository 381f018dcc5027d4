"""The shard as a Ray actor: clients' calls in, values out. What it does with them is :mod:`infiniray.runtime`'s."""

from __future__ import annotations

import asyncio
import builtins
import heapq
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from infiniray.channel.server import ChannelServer, Endpoint
from infiniray.channel.shared import Landing, Slot
from infiniray.cluster import rayapi
from infiniray.cluster.arrivals import Arrivals, Offer
from infiniray.cluster.assembly import assemble, open_channel
from infiniray.cluster.codec_tasks import TaskCoder
from infiniray.cluster.departures import Departures
from infiniray.cluster.enrolment import enroll, renewed
from infiniray.cluster.flights import Flights, Landed
from infiniray.cluster.membership import Membership
from infiniray.cluster.neighbours import RayNeighbours
from infiniray.cluster.priority import match_ray
from infiniray.cluster.registry import ShardRegistry
from infiniray.cluster.turns import Turn
from infiniray.config import Config
from infiniray.core.commands import ObjectFacts
from infiniray.core.table import ObjectRecord
from infiniray.errors import (
    CacheUnavailable,
    DeadlineExceeded,
    InfiniRayError,
    KeyNotFound,
    ObjectReplaced,
    ShardRecovering,
    StaleEpoch,
    WriteUncertain,
)
from infiniray.runtime.collector import calm_collector
from infiniray.runtime.driver import ShardDriver
from infiniray.runtime.keys import KeyRing
from infiniray.values import Packed, fresh_until_s, with_fresh_until, with_writer, writer_of

__all__ = ["Shard"]

T = TypeVar("T")

#: For a listing to learn what other shards still have.
_LIST_TIMEOUT_S = 10.0
#: For an object that has come from another shard to be stored.
_ARRIVAL_TIMEOUT_S = 30.0
#: Answers to requests that may come again are kept for the last so many.
_REMEMBERED = 4096
#: When callers of a shard that is recovering shall come again.
_RECOVERY_POLL_S = 0.1
#: What clients that are connected directly may call by name: answers that are small, and come soon.
_ASKED_DIRECTLY = frozenset({"delete", "touch", "exists", "ttl"})
#: From learning that there is a later incarnation to the end of the process.
_LAST_WORDS_S = 0.5


class Shard:
    """I own a segment of the key ring and the nodes in it (DESIGN section 6: a proxy).

    Every call carries the caller's epoch and the seconds that it has left. I answer with a value, or with an
    :class:`~infiniray.errors.InfiniRayError`. All my state lives on the actor's event loop.

    Each of my processes is an incarnation: it enrolls with the supervisor, which gives it an epoch above all before,
    and takes the table back from the nodes that earlier ones had on record (:mod:`infiniray.core.recovery`). One that
    learns of a later incarnation ends its process. From the supervisor I have the cache's secrets, too: what I was
    created with may be from before they were changed.

    Args:
        shard: my name in the ring.
        endpoint_url: the function platform; None for AWS's own.
    """

    def __init__(self, *, membership: Membership, shard: str, config: Config, endpoint_url: str | None) -> None:
        self._membership = membership
        self._shard = shard
        self._config = config
        self._endpoint_url = endpoint_url
        self._incarnation = uuid.uuid4().hex
        self._epoch = 0  # of this incarnation, once it is enrolled
        self._keys_epoch = 0  # of the membership with which the secrets came that are in use
        self._registry: ShardRegistry | None = None
        self._coder: TaskCoder | None = None
        self._starting: asyncio.Future[ShardDriver] | None = None
        self._channel: ChannelServer | None = None
        self._endpoint: Endpoint | None = None
        self._answers: OrderedDict[str, asyncio.Future[Any]] = OrderedDict()
        n = config.limits.max_in_flight  # the actor runs 4n calls at once: those that wait leave room for others
        self._flights = Flights(max_leases=16 * n, max_waiters=2 * n)
        self._departures = Departures(shard)
        neighbours = RayNeighbours(shard, lambda: self._membership)
        self._arrivals = Arrivals(shard, neighbours, has=self._has, store=self._store_arrived)

    # ------------------------------------------------------------ objects that are computed once

    async def take_turn(self, epoch: int, key: str, *, holder: str, lease_s: float, timeout_s: float) -> Turn:
        """The value; or, to one caller at a time, the right to compute it. Others wait until that one has ended; while
        there is a value that is merely stale, they get it.

        Args:
            holder: a name for the caller's computation, which nobody else has. Under it the value is stored.
            lease_s: how long it has, from now and from each renewal.

        Raises:
            DeadlineExceeded: somebody else is still computing it.
            Overloaded: too many wait, or too many keys are computed.
        """
        until_s = asyncio.get_running_loop().time() + timeout_s
        while True:
            driver = await self._at(epoch, key, timeout_s)
            left_s = until_s - asyncio.get_running_loop().time()
            if left_s <= 0:
                detail = "its value kept changing"
                raise DeadlineExceeded(operation="GET_OR_COMPUTE", key=key, deadline_s=timeout_s, detail=detail)
            if self._may_serve(driver, key, holder):
                try:
                    facts, data = await driver.get(key, timeout_s=left_s)
                except (KeyNotFound, ObjectReplaced):
                    continue
                return Turn(value=Packed(facts.head, data))
            if self._flights.acquire(key, holder, lease_s):
                return Turn(is_granted=True)
            landed = await self._flights.wait(key, until_s, timeout_s)
            if landed is not None:
                return Turn(value=Packed(landed.head, landed.payload))

    async def renew_turn(self, epoch: int, key: str, *, holder: str, lease_s: float, timeout_s: float) -> None:
        """Raises: LeaseLost."""
        await self._at(epoch, key, timeout_s)
        self._flights.renew(key, holder, lease_s)

    async def give_up_turn(self, epoch: int, key: str, *, holder: str, timeout_s: float) -> None:
        """The holder will not store a value: the next may compute it."""
        await self._at(epoch, key, timeout_s)
        self._flights.give_up(key, holder)

    async def put_computed(
        self, epoch: int, key: str, head: str, payload: Any, refs: list[Any], *,
        holder: str, request: str, ttl_s: float | None, stale_s: float, timeout_s: float,
    ) -> None:  # fmt: skip
        """As :meth:`put`, of a value that was computed in the holder's turn, which ends.

        After ``ttl_s`` the value is stale, and ``stale_s`` later it expires. Those who wait for the value get it even
        if it cannot be stored now.

        Raises:
            LeaseLost: it is not the holder's turn any more. Nothing is stored.
        """
        driver = await self._at(epoch, key, timeout_s)
        now_s = time.time()
        if ttl_s is not None and stale_s:
            head = with_fresh_until(head, now_s + ttl_s)
        expires_s = None if ttl_s is None else now_s + ttl_s + stale_s

        async def write() -> None:
            with self._coder_of(driver).object_in_store(payload, refs):
                await driver.put(key, head, memoryview(payload), expires_s=expires_s, timeout_s=timeout_s)

        with self._departures.writing(key):
            await self._once(request, lambda: self._flights.store(key, holder, Landed(head, payload), write))

    def _may_serve(self, driver: ShardDriver, key: str, holder: str) -> bool:
        """Whether there is a value that is fresh, or stale while somebody else computes the next."""
        now_s = time.time()
        record = driver.state.table.lookup(key, now_s)
        if record is None:
            return False
        fresh_s = fresh_until_s(record.facts.head)
        return fresh_s is None or now_s < fresh_s or self._flights.is_computed(key, besides=holder)

    # ------------------------------------------------------------ objects

    async def put(
        self, epoch: int, key: str, head: str, payload: Any, refs: list[Any], *,
        request: str, ttl_s: float | None, timeout_s: float, is_again: bool = False, place: object = None,
    ) -> None:  # fmt: skip
        """Store a serialized value. ``payload`` is small ``bytes``, or a view of Ray's shared memory, whose reference
        is in ``refs`` if it is large.

        Args:
            place: see :meth:`.ShardDriver.put`.
            is_again: a former incarnation of mine may have stored it already, and others may have replaced it since:
                it is not stored once more.

        Raises:
            WriteUncertain: ``is_again``, and it is not what the key holds now.
        """
        driver = await self._at(epoch, key, timeout_s)
        expires_s = None if ttl_s is None else time.time() + ttl_s
        signed = with_writer(head, request)

        async def store() -> None:
            if is_again:
                _check_written(driver.state.table.find(key), key, request)
                return
            with self._flights.overridden(key), self._coder_of(driver).object_in_store(payload, refs):
                try:
                    data = memoryview(payload)
                    await driver.put(key, signed, data, expires_s=expires_s, timeout_s=timeout_s, place=place)
                except StaleEpoch as deposed:  # in the middle of it: unlike a refusal of :meth:`_at`
                    raise CacheUnavailable(detail=f"{self._shard} was deposed while it stored: {deposed}") from None

        with self._departures.writing(key):
            await self._once(request, store)

    async def get(self, epoch: int, key: str, *, raw: bool, timeout_s: float) -> Packed:
        """The value: it is unpickled into itself wherever the answer is used.

        Raises:
            KeyNotFound, ObjectLost: a miss.
        """
        driver = await self._at(epoch, key, timeout_s)
        facts, data = await driver.get(key, timeout_s=timeout_s)
        return Packed(facts.head, data, raw=raw)

    # ------------------------------------------------------------ the same, for clients that are connected directly

    async def channel(self) -> Endpoint | None:
        """Where this process is reached directly; None: only through Ray."""
        driver = await self._driver()
        if self._channel is None and self._config.channel.enabled:
            self._channel = open_channel(self, driver, self._config)
            self._endpoint = self._channel.start()
        return self._endpoint

    async def read(self, epoch: int, key: str, timeout_s: float, landing: Landing) -> tuple[str, Any]:
        """As :meth:`get`."""
        driver = await self._at(epoch, key, timeout_s)
        facts, data = await driver.get(key, timeout_s=timeout_s, landing=landing)
        return facts.head, data

    def begin_read(
        self, epoch: int, key: str, timeout_s: float, landing: Landing, done: Callable[[Any], None]
    ) -> Callable[[], None] | None:
        """As :meth:`read`, without waiting for anything but the key's own chunks; None if there is more to wait for."""
        starting = self._starting
        if starting is None or not starting.done() or starting.cancelled() or starting.exception() is not None:
            return None
        driver = starting.result()
        is_known = epoch <= self._membership.epoch and not driver.state.is_recovering
        if not is_known or not self._owns(key) or self._arrivals.awaits(key):
            return None

        def end(ending: tuple[ObjectFacts, Any] | InfiniRayError) -> None:
            done(ending if isinstance(ending, InfiniRayError) else (ending[0].head, ending[1]))

        return driver.begin_get(key, end, timeout_s=timeout_s, landing=landing)

    async def write(
        self, epoch: int, key: str, head: str, payload: Any, *,
        request: str, ttl_s: float | None, timeout_s: float, is_again: bool, place: Slot | None,
    ) -> None:  # fmt: skip
        """As :meth:`put`."""
        await self.put(
            epoch, key, head, payload, [],
            request=request, ttl_s=ttl_s, timeout_s=timeout_s, is_again=is_again, place=place,
        )  # fmt: skip

    async def ask(self, epoch: int, method: str, key: str, timeout_s: float, details: dict[str, Any]) -> Any:
        """As the method of this name."""
        if method not in _ASKED_DIRECTLY:
            raise InfiniRayError(detail=f"no method {method!r} is called this way")
        return await getattr(self, method)(epoch, key, timeout_s=timeout_s, **details)

    async def delete(self, epoch: int, key: str, *, request: str, timeout_s: float) -> bool:
        driver = await self._at(epoch, key, timeout_s, settles=False)

        async def erase() -> bool:
            with self._flights.overridden(key):
                await self._flights.stop_stores(key)
                was_elsewhere = await self._arrivals.settle(key, timeout_s, is_wanted=False)
                return await driver.delete(key, timeout_s=timeout_s) or was_elsewhere

        with self._departures.writing(key):
            return await self._once(request, erase)

    async def touch(self, epoch: int, key: str, *, ttl_s: float | None, timeout_s: float) -> bool:
        driver = await self._at(epoch, key, timeout_s)
        with self._departures.writing(key):
            return await driver.touch(key, None if ttl_s is None else time.time() + ttl_s)

    async def exists(self, epoch: int, key: str, *, timeout_s: float) -> bool:
        driver = await self._at(epoch, key, timeout_s, settles=False)
        if await self._arrivals.offered(key, timeout_s) is not None:
            return True
        return driver.state.table.lookup(key, time.time()) is not None

    async def ttl(self, epoch: int, key: str, *, timeout_s: float) -> float | None:
        """Seconds until the object expires, None for never.

        Raises:
            KeyNotFound: there is none.
        """
        driver = await self._at(epoch, key, timeout_s, settles=False)
        offer = await self._arrivals.offered(key, timeout_s)
        now_s = time.time()
        found = offer if offer is not None else driver.state.table.lookup(key, now_s)
        if found is None:
            raise KeyNotFound(key=key)
        return None if found.expires_s is None else found.expires_s - now_s

    async def list(
        self, epoch: int, prefix: str, limit: int | None
    ) -> tuple[dict[str, float], list[tuple[str, int, float | None]]]:
        """The shards by which I tell what is mine, and (key, bytes, expiry) of my objects whose key begins with
        ``prefix``: the first ``limit`` by key."""
        driver = await self._ready()
        await self._catch_up(epoch)
        offers = await self._arrivals.all_offered(_LIST_TIMEOUT_S)
        ring, now_s = self._membership.ring, time.time()
        rows: builtins.list[tuple[str, int, float | None]] = [
            (offer.key, offer.size_bytes, offer.expires_s) for offer in offers if offer.key.startswith(prefix)
        ]
        rows += [
            (record.facts.key, record.facts.size_bytes, record.expires_s)
            for record in driver.state.table
            if record.facts.key.startswith(prefix) and not record.is_expired(now_s) and self._owns(record.facts.key)
        ]
        return ring.shards, sorted(rows) if limit is None else heapq.nsmallest(limit, rows)

    # ------------------------------------------------------------ keys that move between shards

    async def adopt(self, membership: Membership) -> None:
        """Take note of a later membership: nodes join and leave, keys are others' or mine from now on."""
        await self._driver()
        self._take(membership)

    async def offers(self, epoch: int, shard: str, *, timeout_s: float) -> builtins.list[Offer]:
        """My objects that are ``shard``'s by the membership of ``epoch``. No write changes any of them any more.

        Raises:
            ShardRecovering: writes are still under way.
        """
        driver = await self._ready()
        await self._catch_up(epoch)
        ring = self._membership.ring
        await self._departures.quiet(lambda key: ring.owner(key) != self._shard, timeout_s)
        return [
            Offer(record.facts.key, record.facts.size_bytes, record.expires_s)
            for record in driver.state.table
            if ring.owner(record.facts.key) == shard
        ]

    async def fetch_moved(self, epoch: int, key: str, *, timeout_s: float) -> tuple[str, Any, float | None]:
        """(head, bytes, expiry) of an object that is another shard's now. Raises: KeyNotFound, ObjectLost."""
        driver = await self._for_owner(epoch, key)
        facts, data = await driver.get(key, timeout_s=timeout_s)
        record = driver.state.table.find(key)
        return facts.head, data, record.expires_s if record is not None else facts.expires_s or None

    async def let_go(self, epoch: int, key: str, *, timeout_s: float) -> None:
        """Delete an object that is another shard's now."""
        driver = await self._for_owner(epoch, key)
        await driver.delete(key, timeout_s=timeout_s)

    async def _for_owner(self, epoch: int, key: str) -> ShardDriver:
        """The driver, for a shard to which I have lost ``key``."""
        driver = await self._ready()
        await self._catch_up(epoch)
        if self._owns(key):  # whoever asks has been asleep for long
            raise StaleEpoch(seen=epoch, current=self._membership.epoch)
        return driver

    def _has(self, key: str) -> bool:
        assert self._starting is not None
        return self._starting.result().state.table.find(key) is not None

    async def _store_arrived(self, key: str, head: str, data: Any, expires_s: float | None) -> None:
        driver = await self._ready()
        await driver.put(key, head, memoryview(data), expires_s=expires_s, timeout_s=_ARRIVAL_TIMEOUT_S)

    async def progress(self) -> dict[str, Any]:
        """How far I am with what the last membership asked of me."""
        driver = await self._ready()
        n_keys, n_bytes = self._arrivals.left()
        return {
            "epoch": self._membership.epoch,
            "is_settled": self._arrivals.is_over,
            "keys_left": n_keys,
            "bytes_left": n_bytes,
            "leaving": driver.state.draining.left(),
            "trouble": self._arrivals.trouble,
        }

    # ------------------------------------------------------------ the cache's secrets

    async def change_keys(self, epoch: int, keys: KeyRing) -> None:
        """Accept these secrets from now on, unless they are from before ``epoch``'s that I have heard of."""
        driver = await self._driver()
        if epoch >= self._keys_epoch:
            self._keys_epoch = epoch
            driver.change_keys(keys)

    async def keys(self) -> dict[str, Any]:
        """The ids of the secrets that I accept; and "behind": the nodes that have proven another than the current."""
        driver = await self._driver()
        return {"accepted": sorted(driver.keys.ids), "behind": sorted(driver.nodes_behind())}

    # ------------------------------------------------------------ the shard itself

    async def require_reachable(self, *, timeout_s: float) -> None:
        """Have a node dial me, unless one has. Raises: ShardUnreachable."""
        await (await self._driver()).require_reachable(timeout_s=timeout_s)

    async def health(self) -> dict[str, Any]:
        """That I run, on which of Ray's nodes, and where my own nodes find me."""
        driver = await self._driver()
        return {
            "shard": self._shard,
            "epoch": self._epoch,
            "address": driver.address,
            "machine": rayapi.local_node_id(),
            "pid": os.getpid(),
            "state": "recovering" if driver.state.is_recovering else "up",
        }

    async def stats(self) -> dict[str, Any]:
        driver = await self._driver()
        channel = {} if self._channel is None else {"channel": self._channel.stats()}
        codec, computing = self._coder_of(driver).stats(), self._flights.stats()
        return {**driver.stats(), "codec": codec, "computing": computing, **channel}

    async def back_up(self) -> None:
        """Have every node backed up now, as far as slots allow."""
        (await self._driver()).back_up()

    async def close(self) -> None:
        """Close connections and end what is going on. Calls after that fail."""
        self._flights.close()
        self._arrivals.close()
        self._close_channel()
        starting, self._starting = self._starting, None
        if starting is not None:
            await (await starting).close()
        if self._registry is not None:
            self._registry.close()

    def _close_channel(self) -> None:
        channel, self._channel, self._endpoint = self._channel, None, None
        if channel is not None:
            channel.close()

    # ------------------------------------------------------------ machinery

    async def _at(self, epoch: int, key: str, timeout_s: float, *, settles: bool = True) -> ShardDriver:
        """The running driver, for a caller who thinks that I own ``key`` in the membership of ``epoch``. Between my
        last look at whose it is and the answer nothing else happens.

        Epochs rise when any shard is restarted, too: what matters is whose the key is.

        Args:
            settles: what a former owner of the key may still have of it is moved here first.
        """
        driver = await self._ready()
        await self._catch_up(epoch)
        while self._owns(key):
            if not settles or not self._arrivals.awaits(key):
                return driver
            await self._arrivals.settle(key, timeout_s)
        raise StaleEpoch(seen=epoch, current=self._membership.epoch)

    def _owns(self, key: str) -> bool:
        return self._membership.ring.owner(key) == self._shard

    async def _catch_up(self, epoch: int) -> None:
        """Know a membership at least as late as whoever calls."""
        if epoch > self._membership.epoch:
            self._take(await renewed(self._membership))

    def _take(self, membership: Membership) -> None:
        if membership.epoch > self._membership.epoch:
            self._membership = membership
            self._follow_membership()

    def _follow_membership(self) -> None:
        """Have the pool and the keys be what the membership says."""
        assert self._starting is not None
        membership, driver = self._membership, self._starting.result()
        if self._shard in membership.nodes:  # else I have been dismissed, and am about to be ended
            wanted = [node for node in membership.nodes[self._shard] if node not in membership.leaving]
            driver.change_pool(dict.fromkeys(wanted, self._config.pool.node_bytes))
            self._arrivals.change(membership.ring, membership.former)

    async def _ready(self) -> ShardDriver:
        """The driver, if it knows what there is."""
        driver = await self._driver()
        if driver.state.is_recovering:
            raise ShardRecovering(shard=self._shard, retry_after_s=_RECOVERY_POLL_S)
        return driver

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
        match_ray()
        try:
            enrolment = await enroll(self._membership, self._shard, self._incarnation)
        except StaleEpoch:
            self._deposed()
            raise
        registry = enrolment.registry
        try:
            coder = TaskCoder.of(self._config.codec)
            driver = assemble(
                enrolment.membership, self._shard, self._config, enrolment.keys, self._endpoint_url, coder,
                epoch=enrolment.epoch, coordinator=registry, registered=enrolment.on_record, on_deposed=self._deposed,
            )  # fmt: skip
            await driver.start()
            calm_collector()
        except BaseException:
            registry.close()
            raise
        self._membership, self._epoch = enrolment.membership, enrolment.epoch
        self._keys_epoch = enrolment.membership.epoch
        self._coder, self._registry = coder, registry
        asyncio.get_running_loop().call_soon(self._follow_membership)
        return driver

    def _deposed(self) -> None:
        """Another incarnation has taken over: answers that are on their way get out, then this process ends. If Ray
        thinks that it is the current one, it starts the next."""
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, os._exit, 1)

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


def _check_written(record: ObjectRecord | None, key: str, request: str) -> None:
    """Raises: WriteUncertain: the object under ``key`` is not what ``request`` wrote."""
    if record is None or writer_of(record.facts.head) != request:
        raise WriteUncertain(key=key)
