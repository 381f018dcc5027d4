"""What a replay came to, in a few figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workloads.replay.results import OutcomeName, read_run
from workloads.replay.worker import WRONG_BYTES

__all__ = ["ReplaySummary", "Tally", "summarize_run"]


@dataclass(slots=True)
class Tally:
    """Running totals, for the progress display."""

    n_requests: int = 0
    n_bytes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    last_late_s: float = 0.0  #: of the latest results, the longest wait for a turn

    def add(self, table: pa.Table) -> None:
        """Count a table of results in."""
        if table.num_rows == 0:
            return
        self.n_requests += table.num_rows
        self.n_bytes += pc.sum(table["size_bytes"]).as_py()
        self.outcomes.update(table["outcome"].to_pylist())
        self.last_late_s = max(0.0, pc.max(pc.subtract(table["latency_s"], table["service_s"])).as_py())

    def note(self, elapsed_s: float) -> str:
        elapsed_s = max(elapsed_s, 1e-3)
        n_gets = sum(self.outcomes[name.value] for name in OutcomeName if name is not OutcomeName.STORED)
        ratio = f"{self.outcomes['hit'] / n_gets:.0%} hits" if n_gets else "no GETs yet"
        others = "".join(
            f", {n:,} {name}{'s' if n > 1 else ''}" for name in ("reset", "error") if (n := self.outcomes[name])
        )
        rates = f"{self.n_requests / elapsed_s:,.1f}/s, {self.n_bytes / elapsed_s / 1e6:,.1f} MB/s"
        return f"{self.n_requests:,} requests, {rates}, {ratio}{others}, {self.last_late_s:.1f} s late"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySummary:
    """``gets = hits + misses + resets + errors`` where no PUT failed. Latencies count from the intended start, over all
    requests; None where there are none. ``late_p99_s``: the part of it that requests waited for their turn because too
    many were under way, at the 99th percentile. ``faults``: errors by class, failed inserts included."""

    system: str
    requests: int
    gets: int
    hits: int
    misses: int
    resets: int
    stored: int
    errors: int
    wrong_reads: int
    hit_ratio: float
    total_bytes: int
    trace_span_s: float
    elapsed_s: float
    requests_per_s: float
    bytes_per_s: float
    latency_s: dict[str, float | None]
    hit_latency_s: dict[str, float | None]
    late_p99_s: float | None
    faults: dict[str, int]
    cost_usd: dict[str, float]
    skipped_large: int
    malformed_lines: int
    interrupted: bool

    def to_json_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarize_run(
    folder: Path, *, elapsed_s: float, skipped_large: int = 0, malformed_lines: int = 0, interrupted: bool = False
) -> ReplaySummary:
    """The figures of the run in ``folder``. Raises as :func:`workloads.replay.results.read_run`."""
    run = read_run(folder)
    table = run.requests
    outcomes = Counter(table["outcome"].to_pylist())
    faults = Counter(error for error in table["error"].to_pylist() if error is not None)
    n_gets = pc.sum(pc.equal(table["op"], "get")).as_py() or 0
    total_bytes = pc.sum(table["size_bytes"]).as_py() or 0
    hits = table.filter(pc.equal(table["outcome"], OutcomeName.HIT.value))
    late_s = pc.subtract(table["latency_s"], table["service_s"])
    return ReplaySummary(
        system=run.info.system,
        requests=table.num_rows,
        gets=n_gets,
        hits=outcomes["hit"],
        misses=outcomes["miss"],
        resets=outcomes["reset"],
        stored=outcomes["stored"],
        errors=outcomes["error"],
        wrong_reads=faults[WRONG_BYTES],
        hit_ratio=outcomes["hit"] / n_gets if n_gets else 0.0,
        total_bytes=total_bytes,
        trace_span_s=pc.max(table["request_s"]).as_py() or 0.0,
        elapsed_s=elapsed_s,
        requests_per_s=table.num_rows / elapsed_s,
        bytes_per_s=total_bytes / elapsed_s,
        latency_s=_percentiles(table["latency_s"]),
        hit_latency_s=_percentiles(hits["latency_s"]),
        late_p99_s=_percentiles(late_s)["p99"],
        faults=dict(sorted(faults.items())),
        cost_usd=_by_purpose(run.costs),
        skipped_large=skipped_large,
        malformed_lines=malformed_lines,
        interrupted=interrupted,
    )


def _percentiles(column: pa.ChunkedArray) -> dict[str, float | None]:
    values = column.to_numpy()
    if len(values) == 0:
        return {"p50": None, "p90": None, "p99": None}
    return {f"p{p}": float(np.percentile(values, p)) for p in (50, 90, 99)}


def _by_purpose(costs: pa.Table) -> dict[str, float]:
    spent: Counter[str] = Counter()
    for purpose, usd in zip(costs["purpose"].to_pylist(), costs["usd"].to_pylist(), strict=True):
        spent[purpose] += usd
    return {**dict(sorted(spent.items())), "total": sum(spent.values())} if spent else {}
