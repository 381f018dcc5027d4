"""What more shards bring where the nodes' networks are the limit: aggregate throughput of many readers, in turns."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from infiniray.core.ring import Ring
from infiniray.units import format_bytes
from workloads.baselines import ByteArray
from workloads.bench.measuring import random_values
from workloads.bench.stand import Stand
from workloads.errors import TargetFailed

__all__ = ["ShardsRow", "measure_shards", "render_shards"]

_KEYS = 64
_BARRIER_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardsRow:
    """GETs of one cache. ``bytes_per_s`` is over all clients, the median of the rounds; ``growth`` that over the first
    cache's, ``shards_ratio`` how many times as many shards it has."""

    op: str
    size_bytes: int
    scheme: str
    clients: int
    shards: int
    nodes: int
    node_bytes_per_s: int
    rounds: int
    n_calls: int
    median_s: float
    p99_s: float
    bytes_per_s: float
    growth: float
    shards_ratio: float

    def to_json_dict(self) -> dict[str, Any]:
        return {"system": "infiniray", **asdict(self)}


def measure_shards(
    stands: Sequence[Stand], *, size_bytes: int, clients: int, rounds: int, round_s: float
) -> list[ShardsRow]:
    """Read from each cache for ``round_s`` at a time, ``clients`` threads at once, the caches in turns.

    Each shard has as many of the objects: of only a few, chance gives one shard far more than others, and all readers
    wait for that one.

    Raises:
        TargetFailed: other bytes came back than were stored.
    """
    rings = [_ring(here) for here in stands]
    values = random_values(size_bytes, _spread_keys(rings))
    calls_s: list[list[float]] = [[] for _ in stands]
    rates: list[list[float]] = [[] for _ in stands]
    for here in stands:
        here.settle()
        for key, value in values.items():
            here.cache.put(key, value)
    with ThreadPoolExecutor(clients) as pool:
        for round_ in range(-1, rounds):
            for n, here in enumerate(stands):
                here.settle()
                taken_s = _round(pool, here, values, clients, round_s)
                if round_ >= 0:
                    calls_s[n] += itertools.chain.from_iterable(taken_s)
                    # each client's own pace: a read that began before the end is let finish
                    rates[n].append(sum(len(one) * size_bytes / sum(one) for one in taken_s))
    first = stands[0].setting.shards
    medians = [float(np.median(rate)) for rate in rates]
    return [
        ShardsRow(
            op="get",
            size_bytes=size_bytes,
            scheme=here.conditions.scheme,
            clients=clients,
            shards=here.setting.shards,
            nodes=here.setting.nodes,
            node_bytes_per_s=here.setting.node_bytes_per_s,
            rounds=rounds,
            n_calls=len(calls_s[n]),
            median_s=float(np.median(calls_s[n])),
            p99_s=float(np.percentile(calls_s[n], 99)),
            bytes_per_s=medians[n],
            growth=medians[n] / medians[0],
            shards_ratio=here.setting.shards / first,
        )
        for n, here in enumerate(stands)
    ]


def _ring(here: Stand) -> Ring:
    """Which shard of a cache has which key."""
    names = [f"shard-{i}" for i in range(here.setting.shards)]
    return Ring(epoch=1, shards=dict.fromkeys(names, 1.0))


def _spread_keys(rings: Sequence[Ring]) -> list[str]:
    """Keys of which every shard of every cache has an equal part, as far as their number allows."""
    keys: list[str] = []
    counts = [Counter[str]() for _ in rings]
    for i in itertools.count():
        key = f"shards/{i}"
        owners = [ring.owner(key) for ring in rings]
        if all(n[owner] < -(-_KEYS // len(ring.shards)) for ring, owner, n in zip(rings, owners, counts, strict=True)):
            keys.append(key)
            for n, owner in zip(counts, owners, strict=True):
                n[owner] += 1
        if len(keys) == _KEYS:
            return keys
    raise AssertionError


def _round(
    pool: ThreadPoolExecutor, here: Stand, values: dict[str, ByteArray], clients: int, round_s: float
) -> list[list[float]]:
    """Seconds of each call of each client."""
    together = threading.Barrier(clients)
    keys = list(values)

    def client(number: int) -> list[float]:
        taken_s: list[float] = []
        together.wait(_BARRIER_S)
        end_s = time.perf_counter() + round_s
        for i in itertools.count(number * len(keys) // clients):
            key = keys[i % len(keys)]
            start_s = time.perf_counter()
            found = here.cache.get(key)
            taken_s.append(time.perf_counter() - start_s)
            if not np.array_equal(found[:64], values[key][:64]) or len(found) != len(values[key]):
                raise TargetFailed(system="infiniray", detail=f"{key} came back with other bytes than were stored")
            if time.perf_counter() > end_s:
                return taken_s
        raise AssertionError

    return [done.result() for done in [pool.submit(client, number) for number in range(clients)]]


def render_shards(rows: Sequence[ShardsRow]) -> str:
    """For people."""
    return "\n".join(
        f"{row.shards} shards, {row.nodes} nodes of {format_bytes(row.node_bytes_per_s)}/s: {row.clients} clients read "
        f"{format_bytes(row.size_bytes)} {row.scheme} at {row.bytes_per_s / 1e6:,.0f} MB/s, {row.growth:.2f} x "
        f"the first (median {row.median_s * 1e3:.1f} ms, p99 {row.p99_s * 1e3:.1f} ms, {row.n_calls:,} reads)"
        for row in rows
    )
