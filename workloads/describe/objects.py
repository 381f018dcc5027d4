"""Statistics per object in bounded memory: of all objects while they are few, of a fair sample of them beyond.

The sample is taken by a hash of the key (spatial sampling: Waldspurger et al., "Efficient MRC Construction with
SHARDS", FAST'15): an object is followed through the whole trace or not at all.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from workloads.describe.distances import StackDistances
from workloads.describe.histogram import LogHistogram
from workloads.trace import Method, Request

__all__ = ["LARGE_BYTES", "FollowedObject", "ObjectSample"]

#: objects above it are called large, as in the paper (Wang et al., FAST'20)
LARGE_BYTES = 10_000_000
_HASHES = 1 << 64


@dataclass(slots=True)
class FollowedObject:
    """``size_bytes`` is the largest that the trace has said: a transfer that broke off is logged with less."""

    size_bytes: int
    last_s: float
    n_gets: int = 0


class ObjectSample:
    """I follow at most ``max_objects`` objects. ``share`` is the share of all objects that I follow, 1 if all.

    My histograms count the re-references of followed objects only, thinned as the share falls; so their shapes
    estimate those of the whole trace, and their weight divided by ``share`` its number of re-references.
    """

    def __init__(self, max_objects: int) -> None:
        if max_objects < 2:
            raise ValueError(f"at least two objects must be followed, not {max_objects}")
        self.objects: dict[str, FollowedObject] = {}
        self.reuse_s = LogHistogram()  #: seconds since the previous request for the object
        self.large_reuse_s = LogHistogram()  #: the same, of objects above ``LARGE_BYTES``
        self.distance_bytes = LogHistogram()  #: what an LRU cache must hold to hit
        self.n_gets = 0.0
        self._distances = StackDistances()
        self._max_objects = max_objects
        self._below = _HASHES

    @property
    def share(self) -> float:
        return self._below / _HASHES

    def add(self, request: Request) -> None:
        """A PUT makes its object known, as a GET does; only GETs are counted as references."""
        if self._below < _HASHES and _hash(request.key) >= self._below:
            return
        is_get = request.method is Method.GET
        known = self.objects.get(request.key)
        distance = self._distances.access(request.key, request.size_bytes)
        if known is None:
            known = self.objects[request.key] = FollowedObject(request.size_bytes, request.timestamp_s)
        elif is_get and distance is not None:
            self._count(request, known, distance)
        known.size_bytes = max(known.size_bytes, request.size_bytes)
        known.last_s = request.timestamp_s
        known.n_gets += is_get
        self.n_gets += is_get
        if len(self.objects) > self._max_objects:
            self._thin()

    def _count(self, request: Request, known: FollowedObject, distance: int) -> None:
        gap_s = request.timestamp_s - known.last_s
        self.reuse_s.add(gap_s)
        if known.size_bytes > LARGE_BYTES:
            self.large_reuse_s.add(gap_s)
        self.distance_bytes.add(distance / self.share)

    def _thin(self) -> None:
        """Follows only half of the objects from here on."""
        self._below //= 2
        for key in [key for key in self.objects if _hash(key) >= self._below]:
            del self.objects[key]
            self._distances.forget(key)
        for histogram in (self.reuse_s, self.large_reuse_s, self.distance_bytes):
            histogram.scale(0.5)
        self.n_gets /= 2


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
