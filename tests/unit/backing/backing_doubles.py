"""What a Backing works with, in this process: a cache, the records, and a store that can be made to fail."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from infiniray.backing.store import Octets, Refused, Replaced, Stat, Store, Unreachable
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
