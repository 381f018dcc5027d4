"""The demo: a registry trace replayed through a started cache, while the platform takes functions away.

Look-aside semantics against a backing store directory; every byte that the cache returns is compared with what was
written. What it found comes back as a :class:`DemoReport`.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from infiniray.cost.price_book import PriceBook, load_price_book
from workloads.backing import DirectoryStore, Origin
from workloads.demo_report import SIZE_CLASSES, DemoReport, Latency, Reclaim, compare_cost, size_class
from workloads.lookaside import CacheLike, Kind, LookAside, Outcome
from workloads.progress import Display, ReplayProgress
from workloads.readers import open_trace
from workloads.trace import Request, TraceProblems

__all__ = ["DemoCache", "DemoOptions", "PlatformControl", "ReclaimPoint", "run_demo", "sample_trace"]

#: a trace of at most this many requests is read ahead, so that progress can be told by requests; see :class:`_Feed`
_READ_AHEAD = 5000


class DemoCache(CacheLike, Protocol):
    """What the demo needs of a cache beyond GET and PUT."""

    def stats(self) -> Mapping[str, Any]:
        """Totals over all shards, with at least ``degraded_reads`` (count) and ``stored_bytes`` (on nodes, now)."""


class PlatformControl(Protocol):
    """What the demo needs of the function platform. The platform should be fresh: its bill is reported as it is."""

    def reclaim(self, n: int) -> int:
        """Takes instances of ``n`` different functions away, as the platform might; returns how many went."""

    def counters(self) -> Mapping[str, int]:
        """``started`` and ``reclaimed`` (instances so far), ``frozen`` (instances now)."""

    def bill(self) -> Mapping[str, float]:
        """USD so far by purpose of the invocation (serve, warm, ...)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReclaimPoint:
    """Reclaim instances of ``n`` functions when the share ``at`` of the replay is done."""

    at: float
    n: int


