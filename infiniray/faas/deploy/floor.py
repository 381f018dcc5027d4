"""What a pool costs when nobody uses it."""

from __future__ import annotations

from dataclasses import dataclass

from infiniray.config import Config
from infiniray.cost.price_book import Architecture, PriceBook, load_price_book

__all__ = ["CostFloor", "cost_floor"]

_DAYS = 30
_WARM_UPS_PER_MONTH = _DAYS * 24 * 60  # of each node: one a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class CostFloor:
    """USD a month for keeping ``n_nodes`` warm. Requests, backups, logs and the shards' hosts come on top."""

    n_nodes: int
    usd_per_month: float
    #: how it is calculated, with the prices in it
    formula: str
    source: str


def cost_floor(config: Config, book: PriceBook | None = None) -> CostFloor:
    """The monthly cost floor of a pool: every node warmed up once a minute, for one billing step each time.

    Args:
        book: prices; by default those of today (``infiniray/cost/books``).

    Raises:
        PriceMissing: a book of one's own lacks a price.
    """
    book = book or load_price_book()
    architecture: Architecture = "arm" if config.deploy.architecture == "arm64" else "x86"
    rates = book.function_rates(architecture)
    n_nodes, memory_mb = config.pool.nodes, config.pool.memory_mb
    request, compute = book.entries["lambda.request"], book.entries[f"lambda.gb_second.{architecture}"]
    return CostFloor(
        n_nodes=n_nodes,
        usd_per_month=rates.invocations_usd(n_nodes * _WARM_UPS_PER_MONTH, rates.billed_ms(1), memory_mb),
        formula=(
            f"{n_nodes} nodes x {_WARM_UPS_PER_MONTH:,} minutes x (${request.usd:g} / {request.quantity:,} requests + "
            f"{rates.step_ms} ms x {memory_mb:,} / 1,024 GB x ${compute.unit_usd:.10f} per GB-s)"
        ),
        source=f"{compute.source}, {compute.date} ({book.title})",
    )
