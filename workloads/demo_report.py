"""What a demo run found, as numbers, as JSON and as tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from infiniray.cost.alternatives import Alternative, cheapest_nodes, elasticache_serverless
from infiniray.cost.price_book import PriceBook
from infiniray.units import format_bytes
from workloads.lookaside import Kind

__all__ = ["SIZE_CLASSES", "Comparison", "DemoReport", "Latency", "Reclaim", "SizeClass", "compare_cost", "size_class"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeClass:
    """Objects of at least ``from_bytes`` and less than ``to_bytes`` (None: without limit)."""

    name: str
    from_bytes: int
    to_bytes: int | None


SIZE_CLASSES = (
    SizeClass(name="< 1 MB", from_bytes=0, to_bytes=10**6),
    SizeClass(name="1-10 MB", from_bytes=10**6, to_bytes=10**7),
    SizeClass(name="10-100 MB", from_bytes=10**7, to_bytes=10**8),
    SizeClass(name=">= 100 MB", from_bytes=10**8, to_bytes=None),
)


def size_class(size_bytes: int) -> SizeClass:
    """The class of an object of ``size_bytes``."""
    return next(c for c in SIZE_CLASSES if c.to_bytes is None or size_bytes < c.to_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Percentiles of ``n`` latencies of one kind for one size class (None: over all sizes).

    Hits: until the caller has the bytes. Misses and resets: likewise, through the backing store, without the insert.
    PUT: the inserts that followed a miss, and the trace's own PUTs.
    """

    size_class: str | None
    kind: Kind
    n: int
    p50_s: float
    p90_s: float
    p99_s: float

    @classmethod
    def of(cls, size_class: str | None, kind: Kind, latencies_s: Sequence[float]) -> Latency:
        """From at least one latency."""
        p50_s, p90_s, p99_s = np.percentile(latencies_s, (50, 90, 99))
        return cls(
            size_class=size_class,
            kind=kind,
            n=len(latencies_s),
            p50_s=float(p50_s),
            p90_s=float(p90_s),
            p99_s=float(p99_s),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reclaim:
    """Functions taken away on the way: how far the replay was (0 to 1), how many were asked for, how many went."""

    at: float
    asked: int
    done: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What one way to hold the demo's objects costs: for the part of the trace that was replayed, and for an hour of
    it."""

    name: str
    replay_usd: float
    hour_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """Figures of one run of the demo.

    ``gets = hits + misses + resets``. ``wrong_bytes`` counts bytes that the cache answered and that differ from what
    was written; ``wrong_reads`` the GETs they were in. ``faults`` counts typed errors of the cache by class name; those
    GETs were served from the backing store, those PUTs left undone. ``p50_s`` and ``p99_s`` are over all hits, None
    without any. ``held_bytes`` is what chunks take in function memory at the end, parity included; ``object_bytes`` the
    objects asked for, each once. ``hit_bytes`` and ``moved_bytes`` are object bytes: read through the cache, and in or
    out of it.
    """

    gets: int
    hits: int
    misses: int
    resets: int
    puts: int
    degraded_reads: int
    wrong_reads: int
    wrong_bytes: int
    faults: dict[str, int]
    skipped_large: int
    malformed_lines: int
    latencies: tuple[Latency, ...]
    elapsed_s: float
    trace_span_s: float
    stopped_by: str
    n_objects: int
    object_bytes: int
    held_bytes: int
    hit_bytes: int
    moved_bytes: int
    instances_started: int
    instances_frozen: int
    instances_reclaimed: int
    reclaims: tuple[Reclaim, ...]
    bill_usd_by_purpose: dict[str, float]
    comparisons: tuple[Comparison, ...]

    @property
    def span_s(self) -> float:
        """Of the trace, or of the replay if that took longer."""
        return max(self.trace_span_s, self.elapsed_s)

    @property
    def bill_usd(self) -> float:
        return sum(self.bill_usd_by_purpose.values())

    @property
    def hit_ratio(self) -> float:
        """0 without any GET."""
        return self.hits / self.gets if self.gets else 0.0

    @property
    def hit_bytes_per_s(self) -> float:
        """Object bytes read through the cache per second of the whole replay."""
        return self.hit_bytes / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def p50_s(self) -> float | None:
        return self._overall("p50_s")

    @property
    def p99_s(self) -> float | None:
        return self._overall("p99_s")

    def _overall(self, percentile: str) -> float | None:
        return next(
            (getattr(x, percentile) for x in self.latencies if (x.size_class, x.kind) == (None, Kind.HIT)), None
        )

    def to_json_dict(self) -> dict[str, Any]:
        """All figures, in values that :mod:`json` takes."""
        fields = dataclasses.asdict(self)
        fields["latencies"] = [{**x, "kind": x["kind"].value} for x in fields["latencies"]]
        derived = ("bill_usd", "hit_ratio", "hit_bytes_per_s", "p50_s", "p99_s")
        return fields | {name: getattr(self, name) for name in derived}

    def render(self, console: Console) -> None:
        """Prints the figures as tables, for people."""
        for table in (self._requests_table(), self._latency_table(), self._platform_table(), self._cost_table()):
            console.print(table)
        console.print(
            f"{self.trace_span_s:,.0f} s of the trace replayed in {self.elapsed_s:.1f} s, until {self.stopped_by}. "
            + ("Every byte read is what was written." if not self.wrong_bytes else "WRONG BYTES WERE READ."),
            highlight=False,
            soft_wrap=True,
            style="red" if self.wrong_bytes else "",
        )

    def _requests_table(self) -> Table:
        table = _two_columns("Requests")
        table.add_row("GETs", f"{self.gets:,}")
        table.add_row("hits", f"{self.hits:,}  ({self.hit_ratio:.1%})")
        table.add_row("misses", f"{self.misses:,}")
        table.add_row("resets (lost, loaded again)", f"{self.resets:,}")
        table.add_row("degraded reads (decoded)", f"{self.degraded_reads:,}")
        table.add_row("wrong bytes", f"{self.wrong_bytes:,}")
        if self.puts:
            table.add_row("PUTs of the trace", f"{self.puts:,}")
        for name, n in sorted(self.faults.items()):
            table.add_row(f"errors: {name}", f"{n:,}")
        if self.skipped_large:
            table.add_row("skipped: too large", f"{self.skipped_large:,}")
        if self.malformed_lines:
            table.add_row("malformed lines", f"{self.malformed_lines:,}")
        return table

    def _latency_table(self) -> Table:
        table = Table("object size", "served by", title="Latency", title_justify="left")
        for column in ("n", "p50", "p90", "p99"):
            table.add_column(column, justify="right")
        for latency in self.latencies:
            percentiles = (f"{1e3 * x:,.1f} ms" for x in (latency.p50_s, latency.p90_s, latency.p99_s))
            served = {Kind.HIT: "cache", Kind.MISS: "backing store", Kind.RESET: "backing store (reset)"}
            name = served.get(latency.kind, "insert into cache")
            table.add_row(latency.size_class or "all", name, f"{latency.n:,}", *percentiles)
        return table

    def _platform_table(self) -> Table:
        table = _two_columns("Functions and bytes")
        started, frozen, reclaimed = self.instances_started, self.instances_frozen, self.instances_reclaimed
        table.add_row("instances started / frozen / reclaimed", f"{started:,} / {frozen:,} / {reclaimed:,}")
        for reclaim in self.reclaims:
            table.add_row(f"  reclaimed at {reclaim.at:.0%} of the replay", f"{reclaim.done} of {reclaim.asked}")
        table.add_row("objects asked for", f"{self.n_objects:,}, {format_bytes(self.object_bytes)}")
        table.add_row("bytes held in functions", format_bytes(self.held_bytes))
        table.add_row("read through the cache", format_bytes(self.hit_bytes))
        table.add_row("  per second of the replay", f"{format_bytes(self.hit_bytes_per_s)}/s")
        return table

    def _cost_table(self) -> Table:
        table = Table("", title="Cost", title_justify="left")
        # At the trace's own pace: functions cost what is asked of them, however fast it is replayed; nodes cost time.
        table.add_column(f"{self.span_s:,.0f} s of the trace", justify="right")
        table.add_column("an hour of it", justify="right")
        hours = self.span_s / 3600
        for purpose, usd in sorted(self.bill_usd_by_purpose.items()):
            table.add_row(f"  functions: {purpose}", f"${usd:.5f}", f"${usd / hours:.3f}")
        table.add_row(
            "InfiniRay, functions in all", f"${self.bill_usd:.5f}", f"${self.bill_usd / hours:.3f}", style="bold"
        )
        for other in self.comparisons:
            table.add_row(other.name, f"${other.replay_usd:.5f}", f"${other.hour_usd:.3f}")
        return table


def compare_cost(book: PriceBook, *, object_bytes: int, moved_bytes: int, span_s: float) -> tuple[Comparison, ...]:
    """What ElastiCache costs for the same objects and the same traffic, at the trace's own pace. ``span_s`` is more
    than zero.

    Raises:
        PriceMissing: the price book does not say.
    """
    hours = span_s / 3600
    return (
        _comparison(cheapest_nodes(book, object_bytes), hours),
        _comparison(elasticache_serverless(book, "valkey", held_bytes=object_bytes, object_bytes=moved_bytes), hours),
    )


def _comparison(alternative: Alternative, hours: float) -> Comparison:
    """Of an alternative for which the whole replay is one request, as large as all that it moved."""
    cost = alternative.cost
    return Comparison(
        name=alternative.name,
        replay_usd=cost.fixed_usd_per_hour * hours + cost.usd_per_request,
        hour_usd=cost.usd_per_hour(1 / hours),
    )


def _two_columns(title: str) -> Table:
    table = Table("", "", title=title, title_justify="left", show_header=False)
    table.columns[1].justify = "right"
    return table
