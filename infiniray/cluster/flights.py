"""One computes, the others wait: what a shard keeps for ``get_or_compute``. Event loop, no Ray.

The leases themselves are :mod:`infiniray.core.leases`; here are those who wait for one to end. What is promised:

- While a lease lasts, nobody else computes the key. It ends when its holder stores a value or gives up, when it was not
  renewed in time, when the key is written or deleted by others, and when the shard restarts or the key moves to another
  shard, which know nothing of it. Then a second computation may run beside the first: at worst, work is done twice.
- A computed value is stored only if its holder has the lease when the store begins; else the store is refused
  (:class:`~infiniray.errors.LeaseLost`). A store that began in time has a lower version than any write that began
  later, and never replaces that.
- So a value that was computed from before an acknowledged write, deletion or later computation does not replace it. A
  computation that both begins and starts storing while a plain write is going on counts as simultaneous with it: either
  value may stay. A deletion ends computed values' stores that it finds under way.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from infiniray.core.leases import Lease, Leases
from infiniray.errors import CacheUnavailable, DeadlineExceeded, InfiniRayError, LeaseLost, Overloaded

__all__ = ["Flights", "Landed"]

_RETRY_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class Landed:
    """A computed value, serialized: for those who waited while it was computed, without reading it back."""

    head: str
    payload: Any


class Flights:
    """I know who computes which key, and wake those who wait for it: when the value is there, when its computer gives
    up, and when its lease expires.

    Args:
        max_leases: keys that may be computed at once.
        max_waiters: calls that may wait at once, over all keys.
    """

    def __init__(self, *, max_leases: int, max_waiters: int) -> None:
        self._leases = Leases(max_leases)
        self._max_waiters = max_waiters
        self._n_waiters = 0
        self._is_closed = False
        #: {key: what all its waiters wait for}, from the first of them until the lease ends
        self._ends: dict[str, asyncio.Future[Landed | None]] = {}
        self._alarms: dict[str, asyncio.TimerHandle] = {}
        #: {key: computed values on their way into the pool}: one, unless a lease expired meanwhile
        self._stores: dict[str, set[asyncio.Future[Any]]] = {}
        self._counters = Counter(granted=0, expired=0, computed=0, lost=0, given_up=0, waits=0)

    def stats(self) -> dict[str, int]:
        return {**self._counters, "waiting": self._n_waiters}

    # ------------------------------------------------------------ who computes

    def is_computed(self, key: str, *, besides: str) -> bool:
        """Whether somebody other than the holder ``besides`` computes ``key``."""
        lease = self._leases.find(key, _now_s())
        return lease is not None and lease.holder != besides

    def acquire(self, key: str, holder: str, lease_s: float) -> bool:
        """Whether ``key`` is the holder's to compute now.

        Raises:
            Overloaded: as many keys as may be are being computed.
        """
        is_granted = self._leases.acquire(key, holder, _now_s(), lease_s).holder == holder
        self._counters["granted"] += is_granted
        return is_granted

    def renew(self, key: str, holder: str, lease_s: float) -> None:
        """Raises: LeaseLost."""
        self._leases.renew(key, holder, _now_s(), lease_s)

    def _check(self, key: str, holder: str) -> None:
        """Refuse what a holder computed under a lease that it has no more."""
        try:
            self._leases.check(key, holder, _now_s())
        except LeaseLost:
            self._counters["lost"] += 1
            raise

    # ------------------------------------------------------------ how it ends

    async def store(self, key: str, holder: str, landed: Landed, write: Callable[[], Awaitable[object]]) -> None:
        """Store what a holder computed, by ``write``; its lease ends.

        Those who wait get the value, even if ``write`` fails in a way that may pass: they need not compute it as well.

        Raises:
            LeaseLost: it has no lease any more, or the key was deleted meanwhile. Nothing is stored.
        """
        self._check(key, holder)
        task = asyncio.ensure_future(write())
        self._stores.setdefault(key, set()).add(task)
        try:
            await task
        except asyncio.CancelledError:
            if task in self._stores.get(key, ()):
                raise
            raise LeaseLost(key=key) from None
        except InfiniRayError as error:
            if error.retryable:
                self._land(key, holder, landed)
            raise
        else:
            self._land(key, holder, landed)
        finally:
            self.give_up(key, holder)
            self._forget_store(key, task)

    def give_up(self, key: str, holder: str) -> None:
        """There will be no value: the next may compute."""
        if self._leases.release(key, holder):
            self._counters["given_up"] += 1
            self._wake(key, None)

    @contextmanager
    def overridden(self, key: str) -> Iterator[None]:
        """Around a plain write or deletion of ``key``: what is being computed at its beginning or its end is from
        before it, and must not be stored after it. Those who wait look again when it has ended."""
        self._leases.void(key)
        try:
            yield
        finally:
            self._leases.void(key)
            self._wake(key, None)

    async def stop_stores(self, key: str) -> None:
        """End computed values' way into the pool before a deletion, which would not see them. (Plain writes need not
        do so: versions are in the order in which writes began, and a later one is never replaced by an earlier.)"""
        tasks = self._stores.pop(key, None)
        if tasks:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def close(self) -> None:
        """Those who wait get CacheUnavailable."""
        self._is_closed = True
        for key in list(self._ends):
            self._wake(key, None)

    # ------------------------------------------------------------ waiting

    async def wait(self, key: str, until_s: float, timeout_s: float) -> Landed | None:
        """Wait until whoever computes ``key`` has ended; the value if there is one, None to look again.

        Args:
            until_s: the deadline, on the event loop's clock; ``timeout_s`` explains it.

        Raises:
            Overloaded: as many wait as may.
            DeadlineExceeded: it is still being computed.
            CacheUnavailable: the shard closes.
        """
        if self._n_waiters >= self._max_waiters:
            raise Overloaded(in_flight=self._n_waiters, limit=self._max_waiters, retry_after_s=_RETRY_AFTER_S)
        lease = self._leases.find(key, _now_s())
        if lease is None:
            return None
        end = self._end_of(lease)
        self._n_waiters += 1
        self._counters["waits"] += 1
        try:
            done, _ = await asyncio.wait([end], timeout=max(0.0, until_s - _now_s()))
        finally:
            self._n_waiters -= 1
        if self._is_closed:
            raise CacheUnavailable(detail="the shard closes")
        if not done:
            detail = "somebody else is still computing the value"
            raise DeadlineExceeded(operation="GET_OR_COMPUTE", key=key, deadline_s=timeout_s, detail=detail)
        return end.result()

    def _end_of(self, lease: Lease) -> asyncio.Future[Landed | None]:
        end = self._ends.get(lease.key)
        if end is None:
            end = self._ends[lease.key] = asyncio.get_running_loop().create_future()
            self._set_alarm(lease)
        return end

    def _set_alarm(self, lease: Lease) -> None:
        loop = asyncio.get_running_loop()
        self._alarms[lease.key] = loop.call_at(lease.until_s, self._on_alarm, lease.key)

    def _on_alarm(self, key: str) -> None:
        """A lease may have expired; one that was renewed is looked at again."""
        lease = self._leases.find(key, _now_s())
        if lease is not None:
            self._set_alarm(lease)
            return
        self._counters["expired"] += 1
        self._wake(key, None)

    def _land(self, key: str, holder: str, landed: Landed) -> None:
        if self._leases.release(key, holder):
            self._counters["computed"] += 1
            self._wake(key, landed)

    def _forget_store(self, key: str, task: asyncio.Future[Any]) -> None:
        tasks = self._stores.get(key, set())
        tasks.discard(task)
        if not tasks:
            self._stores.pop(key, None)

    def _wake(self, key: str, landed: Landed | None) -> None:
        alarm = self._alarms.pop(key, None)
        if alarm is not None:
            alarm.cancel()
        end = self._ends.pop(key, None)
        if end is not None and not end.done():
            end.set_result(landed)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
