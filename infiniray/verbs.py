"""What the verbs of a cache do, as steps: arguments are checked, keys made full, and the cache asked, or the store
behind it.

:class:`~infiniray.cache.Cache` and :class:`~infiniray.cache.AsyncCache` are these with two ways to wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from infiniray.backing.computing import BackedComputation
from infiniray.cluster import rayapi
from infiniray.cluster.channels import channels_of, let_go
from infiniray.cluster.client import Client, Entry
from infiniray.cluster.steps import Block, Steps
from infiniray.cluster.turns import Turn
from infiniray.computing import Computation
from infiniray.errors import CacheUnavailable, ConfigError, InvalidTTL, KeyNotFound
from infiniray.keys import full_key
from infiniray.units import positive_seconds, seconds_of, ttl_seconds

if TYPE_CHECKING:
    from infiniray.backing.modes import Adopted, Backing
    from infiniray.config import BackingConfig

__all__ = ["RAISE", "Duration", "Session", "Verbs"]

V = TypeVar("V", bound="Verbs")
Duration = float | str | timedelta
#: A shorter lease could not be renewed in time.
_SHORTEST_LEASE_S = 0.1

#: What ``get`` has for a default if it has none.
RAISE: Any = type("_Raise", (), {"__repr__": lambda self: "<raise KeyNotFound>"})()


class Session:
    """A process's tie to one cache, shared by its handle, the handle's namespaces and their asynchronous twins."""

    def __init__(
        self,
        name: str,
        address: str,
        on_close: Callable[[], None] | None = None,
        backing_config: BackingConfig | None = None,
    ) -> None:
        self.name = name
        self.address = address
        self.client = Client(name, channels_of(address, name))
        self.backing_config = backing_config
        #: once it is open
        self.backing: Backing | None = None
        self.is_closed = False
        self._on_close = on_close

    def attach(self) -> None:
        """Be connected to Ray, in whatever process this handle was unpickled."""
        if self.is_closed:
            raise CacheUnavailable(detail=f"this handle of cache {self.name!r} is closed")
        if not rayapi.is_connected():
            rayapi.attach(self.address)

    def open_backing(self) -> Backing | None:
        """The store behind the cache, if there is one; the same for all sessions of this process."""
        if self.backing is None and self.backing_config is not None:
            from infiniray.backing.process import backing_of

            self.backing = backing_of(self.name, self.address, self.backing_config)
        return self.backing

    def close(self) -> None:
        was_closed, self.is_closed = self.is_closed, True
        on_close, self._on_close = self._on_close, None
        try:
            if self.backing is not None and not was_closed:
                self.backing.close()
        finally:
            self.client.close()
            let_go(self.address, self.name)
            if on_close is not None:
                on_close()


class Verbs:
    """What both handles share: arguments are checked and become steps."""

    def __init__(self, session: Session, prefix: str) -> None:
        self._session = session
        self._prefix = prefix

    @classmethod
    def _of(
        cls: type[V],
        name: str,
        *,
        address: str,
        prefix: str = "",
        on_close: Callable[[], None] | None = None,
        backing: BackingConfig | None = None,
    ) -> V:
        return cls(Session(name, address, on_close, backing), prefix)

    def __reduce__(self) -> tuple[Any, ...]:
        session = self._session
        return _unpickled, (type(self), session.name, session.address, self._prefix, session.backing_config)

    def __repr__(self) -> str:
        namespace = f", namespace={self._prefix[:-1]!r}" if self._prefix else ""
        closed = ", closed" if self._session.is_closed else ""
        return f"<{type(self).__name__} {self._session.name!r}{namespace}{closed}>"

    @property
    def name(self) -> str:
        """The cache's name, for :func:`infiniray.connect`."""
        return self._session.name

    def _client(self) -> Steps[Client]:
        if self._session.is_closed or not rayapi.is_connected():
            yield Block(self._session.attach)
        return self._session.client

    def _backing(self) -> Steps[Backing | None]:
        session = self._session
        if session.backing is None and session.backing_config is not None:
            yield Block(session.open_backing)
        return session.backing

    def _put(self, key: str, value: Any, ttl: Duration | None, timeout: Duration | None) -> Steps[None]:
        stored, ttl_s, timeout_s = full_key(key, self._prefix), ttl_seconds(ttl), _timeout_s(timeout)
        client = yield from self._client()
        backing = yield from self._backing()
        if backing is None:
            yield from client.put(stored, value, ttl_s, timeout_s)
        else:
            yield Block(partial(backing.put, stored, value, ttl_s, timeout_s))

    def _get(self, key: str, default: Any, raw: bool, timeout: Duration | None) -> Steps[Any]:
        stored, timeout_s = full_key(key, self._prefix), _timeout_s(timeout)
        client = yield from self._client()
        try:
            return (yield from self._found(client, stored, raw, timeout_s))
        except KeyNotFound:
            if default is RAISE:
                raise
            return default

    def _found(self, client: Client, stored: str, raw: bool, timeout_s: float | None) -> Steps[Any]:
        """The value in the cache, or else in the store behind it."""
        try:
            return (yield from client.get(stored, timeout_s, raw=raw))
        except KeyNotFound as miss:
            backing = yield from self._backing()
            if backing is None:
                raise
            return (yield Block(partial(backing.get, stored, miss, raw=raw, timeout_s=timeout_s)))

    def _get_ref(self, key: str, raw: bool, timeout: Duration | None) -> Steps[Any]:
        stored, timeout_s = full_key(key, self._prefix), _timeout_s(timeout)
        client = yield from self._client()
        backing = yield from self._backing()
        if backing is not None and not (yield from client.exists(stored, timeout_s)):
            with suppress(KeyNotFound):
                yield Block(partial(backing.get, stored, KeyNotFound(key=key), raw=raw, timeout_s=timeout_s))
        return (yield from client.get_ref(stored, timeout_s, raw=raw))

    def _delete(self, key: str, timeout: Duration | None) -> Steps[bool]:
        stored, timeout_s = full_key(key, self._prefix), _timeout_s(timeout)
        client = yield from self._client()
        backing = yield from self._backing()
        if backing is None:
            return (yield from client.delete(stored, timeout_s))
        return bool((yield Block(partial(backing.delete, stored, timeout_s))))

    def _take_turn(
        self, key: str, ttl: Duration | None, stale_s: Duration, lease_s: Duration, timeout: Duration | None
    ) -> Steps[tuple[Computation, Turn]]:
        stored, ttl_s, timeout_s = full_key(key, self._prefix), ttl_seconds(ttl), _timeout_s(timeout)
        stale, lease = _stale_seconds(stale_s, ttl_s), _lease_seconds(lease_s)
        client = yield from self._client()
        backing = yield from self._backing()
        kind = (
            Computation if backing is None or not backing.keeps(ttl_s) else partial(BackedComputation, backing=backing)
        )
        computation = kind(client=client, key=stored, ttl_s=ttl_s, stale_s=stale, lease_s=lease, timeout_s=timeout_s)
        return computation, (yield from client.take_turn(stored, computation.holder, lease, timeout_s))

    def _remove(self, key: str) -> Steps[None]:
        if not (yield from self._delete(key, None)):
            raise KeyNotFound(key=key)

    def _exists(self, key: str, timeout: Duration | None) -> Steps[bool]:
        stored, timeout_s = full_key(key, self._prefix), _timeout_s(timeout)
        client = yield from self._client()
        if (yield from client.exists(stored, timeout_s)):
            return True
        backing = yield from self._backing()
        return backing is not None and bool((yield Block(partial(backing.exists, stored, timeout_s))))

    def _touch(self, key: str, ttl: Duration | None, timeout: Duration | None) -> Steps[bool]:
        stored, ttl_s, timeout_s = full_key(key, self._prefix), ttl_seconds(ttl), _timeout_s(timeout)
        client = yield from self._client()
        return (yield from client.touch(stored, ttl_s, timeout_s))

    def _ttl(self, key: str, timeout: Duration | None) -> Steps[float | None]:
        stored, timeout_s = full_key(key, self._prefix), _timeout_s(timeout)
        client = yield from self._client()
        return (yield from client.ttl(stored, timeout_s))

    def _get_many(self, keys: Iterable[str], raw: bool, timeout: Duration | None) -> Steps[dict[str, Any]]:
        stored, timeout_s = [full_key(key, self._prefix) for key in _several(keys)], _timeout_s(timeout)
        client = yield from self._client()
        backing = yield from self._backing()
        found = yield from client.get_many(stored, timeout_s, raw=raw)
        missed = [key for key in dict.fromkeys(stored) if key not in found]
        if backing is not None and missed:
            found |= yield Block(partial(backing.get_many, missed, raw=raw, timeout_s=timeout_s))
            found = {key: found[key] for key in stored if key in found}
        return {key.removeprefix(self._prefix): value for key, value in found.items()}

    def _put_many(self, values: Mapping[str, Any], ttl: Duration | None, timeout: Duration | None) -> Steps[None]:
        stored = {full_key(key, self._prefix): value for key, value in values.items()}
        ttl_s, timeout_s = ttl_seconds(ttl), _timeout_s(timeout)
        client = yield from self._client()
        backing = yield from self._backing()
        if backing is None:
            yield from client.put_many(stored, ttl_s, timeout_s)
        else:
            yield Block(partial(backing.put_many, stored, ttl_s, timeout_s))

    def _entries(self, prefix: str, limit: int | None, timeout: Duration | None) -> Steps[list[Entry]]:
        client = yield from self._client()
        entries = yield from client.entries(self._prefix + prefix, limit, _timeout_s(timeout))
        return [entry._replace(key=entry.key.removeprefix(self._prefix)) for entry in entries]

    def _keys(self, prefix: str, limit: int | None, timeout: Duration | None) -> Steps[list[str]]:
        return [entry.key for entry in (yield from self._entries(prefix, limit, timeout))]

    def _stats(self, timeout: Duration | None) -> Steps[dict[str, Any]]:
        client = yield from self._client()
        backing = yield from self._backing()
        numbers = yield from client.stats(_timeout_s(timeout))
        return numbers if backing is None else {**numbers, "backing": (yield Block(backing.stats))}

    def _flush(self, timeout: Duration | None) -> Steps[None]:
        timeout_s = _timeout_s(timeout)
        backing = yield from self._backing()
        if backing is not None:
            yield Block(partial(backing.flush, timeout_s))

    def _adopt_unflushed(self, timeout: Duration | None) -> Steps[Adopted]:
        timeout_s = _timeout_s(timeout)
        yield from self._client()
        backing = yield from self._backing()
        if backing is None:
            raise ConfigError(detail=f"cache {self.name!r} has no store behind it here: connect with backing=")
        adopted: Adopted = yield Block(partial(backing.adopt, timeout_s))
        return adopted

    def _status(self, timeout: Duration | None) -> Steps[dict[str, Any]]:
        client = yield from self._client()
        return (yield from client.status(_timeout_s(timeout)))


def _unpickled(kind: type[Verbs], name: str, address: str, prefix: str, backing: BackingConfig | None = None) -> Verbs:
    return kind._of(name, address=address, prefix=prefix, backing=backing)


def _several(keys: Iterable[str]) -> Iterable[str]:
    if isinstance(keys, str):
        raise ConfigError(detail=f"get_many takes several keys, as a list; for one, use get({keys!r})")
    return keys


def _timeout_s(timeout: Duration | None) -> float | None:
    return None if timeout is None else positive_seconds(timeout, "timeout", ConfigError)


def _stale_seconds(stale_s: Duration, ttl_s: float | None) -> float:
    seconds = seconds_of(stale_s, "stale_s", InvalidTTL)
    if seconds and ttl_s is None:
        raise InvalidTTL(detail="stale_s says how long a value is kept after its ttl: it needs a ttl")
    return seconds


def _lease_seconds(lease_s: Duration) -> float:
    seconds = seconds_of(lease_s, "lease_s", ConfigError)
    if seconds < _SHORTEST_LEASE_S:
        raise ConfigError(detail=f"bad lease_s: {lease_s!r} is shorter than {_SHORTEST_LEASE_S:g} s")
    return seconds
