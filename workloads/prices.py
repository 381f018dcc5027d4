"""What the alternative to the cache costs: ElastiCache, by the node hour or by what is held and moved."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ElastiCachePrices"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ElastiCachePrices:
    """Prices in USD. The defaults are those of the papers and of AWS's price list (us-east-1, x86, on demand).

    One ``node`` is billed by the hour, however little it holds: cache.r5.24xlarge is what FAST'20 section 5.2 compares
    with. Serverless (Valkey) bills the GB held by the hour, and an ECPU for each kB moved.
    """

    node: str = "cache.r5.24xlarge"
    node_capacity_gb: float = 635.61
    node_usd_per_hour: float = 10.368
    serverless_usd_per_gb_hour: float = 0.084
    serverless_usd_per_million_ecpu: float = 0.0023

    def nodes_usd(self, held_bytes: int, hours: float) -> float:
        """As many nodes as hold ``held_bytes``, at least one, for ``hours``."""
        return self.n_nodes(held_bytes) * self.node_usd_per_hour * hours

    def n_nodes(self, held_bytes: int) -> int:
        """Nodes that it takes to hold ``held_bytes``, at least one."""
        return max(1, -int(-held_bytes // int(self.node_capacity_gb * 1e9)))

    def serverless_usd(self, held_bytes: int, moved_bytes: int, hours: float) -> float:
        """``held_bytes`` for ``hours``, and ``moved_bytes`` in or out."""
        return (
            held_bytes / 1e9 * hours * self.serverless_usd_per_gb_hour
            + moved_bytes / 1e3 / 1e6 * self.serverless_usd_per_million_ecpu
        )
