"""How fast the kernels are on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from infiniray.codec.buffers import ByteArray
from infiniray.codec.coder import Coder
from infiniray.codec.kernels import find_kernel
from infiniray.codec.schemes import Scheme, SchemeKind
from infiniray.errors import ConfigError, SchemeError

__all__ = ["KernelSpeed", "measure_kernels", "take_turns"]

_Name = TypeVar("_Name")


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSpeed:
    """Median speed of one operation, in bytes of the object per second."""

    kernel: str
    operation: str
    median_s: float
    gb_per_s: float
    #: speed over that of zfec as its own users call it
    ratio: float


def measure_kernels(object_bytes: int, scheme: Scheme, rounds: int) -> list[KernelSpeed]:
    """Encode and worst-case decode (the first ``r`` data chunks lost) with every kernel of this machine.

    The first row is zfec as its own users call it, on chunks that are cut and padded beforehand. Outputs are reused
    from round to round, as the data path does, except zfec's, which it allocates itself. The contestants take turns
    in each round, so that a slow moment of the machine hits all of them.

    Raises:
        SchemeError: not a Reed-Solomon scheme, or nothing to measure.
    """
    if scheme.kind is not SchemeKind.RS or object_bytes < 1 or rounds < 1:
        raise SchemeError(detail=f"cannot measure {rounds} rounds of {scheme} on {object_bytes} bytes")
    data = np.random.default_rng(0).integers(0, 256, object_bytes, dtype=np.uint8)
    contestants = {("zfec by itself", "encode"): _plain_zfec(scheme, data)}
    for name in ("zfec", "isal"):
        try:
            coder = Coder(find_kernel(name))
        except ConfigError:  # this machine lacks it
            continue
        contestants[name, "encode"] = _encoding(coder, scheme, data)
        contestants[name, "decode"] = _decoding(coder, scheme, data)
    return _rows(object_bytes, take_turns(contestants, rounds))


def take_turns(contestants: Mapping[_Name, Callable[[], object]], rounds: int) -> dict[_Name, float]:
    """The median time of each, in seconds, over ``rounds`` (at least one) in which each runs once."""
    for run in contestants.values():
        run()  # first use builds tables and touches pages
    times_s: dict[_Name, list[float]] = {key: [] for key in contestants}
    for _ in range(rounds):
        for key, run in contestants.items():
            started_s = time.perf_counter()
            run()
            times_s[key].append(time.perf_counter() - started_s)
    return {key: statistics.median(times) for key, times in times_s.items()}


def _rows(object_bytes: int, medians_s: dict[tuple[str, str], float]) -> list[KernelSpeed]:
    reference_s = next(iter(medians_s.values()))
    return [
        KernelSpeed(
            kernel=kernel, operation=operation, median_s=median_s,
            gb_per_s=object_bytes / median_s / 1e9, ratio=reference_s / median_s,
        )
        for (kernel, operation), median_s in medians_s.items()
    ]  # fmt: skip


def _plain_zfec(scheme: Scheme, data: ByteArray) -> Callable[[], object]:
    import zfec

    padded = data.tobytes().ljust(scheme.k * scheme.chunk_bytes(len(data)), b"\0")
    size = scheme.chunk_bytes(len(data))
    chunks = [padded[start : start + size] for start in range(0, len(padded), size)]
    encoder, parity = zfec.Encoder(scheme.k, scheme.n), list(range(scheme.k, scheme.n))
    return lambda: encoder.encode(chunks, parity)


def _encoding(coder: Coder, scheme: Scheme, data: ByteArray) -> Callable[[], object]:
    outputs = list(np.empty((scheme.r, scheme.chunk_bytes(len(data))), dtype=np.uint8))
    return lambda: coder.encode_into(scheme, data, outputs)


def _decoding(coder: Coder, scheme: Scheme, data: ByteArray) -> Callable[[], object]:
    parity = coder.encode(scheme, data)
    ranges = [scheme.chunk_range(index, len(data)) for index in range(scheme.k)]
    present: dict[int, ByteArray] = {i: data[start:stop] for i, (start, stop) in enumerate(ranges)}
    present.update(enumerate(parity, start=scheme.k))
    n_lost = min(scheme.r, scheme.k)
    wanted = {index: np.empty_like(present.pop(index)) for index in range(n_lost)}
    return lambda: coder.reconstruct(scheme, len(data), present, wanted)
