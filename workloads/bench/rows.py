"""What a benchmark has found: rows, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from rich.table import Table

from infiniray.units import format_bytes

__all__ = ["BenchRow", "Samples", "render", "with_ratios"]


@dataclass(slots=True)
class Samples:
    """What was timed of one operation on one system."""

    #: each call, in seconds
    calls_s: list[float] = field(default_factory=list)
    #: each round, over all clients
    bytes_per_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """One operation on one system: quantiles over calls, throughput over all clients as the median of the rounds.

    ``beside`` is the scheme of the cache that took turns with this system; ``scheme`` is the same for the cache, and
    empty for systems that have none. The ratios are the other's median over this one's: above 1 is faster. None where
    the other did not run.
    """

    system: str
    op: str
    size_bytes: int
    scheme: str
    beside: str
    clients: int
    awake: bool
    shaped: bool
    #: shards kept near copies, and small values were read from these
    near: bool = False
    #: values in one call: 1, or what get_many and put_many take
    n_values: int
    n_calls: int
    rounds: int
    median_s: float
    p25_s: float
    p75_s: float
    p99_s: float
    min_s: float
    max_s: float
    bytes_per_s: float
    ratio_to_redis: float | None = None
    ratio_to_loopback: float | None = None

    @classmethod
    def of(cls, samples: Samples, **what: Any) -> BenchRow:
        """A row of what was timed; ``what`` are the fields that say what that was."""
        p25_s, median_s, p75_s, p99_s = (float(q) for q in np.percentile(samples.calls_s, (25, 50, 75, 99)))
        return cls(
            n_calls=len(samples.calls_s),
            median_s=median_s,
            p25_s=p25_s,
            p75_s=p75_s,
            p99_s=p99_s,
            min_s=min(samples.calls_s),
            max_s=max(samples.calls_s),
            bytes_per_s=float(np.median(samples.bytes_per_s)),
            **what,
        )

    def to_json_dict(self) -> dict[str, Any]:
        return asdict(self)


def with_ratios(rows: Iterable[BenchRow]) -> list[BenchRow]:
    """The rows of one case, with the ratios that only all of them together tell."""
    rows = list(rows)
    medians_s = {(row.system, row.op): row.median_s for row in rows}

    def ratio(row: BenchRow, other: str) -> float | None:
        theirs_s = medians_s.get((other, row.op))
        return None if theirs_s is None else theirs_s / row.median_s

    return [replace(row, ratio_to_redis=ratio(row, "redis"), ratio_to_loopback=ratio(row, "loopback")) for row in rows]


_LEFT = ("op", "system", "scheme")
_HEADINGS = ("size", "op", "clients", "system", "scheme", "median ms", "p25-p75 ms", "p99 ms", "calls", "GB/s",
             "x Redis", "x loopback")  # fmt: skip


def render(rows: Sequence[BenchRow]) -> Table:
    """The table for people."""
    table = Table(title="medians of one run, systems taking turns", box=None)
    for heading in _HEADINGS:
        table.add_column(heading, no_wrap=True, justify="left" if heading in _LEFT else "right")
    for row in sorted(rows, key=lambda r: (r.size_bytes, r.clients, r.op, r.beside)):
        table.add_row(
            format_bytes(row.size_bytes) + (f" x {row.n_values}" if row.n_values > 1 else ""),
            row.op,
            str(row.clients),
            row.system + (" near" if row.near else ""),
            row.scheme,
            f"{row.median_s * 1e3:.3f}",
            f"{row.p25_s * 1e3:.3f}-{row.p75_s * 1e3:.3f}",
            f"{row.p99_s * 1e3:.3f}",
            f"{row.n_calls:,}",
            f"{row.bytes_per_s / 1e9:.2f}",
            "" if row.ratio_to_redis is None else f"{row.ratio_to_redis:.2f}",
            "" if row.ratio_to_loopback is None else f"{row.ratio_to_loopback:.2f}",
        )
    return table
