"""A trace cut into parts, one for each worker, as tables that travel to where the worker is."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import pyarrow as pa

from workloads.trace import Method, Request

__all__ = ["Limits", "Part", "Partition", "limited", "partition", "requests_of", "worker_of"]

Ref = TypeVar("Ref")

_ROWS_PER_TABLE = 20_000
_SCHEMA = pa.schema(
    [
        pa.field("timestamp_s", pa.float64(), nullable=False),
        pa.field("key", pa.binary(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("method", pa.string(), nullable=False),
    ]
)


@dataclass(slots=True, kw_only=True)
class Limits:
    """How much of a trace is replayed; None: without limit. Objects larger than ``max_object_bytes`` are skipped, and
    counted in ``n_skipped``."""

    max_requests: int | None = None
    max_trace_s: float | None = None
    max_object_bytes: int | None = None
    n_skipped: int = field(default=0, init=False)


def limited(requests: Iterable[Request], limits: Limits) -> Iterator[Request]:
    """The requests within the limits, in order."""
    n_taken = 0
    for request in requests:
        if limits.max_trace_s is not None and request.timestamp_s > limits.max_trace_s:
            return
        if limits.max_object_bytes is not None and request.size_bytes > limits.max_object_bytes:
            limits.n_skipped += 1
            continue
        if n_taken == limits.max_requests:
            return
        n_taken += 1
        yield request


@dataclass(slots=True, kw_only=True)
class Part(Generic[Ref]):
    """One worker's share of the trace, in tables that :func:`requests_of` reads."""

    tables: list[Ref] = field(default_factory=list)
    n_requests: int = 0
    n_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition(Generic[Ref]):
    """All parts; ``span_s`` is the time of the last request."""

    parts: tuple[Part[Ref], ...]
    span_s: float

    @property
    def n_requests(self) -> int:
        return sum(part.n_requests for part in self.parts)

    @property
    def n_bytes(self) -> int:
        return sum(part.n_bytes for part in self.parts)


def worker_of(key: str, n_workers: int) -> int:
    """Which worker has a key: always the same one, so that what one request stores the next one finds."""
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % n_workers


def partition(requests: Iterable[Request], n_workers: int, place: Callable[[pa.Table], Ref]) -> Partition[Ref]:
    """Cut a trace by key. Each table goes through ``place`` as soon as it is full (into Ray's object store, say), so
    that memory here does not grow with the trace."""
    parts: tuple[Part[Ref], ...] = tuple(Part() for _ in range(n_workers))
    waiting: list[list[Request]] = [[] for _ in range(n_workers)]
    span_s = 0.0
    for request in requests:
        span_s = request.timestamp_s
        number = worker_of(request.key, n_workers)
        parts[number].n_requests += 1
        parts[number].n_bytes += request.size_bytes
        waiting[number].append(request)
        if len(waiting[number]) >= _ROWS_PER_TABLE:
            parts[number].tables.append(place(_table(waiting[number])))
            waiting[number].clear()
    for part, rest in zip(parts, waiting, strict=True):
        if rest:
            part.tables.append(place(_table(rest)))
    return Partition(parts=parts, span_s=span_s)


def requests_of(tables: Iterable[pa.Table]) -> Iterator[Request]:
    """The requests in a part's tables."""
    for table in tables:
        for row in table.to_pylist():
            yield Request(
                timestamp_s=row["timestamp_s"],
                key=row["key"].decode("utf-8", "surrogatepass"),
                size_bytes=row["size_bytes"],
                method=Method(row["method"]),
            )


def _table(requests: list[Request]) -> pa.Table:
    columns = {
        "timestamp_s": [request.timestamp_s for request in requests],
        "key": [request.key.encode("utf-8", "surrogatepass") for request in requests],
        "size_bytes": [request.size_bytes for request in requests],
        "method": [request.method.value for request in requests],
    }
    return pa.Table.from_pydict(columns, _SCHEMA)
