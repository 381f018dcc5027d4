"""What a Backing works with, in this process: a cache, the records, and a store that can be made to fail."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from infiniray.backing.modes import Backing
from infiniray.backing.store import Octets, Refused, Replaced, Stat, Store, Unreachable, open_store
from infiniray.config import BackingConfig
from infiniray.errors import CacheUnavailable, InfiniRayError, KeyNotFound
from infiniray.values import deserialize, serialize

PATIENCE_S = 30.0
#: What moto takes for credentials.
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}


class MemoryRecords:
    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.is_away = False
        self._lock = threading.Lock()

    def create(self, name: str, text: str) -> bool:
        self._check()
        with self._lock:
            return self.texts.setdefault(name, text) is text

    def put(self, name: str, text: str) -> None:
        self._check()
        self.texts[name] = text

    def get(self, name: str) -> str | None:
        self._check()
        return self.texts.get(name)

    def delete(self, name: str) -> None:
        self._check()
        self.texts.pop(name, None)

    def names(self, prefix: str) -> list[str]:
        self._check()
        return [name for name in list(self.texts) if name.startswith(prefix)]

    def _check(self) -> None:
        if self.is_away:
            raise CacheUnavailable(detail="the records are away")


class MemoryFront:
    """A cache of one process. ``failures`` by verb are raised once each."""

    def __init__(self) -> None:
        self.values: dict[str, tuple[str, bytes]] = {}
        self.ttls_s: dict[str, float | None] = {}
        self.failures: dict[str, list[InfiniRayError]] = {}
        self.loads = Counter[str]()
        self._turns: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def deadline_s(self) -> float:
        return PATIENCE_S

    def put(self, key: str, value: Any, ttl_s: float | None, timeout_s: float) -> None:
        self._may_fail("put")
        head, data = serialize(value)
        self.values[key] = (head, data.tobytes())
        self.ttls_s[key] = ttl_s

    def get(self, key: str, timeout_s: float) -> Any:
        if key not in self.values:
            raise KeyNotFound(key=key)
        return deserialize(*self.values[key])

    def delete(self, key: str, timeout_s: float) -> bool:
        self._may_fail("delete")
        return self.values.pop(key, None) is not None

    def get_or_load(self, key: str, load: Callable[[], Any], ttl_s: float | None, timeout_s: float) -> Any:
        with self._lock:
            turn = self._turns.setdefault(key, threading.Lock())
        with turn:
            if key not in self.values:
                self.loads[key] += 1
                self.put(key, load(), ttl_s, timeout_s)
            return self.get(key, timeout_s)

    def lose(self, key: str) -> None:
        """As when functions are reclaimed."""
        self.values.pop(key, None)

    def _may_fail(self, verb: str) -> None:
        if self.failures.get(verb):
            raise self.failures[verb].pop(0)


class FaultyStore:
    """A store with switches. ``calls`` counts what was begun, by method."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.calls: Counter[str] = Counter()
        self.is_down = False
        self.is_denied = False
        #: what is cleared stops whoever writes or reads
        self.may_write = threading.Event()
        self.may_read = threading.Event()
        self.may_write.set()
        self.may_read.set()
        self.tried = threading.Semaphore(0)

    def _begin(self, method: str) -> None:
        self.calls[method] += 1
        self.tried.release()
        if self.is_down:
            raise Unreachable("switched off")
        if self.is_denied:
            raise Refused("denied")

    def check(self) -> None:
        self._begin("check")
        self._store.check()

    def stat(self, name: str) -> Stat | None:
        self._begin("stat")
        return self._store.stat(name)

    def read(self, name: str, stat: Stat) -> Octets:
        self._begin("read")
        assert self.may_read.wait(PATIENCE_S)
        return self._store.read(name, stat)

    def write(self, name: str, parts: Sequence[memoryview]) -> None:
        self._begin("write")
        assert self.may_write.wait(PATIENCE_S)
        self._store.write(name, parts)

    def delete(self, name: str) -> None:
        self._begin("delete")
        self._store.delete(name)

    def close(self) -> None:
        self._store.close()

    def bytes_of(self, name: str) -> bytes | None:
        """What the store has, whatever the switches say."""
        stat = self._store.stat(name)
        try:
            return None if stat is None else self._store.read(name, stat).tobytes()
        except Replaced:
            return self.bytes_of(name)

    def await_tries(self, n: int) -> None:
        for _ in range(n):
            assert self.tried.acquire(timeout=PATIENCE_S)


class World:
    """One cache, one store, and any number of processes with a Backing each."""

    def __init__(self, config: BackingConfig) -> None:
        self.front = MemoryFront()
        self.records = MemoryRecords()
        self.store = FaultyStore(open_store(config))
        self._config = config
        self._opened: list[Backing] = []

    def process(self, mode: str, **settings: Any) -> Process:
        settings = {"flush_delay_s": 0, "timeout_s": PATIENCE_S, **settings}
        config = BackingConfig(**{**self._config.model_dump(), "mode": mode, **settings})
        self._opened.append(Backing(config, self.store, self.records, self.front))
        return Process(self, self._opened[-1])

    def close(self) -> None:
        self.store.may_write.set()
        self.store.may_read.set()
        self.store.is_down = self.store.is_denied = self.records.is_away = False
        for backing in self._opened:
            backing.flush(PATIENCE_S)
        self.store.close()


class Process:
    """The verbs, as :class:`infiniray.Cache` composes them."""

    def __init__(self, world: World, backing: Backing) -> None:
        self.world = world
        self.backing = backing

    def put(self, key: str, value: Any, ttl_s: float | None = None, timeout_s: float | None = None) -> None:
        self.backing.put(key, value, ttl_s, timeout_s)

    def get(self, key: str, *, raw: bool = False, timeout_s: float | None = None) -> Any:
        try:
            return self.world.front.get(key, PATIENCE_S)
        except KeyNotFound as miss:
            return self.backing.get(key, miss, raw=raw, timeout_s=timeout_s)

    def reload(self, key: str, **options: Any) -> Any:
        """As :meth:`get`, once the cache has lost it."""
        self.world.front.lose(key)
        return self.get(key, **options)

    def delete(self, key: str, timeout_s: float | None = None) -> bool:
        return self.backing.delete(key, timeout_s)

    def stat(self, name: str) -> Any:
        return self.backing.stats()[name]
