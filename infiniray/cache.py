"""The user's handle: :class:`Cache`, and :class:`AsyncCache` with the same verbs for event loops.

Both have the steps of :mod:`infiniray.verbs`, and differ only in how they wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from infiniray.backing.computing import loading, loading_async
from infiniray.cluster.client import Entry
from infiniray.cluster.steps import run, run_async
from infiniray.computing import LEASE_S, compute, compute_async
from infiniray.keys import namespace_prefix
from infiniray.memoizing import KeyOf, memoized, memoized_async
from infiniray.verbs import RAISE, Duration, Verbs

if TYPE_CHECKING:
    from ray import ObjectRef

    from infiniray.backing.modes import Adopted

__all__ = ["AsyncCache", "Cache", "Entry"]

T = TypeVar("T")
P = ParamSpec("P")


class Cache(Verbs):
    """A cache for large objects, from :func:`infiniray.start` or :func:`infiniray.connect`.

    Keys are ``str`` of at most 1024 UTF-8 bytes. Values are bytes-like, NumPy arrays, or anything that can be
    pickled; :mod:`infiniray.values` says as what each comes back. A ``ttl`` is a number of seconds, a timedelta, or
    text like ``"2h"``; None is for ever. A ``timeout`` is written alike; None is the cache's ``limits.deadline_s``.

    Where the cache is the front of a store (``backing``), a miss is read from the store, and what writing means is its
    mode's: docs/backing.md says what each promises. Verbs that list, touch or tell the ttl know the cache alone.

    The handle can be pickled, so that Ray tasks and actors can carry it: it names the cache, and reconnects where it
    is used. It is safe to use from several threads. In code that runs on an event loop use :attr:`aio`.

    All verbs raise:
        InvalidKey, InvalidTTL, ConfigError: bad arguments; nothing was sent.
        DeadlineExceeded: no result in time.
        CacheUnavailable: the cache, or the shard that owns the key, could not be reached in time.
        Overloaded: the shard has as much work as it accepts; ``retry_after_s`` says when to come again.
        BackingUnavailable, BackingRefused: the store behind the cache was needed, and did not do its part.
    """

    def put(self, key: str, value: Any, *, ttl: Duration | None = None, timeout: Duration | None = None) -> None:
        """Store ``value`` under ``key``; a value that was there is replaced once the new one is stored entirely.

        Raises:
            ValueNotStorable: it cannot be pickled.
            ValueTooLarge: the pool can never hold it.
            PoolFull, WriteFailed: it could not be stored now; nothing of it is kept.
            WriteUncertain: its shard died meanwhile; it may have been there for a while.
        """
        run(self._put(key, value, ttl, timeout))

    def get(self, key: str, default: Any = RAISE, *, raw: bool = False, timeout: Duration | None = None) -> Any:
        """The value under ``key``; ``default``, if one is given, on a miss.

        Args:
            raw: give a bytes-like value or array as a read-only ``memoryview`` of shared memory, whatever it
                was: for ``bytes``, which Python can only copy, that spares the copy.

        Raises:
            KeyNotFound: a miss, and no default.
            ObjectLost: a miss, because too many functions were reclaimed; also a KeyNotFound.
        """
        return run(self._get(key, default, raw, timeout))

    def get_ref(self, key: str, *, raw: bool = False, timeout: Duration | None = None) -> ObjectRef[Any]:
        """A Ray object reference to the value: a task that takes it as an argument gets the value where it runs.

        The value is read once, now. A miss is raised where the reference is used. This process owns the value, which
        stays as long as it does.
        """
        return run(self._get_ref(key, raw, timeout))

    def get_or_compute(
        self,
        key: str,
        fn: Callable[[], T],
        *,
        ttl: Duration | None = None,
        stale_s: Duration = 0.0,
        lease_s: Duration = LEASE_S,
        timeout: Duration | None = None,
    ) -> T:
        """The value under ``key``; if there is none, ``fn()``, stored for ``ttl``.

        Of all callers everywhere, one computes and the others wait for its value. If ``fn`` raises, its own caller gets
        that, and one of those who wait computes; so too when the computing process dies, ``lease_s`` after it was
        last heard of. What was computed is returned but not stored if the key was written or deleted meanwhile, if
        another computer took over, or if there is no room now: it never replaces a newer value.

        The one that computed gets what ``fn`` returned, the others an equal value as :meth:`get` gives it. ``fn`` must
        not ask for the same key. In rare cases (a computer that froze, a shard that restarted) it runs twice at once.

        Args:
            stale_s: for so long after ``ttl`` the old value is still there, and is what :meth:`get` gives; here one
                caller computes the next value, and the others get the old one without waiting.
            lease_s: at least 0.1. A thread renews the lease three times in that time while ``fn`` runs.
            timeout: for waiting, and once more for storing; ``fn`` takes as long as it takes.

        Raises:
            DeadlineExceeded: somebody else is still computing.
            Overloaded: too many wait.
            ValueNotStorable, ValueTooLarge: what ``fn`` returned can never be stored.
        """
        computation, turn = run(self._take_turn(key, ttl, stale_s, lease_s, timeout))
        value: T = compute(computation, loading(computation, fn)) if turn.is_granted else turn.value
        return value

    def memoize(
        self,
        *,
        ttl: Duration | None = None,
        stale_s: Duration = 0.0,
        key: KeyOf | None = None,
        timeout: Duration | None = None,
    ) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """A decorator: calls with the same arguments are computed once, through :meth:`get_or_compute`.

        ``key(*args, **kwargs)`` makes the key. Without it, it is made of the function's module and name and its
        arguments, which then must be None, bool, int, float, str or bytes, or tuples of these. The decorated function
        has ``__wrapped__``, and ``key(*args, **kwargs)``, for :meth:`delete`.
        """

        def through(stored: str, fn: Callable[[], Any]) -> Any:
            return self.get_or_compute(stored, fn, ttl=ttl, stale_s=stale_s, timeout=timeout)

        return memoized(through, key)

    def delete(self, key: str, *, timeout: Duration | None = None) -> bool:
        """Delete what is under ``key``; False if nothing was."""
        return run(self._delete(key, timeout))

    def exists(self, key: str, *, timeout: Duration | None = None) -> bool:
        """Whether there is something under ``key``. It is not read: too much of it may be lost all the same."""
        return run(self._exists(key, timeout))

    def touch(self, key: str, ttl: Duration | None, *, timeout: Duration | None = None) -> bool:
        """Let the object expire ``ttl`` from now (None: never); False if there is none."""
        return run(self._touch(key, ttl, timeout))

    def ttl(self, key: str, *, timeout: Duration | None = None) -> float | None:
        """Seconds until the object expires, None for never.

        Raises:
            KeyNotFound: there is none.
        """
        return run(self._ttl(key, timeout))

    def get_many(self, keys: Iterable[str], *, raw: bool = False, timeout: Duration | None = None) -> dict[str, Any]:
        """The values that are there, by key, in the order of ``keys``; misses are left out.

        ``timeout`` is for all together.

        Raises:
            InfiniRayError: the first error that is not a miss, once all reads have ended.
        """
        return run(self._get_many(keys, raw, timeout))

    def put_many(
        self, values: Mapping[str, Any], *, ttl: Duration | None = None, timeout: Duration | None = None
    ) -> None:
        """Store several values. ``timeout`` is for all together.

        It is not one transaction: every value is stored, or not, by itself. Keys and ``ttl`` are checked before
        anything is sent.

        Raises:
            InfiniRayError: the first error, once all writes have ended; the others are stored.
        """
        run(self._put_many(values, ttl, timeout))

    def keys(self, prefix: str = "", limit: int | None = None, *, timeout: Duration | None = None) -> list[str]:
        """The keys that begin with ``prefix``, sorted; the first ``limit`` of them."""
        return run(self._keys(prefix, limit, timeout))

    def entries(self, prefix: str = "", limit: int | None = None, *, timeout: Duration | None = None) -> list[Entry]:
        """As :meth:`keys`, with sizes and expiry."""
        return run(self._entries(prefix, limit, timeout))

    def namespace(self, name: str) -> Cache:
        """This cache with ``name/`` before all keys: ``cache.namespace("a")["k"]`` is ``cache["a/k"]``."""
        return Cache(self._session, namespace_prefix(name, self._prefix))

    def stats(self, *, timeout: Duration | None = None) -> dict[str, Any]:
        """Counters and sizes since the shards started, of the whole cache; JSON-able."""
        return run(self._stats(timeout))

    def status(self, *, timeout: Duration | None = None) -> dict[str, Any]:
        """What the cache is made of, and whether its shards run ("ok"); JSON-able."""
        return run(self._status(timeout))

    def flush(self, *, timeout: Duration | None = None) -> None:
        """Wait until the store has all writes that this process has had acknowledged so far; None: for as long as
        ``backing.flush_timeout_s`` says. Without a store, and in modes without delay, there is nothing to wait for.

        Raises:
            WritesUnflushed: it has not in time. It goes on being tried.
        """
        run(self._flush(timeout))

    def adopt_unflushed(self, *, timeout: Duration | None = None) -> Adopted:
        """Write to the store what processes that died had acknowledged, and not written: as far as the cache still has
        it. The keys of both sorts.

        Raises:
            ConfigError: there is no store.
            BackingUnavailable: it does not answer; nothing is forgotten.
        """
        return run(self._adopt_unflushed(timeout))

    @property
    def aio(self) -> AsyncCache:
        """This cache, with the same verbs to be awaited."""
        return AsyncCache(self._session, self._prefix)

    def close(self) -> None:
        """Let go of the cache; one that :func:`infiniray.start` started ends, with all that was started for it.

        Raises:
            WritesUnflushed: writes of this process have not reached the store in time; the cache is let go of anyway.
        """
        self._session.close()

    def __getitem__(self, key: str) -> Any:
        return run(self._get(key, RAISE, False, None))

    def __setitem__(self, key: str, value: Any) -> None:
        run(self._put(key, value, None, None))

    def __delitem__(self, key: str) -> None:
        run(self._remove(key))

    def __contains__(self, key: str) -> bool:
        return run(self._exists(key, None))

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __enter__(self) -> Cache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncCache(Verbs):
    """A :class:`Cache` for event loops: the same verbs, to be awaited. From :attr:`Cache.aio`; picklable like it."""

    async def put(self, key: str, value: Any, *, ttl: Duration | None = None, timeout: Duration | None = None) -> None:
        """See :meth:`Cache.put`."""
        await run_async(self._put(key, value, ttl, timeout))

    async def get(self, key: str, default: Any = RAISE, *, raw: bool = False, timeout: Duration | None = None) -> Any:
        """See :meth:`Cache.get`."""
        return await run_async(self._get(key, default, raw, timeout))

    async def get_ref(self, key: str, *, raw: bool = False, timeout: Duration | None = None) -> ObjectRef[Any]:
        """See :meth:`Cache.get_ref`."""
        return await run_async(self._get_ref(key, raw, timeout))

    async def get_or_compute(
        self,
        key: str,
        fn: Callable[[], Awaitable[T]] | Callable[[], T],
        *,
        ttl: Duration | None = None,
        stale_s: Duration = 0.0,
        lease_s: Duration = LEASE_S,
        timeout: Duration | None = None,
    ) -> T:
        """See :meth:`Cache.get_or_compute`. ``fn`` is called on the event loop, and what it returns is awaited if it
        can be; what blocks belongs into ``asyncio.to_thread``, or else the lease cannot be renewed meanwhile."""
        computation, turn = await run_async(self._take_turn(key, ttl, stale_s, lease_s, timeout))
        value: T = await compute_async(computation, loading_async(computation, fn)) if turn.is_granted else turn.value
        return value

    def memoize(
        self,
        *,
        ttl: Duration | None = None,
        stale_s: Duration = 0.0,
        key: KeyOf | None = None,
        timeout: Duration | None = None,
    ) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Awaitable[T]]]:
        """See :meth:`Cache.memoize`; for ``async def`` functions."""

        async def through(stored: str, fn: Callable[[], Any]) -> Any:
            return await self.get_or_compute(stored, fn, ttl=ttl, stale_s=stale_s, timeout=timeout)

        return memoized_async(through, key)

    async def delete(self, key: str, *, timeout: Duration | None = None) -> bool:
        """See :meth:`Cache.delete`."""
        return await run_async(self._delete(key, timeout))

    async def exists(self, key: str, *, timeout: Duration | None = None) -> bool:
        """See :meth:`Cache.exists`."""
        return await run_async(self._exists(key, timeout))

    async def touch(self, key: str, ttl: Duration | None, *, timeout: Duration | None = None) -> bool:
        """See :meth:`Cache.touch`."""
        return await run_async(self._touch(key, ttl, timeout))

    async def ttl(self, key: str, *, timeout: Duration | None = None) -> float | None:
        """See :meth:`Cache.ttl`."""
        return await run_async(self._ttl(key, timeout))

    async def get_many(
        self, keys: Iterable[str], *, raw: bool = False, timeout: Duration | None = None
    ) -> dict[str, Any]:
        """See :meth:`Cache.get_many`."""
        return await run_async(self._get_many(keys, raw, timeout))

    async def put_many(
        self, values: Mapping[str, Any], *, ttl: Duration | None = None, timeout: Duration | None = None
    ) -> None:
        """See :meth:`Cache.put_many`."""
        await run_async(self._put_many(values, ttl, timeout))

    async def keys(self, prefix: str = "", limit: int | None = None, *, timeout: Duration | None = None) -> list[str]:
        """See :meth:`Cache.keys`."""
        return await run_async(self._keys(prefix, limit, timeout))

    async def entries(
        self, prefix: str = "", limit: int | None = None, *, timeout: Duration | None = None
    ) -> list[Entry]:
        """See :meth:`Cache.entries`."""
        return await run_async(self._entries(prefix, limit, timeout))

    def namespace(self, name: str) -> AsyncCache:
        """See :meth:`Cache.namespace`."""
        return AsyncCache(self._session, namespace_prefix(name, self._prefix))

    async def stats(self, *, timeout: Duration | None = None) -> dict[str, Any]:
        """See :meth:`Cache.stats`."""
        return await run_async(self._stats(timeout))

    async def status(self, *, timeout: Duration | None = None) -> dict[str, Any]:
        """See :meth:`Cache.status`."""
        return await run_async(self._status(timeout))

    async def flush(self, *, timeout: Duration | None = None) -> None:
        """See :meth:`Cache.flush`."""
        await run_async(self._flush(timeout))

    async def adopt_unflushed(self, *, timeout: Duration | None = None) -> Adopted:
        """See :meth:`Cache.adopt_unflushed`."""
        return await run_async(self._adopt_unflushed(timeout))

    async def close(self) -> None:
        """See :meth:`Cache.close`."""
        await asyncio.to_thread(self._session.close)

    async def __aenter__(self) -> AsyncCache:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
