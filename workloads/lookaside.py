"""Look-aside use of a cache: ask it first, load from the backing store on a miss, and insert (FAST'20 section 2)."""

from __future__ import annotations

import enum
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from infiniray.errors import InfiniRayError, ObjectLost
from workloads.backing import Source
from workloads.content import n_wrong_bytes, verify
from workloads.trace import Method, Request

__all__ = ["CacheLike", "Kind", "LookAside", "Outcome"]

_N_LOCKS = 4096  # many more than threads: two keys that share a lock wait for each other


class CacheLike(Protocol):
    """What a cache must offer to be replayed against; :class:`infiniray.Cache` does."""

    def get(self, key: str) -> Any:
        """The value. Raises KeyError on a miss, ObjectLost (a KeyError too) if it was stored and is lost."""

    def put(self, key: str, value: Any) -> Any:
        """Stores ``value``."""


class Kind(enum.Enum):
    """How a request was served."""

    HIT = "hit"
    MISS = "miss"
    RESET = "reset"  #: a miss for an object that was stored and is lost
    PUT = "put"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one request.

    ``latency_s`` is the time until the caller has the bytes: of the cache's answer for a hit, of that and the load from
    the backing store for a miss or reset, of the write to the cache for a PUT. ``insert_s`` is the time of the insert
    after a miss, None where there was none or it failed. ``faults`` are the cache's typed errors on the way, other than
    misses. ``wrong_bytes`` counts bytes that the cache answered differently from what was written. ``began_s`` is the
    clock's reading when the request's turn came; what the test harness does before and in between (making up objects,
    comparing bytes) is not part of ``latency_s``.
    """

    kind: Kind
    size_bytes: int
    latency_s: float
    began_s: float
    insert_s: float | None = None
    wrong_bytes: int = 0
    faults: tuple[InfiniRayError, ...] = ()

    @property
    def wrong(self) -> bool:
        return self.wrong_bytes > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What the cache said to a GET; ``value`` counts for a hit only."""

    kind: Kind
    value: Any = None
    faults: tuple[InfiniRayError, ...] = ()


class LookAside:
    """I serve requests through a cache in front of a backing store, and check every byte that the cache returns.

    Any number of threads may call me. Requests for one key run one after the other, as an application that avoids
    loading the same object twice at once would have it; the wait for that is not part of any latency.
    The cache's typed errors never get out of me: a GET that fails is a miss, an insert that fails stays undone.
    """

    def __init__(self, cache: CacheLike, origin: Source, *, clock_s: Callable[[], float] = time.perf_counter) -> None:
        self._cache = cache
        self._origin = origin
        self._clock_s = clock_s
        self._locks = [threading.Lock() for _ in range(_N_LOCKS)]

    def request(self, request: Request) -> Outcome:
        """Serves one request.

        Raises:
            OSError: the backing store failed.
        """
        with self._locks[zlib.crc32(request.key.encode("utf-8", "surrogatepass")) % _N_LOCKS]:
            if request.method is Method.PUT:
                return self._write(request)
            return self._read(request)

    def _read(self, request: Request) -> Outcome:
        began_s = self._clock_s()
        answer = self._ask(request.key)
        asked_s = self._clock_s() - began_s
        if answer.kind is not Kind.HIT:
            return self._load(request, answer, began_s, asked_s)
        size_bytes = self._origin.size_bytes(request.key, request.size_bytes)
        wrong_bytes = self._check(request.key, size_bytes, answer.value)
        return Outcome(
            kind=Kind.HIT, size_bytes=size_bytes, latency_s=asked_s, began_s=began_s, wrong_bytes=wrong_bytes
        )

    def _ask(self, key: str) -> _Answer:
        try:
            # no default: a reset would look like any other miss
            return _Answer(kind=Kind.HIT, value=self._cache.get(key))
        except ObjectLost:
            return _Answer(kind=Kind.RESET)
        except KeyError:
            return _Answer(kind=Kind.MISS)
        except InfiniRayError as error:
            return _Answer(kind=Kind.MISS, faults=(error,))

    def _load(self, request: Request, answer: _Answer, asked_at_s: float, asked_s: float) -> Outcome:
        size_bytes = self._origin.ensure(request.key, request.size_bytes)  # making it up is not part of the load
        began_s = self._clock_s()
        value = self._origin.load(request.key)
        loaded_s = self._clock_s()
        fault = self._insert(request.key, value)
        inserted_s = self._clock_s()
        return Outcome(
            kind=answer.kind,
            size_bytes=size_bytes,
            latency_s=asked_s + loaded_s - began_s,
            began_s=asked_at_s,
            insert_s=None if fault else inserted_s - loaded_s,
            faults=answer.faults + ((fault,) if fault else ()),
        )

    def _write(self, request: Request) -> Outcome:
        began_s = self._clock_s()
        size_bytes = self._origin.ensure(request.key, request.size_bytes)
        value = self._origin.load(request.key)
        writing_s = self._clock_s()
        fault = self._insert(request.key, value)
        latency_s = self._clock_s() - writing_s
        faults = (fault,) if fault else ()
        return Outcome(kind=Kind.PUT, size_bytes=size_bytes, latency_s=latency_s, began_s=began_s, faults=faults)

    def _insert(self, key: str, value: Any) -> InfiniRayError | None:
        try:
            self._cache.put(key, value)
        except InfiniRayError as error:
            return error
        return None

    def _check(self, key: str, size_bytes: int, value: Any) -> int:
        if verify(key, size_bytes, value, self._origin.seed):
            return 0
        return n_wrong_bytes(key, size_bytes, value, self._origin.seed)
