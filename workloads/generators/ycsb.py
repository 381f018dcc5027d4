"""Mixes like those of YCSB (Cooper et al., SoCC'10): Zipf popularity, objects of one size, reads and writes.

Only the mixes that a cache of whole objects can serve: A, B and C. The load phase of YCSB is ``preload``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workloads.trace import Method, Request

__all__ = ["MIXES", "YcsbMix", "zipf_ranks"]

#: {name: share of reads}
MIXES = {"a": 0.50, "b": 0.95, "c": 1.00}
_BATCH = 1 << 14


@dataclass(frozen=True, slots=True, kw_only=True)
class YcsbMix:
    """What to generate: ``n_requests`` after the preload, at a Poisson rate.

    Raises:
        ValueError: a number is out of range.
    """

    n_requests: int
    n_objects: int = 1000
    size_bytes: int = 10_000_000
    read_share: float = MIXES["b"]
    theta: float = 0.99  #: exponent of Zipf's law; 0 is uniform
    requests_per_s: float = 10.0
    preload: bool = False  #: one PUT of each object comes first, all at 0 s
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_requests < 1 or self.n_objects < 1 or self.size_bytes < 0 or self.seed < 0:
            raise ValueError("a mix needs at least one request and one object, and neither size nor seed is negative")
        if not 0 <= self.read_share <= 1:
            raise ValueError(f"the share of reads lies from 0 to 1, not at {self.read_share}")
        if not (0 <= self.theta < 100 and 0 < self.requests_per_s < float("inf")):
            raise ValueError("theta cannot be negative, and the rate must be positive")

    def requests(self) -> Iterator[Request]:
        """The trace in order of time; the same mix gives the same one."""
        rng = np.random.Generator(np.random.PCG64(self.seed))
        if self.preload:
            for number in range(self.n_objects):
                yield Request(timestamp_s=0.0, key=_key(number), size_bytes=self.size_bytes, method=Method.PUT)
        cumulative = zipf_ranks(self.n_objects, self.theta)
        # popularity has nothing to do with the order of names, as in YCSB's scrambled Zipf
        names = np.argsort(rng.random(self.n_objects))
        at_s, left = 0.0, self.n_requests
        while left:
            n = min(left, _BATCH)
            times_s = at_s + np.cumsum(-np.log1p(-rng.random(n)) / self.requests_per_s)
            numbers = names[np.searchsorted(cumulative, rng.random(n), side="right")]
            reads = rng.random(n) < self.read_share
            for time_s, number, is_read in zip(times_s.tolist(), numbers.tolist(), reads.tolist(), strict=True):
                method = Method.GET if is_read else Method.PUT
                yield Request(timestamp_s=round(time_s, 6), key=_key(number), size_bytes=self.size_bytes, method=method)
            at_s, left = float(times_s[-1]), left - n


def zipf_ranks(n_objects: int, theta: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Cumulative probability of the ``n_objects`` ranks under Zipf's law; the last is 1."""
    weights = np.arange(1, n_objects + 1, dtype=np.float64) ** -theta
    cumulative = np.cumsum(weights / weights.sum())
    cumulative[-1] = 1.0
    return np.asarray(cumulative)


def _key(number: int) -> str:
    return f"ycsb/user{number:010d}"
