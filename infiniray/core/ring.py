"""Consistent hashing with virtual nodes and weights (FAST'20 section 3.1; Karger et al., STOC'97).

One ring places both keys and nodes. Keys go to the shard whose point follows theirs. Nodes do too, but with bounded
load: each shard takes exactly its weight's share, so that every shard has enough distinct nodes for its widest scheme.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence

from infiniray.core.ids import NodeId
from infiniray.errors import ConfigError

__all__ = ["Ring"]


class Ring:
    """Which shard owns which key: immutable, picklable, the same in every process.

    Args:
        epoch: number of this membership version.
        shards: weight by shard name; a shard of weight 2 owns about twice the keys of one of weight 1.
        virtual_nodes: points for a shard of weight 1. More points balance better: the share of a shard deviates by
        about
            ``1 / sqrt(virtual_nodes)``.
    """

    __slots__ = ("_owners", "_points", "epoch", "shards", "virtual_nodes")

    def __init__(self, *, epoch: int, shards: Mapping[str, float], virtual_nodes: int = 128) -> None:
        if not shards or any(weight <= 0 for weight in shards.values()):
            raise ConfigError(detail=f"a ring needs shards of positive weight, not {dict(shards)!r}")
        self.epoch = epoch
        self.shards = dict(shards)
        self.virtual_nodes = virtual_nodes
        points = sorted(
            (_point(f"{shard}#{i}"), shard)
            for shard, weight in self.shards.items()
            for i in range(max(1, round(virtual_nodes * weight)))
        )
        self._points = [point for point, _ in points]
        self._owners = [shard for _, shard in points]

    def __reduce__(self) -> tuple[object, ...]:  # a few names, not thousands of points
        return _rebuild, (self.epoch, self.shards, self.virtual_nodes)

    def __repr__(self) -> str:
        return f"Ring(epoch={self.epoch}, shards={self.shards}, virtual_nodes={self.virtual_nodes})"

    def owner(self, key: str) -> str:
        """The shard that owns ``key``."""
        return self._owners[bisect_right(self._points, _point(key)) % len(self._points)]

    def assign(self, nodes: Sequence[NodeId], minimum: int = 1) -> dict[str, tuple[NodeId, ...]]:
        """Deal ``nodes`` out to shards along the ring, each shard up to its share.

        Raises:
            ConfigError: a shard would get fewer than ``minimum`` nodes.
        """
        room = self._shares(len(nodes))
        if min(room.values()) < minimum:
            raise ConfigError(
                detail=f"{len(nodes)} nodes over shards {self.shards} give one of them {min(room.values())}; "
                f"its widest scheme needs {minimum}"
            )
        dealt: dict[str, list[NodeId]] = {shard: [] for shard in self.shards}
        for node in sorted(nodes, key=lambda n: (_point(n), n)):
            shard = next(s for s in self._walk(_point(node)) if len(dealt[s]) < room[s])
            dealt[shard].append(node)
        return {shard: tuple(sorted(taken)) for shard, taken in dealt.items()}

    def _walk(self, point: int) -> Iterator[str]:
        start = bisect_right(self._points, point)
        for i in range(len(self._points)):
            yield self._owners[(start + i) % len(self._points)]

    def _shares(self, n_nodes: int) -> dict[str, int]:
        """Whole numbers in proportion to the weights that add up to ``n_nodes`` (largest remainder)."""
        total = sum(self.shards.values())
        exact = {shard: n_nodes * weight / total for shard, weight in self.shards.items()}
        shares = {shard: int(share) for shard, share in exact.items()}
        by_remainder = sorted(exact, key=lambda shard: (shares[shard] - exact[shard], shard))
        for shard in by_remainder[: n_nodes - sum(shares.values())]:
            shares[shard] += 1
        return shares


def _rebuild(epoch: int, shards: dict[str, float], virtual_nodes: int) -> Ring:
    return Ring(epoch=epoch, shards=shards, virtual_nodes=virtual_nodes)


def _point(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
