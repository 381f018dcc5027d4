"""A steady stream that is broken by bursts: for a short while many more requests, all for a few new objects.

What a release does to a registry: everyone fetches the same new layers at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from workloads.generators.ycsb import zipf_ranks
from workloads.trace import Request

__all__ = ["Bursts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bursts:
    """What to generate: ``span_s`` of GETs, a burst of ``burst_s`` at the end of every ``period_s``.

    Within a burst the rate is ``factor`` times ``requests_per_s``; what comes on top goes to ``n_hot`` objects that no
    burst before has asked for. Otherwise requests are for ``n_objects`` by Zipf's law.

    Raises:
        ValueError: a number is out of range.
    """

    span_s: float = 3600.0
    requests_per_s: float = 1.0
    period_s: float = 600.0
    burst_s: float = 30.0
    factor: float = 20.0
    n_objects: int = 1000
    n_hot: int = 5
    size_bytes: int = 10_000_000
    theta: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 < self.burst_s <= self.period_s < float("inf") and 0 < self.span_s < float("inf")):
            raise ValueError("bursts must be shorter than their period, and times positive")
        if not (0 < self.requests_per_s < float("inf") and 1 <= self.factor < float("inf")):
            raise ValueError("the rate must be positive, and a burst's factor at least 1")
        if min(self.n_objects, self.n_hot) < 1 or min(self.size_bytes, self.seed, self.theta) < 0:
            raise ValueError("there must be objects, and neither size, seed nor theta is negative")

    def requests(self) -> Iterator[Request]:
        """The trace in order of time; the same bursts give the same one. Holds one period at a time."""
        rng = np.random.Generator(np.random.PCG64(self.seed))
        cumulative = zipf_ranks(self.n_objects, self.theta)
        for number in range(int(np.ceil(self.span_s / self.period_s))):
            begin_s = number * self.period_s
            steady_s = self._arrivals(rng, begin_s, self.period_s, self.requests_per_s)
            ranks = np.searchsorted(cumulative, rng.random(len(steady_s)), side="right")
            extra = self.requests_per_s * (self.factor - 1)
            burst_s = self._arrivals(rng, begin_s + self.period_s - self.burst_s, self.burst_s, extra)
            hot = (rng.random(len(burst_s)) * self.n_hot).astype(int)
            arrivals = [(at_s, f"steady/{rank:08d}") for at_s, rank in zip(steady_s, ranks.tolist(), strict=True)]
            arrivals += [(at_s, f"burst/{number:06d}/{h}") for at_s, h in zip(burst_s, hot.tolist(), strict=True)]
            for at_s, key in sorted(arrivals):
                if at_s < self.span_s:
                    yield Request(timestamp_s=at_s, key=key, size_bytes=self.size_bytes)

    def _arrivals(self, rng: np.random.Generator, begin_s: float, length_s: float, rate: float) -> list[float]:
        """A Poisson process, by its gaps: these need uniform random numbers alone."""
        times: list[float] = []
        at_s = begin_s
        while rate > 0 and (at_s := at_s - float(np.log1p(-rng.random())) / rate) < begin_s + length_s:
            times.append(round(at_s, 6))
        return times
