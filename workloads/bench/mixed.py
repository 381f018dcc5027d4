"""A mix of GET and PUT from several clients for a while: throughput, latency, and whether memory grows.

Systems take turns in slices of a few seconds. Each client has keys of its own, so it knows which version it must read:
every read is checked by its stamp between calls, and all values as a whole after the clock has stopped.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.table import Table

from infiniray.units import format_bytes
from workloads.baselines import ByteArray, Target
from workloads.bench.measuring import Conditions, random_values
from workloads.bench.memory import Resident
from workloads.errors import TargetFailed

__all__ = ["Mix", "MixedRow", "measure_mixed", "render_mixed"]

_SLICE_S = 5.0
_STAMP_BYTES = 8
#: All values of all clients together.
_WORKING_SET_BYTES = 512 << 20
_BARRIER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """``get_percent`` of the calls are GETs; every system gets ``seconds``."""

    size_bytes: int
    clients: int
    get_percent: int = 90
    seconds: float = 30.0

    def __str__(self) -> str:
        return f"{self.size_bytes:,} bytes, {self.get_percent}% GETs, {self.clients} clients, {self.seconds:g} s"

    @property
    def keys_per_client(self) -> int:
        return max(2, min(16, _WORKING_SET_BYTES // (self.size_bytes * self.clients)))


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedRow:
    """One operation of the mix on one system, and op "mixed" for both together.

    ``bytes_per_s`` is over the time that clients spent in calls of the system, all clients together. Growth is of
    private resident memory from the end of the first slice to the end of the last; None for systems other than the
    cache. ``ratio_to_redis`` is Redis's median over this one's.
    """

    system: str
    op: str
    size_bytes: int
    scheme: str
    clients: int
    awake: bool
    shaped: bool
    get_percent: int
    seconds: float
    n_calls: int
    median_s: float
    p99_s: float
    bytes_per_s: float
    client_growth_bytes: int | None = None
    shard_growth_bytes: int | None = None
    ratio_to_redis: float | None = None

    def to_json_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class _Tally:
    """Of one system, over its slices."""

    get_s: list[float] = field(default_factory=list)
    put_s: list[float] = field(default_factory=list)
    elapsed_s: float = 0.0
    after_slice: list[Resident] = field(default_factory=list)

    def of(self, op: str) -> list[float]:
        return {"get": self.get_s, "put": self.put_s, "mixed": self.get_s + self.put_s}[op]


def measure_mixed(
    targets: Sequence[Target],
    mix: Mix,
    conditions: Conditions,
    *,
    shard_pid: int,
    settle: Callable[[], None] = lambda: None,
    slice_s: float = _SLICE_S,
) -> list[MixedRow]:
    """Run the mix on all targets, in turns; the first is the cache, for which ``settle`` is called before each slice.

    Raises:
        TargetFailed: a system gave back other bytes than were stored last.
    """
    slices = max(2, round(mix.seconds / slice_s))
    tallies = {target.name: _Tally() for target in targets}
    clients = {target.name: [_MixedClient(target, mix, n) for n in range(mix.clients)] for target in targets}
    with ThreadPoolExecutor(mix.clients) as pool:
        for turn in range(slices):
            for target in targets:
                if target is targets[0]:
                    settle()
                _slice(pool, clients[target.name], mix.seconds / slices, tallies[target.name], is_first=turn == 0)
                tallies[target.name].after_slice.append(Resident.of(shard_pid))
    for target in targets:
        for client in clients[target.name]:
            client.verify_all_and_delete()
    return _rows(targets, mix, conditions, tallies)


def _slice(
    pool: ThreadPoolExecutor, clients: list[_MixedClient], seconds: float, tally: _Tally, *, is_first: bool
) -> None:
    if is_first:
        list(pool.map(_MixedClient.store_all, clients))
    together = threading.Barrier(len(clients))
    spent_s = []
    for done in [pool.submit(client.run, together, seconds) for client in clients]:
        get_s, put_s = done.result()
        tally.get_s += get_s
        tally.put_s += put_s
        spent_s.append(sum(get_s) + sum(put_s))
    tally.elapsed_s += sum(spent_s) / len(spent_s)


class _MixedClient:
    """One client: its keys, and which version of each it has stored last."""

    def __init__(self, target: Target, mix: Mix, number: int) -> None:
        self._target = target
        self._mix = mix
        self._random = random.Random(number)
        self._values = random_values(mix.size_bytes, [f"mixed/{number}/{i}" for i in range(mix.keys_per_client)])
        self._version = 0

    def store_all(self) -> None:
        for key in self._values:
            self._target.put(key, self._next(key))

    def run(self, together: threading.Barrier, seconds: float) -> tuple[list[float], list[float]]:
        """Seconds of each GET and of each PUT."""
        get_s: list[float] = []
        put_s: list[float] = []
        keys = list(self._values)
        together.wait(_BARRIER_S)
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            key = self._random.choice(keys)
            is_get = self._random.random() * 100 < self._mix.get_percent
            value = self._values[key] if is_get else self._next(key)
            start_s = time.perf_counter()
            if is_get:
                result = self._target.get(key)
                get_s.append(time.perf_counter() - start_s)
                self._check(key, np.frombuffer(result, np.uint8), slice(0, _STAMP_BYTES))
                del result
            else:
                self._target.put(key, value)
                put_s.append(time.perf_counter() - start_s)
        return get_s, put_s

    def verify_all_and_delete(self) -> None:
        for key in self._values:
            self._check(key, np.frombuffer(self._target.get(key), np.uint8), slice(None))
            self._target.delete(key)

    def _next(self, key: str) -> ByteArray:
        self._version += 1
        value = self._values[key]
        mark = np.frombuffer(self._version.to_bytes(_STAMP_BYTES, "little"), np.uint8)
        value[:_STAMP_BYTES] = mark[: len(value)]
        return value

    def _check(self, key: str, got: ByteArray, part: slice) -> None:
        wanted = self._values[key]
        if len(got) != len(wanted) or not np.array_equal(got[part], wanted[part]):
            raise TargetFailed(system=self._target.name, detail=f"{key} came back with other bytes than were stored")


def _rows(targets: Sequence[Target], mix: Mix, conditions: Conditions, tallies: dict[str, _Tally]) -> list[MixedRow]:
    rows = []
    for op in ("get", "put", "mixed"):
        redis = tallies.get("redis")
        for target in targets:
            tally = tallies[target.name]
            calls_s = tally.of(op)
            if not calls_s:
                continue
            is_cache = target is targets[0]
            growth = tally.after_slice[-1].since(tally.after_slice[0]) if is_cache else None
            median_s = float(np.median(calls_s))
            rows.append(
                MixedRow(
                    system=target.name,
                    op=op,
                    size_bytes=mix.size_bytes,
                    scheme=conditions.scheme if is_cache else "",
                    clients=mix.clients,
                    awake=conditions.awake,
                    shaped=conditions.shaped,
                    get_percent=mix.get_percent,
                    seconds=mix.seconds,
                    n_calls=len(calls_s),
                    median_s=median_s,
                    p99_s=float(np.percentile(calls_s, 99)),
                    bytes_per_s=len(calls_s) * mix.size_bytes / tally.elapsed_s,
                    client_growth_bytes=growth.client_bytes if growth else None,
                    shard_growth_bytes=growth.shard_bytes if growth else None,
                    ratio_to_redis=float(np.median(redis.of(op))) / median_s if redis and redis.of(op) else None,
                )
            )
    return rows


def render_mixed(rows: Sequence[MixedRow]) -> Table:
    """The table for people."""
    table = Table(title="a mix of GET and PUT, systems taking turns", box=None)
    for heading in ("size", "GETs", "clients", "system", "scheme", "op", "median ms", "p99 ms", "calls", "GB/s",
                    "x Redis", "client grew", "shard grew"):  # fmt: skip
        table.add_column(heading, no_wrap=True, justify="left" if heading in ("op", "system", "scheme") else "right")
    for row in rows:
        growth = (row.client_growth_bytes, row.shard_growth_bytes)
        table.add_row(
            format_bytes(row.size_bytes),
            f"{row.get_percent}%",
            str(row.clients),
            row.system,
            row.scheme,
            row.op,
            f"{row.median_s * 1e3:.3f}",
            f"{row.p99_s * 1e3:.3f}",
            f"{row.n_calls:,}",
            f"{row.bytes_per_s / 1e9:.2f}",
            "" if row.ratio_to_redis is None else f"{row.ratio_to_redis:.2f}",
            *("" if n_bytes is None else f"{n_bytes / 1e6:+.1f} MB" for n_bytes in growth),
        )
    return table
