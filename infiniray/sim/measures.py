"""Figures over any number of requests in memory that does not grow with them."""

from __future__ import annotations

import hashlib
import math

__all__ = ["Latencies", "WorkingSet"]

_SMALLEST_S = 1e-6
_LOG_STEP = math.log(1.01)


class Latencies:
    """A histogram in steps of 1%: quantiles are within half of that."""

    def __init__(self) -> None:
        self.n = 0
        self._counts: dict[int, int] = {}

    def add(self, seconds: float) -> None:
        step = int(math.log(max(seconds, _SMALLEST_S) / _SMALLEST_S) / _LOG_STEP)
        self._counts[step] = self._counts.get(step, 0) + 1
        self.n += 1

    def quantile(self, share: float) -> float | None:
        """Seconds below which ``share`` of the latencies lie; None if there is none."""
        rank = math.ceil(share * self.n)
        for step in sorted(self._counts):
            rank -= self._counts[step]
            if rank <= 0:
                return float(f"{_SMALLEST_S * math.exp((step + 0.5) * _LOG_STEP):.4g}")
        return None

    def to_json_dict(self) -> dict[str, float | None]:
        return {"p50": self.quantile(0.5), "p90": self.quantile(0.9), "p99": self.quantile(0.99)}


class WorkingSet:
    """The distinct objects that were asked for, and their bytes.

    Exact up to ``limit`` objects; of more I keep those whose hash is small, and estimate (to about 1/sqrt(limit), for
    bytes somewhat worse, as sizes vary).
    """

    def __init__(self, limit: int = 1 << 16) -> None:
        self._limit = limit
        self._ceiling = 1 << 64
        self._kept: dict[int, int] = {}  # {hash of a key: bytes}
        self._n_bytes = 0

    def add(self, key: str, size_bytes: int) -> bool:
        """Note a request; the largest size that a key was seen with counts. Whether the key is new; where not all are
        kept, False for those that are not."""
        hashed = int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
        if hashed >= self._ceiling:
            return False
        known = self._kept.get(hashed)
        if known is None or size_bytes > known:
            self._kept[hashed] = size_bytes
            self._n_bytes += size_bytes - (known or 0)
        if len(self._kept) > self._limit:
            self._ceiling //= 2
            self._kept = {kept: size for kept, size in self._kept.items() if kept < self._ceiling}
            self._n_bytes = sum(self._kept.values())
        return known is None

    @property
    def n_objects(self) -> int:
        return round(len(self._kept) * self._scale)

    @property
    def n_bytes(self) -> int:
        return round(self._n_bytes * self._scale)

    @property
    def _scale(self) -> float:
        return (1 << 64) / self._ceiling
