"""The benchmark: this cache against what users would pick instead, in the same run.

Systems take turns within every round (A B C, A B C, ...), so that a machine whose speed drifts slows all of them alike;
what is reported are medians and their ratios. Values are checked after the clock stops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from infiniray.units import format_bytes
from workloads.baselines import ByteArray, Target

__all__ = ["BenchRow", "Case", "measure", "render"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured: objects of ``size_bytes`` from ``clients`` threads at once."""

    size_bytes: int
    clients: int = 1
    rounds: int = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRow:
    """One system, one operation.

    ``ratio_to_redis`` is Redis's median over this one's: above 1 is faster. None where Redis did not run.
    """

    system: str
    op: str
    size_bytes: int
    scheme: str
    clients: int
    rounds: int
    median_s: float
    min_s: float
    p99_s: float
    bytes_per_s: float
    ratio_to_redis: float | None = None

    def to_json_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure(
    targets: Sequence[Target],
    case: Case,
    *,
    scheme: str,
    ops: Sequence[str] = ("put", "get"),
    on_round: Callable[[], None] = lambda: None,
) -> list[BenchRow]:
    """Run a case on all targets, in turns, after one round that does not count.

    Raises:
        ValueError: a system gave back other bytes than were stored.
    """
    values = _values(case)
    times: dict[tuple[str, str], list[float]] = {(t.name, op): [] for t in targets for op in ops}
    with ThreadPoolExecutor(case.clients) as clients:
        for round_ in range(-1, case.rounds):
            for target in targets:
                put_s = _timed(clients, values, target.put)
                get_s, results = _timed_get(clients, values, target)
                _verify(target, values, results)
                del results
                if round_ >= 0:
                    for op, elapsed_s in (("put", put_s), ("get", get_s)):
                        if op in ops:
                            times[target.name, op].append(elapsed_s)
            on_round()
    for target in targets:
        for key in values:
            target.delete(key)
    return _rows(times, case, scheme)


def _values(case: Case) -> dict[str, ByteArray]:
    rng = np.random.default_rng(case.size_bytes)
    return {f"bench/{i}": rng.integers(0, 256, case.size_bytes, dtype=np.uint8) for i in range(case.clients)}


def _timed(clients: ThreadPoolExecutor, values: dict[str, ByteArray], act: Callable[[str, ByteArray], None]) -> float:
    start_s = time.perf_counter()
    for done in [clients.submit(act, key, value) for key, value in values.items()]:
        done.result()
    return time.perf_counter() - start_s


def _timed_get(
    clients: ThreadPoolExecutor, values: dict[str, ByteArray], target: Target
) -> tuple[float, dict[str, Any]]:
    start_s = time.perf_counter()
    running = {key: clients.submit(target.get, key) for key in values}
    results = {key: done.result() for key, done in running.items()}
    return time.perf_counter() - start_s, results


def _verify(target: Target, values: dict[str, ByteArray], results: dict[str, Any]) -> None:
    for key, value in values.items():
        if not np.array_equal(np.frombuffer(results[key], np.uint8), value):
            raise ValueError(f"{target.name} gave back other bytes for {key} of {len(value):,} bytes than were stored")


def _rows(times: dict[tuple[str, str], list[float]], case: Case, scheme: str) -> list[BenchRow]:
    rows = []
    for (system, op), taken_s in times.items():
        median_s = float(np.median(taken_s))
        redis_s = times.get(("redis", op))
        rows.append(
            BenchRow(
                system=system,
                op=op,
                size_bytes=case.size_bytes,
                scheme=scheme if system == "infiniray" else "",
                clients=case.clients,
                rounds=case.rounds,
                median_s=median_s,
                min_s=min(taken_s),
                p99_s=float(np.percentile(taken_s, 99)),
                bytes_per_s=case.size_bytes * case.clients / median_s if median_s else 0.0,
                ratio_to_redis=float(np.median(redis_s)) / median_s if redis_s and median_s else None,
            )
        )
    return rows


def render(rows: Sequence[BenchRow]) -> Table:
    """The table for people."""
    table = Table(title="medians of one run, systems taking turns", box=None)
    for heading in ("size", "op", "clients", "system", "scheme", "median ms", "min ms", "p99 ms", "GB/s", "x Redis"):
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("op", "system", "scheme") else "right")
    for row in sorted(rows, key=lambda r: (r.size_bytes, r.clients, r.op)):
        table.add_row(
            format_bytes(row.size_bytes),
            row.op,
            str(row.clients),
            row.system,
            row.scheme,
            f"{row.median_s * 1e3:.2f}",
            f"{row.min_s * 1e3:.2f}",
            f"{row.p99_s * 1e3:.2f}",
            f"{row.bytes_per_s / 1e9:.2f}",
            "" if row.ratio_to_redis is None else f"{row.ratio_to_redis:.2f}",
        )
    return table
