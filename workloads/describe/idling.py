"""What giving idle objects up is worth: the hits that a cache without other limits has, and the bytes that it holds."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from workloads.trace import Method, Request

__all__ = ["Idling", "idling"]

_GB_H = 1e9 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Idling:
    """Objects are given up after ``idle_gb_h`` gigabytes times hours, redundancy included, since their last use;
    infinity: never. ``mean_bytes``: held, over the time of the trace, redundancy included, as are ``most_bytes``.
    """

    idle_gb_h: float
    hit_ratio: float
    mean_bytes: float
    most_bytes: float

    def to_json_dict(self) -> dict[str, Any]:
        never = math.isinf(self.idle_gb_h)
        return {
            "idle_gb_h": None if never else self.idle_gb_h,
            "hit_ratio": self.hit_ratio,
            "mean_bytes": self.mean_bytes,
            "most_bytes": self.most_bytes,
        }


class _Holding:
    """I am a cache that gives up what is idle, and nothing else."""

    def __init__(self, idle_gb_h: float, overhead: float, largest_bytes: float) -> None:
        self.idle_gb_h = idle_gb_h
        self.n_gets = self.n_hits = 0
        self.held_bytes = self.most_bytes = self.byte_s = 0.0
        self._idle_byte_s = idle_gb_h * _GB_H
        self._overhead = overhead
        self._largest_bytes = largest_bytes
        self._held: dict[str, tuple[float, float]] = {}  # key: (last use, bytes held for it)
        self._ends: list[tuple[float, str]] = []
        self._now_s = 0.0

    def ask(self, request: Request) -> None:
        self._pass_to(request.timestamp_s)
        held = self._held.get(request.key)
        if request.method is Method.GET:
            self.n_gets += 1
            self.n_hits += held is not None
        if held is not None and request.method is Method.GET:
            self._held[request.key] = (self._now_s, held[1])
        elif request.size_bytes <= self._largest_bytes:
            stored_bytes = max(request.size_bytes, 1) * self._overhead
            self.held_bytes += stored_bytes - (held[1] if held is not None else 0.0)
            self.most_bytes = max(self.most_bytes, self.held_bytes)
            self._held[request.key] = (self._now_s, stored_bytes)
            heapq.heappush(self._ends, (self._end_s(request.key), request.key))

    def _end_s(self, key: str) -> float:
        used_s, stored_bytes = self._held[key]
        return used_s + self._idle_byte_s / stored_bytes

    def _pass_to(self, now_s: float) -> None:
        while self._ends and self._ends[0][0] <= now_s:
            at_s, key = heapq.heappop(self._ends)
            if key not in self._held:
                continue
            end_s = self._end_s(key)
            if end_s > at_s:
                heapq.heappush(self._ends, (end_s, key))  # it was used meanwhile
                continue
            self._wait_until(at_s)
            self.held_bytes -= self._held.pop(key)[1]
        self._wait_until(now_s)

    def _wait_until(self, at_s: float) -> None:
        self.byte_s += self.held_bytes * (at_s - self._now_s)
        self._now_s = at_s

    def told(self) -> Idling:
        return Idling(
            idle_gb_h=self.idle_gb_h,
            hit_ratio=self.n_hits / self.n_gets if self.n_gets else 0.0,
            mean_bytes=self.byte_s / self._now_s if self._now_s else self.held_bytes,
            most_bytes=self.most_bytes,
        )


def idling(
    requests: Iterable[Request], after_gb_h: Sequence[float], *, overhead: float = 1.2, largest_bytes: float = math.inf
) -> list[Idling]:
    """What a look-aside cache that loses nothing and has room for everything comes to, for each of ``after_gb_h``.

    Args:
        overhead: bytes held for a byte stored: 1.2 for 10+2.
        largest_bytes: larger objects are not kept.
    """
    caches = [_Holding(after, overhead, largest_bytes) for after in after_gb_h]
    for request in requests:
        for cache in caches:
            cache.ask(request)
    return [cache.told() for cache in caches]
