"""A model of reads from nodes some of which are slow: how long they take, and what they move.

This is a model, not a measurement: chunks' times are drawn from distributions (:class:`NodeModel`), and reads follow
the rules of :mod:`infiniray.core.reading` with its constants: k chunks first, the others at once (``Hedge.ALL``,
FAST'20) or when the first are overdue (``Hedge.DELAYED``), the first k that come win, the rest are cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infiniray.codec.schemes import Scheme, SchemeKind
from infiniray.core.policy import Hedge
from infiniray.core.reading import OVERDUE_SHARE, SLOW_RATE_FACTOR
from infiniray.errors import ConfigError

__all__ = ["ChunkTimes", "HedgeRule", "Layout", "NodeModel", "Reads", "draw_times", "model_reads"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeModel:
    """How long a node takes for a chunk: a start, then its bytes, both log-normal; now and then a straggler.

    The medians are such that 10+2 comes near the GET medians of FAST'20 Fig. 11 (functions of 1024 MB: 33 ms for 10 MB,
    144 ms for 100 MB). A straggler's transfer takes ``straggler_factor`` times as long at least, by a Pareto
    distribution of ``straggler_shape``, at most ``straggler_factor_max`` times.
    """

    start_s: float = 0.019
    start_sigma: float = 0.25
    bytes_per_s: float = 95e6
    rate_sigma: float = 0.1
    straggler_share: float = 0.02
    straggler_factor: float = 3.0
    straggler_shape: float = 1.5
    straggler_factor_max: float = 60.0
    #: of the object; the codec's is measured by `infiniray lecture raid`
    decode_bytes_per_s: float = 6e9

    def __post_init__(self) -> None:
        if not 0 <= self.straggler_share <= 1 or self.straggler_factor < 1:
            share, factor = self.straggler_share, self.straggler_factor
            raise ConfigError(detail=f"stragglers: a share of 0 to 1 and a factor from 1 on, not {share} and {factor}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How an object lies on nodes: in ``n_parts``, each stored by ``scheme``, all read at the same time.

    ``rs:10+2`` is one part of twelve chunks. Ten parts by ``mirror:2`` are replication that reads from as many nodes at
    once: what a comparison with erasure coding has to be made with.
    """

    scheme: Scheme
    n_parts: int = 1

    def __str__(self) -> str:
        return str(self.scheme) if self.n_parts == 1 else f"{self.n_parts} x {self.scheme}"

    def part_bytes(self, object_bytes: int) -> int:
        return -(-object_bytes // self.n_parts)

    def chunk_bytes(self, object_bytes: int) -> int:
        return self.scheme.chunk_bytes(self.part_bytes(object_bytes))


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeRule:
    """When the other chunks are asked for; ``hedge`` None: never. The numbers are those of the read policy, for chunks
    of less than 1 MiB: large ones are looked at while they are on their way, and stragglers replaced earlier."""

    hedge: Hedge | None
    hedge_delay_s: float = 0.02
    min_bytes_per_s: float = 20 * (1 << 20)

    def __str__(self) -> str:
        return "never" if self.hedge is None else self.hedge.value

    def at_latest_s(self, scheme: Scheme, part_bytes: int) -> float:
        """When others are asked for though too few chunks have come to tell what is normal."""
        if scheme.k <= scheme.r:
            return self.hedge_delay_s
        return self.hedge_delay_s + part_bytes / (SLOW_RATE_FACTOR * self.min_bytes_per_s)

    def at_s(self, scheme: Scheme, part_bytes: int, first_k_s: Floats) -> Floats:
        """When the others are asked for, if the read is not through before; ``first_k_s`` is of shape (..., k), and
        says when the first k chunks come."""
        reads = first_k_s.shape[:-1]
        if self.hedge is None or not scheme.r:
            return np.full(reads, np.inf)
        if self.hedge is Hedge.ALL:
            return np.zeros(reads)
        latest_s = self.at_latest_s(scheme, part_bytes)
        n_enough = scheme.k - scheme.r
        if n_enough < 1:
            return np.full(reads, latest_s)
        enough_s = np.sort(first_k_s, axis=-1)[..., n_enough - 1]
        overdue_s = np.maximum(self.hedge_delay_s, (1 + OVERDUE_SHARE) * enough_s)
        return np.where(enough_s < latest_s, overdue_s, latest_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkTimes:
    """What was drawn for each chunk, shape (reads, parts, n): seconds until its bytes begin to come, and then take."""

    start_s: Floats
    transfer_s: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """One number for each read, shape (reads,). Bytes are those of chunks that crossed the network: as the cache does
    it, which cancels late chunks on the wire, and ``uncancelled_bytes`` as FAST'20 does, which lets them come."""

    latency_s: Floats
    moved_bytes: Floats
    uncancelled_bytes: Floats
    is_decoded: npt.NDArray[np.bool_]


def draw_times(model: NodeModel, layout: Layout, object_bytes: int, n_reads: int, seed: int) -> ChunkTimes:
    """Times of all chunks of ``n_reads`` reads. The same seed and layout give the same, whatever the hedging."""
    scheme = layout.scheme
    random = np.random.default_rng([seed, layout.n_parts, scheme.k, scheme.r])
    shape = (n_reads, layout.n_parts, scheme.n)
    start_s = model.start_s * random.lognormal(0.0, model.start_sigma, shape)
    transfer_s = layout.chunk_bytes(object_bytes) / model.bytes_per_s * random.lognormal(0.0, model.rate_sigma, shape)
    tail = model.straggler_factor * (1 + random.pareto(model.straggler_shape, shape))
    factors = np.where(random.random(shape) < model.straggler_share, np.minimum(tail, model.straggler_factor_max), 1.0)
    return ChunkTimes(start_s=start_s, transfer_s=transfer_s * factors)


def model_reads(model: NodeModel, layout: Layout, rule: HedgeRule, object_bytes: int, times: ChunkTimes) -> Reads:
    """Reads of an object of ``object_bytes`` that lies as ``layout`` says; a read ends with its slowest part."""
    scheme = layout.scheme
    alone_s = times.start_s + times.transfer_s  # from asking to having
    asked_s = np.zeros_like(alone_s)
    hedge_s = rule.at_s(scheme, layout.part_bytes(object_bytes), alone_s[..., : scheme.k])
    asked_s[..., scheme.k :] = hedge_s[..., np.newaxis]
    done_s = asked_s + alone_s
    enough_s = np.sort(done_s, axis=-1)[..., scheme.k - 1 : scheme.k]  # the k-th to come; shape (reads, parts, 1)
    is_asked = asked_s < enough_s
    progress = np.clip((enough_s - asked_s - times.start_s) / times.transfer_s, 0.0, 1.0)
    moved = np.where(is_asked, progress, 0.0)
    lacks_data = np.any(done_s[..., : scheme.k] > enough_s, axis=(1, 2))
    is_decoded = np.logical_and(lacks_data, scheme.kind is not SchemeKind.MIRROR)
    decode_s = np.where(is_decoded, object_bytes / model.decode_bytes_per_s, 0.0)
    chunk_bytes = layout.chunk_bytes(object_bytes)
    return Reads(
        latency_s=enough_s.max(axis=(1, 2)) + decode_s,
        moved_bytes=chunk_bytes * moved.sum(axis=(1, 2)),
        uncancelled_bytes=chunk_bytes * is_asked.sum(axis=(1, 2)).astype(np.float64),
        is_decoded=is_decoded,
    )
