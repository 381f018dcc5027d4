"""What is known of a choice without simulating it: the hits that its capacity allows, and about what it costs.

Capacity: the reuse distances of the trace, in bytes (Mattson et al., 1970, for objects of different sizes), give the
hit ratio of LRU for every capacity at once. Cost: the closed-form model of :mod:`infiniray.cost.model`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from infiniray.codec.schemes import Scheme
from infiniray.cost.model import Behaviour, Load, Pool, metered_cost, transfer_ms
from infiniray.cost.price_book import FunctionRates
from workloads.planner.space import Settings
from workloads.trace import Method, Request

__all__ = ["Arithmetic", "TraceProfile", "profile_trace"]

_INVOCATION_MS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceProfile:
    """The GETs of a trace. Arrays are over its re-references, shape (n,): bytes of the distinct objects asked for since
    the last time, its own included, and the object's size."""

    n_gets: int
    span_s: float
    total_bytes: int
    reuse_bytes: npt.NDArray[np.int64]
    sizes_bytes: npt.NDArray[np.int64]

    @property
    def hours(self) -> float:
        return self.span_s / 3600

    @property
    def best_hit_ratio(self) -> float:
        """Of an infinite cache that loses nothing."""
        return len(self.reuse_bytes) / self.n_gets if self.n_gets else 0.0

    def hit_ratio(self, capacity_bytes: int, largest_bytes: int) -> float:
        """Of LRU with so much room, that leaves out larger objects and loses nothing."""
        hits = (self.reuse_bytes <= capacity_bytes) & (self.sizes_bytes <= largest_bytes)
        return int(np.count_nonzero(hits)) / self.n_gets if self.n_gets else 0.0


def profile_trace(
    requests: Iterable[Request], until_s: float = math.inf, largest_bytes: float = math.inf
) -> TraceProfile:
    """The profile of a trace's first ``until_s`` seconds, in one pass; memory grows with the number of its GETs.

    A key's size is the one it was last asked for with. Objects of more than ``largest_bytes`` are never cached.
    """
    n_gets = 0
    keys: list[str] = []
    sizes: list[int] = []
    last_s = 0.0
    for request in requests:
        if request.timestamp_s > until_s:
            break
        last_s = request.timestamp_s
        if request.method is not Method.GET:
            continue
        n_gets += 1
        if request.size_bytes <= largest_bytes:
            keys.append(request.key)
            sizes.append(request.size_bytes)
    reuse, reused = _reuse_distances(keys, sizes)
    return TraceProfile(
        n_gets=n_gets, span_s=last_s, total_bytes=sum(sizes),
        reuse_bytes=np.array(reuse, dtype=np.int64), sizes_bytes=np.array(reused, dtype=np.int64),
    )  # fmt: skip


def _reuse_distances(keys: list[str], sizes: list[int]) -> tuple[list[int], list[int]]:
    """For each re-reference: bytes of distinct objects since, its own included, and its size. A Fenwick tree over
    positions holds each object's size where it was asked for last, so that a distance is a sum over a range."""
    tree = [0] * (len(keys) + 1)
    last: dict[str, int] = {}
    held_bytes: dict[str, int] = {}
    distances, reused = [], []
    total = 0  # of the whole tree
    for position, (key, size) in enumerate(zip(keys, sizes, strict=True), start=1):
        before = last.get(key)
        if before is not None:
            distances.append(total - _sum_until(tree, before) + size)
            reused.append(size)
            _add(tree, before, -held_bytes[key])
            total -= held_bytes[key]
        last[key], held_bytes[key] = position, size
        _add(tree, position, size)
        total += size
    return distances, reused


def _add(tree: list[int], position: int, value: int) -> None:
    while position < len(tree):
        tree[position] += value
        position += position & -position


def _sum_until(tree: list[int], position: int) -> int:
    total = 0
    while position:
        total += tree[position]
        position -= position & -position
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """I say before any simulation what a choice can hit at most, and about what it costs on the whole trace."""

    profile: TraceProfile
    rates: FunctionRates
    #: {(capacity, largest object), bytes: hit ratio}
    _hit_ratios: dict[tuple[int, int], float] = field(default_factory=dict, repr=False, compare=False)

    def hit_ratio_at_most(self, settings: Settings) -> float:
        """As if all memory held chunks and nothing was ever lost."""
        scheme = Scheme.parse(settings.scheme)
        node_bytes = settings.memory_mb << 20
        room = (int(settings.n_nodes * node_bytes * scheme.capacity_share), node_bytes * scheme.k)
        if room not in self._hit_ratios:
            self._hit_ratios[room] = self.profile.hit_ratio(*room)
        return self._hit_ratios[room]

    def usd(self, settings: Settings) -> float:
        """By the closed form: every request a GET that hits, every node warmed and backed up on time. A backup moves
        at most what came in since the last one, spread evenly."""
        profile, scheme = self.profile, Scheme.parse(settings.scheme)
        if not profile.n_gets or not profile.hours:
            return 0.0
        pool = Pool(
            n_nodes=settings.n_nodes, memory_mb=settings.memory_mb,
            data_chunks=scheme.k, parity_chunks=scheme.r,
        )  # fmt: skip
        mean_bytes = profile.total_bytes // profile.n_gets
        load = Load(requests_per_hour=profile.n_gets / profile.hours, object_bytes=mean_bytes)
        behaviour = Behaviour(
            serve_ms=_INVOCATION_MS + transfer_ms(scheme.chunk_bytes(mean_bytes)),
            linger_ms=1000 * settings.linger_s,
            warm_every_s=settings.warm_every_s or None,
            backup_every_s=settings.backup_every_s or None,
            backup_ms=_INVOCATION_MS + transfer_ms(self._backup_bytes(settings, scheme)),
        )
        return metered_cost(self.rates, pool, load, behaviour).usd_per_hour(load.requests_per_hour) * profile.hours

    def _backup_bytes(self, settings: Settings, scheme: Scheme) -> int:
        missed_bytes = self.profile.total_bytes * (1 - self.profile.best_hit_ratio) * scheme.overhead
        return int(missed_bytes / self.profile.span_s * settings.backup_every_s / settings.n_nodes)
