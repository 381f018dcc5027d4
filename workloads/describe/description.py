"""The statistics of a trace, in one pass over its requests.

They are those by which the published workloads are told: sizes, where the bytes are, popularity, reuse, the hours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from workloads.describe.histogram import LogHistogram
from workloads.describe.objects import LARGE_BYTES, ObjectSample
from workloads.trace import Method, Request

__all__ = [
    "CAPACITIES_BYTES",
    "LIMITS_BYTES",
    "MAX_OBJECTS",
    "QUANTILES",
    "REUSE_S",
    "TOPS",
    "TraceDescription",
    "describe",
]

#: objects that are followed one by one; some 100 MB of memory
MAX_OBJECTS = 200_000
QUANTILES = (0.10, 0.25, 0.50, 0.75, 0.90, 0.99)
TOPS = (0.01, 0.02, 0.05, 0.10, 0.20, 0.50)
REUSE_S = (60.0, 600.0, 3600.0, 6 * 3600.0, 24 * 3600.0)
CAPACITIES_BYTES = (1e9, 10e9, 50e9, 100e9, 400e9, 635.61e9, 1e12)
#: sizes at which the published distributions are told
LIMITS_BYTES = (1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9)
#: objects above it are skipped by some caches, the paper's among them
HUGE_BYTES = 2 << 30
#: the most popular objects, by which Zipf's exponent is told: those behind have a handful of requests each
_ZIPF_RANKS = 1000
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceDescription:
    """Statistics of a trace; a reference is a GET, and a re-reference one of an object that was asked for before.

    Counts of requests, their bytes and hours are exact; quantiles of sizes and times are right to 0.2%. Whatever is
    said of objects (also reuse, popularity and LRU) is exact if ``followed_share`` is 1, and otherwise an estimate
    from that share of the objects.
    """

    n_gets: int
    n_puts: int
    n_large_gets: int
    get_bytes: int
    put_bytes: int
    largest_bytes: int
    span_s: float
    gets_by_hour: dict[int, int]  #: {hours since the first request: GETs}; hours without any are left out
    bytes_by_hour: dict[int, int]  #: the same, bytes read
    followed_share: float
    n_objects: int
    n_large_objects: int
    n_huge_objects: int  #: above ``HUGE_BYTES``
    unique_bytes: int
    large_unique_bytes: int
    seen_once_share: float  #: of objects with a GET
    large_accessed_10_share: float  #: of large objects: ten GETs or more
    infinite_hit_ratio: float
    popularity: dict[float, float]  #: {share of objects, the most popular first: their share of the GETs}
    popularity_curve: list[tuple[float, float]]
    zipf_exponent: float | None  #: slope of log(GETs) over log(rank), the first 1,000; None of fewer than 10 objects
    get_sizes: LogHistogram
    object_sizes: LogHistogram
    object_bytes: LogHistogram  #: object sizes, each weighing its bytes
    reuse_s: LogHistogram
    large_reuse_s: LogHistogram
    lru_bytes: LogHistogram

    @property
    def hourly_gets(self) -> list[int]:
        """GETs of every hour from the first to the last, empty ones too."""
        return [self.gets_by_hour.get(hour, 0) for hour in range(max(self.gets_by_hour, default=-1) + 1)]

    @property
    def large_object_share(self) -> float:
        return self.n_large_objects / self.n_objects if self.n_objects else 0.0

    @property
    def large_byte_share(self) -> float:
        """Share of the distinct bytes that lies in large objects."""
        return self.large_unique_bytes / self.unique_bytes if self.unique_bytes else 0.0

    def lru_hit_ratio(self, capacity_bytes: float) -> float:
        """Share of GETs that an LRU cache of that capacity would hit."""
        return self.infinite_hit_ratio * self.lru_bytes.share_at_most(capacity_bytes)

    def to_json_dict(self) -> dict[str, Any]:
        """The figures as JSON documents hold them; bytes, seconds and shares from 0 to 1."""
        hourly = self.hourly_gets
        return {
            "gets": self.n_gets,
            "puts": self.n_puts,
            "get_bytes": self.get_bytes,
            "put_bytes": self.put_bytes,
            "span_s": self.span_s,
            "gets_per_hour": {"mean": _mean(hourly), "min": min(hourly, default=0), "max": max(hourly, default=0)},
            "gets_by_hour": hourly,
            "objects": self.n_objects,
            "unique_bytes": self.unique_bytes,
            "followed_share": self.followed_share,
            "get_size_bytes": {**_quantiles(self.get_sizes), "max": self.largest_bytes},
            "object_size_bytes": _quantiles(self.object_sizes),
            "objects_at_most": _at_most(self.object_sizes),
            "bytes_in_objects_at_most": _at_most(self.object_bytes),
            "objects_above_2_gib": self.n_huge_objects,
            "large": {
                "above_bytes": LARGE_BYTES,
                "object_share": self.large_object_share,
                "byte_share": self.large_byte_share,
                "get_share": self.n_large_gets / self.n_gets if self.n_gets else 0.0,
                "accessed_10_times_share": self.large_accessed_10_share,
                "reuse_within": _within(self.large_reuse_s),
            },
            "seen_once_share": self.seen_once_share,
            "popularity": {f"{top:g}": share for top, share in self.popularity.items()},
            "zipf_exponent": self.zipf_exponent,
            "infinite_hit_ratio": self.infinite_hit_ratio,
            "reuse_within": _within(self.reuse_s),
            "lru_hit_ratio": {f"{capacity:.0f}": self.lru_hit_ratio(capacity) for capacity in CAPACITIES_BYTES},
        }


def describe(requests: Iterable[Request], *, max_objects: int = MAX_OBJECTS) -> TraceDescription:
    """Statistics over ``requests``, in memory that is bounded by ``max_objects`` and the number of hours."""
    counts = _Counts()
    sample = ObjectSample(max_objects)
    for request in requests:
        counts.add(request)
        sample.add(request)
    return _description(counts, sample)


class _Counts:
    """What is counted of every request."""

    def __init__(self) -> None:
        self.n_gets = self.n_puts = self.n_large_gets = self.get_bytes = self.put_bytes = self.largest_bytes = 0
        self.span_s = 0.0
        self.sizes = LogHistogram()
        self.gets_by_hour: defaultdict[int, int] = defaultdict(int)
        self.bytes_by_hour: defaultdict[int, int] = defaultdict(int)

    def add(self, request: Request) -> None:
        self.span_s = request.timestamp_s
        self.largest_bytes = max(self.largest_bytes, request.size_bytes)
        if request.method is not Method.GET:
            self.n_puts += 1
            self.put_bytes += request.size_bytes
            return
        hour = int(request.timestamp_s // _HOUR_S)
        self.n_gets += 1
        self.n_large_gets += request.size_bytes > LARGE_BYTES
        self.get_bytes += request.size_bytes
        self.sizes.add(request.size_bytes)
        self.gets_by_hour[hour] += 1
        self.bytes_by_hour[hour] += request.size_bytes


def _description(counts: _Counts, sample: ObjectSample) -> TraceDescription:
    followed = list(sample.objects.values())
    sizes = np.array([known.size_bytes for known in followed], np.float64)
    n_gets = np.array([known.n_gets for known in followed], np.int64)
    is_large = sizes > LARGE_BYTES
    object_sizes, object_bytes = LogHistogram(), LogHistogram()
    for known in followed:
        object_sizes.add(known.size_bytes)
        object_bytes.add(known.size_bytes, known.size_bytes)
    curve = _popularity(n_gets)
    return TraceDescription(
        n_gets=counts.n_gets,
        n_puts=counts.n_puts,
        n_large_gets=counts.n_large_gets,
        get_bytes=counts.get_bytes,
        put_bytes=counts.put_bytes,
        largest_bytes=counts.largest_bytes,
        span_s=counts.span_s,
        gets_by_hour=dict(counts.gets_by_hour),
        bytes_by_hour=dict(counts.bytes_by_hour),
        followed_share=sample.share,
        n_objects=round(len(followed) / sample.share),
        n_large_objects=round(int(is_large.sum()) / sample.share),
        n_huge_objects=round(int((sizes > HUGE_BYTES).sum()) / sample.share),
        unique_bytes=round(sum(known.size_bytes for known in followed) / sample.share),
        large_unique_bytes=round(sum(k.size_bytes for k in followed if k.size_bytes > LARGE_BYTES) / sample.share),
        seen_once_share=_mean(n_gets[n_gets > 0] == 1),
        large_accessed_10_share=_mean(n_gets[is_large] >= 10),
        infinite_hit_ratio=sample.reuse_s.total / sample.n_gets if sample.n_gets else 0.0,
        popularity={top: _share_of_top(n_gets, top) for top in TOPS},
        popularity_curve=curve,
        zipf_exponent=_zipf_exponent(n_gets),
        get_sizes=counts.sizes,
        object_sizes=object_sizes,
        object_bytes=object_bytes,
        reuse_s=sample.reuse_s,
        large_reuse_s=sample.large_reuse_s,
        lru_bytes=sample.distance_bytes,
    )


def _share_of_top(n_gets: npt.NDArray[np.int64], top: float) -> float:
    """Share of the GETs that goes to the ``top`` share of the objects that were read; of one object at least."""
    ranked = np.sort(n_gets[n_gets > 0])[::-1]
    return float(ranked[: max(1, round(top * len(ranked)))].sum() / ranked.sum()) if len(ranked) else 0.0


def _popularity(n_gets: npt.NDArray[np.int64], n_points: int = 400) -> list[tuple[float, float]]:
    """Points of the popularity curve, evenly over the logarithm of the rank."""
    ranked = np.sort(n_gets[n_gets > 0])[::-1]
    if not len(ranked):
        return []
    shares = np.cumsum(ranked) / ranked.sum()
    ranks = np.unique(np.geomspace(1, len(ranked), n_points).astype(int))
    return [(float(rank / len(ranked)), float(shares[rank - 1])) for rank in ranks]


def _zipf_exponent(n_gets: npt.NDArray[np.int64]) -> float | None:
    """By least squares over the logarithms of rank and GETs."""
    ranked = np.sort(n_gets[n_gets > 0])[::-1][:_ZIPF_RANKS]
    if len(ranked) < 10:
        return None
    slope, _ = np.polyfit(np.log(np.arange(1, len(ranked) + 1)), np.log(ranked), 1)
    return -float(slope)


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _quantiles(sizes: LogHistogram) -> dict[str, float]:
    return {f"p{share * 100:.0f}": round(sizes.quantile(share)) for share in QUANTILES}


def _at_most(sizes: LogHistogram) -> dict[str, float]:
    return {f"{limit:.0f}": sizes.share_at_most(limit) for limit in LIMITS_BYTES}


def _within(gaps_s: LogHistogram) -> dict[str, float]:
    return {f"{limit_s:.0f}s": gaps_s.share_at_most(limit_s) for limit_s in REUSE_S}
