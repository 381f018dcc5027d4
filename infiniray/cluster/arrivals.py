"""Keys that were another shard's and are this one's since the cache was scaled: fetched when asked for, or one by one.

Who owned a key before goes on serving it until it has taken note of the new membership; from then on it refuses, waits
for the writes that it still has under way, and says what it has. From then on the new owner answers. A key that was
offered is *moved* before anything else is done with it: read there, stored here, let go there, in this order. What the
former owner has therefore never is newer than what is here, and whoever of the two crashes, it is begun again: an
object that is in both places is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from infiniray.core.ring import Ring
from infiniray.errors import InfiniRayError, KeyNotFound, ShardRecovering

__all__ = ["Arrivals", "Neighbours", "Offer"]

#: Objects moved at a time by nobody's request: enough to keep both shards busy, few enough to leave room for others.
MAX_MOVES = 3
FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
#: When callers shall come again who came before the former owner has said what it has.
RETRY_AFTER_S = 0.1


class Offer(NamedTuple):
    """An object that its former owner still has. ``expires_s`` is Unix time, None for never."""

    key: str
    size_bytes: int
    expires_s: float | None


class Neighbours(Protocol):
    """The other shards. Every call ends in time; all raise an InfiniRayError when they cannot be reached."""

    async def offers(self, shard: str) -> list[Offer]:
        """What ``shard`` has that is mine now. After that it changes none of it unless it is told to."""

    async def fetch(self, shard: str, key: str) -> tuple[str, Any, float | None]:
        """(head, bytes, expiry) of an object. Raises: KeyNotFound, ObjectLost: it is gone."""

    async def let_go(self, shard: str, key: str) -> None:
        """Have ``shard`` delete it, so that it cannot come back. Doing it again changes nothing."""


@dataclass(slots=True)
class _Source:
    """A former owner: what it has that is mine, once it has said so."""

    shard: str
    listing: asyncio.Future[None]
    offers: dict[str, Offer] = field(default_factory=dict)


class Arrivals:
    """I know which of my shard's keys are still with others, and have them moved.

    Args:
        shard: whose keys.
        has: whether the shard has something under a key, expired or not.
        store: stores (key, head, bytes, expiry) with the shard.
    """

    def __init__(
        self,
        shard: str,
        neighbours: Neighbours,
        *,
        has: Callable[[str], bool],
        store: Callable[[str, str, Any, float | None], Awaitable[None]],
    ) -> None:
        self._shard = shard
        self._neighbours = neighbours
        self._has = has
        self._store = store
        self._rings: tuple[dict[str, float], dict[str, float]] | None = None
        self._former: Ring | None = None
        self._sources: dict[str, _Source] = {}
        self._moves: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: why the last move failed
        self.trouble = ""

    # ------------------------------------------------------------ membership

    def change(self, ring: Ring, former: Ring | None) -> None:
        """Keys move from ``former``'s owners to ``ring``'s; None: all have moved."""
        rings = None if former is None else (ring.shards, former.shards)
        if rings == self._rings:
            return  # epochs rise for other reasons, too
        self.close()
        self._rings, self._former = rings, former
        if former is None or self._shard not in ring.shards:
            return
        for name in former.shards:
            if name != self._shard:
                source = _Source(name, asyncio.get_running_loop().create_future())
                self._sources[name] = source
                self._spawn(self._list(source, ring))
        self._spawn(self._move_all())

    def close(self) -> None:
        """Give up on what is going on."""
        for task in (*self._tasks, *self._moves.values()):
            task.cancel()
        for source in self._sources.values():
            source.listing.cancel()
        self._tasks.clear()
        self._moves.clear()
        self._sources.clear()
        self._rings = self._former = None
        self.trouble = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing is left with others, as far as can be known."""
        return all(source.listing.done() and not source.offers for source in self._sources.values())

    def left(self) -> tuple[int, int]:
        """(objects, bytes) that are known to be with others still."""
        offers = [offer for source in self._sources.values() for offer in source.offers.values()]
        return len(offers), sum(offer.size_bytes for offer in offers)

    # ------------------------------------------------------------ what callers need

    def awaits(self, key: str) -> bool:
        """Whether something has to be waited for before ``key`` can be served."""
        source = self._source_of(key)
        return source is not None and (not source.listing.done() or key in source.offers)

    async def offered(self, key: str, timeout_s: float) -> Offer | None:
        """The object that another shard still has under ``key``, if it has not expired."""
        source = self._source_of(key)
        if source is None:
            return None
        await self._listed(source, timeout_s)
        offer = source.offers.get(key)
        return None if offer is None or _is_expired(offer) or self._has(key) else offer

    async def all_offered(self, timeout_s: float) -> list[Offer]:
        """What other shards still have, but not what has expired."""
        for source in list(self._sources.values()):
            await self._listed(source, timeout_s)
        offers = [offer for source in self._sources.values() for offer in source.offers.values()]
        return [offer for offer in offers if not _is_expired(offer) and not self._has(offer.key)]

    async def settle(self, key: str, timeout_s: float, *, is_wanted: bool = True) -> bool:
        """Until ``key`` is nobody else's: moved here; or, if it is not ``is_wanted``, deleted there. Whether there was
        something that was deleted.

        Raises:
            ShardRecovering: it could not be moved in time.
            InfiniRayError: why it could not be moved.
        """
        source = self._source_of(key)
        if source is None:
            return False
        await self._listed(source, timeout_s)
        offer = source.offers.get(key)
        if offer is None:
            return False
        was_moving = key in self._moves
        await self._within(self._move(source, offer, is_wanted=is_wanted), timeout_s)
        return not is_wanted and not was_moving and not _is_expired(offer)

    def _source_of(self, key: str) -> _Source | None:
        return None if self._former is None else self._sources.get(self._former.owner(key))

    async def _listed(self, source: _Source, timeout_s: float) -> None:
        if not source.listing.done():
            await self._within(source.listing, timeout_s)

    async def _within(self, work: asyncio.Future[None], timeout_s: float) -> None:
        """Wait for what others may wait for, too."""
        done, _ = await asyncio.wait({work}, timeout=timeout_s)
        if not done or work.cancelled():
            raise ShardRecovering(shard=self._shard, retry_after_s=RETRY_AFTER_S)
        work.result()

    # ------------------------------------------------------------ moving

    async def _list(self, source: _Source, ring: Ring) -> None:
        """Ask a former owner what it has until it answers."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                offers = await self._neighbours.offers(source.shard)
            except InfiniRayError as error:
                self.trouble = str(error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                source.offers = {offer.key: offer for offer in offers if ring.owner(offer.key) == self._shard}
                source.listing.set_result(None)
                return

    async def _move_all(self) -> None:
        """Move what nobody asks for, too."""
        for source in list(self._sources.values()):
            await asyncio.wait({source.listing})
        pause_s = FIRST_PAUSE_S
        while not self.is_over:
            todo = iter([(source, offer) for source in self._sources.values() for offer in source.offers.values()])

            async def work() -> None:
                for source, offer in todo:  # noqa: B023 - shared by the workers of this round
                    if offer.key in source.offers:
                        with contextlib.suppress(InfiniRayError):  # noted in ``trouble``, and tried again
                            await asyncio.shield(self._move(source, offer, is_wanted=True))

            n_before = self.left()[0]
            await asyncio.gather(*(work() for _ in range(MAX_MOVES)))
            pause_s = FIRST_PAUSE_S if self.left()[0] < n_before else min(2 * pause_s, LONGEST_PAUSE_S)
            if not self.is_over:
                await asyncio.sleep(pause_s)

    def _move(self, source: _Source, offer: Offer, *, is_wanted: bool) -> asyncio.Task[None]:
        """Move an object, once, however many ask for it."""
        task = self._moves.get(offer.key)
        if task is None:
            task = self._moves[offer.key] = asyncio.ensure_future(self._bring(source, offer, is_wanted=is_wanted))
            task.add_done_callback(lambda done: self._moved(offer.key, done))
        return task

    async def _bring(self, source: _Source, offer: Offer, *, is_wanted: bool) -> None:
        if is_wanted and not self._has(offer.key) and not _is_expired(offer):
            with contextlib.suppress(KeyNotFound):  # evicted or lost there: a miss here
                head, data, expires_s = await self._neighbours.fetch(source.shard, offer.key)
                await self._store(offer.key, head, data, expires_s)
        await self._neighbours.let_go(source.shard, offer.key)
        source.offers.pop(offer.key, None)

    def _moved(self, key: str, task: asyncio.Task[None]) -> None:
        if self._moves.get(key) is task:
            del self._moves[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            self.trouble = f"{key!r} could not be moved: {error}"

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_expired(offer: Offer) -> bool:
    return offer.expires_s is not None and offer.expires_s <= time.time()