#: three small losses, which parity should bear, and a burst larger than any shipped scheme's parity
DEFAULT_RECLAIMS = (
    ReclaimPoint(at=0.25, n=1),
    ReclaimPoint(at=0.45, n=2),
    ReclaimPoint(at=0.65, n=5),
    ReclaimPoint(at=0.85, n=1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """How the demo runs.

    ``max_bytes`` limits the object bytes asked for, ``max_unique_bytes`` the same with each object counted once, and so
    the memory that the functions take. Objects larger than ``max_object_bytes`` are skipped and counted. Requests under
    way when a limit is reached are finished.

    Raises:
        ValueError: a limit is not positive.
    """

    n_clients: int = 2
    max_seconds: float = 40.0
    max_bytes: int = 8 * 10**9
    max_unique_bytes: int = 1_600 * 10**6
    max_object_bytes: int = 200 * 10**6
    reclaims: tuple[ReclaimPoint, ...] = DEFAULT_RECLAIMS
    strict: bool = False
    display: Display = Display.AUTO

    def __post_init__(self) -> None:
        if self.n_clients < 1:
            raise ValueError(f"the demo needs at least one client, not {self.n_clients}")
        if min(self.max_seconds, self.max_bytes, self.max_unique_bytes, self.max_object_bytes) <= 0:
            raise ValueError("the demo's limits of time and bytes must be positive")


def sample_trace() -> Path:
    """The small trace that comes with this package."""
    return Path(str(resources.files("workloads") / "samples" / "registry-small.csv.gz"))


def run_demo(
    cache: DemoCache,
    platform: PlatformControl,
    *,
    trace: str | Path | None = None,
    store_dir: str | Path | None = None,
    options: DemoOptions | None = None,
    prices: PriceBook | None = None,
    console: Console | None = None,
    clock_s: Callable[[], float] = time.monotonic,
) -> DemoReport:
    """Replays ``trace`` (default: the small sample) against ``cache`` and reports.

    Args:
        store_dir: the backing store; kept. Default: a temporary directory, removed at the end.
        prices: for the comparison with ElastiCache; default: the newest book that comes with the package.
        console: where progress is shown; default: standard error.

    Raises:
        TraceError: the trace cannot be read.
        PriceMissing: ``prices`` has none for ElastiCache.
        OSError: the backing store failed.
    """
    options = options or DemoOptions()
    problems = TraceProblems(strict=options.strict)
    prices = prices or load_price_book()
    with ExitStack() as stack:
        if store_dir is None:
            store_dir = stack.enter_context(tempfile.TemporaryDirectory(prefix="infiniray-demo-"))
        origin = Origin(DirectoryStore(store_dir))
        degraded_before = int(cache.stats()["degraded_reads"])
        requests = open_trace(trace or sample_trace(), problems=problems)
        began_s = clock_s()
        feed = _Feed(requests, options, lambda: clock_s() - began_s)
        progress = stack.enter_context(ReplayProgress(console or Console(stderr=True), options.display))
        replay = _Replay(LookAside(cache, origin), platform, feed, progress)
        replay.run(options.n_clients)
        elapsed_s = max(clock_s() - began_s, 1e-6)
    tally = replay.tally
    stats = cache.stats()
    counters = platform.counters()
    return DemoReport(
        gets=tally.gets,
        hits=tally.kinds[Kind.HIT],
        misses=tally.kinds[Kind.MISS],
        resets=tally.kinds[Kind.RESET],
        puts=tally.kinds[Kind.PUT],
        degraded_reads=int(stats["degraded_reads"]) - degraded_before,
        wrong_reads=tally.wrong_reads,
        wrong_bytes=tally.wrong_bytes,
        faults=dict(tally.faults),
        skipped_large=feed.n_skipped,
        malformed_lines=problems.n_malformed,
        latencies=tally.latencies(),
        elapsed_s=elapsed_s,
        trace_span_s=feed.span_s,
        stopped_by=feed.stopped_by,
        n_objects=origin.n_objects,
        object_bytes=origin.total_bytes,
        held_bytes=int(stats["stored_bytes"]),
        hit_bytes=tally.hit_bytes,
        moved_bytes=tally.moved_bytes,
        instances_started=counters["started"],
        instances_frozen=counters["frozen"],
        instances_reclaimed=counters["reclaimed"],
        reclaims=tuple(replay.reclaims),
        bill_usd_by_purpose=dict(platform.bill()),
        comparisons=compare_cost(
            prices,
            object_bytes=origin.total_bytes,
            moved_bytes=tally.moved_bytes,
            span_s=max(feed.span_s, elapsed_s),
        ),
    )


# ---------------------------------------------------------------- inside


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """What a client does next: first the reclaims that have come due, then the request."""

    request: Request
    due: tuple[ReclaimPoint, ...]
    share: float  #: of the replay that is done


class _Feed:
    """I hand the trace out to the clients, request by request, and end it when a limit is reached.

    How far the replay is, I tell by the limit that is nearest: the last request (if the trace is short enough to be
    read ahead), the time, or the bytes.
    """

    def __init__(self, requests: Iterator[Request], options: DemoOptions, elapsed_s: Callable[[], float]) -> None:
        self._requests, self._n_requests = _read_ahead(requests)
        self._options = options
        self._elapsed_s = elapsed_s
        self._lock = threading.Lock()
        self._reclaims = sorted(options.reclaims, key=lambda point: point.at)
        self._n_taken = 0
        self._n_bytes = 0
        self._n_unique_bytes = 0
        self._seen: set[str] = set()
        self.n_skipped = 0
        self.span_s = 0.0
        self.stopped_by = ""  #: why no more requests come; empty while they do

    def take(self) -> _Step | None:
        """The next step, None at the end. Raises TraceError where the trace is damaged."""
        with self._lock:
            request = self._next()
            if request is None:
                return None
            share = self.share()
            due = tuple(itertools.takewhile(lambda point: point.at <= share, self._reclaims))
            del self._reclaims[: len(due)]
            return _Step(request=request, due=due, share=share)

    def stop(self, reason: str) -> None:
        """No more steps."""
        with self._lock:
            self.stopped_by = self.stopped_by or reason

    def share(self) -> float:
        """How much of the replay is done, from 0 to 1."""
        shares = [
            self._elapsed_s() / self._options.max_seconds,
            self._n_bytes / self._options.max_bytes,
            self._n_unique_bytes / self._options.max_unique_bytes,
        ]
        if self._n_requests is not None:
            shares.append(self._n_taken / self._n_requests)
        return min(1.0, max(shares))

    def _next(self) -> Request | None:
        while not self.stopped_by:
            if self._elapsed_s() >= self._options.max_seconds:
                self.stopped_by = f"the time limit of {self._options.max_seconds:g} s"
                break
            request = next(self._requests, None)
            if request is None:
                self.stopped_by = "the end of the trace"
                break
            if request.size_bytes > self._options.max_object_bytes:
                self._n_taken += 1
                self.n_skipped += 1
                continue
            if self._fits(request):
                return request
        return None

    def _fits(self, request: Request) -> bool:
        """Counts the request in, or ends the trace before it."""
        n_new_bytes = 0 if request.key in self._seen else request.size_bytes
        if self._n_bytes + request.size_bytes > self._options.max_bytes:
            self.stopped_by = f"the limit of {self._options.max_bytes:,} bytes"
        elif self._n_unique_bytes + n_new_bytes > self._options.max_unique_bytes:
            self.stopped_by = f"the limit of {self._options.max_unique_bytes:,} bytes of distinct objects"
        else:
            self._seen.add(request.key)
            self._n_taken += 1
            self._n_bytes += request.size_bytes
            self._n_unique_bytes += n_new_bytes
            self.span_s = request.timestamp_s
            return True
        return False


def _read_ahead(requests: Iterator[Request]) -> tuple[Iterator[Request], int | None]:
    """The same requests, and their number if it is at most ``_READ_AHEAD``."""
    first = list(itertools.islice(requests, _READ_AHEAD + 1))
    if len(first) <= _READ_AHEAD:
        return iter(first), len(first)
    return itertools.chain(first, requests), None


@dataclass(slots=True)
class _Tally:
    """Running totals of outcomes; whoever calls ``add`` holds the replay's lock."""

    kinds: Counter[Kind] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    wrong_reads: int = 0
    wrong_bytes: int = 0
    hit_bytes: int = 0
    moved_bytes: int = 0
    latencies_s: dict[tuple[str, Kind], list[float]] = field(default_factory=dict)

    @property
    def gets(self) -> int:
        return self.kinds[Kind.HIT] + self.kinds[Kind.MISS] + self.kinds[Kind.RESET]

    def add(self, outcome: Outcome) -> None:
        self.kinds[outcome.kind] += 1
        self.faults.update(type(fault).__name__ for fault in outcome.faults)
        self.wrong_reads += outcome.wrong
        self.wrong_bytes += outcome.wrong_bytes
        self._note(outcome.size_bytes, outcome.kind, outcome.latency_s)
        if outcome.kind is Kind.HIT:
            self.hit_bytes += outcome.size_bytes
        if outcome.insert_s is not None:
            self._note(outcome.size_bytes, Kind.PUT, outcome.insert_s)
        if (
            outcome.insert_s is not None
            or outcome.kind is Kind.HIT
            or (outcome.kind is Kind.PUT and not outcome.faults)
        ):
            self.moved_bytes += outcome.size_bytes

    def latencies(self) -> tuple[Latency, ...]:
        """By size class and kind, smallest first; then over all sizes. Only those that occurred."""
        rows = [
            Latency.of(c.name, kind, self.latencies_s[c.name, kind])
            for c in SIZE_CLASSES
            for kind in Kind
            if (c.name, kind) in self.latencies_s
        ]
        overall = {kind: [x for (_, k), xs in self.latencies_s.items() if k is kind for x in xs] for kind in Kind}
        rows += [Latency.of(None, kind, every) for kind, every in overall.items() if every]
        return tuple(rows)

    def note(self) -> str:
        return (
            f"{self.gets} GETs, {self.kinds[Kind.HIT]} hits, {self.kinds[Kind.RESET]} resets, "
            f"{self.hit_bytes / 1e9:.1f} GB read"
        )

    def _note(self, size_bytes: int, kind: Kind, latency_s: float) -> None:
        self.latencies_s.setdefault((size_class(size_bytes).name, kind), []).append(latency_s)


class _Replay:
    """I run the clients. The first error in one of them stops all and is raised by :meth:`run`."""

    def __init__(self, lookaside: LookAside, platform: PlatformControl, feed: _Feed, progress: ReplayProgress) -> None:
        self._lookaside = lookaside
        self._platform = platform
        self._feed = feed
        self._progress = progress
        self._lock = threading.Lock()
        self.tally = _Tally()
        self.reclaims: list[Reclaim] = []

    def run(self, n_clients: int) -> None:
        with ThreadPoolExecutor(n_clients, thread_name_prefix="demo-client") as pool:
            clients = [pool.submit(self._client) for _ in range(n_clients)]
            try:
                for client in clients:
                    client.result()
            except BaseException:
                self._feed.stop("an error")
                raise

    def _client(self) -> None:
        try:
            while (step := self._feed.take()) is not None:
                self._reclaim(step.due)
                outcome = self._lookaside.request(step.request)
                with self._lock:
                    self.tally.add(outcome)
                    note = self.tally.note()
                self._progress.update(step.share, note)
        except BaseException:
            self._feed.stop("an error")
            raise

    def _reclaim(self, points: Iterable[ReclaimPoint]) -> None:
        for point in points:
            done = self._platform.reclaim(point.n)
            with self._lock:
                self.reclaims.append(Reclaim(at=point.at, asked=point.n, done=done))
            self._progress.event(f"      the platform reclaims {done} functions")
