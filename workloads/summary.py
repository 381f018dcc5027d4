"""The figures by which traces are compared: how much they ask for, and how often again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workloads.trace import Method, Request

__all__ = ["TraceSummary", "summarize"]

_LARGE_BYTES = 10_000_000
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSummary:
    """Statistics of a trace's GETs.

    ``unique_bytes`` counts each object once, at the size of its first request; ``total_bytes`` each request.
    ``n_reused_within_hour`` counts the re-references that come at most an hour after the previous one.
    """

    n_gets: int
    n_objects: int
    n_large_objects: int  #: larger than 10 MB
    unique_bytes: int
    total_bytes: int
    largest_bytes: int
    n_reused_within_hour: int
    span_s: float

    @property
    def infinite_hit_ratio(self) -> float:
        """Share of GETs that a cache which never loses anything would hit; 0 for an empty trace."""
        return (self.n_gets - self.n_objects) / self.n_gets if self.n_gets else 0.0

    @property
    def reuse_within_hour(self) -> float:
        """Share of re-references at most an hour after the previous one; 0 if there are none."""
        n_reused = self.n_gets - self.n_objects
        return self.n_reused_within_hour / n_reused if n_reused else 0.0


def summarize(requests: Iterable[Request]) -> TraceSummary:
    """Statistics over ``requests``; memory grows with the number of distinct keys, not with the requests."""
    last_seen_s: dict[str, float] = {}
    n_gets = n_large = unique = total = largest = n_reused = 0
    span_s = 0.0
    for request in requests:
        span_s = request.timestamp_s
        if request.method is not Method.GET:
            continue
        n_gets += 1
        total += request.size_bytes
        largest = max(largest, request.size_bytes)
        seen_s = last_seen_s.get(request.key)
        if seen_s is None:
            unique += request.size_bytes
            n_large += request.size_bytes > _LARGE_BYTES
        else:
            n_reused += request.timestamp_s - seen_s <= _HOUR_S
        last_seen_s[request.key] = request.timestamp_s
    return TraceSummary(
        n_gets=n_gets,
        n_objects=len(last_seen_s),
        n_large_objects=n_large,
        unique_bytes=unique,
        total_bytes=total,
        largest_bytes=largest,
        n_reused_within_hour=n_reused,
        span_s=span_s,
    )
