"""What the verbs of a cache mean when there is a store behind it. ``docs/backing.md`` is the user's side of this page.

Everything here blocks, and works on full keys. A value is acknowledged when :meth:`Backing.put` returns:

- read-through: the cache has it. The store is never written.
- write-through: the store has it; so has the cache, unless it cannot hold it.
- write-back: the cache has it, this process keeps it until the store has it, and a dirty mark says so to all others.

Cache and store end with the same value whatever writes at once, because a key has one writer at a time
(:mod:`.marks`), and because a reader that loads a key while it is written cannot put what it loaded into the cache
(:mod:`infiniray.cluster.flights`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeVar

import numpy as np

from infiniray.backing.front import Front
from infiniray.backing.marks import Hold, Mark, Marks
from infiniray.backing.objects import StoredObjects
from infiniray.backing.pending import WriteQueue
from infiniray.backing.records import Records
from infiniray.backing.store import Store
from infiniray.cluster.deadline import Deadline
from infiniray.config import BackingConfig
from infiniray.errors import (
    BackingUnavailable,
    InfiniRayError,
    KeyNotFound,
    LeaseLost,
    Overloaded,
    PoolFull,
    ValueTooLarge,
    WriteFailed,
    WriteLost,
    WritesUnflushed,
)
from infiniray.values import Serialized, serialize, view

__all__ = ["Adopted", "Backing"]

T = TypeVar("T")

#: A clean mark outlives its write's longest time by this much.
_GRACE_S = 30.0
#: What the cache gets, at least, when the store has used up a verb's time.
_LAST_S = 5.0
_WATCH_PAUSE_S = 0.05
#: Why a cache may not hold what the store has, and all is well nevertheless.
_NO_ROOM = (PoolFull, ValueTooLarge, WriteFailed, Overloaded)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopted:
    """Writes of processes that died before the store had them: those that it has now, and those that are lost."""

    flushed: tuple[str, ...]
    lost: tuple[str, ...]


class Backing:
    """I am what stands between a cache and a store, in one process.

    Args:
        store: not yet spoken to.
        records: which all processes of the cache see.
        front: the cache.
    """

    def __init__(self, config: BackingConfig, store: Store, records: Records, front: Front) -> None:
        assert config.url is not None
        self.config = config
        self._objects = StoredObjects(config, store)
        self._front = front
        scope = blake2b(config.url.encode(), digest_size=8).hexdigest()
        self._marks = Marks(records, scope, lambda key: self._queue.find(key) is not None)
        self._queue = WriteQueue(
            write=self._objects.write_patiently,
            on_written=self._marks.settle,
            beat=self._marks.beat,
            max_bytes=config.queue_bytes,
            max_writes=config.queue_writes,
            delay_s=config.flush_delay_s,
            n_threads=config.concurrency,
        )

    @property
    def is_written(self) -> bool:
        """Whether PUTs and DELETEs reach the store."""
        return self.config.mode != "read-through"

    @property
    def _degrades(self) -> bool:
        return self.config.on_error == "degrade"

    def keeps(self, ttl_s: float | None) -> bool:
        """Whether objects with this time to live are the store's, too."""
        return ttl_s is None or self.config.ttl_in_store

    def check(self) -> None:
        """Find out whether the store is there.

        Raises:
            BackingRefused: it is not, and nothing will change that.
            BackingUnavailable: it does not answer, and ``on_error`` is not "degrade".
        """
        try:
            self._objects.check(self._deadline(self.config.timeout_s))
        except BackingUnavailable:
            if not self._degrades:
                raise

    # ------------------------------------------------------------ reading

    def get(self, key: str, miss: KeyNotFound, *, raw: bool, timeout_s: float | None) -> Any:
        """The value that the cache missed, which is put there.

        Args:
            miss: raised if the store has none either.

        Raises:
            BackingUnavailable: the store does not answer, or another process's write has not reached it yet.
            WriteLost: it is known that the store has not what was acknowledged.
            BackingRefused, BackingDamaged: it answers, but not with a value.
        """
        deadline = self._deadline(timeout_s if timeout_s is not None else self._front.deadline_s())
        pending = self._pending(key, deadline, "GET")
        if pending is not None:
            return self._objects.value(key, pending, raw=raw)
        loaded: list[Any] = []

        def load() -> Any:
            found = self._objects.load(key, deadline)
            if found is None:
                raise miss
            loaded.append(found)
            return self._objects.value(key, found, raw=False)

        try:
            if not self._objects.is_there(key, deadline):  # asked by all at once; a turn to load is taken one by one
                raise miss
            value = self._front.get_or_load(key, load, self.config.cached_ttl_s, deadline.left_s())
        except BackingUnavailable as trouble:
            self._degrade_read(trouble)
            raise miss from trouble
        except _NO_ROOM:
            if not loaded:
                raise
            self._objects.count(not_cached=1)
            value = self._objects.value(key, loaded[0], raw=False)
        return view(*serialize(value)) if raw else value

    def get_many(self, keys: Sequence[str], *, raw: bool, timeout_s: float | None) -> dict[str, Any]:
        """The values of those that the store has."""

        def get(key: str) -> list[Any]:
            try:
                return [self.get(key, KeyNotFound(key=key), raw=raw, timeout_s=timeout_s)]
            except KeyNotFound:
                return []

        return {key: found[0] for key, found in self._side_by_side(get, keys) if found}

    def exists(self, key: str, timeout_s: float | None) -> bool:
        """Whether the store has, or will have, what the cache has not."""
        deadline = self._deadline(timeout_s if timeout_s is not None else self.config.timeout_s)
        if self._queue.find(key) is not None:
            return True
        mark = self._marks.look(key)
        if mark is not None and mark.is_dirty and mark.writer != self._marks.writer:
            self._refuse_lost(key, mark, "EXISTS")
            return True
        try:
            return self._objects.is_there(key, deadline)
        except BackingUnavailable as trouble:
            self._degrade_read(trouble)
            return False

    def find(self, key: str, timeout_s: float | None) -> tuple[bool, Any]:
        """Whether the store has a value that the cache has not, and that; for who has the turn to compute it."""
        deadline = self._deadline(timeout_s if timeout_s is not None else self.config.timeout_s)
        found = self._pending(key, deadline, "GET")
        if found is None:
            try:
                found = self._objects.load(key, deadline)
            except BackingUnavailable as trouble:
                self._degrade_read(trouble)
        return found is not None, None if found is None else self._objects.value(key, found, raw=False)

    def _pending(self, key: str, deadline: Deadline, operation: str) -> Serialized | None:
        """What this process keeps for the store. What another keeps is waited for, until the store has it."""
        while True:
            parts = self._queue.find(key)
            if parts is not None:
                return self._objects.unpacked(key, np.frombuffer(b"".join(parts), np.uint8))
            mark = self._marks.look(key)
            if mark is None or not mark.is_dirty or mark.writer == self._marks.writer:
                return None
            self._refuse_lost(key, mark, operation)
            if deadline.left_s() <= _WATCH_PAUSE_S:
                detail = "another process has acknowledged a write of the key that the store does not have yet"
                raise self._objects.error(BackingUnavailable, operation, key, detail)
            time.sleep(_WATCH_PAUSE_S)

    def _refuse_lost(self, key: str, mark: Mark, operation: str) -> None:
        if not self._marks.is_alive(mark) and self._marks.look(key) == mark:
            detail = "an acknowledged write is lost: its writer died before the store had it, and the cache lost it too"
            raise self._objects.error(WriteLost, operation, key, detail)

    # ------------------------------------------------------------ writing

    def put(self, key: str, value: Any, ttl_s: float | None, timeout_s: float | None) -> None:
        """Store a value as the mode says.

        Raises:
            BackingUnavailable: the store does not answer, or the queue for it is full. Write-through: the store may
                have the value, or the one before; the cache has the one before.
            BackingRefused: it will not have it; nothing has changed.
        """
        deadline = self._deadline(timeout_s if timeout_s is not None else self._front.deadline_s())
        if not self.is_written:
            self._front.put(key, value, ttl_s, deadline.left_s())
        elif not self.keeps(ttl_s):
            self._put_beside(key, value, ttl_s, deadline)
        elif self.config.mode == "write-back":
            self._put_back(key, value, ttl_s, deadline)
        else:
            self._put_through(key, value, ttl_s, deadline)

    def put_many(self, values: Mapping[str, Any], ttl_s: float | None, timeout_s: float | None) -> None:
        """As :meth:`put`, each by itself; the first error is raised when all have ended."""
        for _ in self._side_by_side(lambda key: self.put(key, values[key], ttl_s, timeout_s), list(values)):
            pass

    def put_computed(self, key: str, value: Any, fill: Callable[[], None], forget: Callable[[], None]) -> None:
        """Write a computed value to the store, then put it into the cache by ``fill``; if that says that it is not the
        caller's turn any more, ``forget`` what the cache has: it may be older than what the store has now.
        """
        deadline = self._deadline(self.config.timeout_s)
        packed = self._objects.packed(key, value)
        with self._held(key, deadline) as hold:
            self._write(key, packed, deadline, hold)
            try:
                fill()
            except LeaseLost:
                forget()
            except InfiniRayError as error:  # the store has it: its caller has it all the same
                if not error.retryable and not isinstance(error, ValueTooLarge):
                    raise
                self._objects.count(not_cached=1)

    def _put_through(self, key: str, value: Any, ttl_s: float | None, deadline: Deadline) -> None:
        packed = self._objects.packed(key, value)
        with self._held(key, deadline) as hold:
            self._write(key, packed, deadline, hold)
            self._fill(key, value, ttl_s, deadline)

    def _put_back(self, key: str, value: Any, ttl_s: float | None, deadline: Deadline) -> None:
        packed = self._objects.packed(key, value)
        n_bytes = sum(part.nbytes for part in packed)
        with self._objects.explained("PUT", key):
            self._queue.reserve(n_bytes, deadline)
        is_queued = False
        try:
            with self._held(key, deadline, is_dirty=True):
                self._front.put(key, value, self.cached_ttl_s(ttl_s), deadline.left_s())
                self._queue.add(key, packed, n_bytes)
                is_queued = True
        finally:
            if not is_queued:
                self._queue.give_back(n_bytes)

    def _put_beside(self, key: str, value: Any, ttl_s: float | None, deadline: Deadline) -> None:
        """The cache alone gets it. What the store has under the key goes, or it would be back when the ttl is over."""
        serialize(value)  # what cannot be stored is found out before anything is deleted
        with self._held(key, deadline) as hold:
            self._delete_stored(key, deadline, hold)
            self._front.put(key, value, ttl_s, deadline.left_s())

    def _fill(self, key: str, value: Any, ttl_s: float | None, deadline: Deadline) -> None:
        """Put into the cache what the store has, or will have. Where that fails, it must not keep what it had."""
        try:
            self._front.put(key, value, self.cached_ttl_s(ttl_s), max(_LAST_S, deadline.left_s()))
        except InfiniRayError:
            self._front.delete(key, max(_LAST_S, deadline.left_s()))
            self._objects.count(not_cached=1)

    def cached_ttl_s(self, ttl_s: float | None) -> float | None:
        """How long the cache has what the store has."""
        return min((s for s in (ttl_s, self.config.cached_ttl_s) if s is not None), default=None)

    def _write(self, key: str, parts: Sequence[memoryview], deadline: Deadline, hold: Hold) -> None:
        """Write now; or later, if the store is unavailable and that is configured.

        A call that is given up on keeps the key from other writers until it has ended.
        """
        try:
            with self._superseding(key, deadline):
                self._objects.write(key, parts, deadline, at_end=hold.share())
        except BackingUnavailable as trouble:
            self._degrade_write(key, parts, trouble, hold)

    @contextmanager
    def _superseding(self, key: str, deadline: Deadline) -> Iterator[None]:
        with self._objects.explained("PUT", key), self._queue.superseded(key, deadline):
            yield

    # ------------------------------------------------------------ deleting

    def delete(self, key: str, timeout_s: float | None) -> bool:
        """Delete from the store, then from the cache: at once in all modes, and never degraded. Read-through: from the
        cache alone. Whether there was something.

        Raises:
            BackingUnavailable: the store may have it, or not; the cache still has it.
        """
        deadline = self._deadline(timeout_s if timeout_s is not None else self._front.deadline_s())
        if not self.is_written:
            return self._front.delete(key, deadline.left_s())
        with self._held(key, deadline, operation="DELETE") as hold:
            was_there = self._queue.find(key) is not None
            is_stored = self._objects.has(key, deadline)
            self._delete_stored(key, deadline, hold)
            return self._front.delete(key, deadline.left_s()) or was_there or is_stored

    def _delete_stored(self, key: str, deadline: Deadline, hold: Hold) -> None:
        with self._superseding(key, deadline):
            self._objects.delete(key, deadline, at_end=hold.share())

    # ------------------------------------------------------------ what the store does not have yet

    def flush(self, timeout_s: float | None) -> None:
        """Wait until the store has all that this process has acknowledged so far.

        Raises:
            WritesUnflushed: it has not in time. It goes on being tried.
        """
        timeout_s = self.config.flush_timeout_s if timeout_s is None else timeout_s
        left = self._queue.flush(Deadline.after(timeout_s))
        if left is not None:
            raise WritesUnflushed(
                store=self._objects.label, operation="FLUSH", key=left.key, detail=left.detail,
                n_writes=left.n_writes, n_bytes=left.n_bytes,
            )  # fmt: skip

    def adopt(self, timeout_s: float | None) -> Adopted:
        """Write to the store what processes that died have left in the cache.

        Raises:
            BackingUnavailable: the store does not answer; what it has not got stays marked.
        """
        flushed: list[str] = []
        lost: list[str] = []
        for key in sorted(key for key, is_alive in self._marks.dirty().items() if not is_alive):
            deadline = self._deadline(timeout_s if timeout_s is not None else self._front.deadline_s())
            is_flushed = self._adopt(key, deadline)
            if is_flushed is not None:
                (flushed if is_flushed else lost).append(key)
        return Adopted(flushed=tuple(flushed), lost=tuple(lost))

    def _adopt(self, key: str, deadline: Deadline) -> bool | None:
        """Whether the cache still had it; None if somebody else has seen to it."""
        orphan = self._marks.look(key)
        hold = None if orphan is None else self._marks.claim_orphan(key, orphan)
        if orphan is None or hold is None:
            return None
        try:
            with self._orphan_kept(orphan, hold):
                packed = self._objects.packed(key, self._front.get(key, deadline.left_s()))
                self._objects.write(key, packed, deadline, at_end=hold.share())
        except KeyNotFound:
            return False
        finally:
            hold.release()
        return True

    @contextmanager
    def _orphan_kept(self, orphan: Mark, hold: Hold) -> Iterator[None]:
        """If the store does not get what a dead writer left, its mark goes on saying so."""
        try:
            yield
        except BaseException:
            self._marks.restore(hold, orphan)
            raise

    def close(self) -> None:
        """Flush. Raises: WritesUnflushed: what this process has not flushed when it ends is up to :meth:`adopt`."""
        self.flush(None)

    def stats(self) -> dict[str, Any]:
        """Counters of this process; and how many keys the store does not have as acknowledged, over all processes:
        ``dirty``, and ``orphaned`` those whose writer died."""
        dirty = self._marks.dirty()
        return {
            "store": self._objects.label,
            "mode": self.config.mode,
            "on_error": self.config.on_error,
            **self._objects.counts(),
            **self._queue.stats(),
            "dirty": len(dirty),
            "orphaned": sum(not is_alive for is_alive in dirty.values()),
        }

    # ------------------------------------------------------------ a store that fails

    def _degrade_read(self, trouble: BackingUnavailable) -> None:
        """Do without the store, if that is configured; else raise."""
        if not self._degrades:
            raise trouble
        self._objects.count(degraded_reads=1)

    def _degrade_write(self, key: str, parts: Sequence[memoryview], trouble: BackingUnavailable, hold: Hold) -> None:
        """Have the store get it later, as in write-back, if that is configured; else raise."""
        if not self._degrades:
            raise trouble
        n_bytes = sum(part.nbytes for part in parts)
        with self._objects.explained("PUT", key):
            self._queue.reserve(n_bytes, Deadline.after(0.0))
        try:
            self._marks.set_dirty(hold)
        except BaseException:
            self._queue.give_back(n_bytes)
            raise
        self._queue.add(key, parts, n_bytes)
        self._objects.count(degraded_writes=1)

    # ------------------------------------------------------------ calls

    def _deadline(self, timeout_s: float) -> Deadline:
        return Deadline.after(timeout_s)

    @contextmanager
    def _held(self, key: str, deadline: Deadline, *, is_dirty: bool = False, operation: str = "PUT") -> Iterator[Hold]:
        with self._objects.explained(operation, key):
            lasts_s = deadline.left_s() + 4 * self.config.timeout_s + _GRACE_S
            hold = self._marks.claim(key, deadline, is_dirty=is_dirty, lasts_s=lasts_s)
        try:
            yield hold
        finally:
            hold.release()

    def _side_by_side(self, act: Callable[[str], T], keys: Sequence[str]) -> Iterator[tuple[str, T]]:
        """What ``act`` returns for each key; the first error is raised when all have ended."""
        if not keys:
            return
        with ThreadPoolExecutor(min(self.config.concurrency, len(keys)), "infiniray-backing") as threads:
            futures = [threads.submit(act, key) for key in keys]
        for key, future in zip(keys, futures, strict=True):
            yield key, future.result()
