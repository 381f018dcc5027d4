"""What else would hold the same objects: ElastiCache by the node and serverless, S3 Standard, S3 Express.

Each as a line over the request rate, so that it can be set beside the cache's own. Only what is bought for the objects
is counted: storage or nodes, requests, and bytes where they are billed; transfer is within one region, and free.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from infiniray.cost.model import LinearCost
from infiniray.cost.price_book import GIB, PriceBook

__all__ = [
    "HOURS_PER_MONTH",
    "Alternative",
    "NotOffered",
    "alternatives",
    "cheapest_nodes",
    "elasticache_nodes",
    "elasticache_serverless",
    "n_nodes",
    "s3_express",
    "s3_standard",
]

Engine = Literal["valkey", "redis"]

HOURS_PER_MONTH = 730  # as AWS's own calculator counts
_ECPU_BYTES = 1024
#: what the smallest serverless cache is billed as holding (https://aws.amazon.com/elasticache/pricing/)
_MINIMUM_GB: dict[Engine, float] = {"valkey": 0.1, "redis": 1.0}
_ENGINE_NAMES: dict[Engine, str] = {"valkey": "Valkey", "redis": "Redis OSS"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """Something to buy instead: ``name`` with how many of it, and what it costs."""

    name: str
    cost: LinearCost


@dataclass(frozen=True, slots=True, kw_only=True)
class NotOffered:
    """Something that could not be bought at the time of the price book, and why."""

    name: str
    why: str


def alternatives(
    book: PriceBook, *, held_bytes: int, object_bytes: int, put_share: float = 0.0
) -> tuple[list[Alternative], list[NotOffered]]:
    """All of them, for ``held_bytes`` of objects of ``object_bytes`` each, and what the book says was not offered.

    Raises:
        PriceMissing: the book lacks a price and does not say that it was not offered.
    """
    engines: tuple[Engine, ...] = ("valkey", "redis")
    found = [elasticache_nodes(book, node_type, held_bytes) for node_type in reversed(book.node_types())]
    gone: list[NotOffered] = []
    for engine in engines:
        name, why = _serverless_name(engine), book.why_not_offered(f"elasticache.serverless.{engine}")
        if why is None:
            found.append(elasticache_serverless(book, engine, held_bytes=held_bytes, object_bytes=object_bytes))
        else:
            gone.append(NotOffered(name=name, why=why))
    found.append(s3_standard(book, held_bytes=held_bytes, put_share=put_share))
    why = book.why_not_offered("s3.express")
    if why is None:
        found.append(s3_express(book, held_bytes=held_bytes, object_bytes=object_bytes, put_share=put_share))
    else:
        gone.append(NotOffered(name="S3 Express One Zone", why=why))
    return found, gone


# ---------------------------------------------------------------- ElastiCache


def n_nodes(book: PriceBook, node_type: str, held_bytes: int) -> int:
    """Nodes whose memory holds ``held_bytes``, at least one. Raises PriceMissing."""
    return max(1, -(-held_bytes // book.node_bytes(node_type)))


def elasticache_nodes(book: PriceBook, node_type: str, held_bytes: int) -> Alternative:
    """As many nodes of a type as hold ``held_bytes``, no replicas, billed whatever they do. Raises PriceMissing."""
    n = n_nodes(book, node_type, held_bytes)
    cost = LinearCost(fixed_usd_per_hour=n * book.node_usd_per_hour(node_type))
    return Alternative(name=f"ElastiCache, {n} x {node_type}", cost=cost)


def cheapest_nodes(book: PriceBook, held_bytes: int) -> Alternative:
    """The node type whose nodes hold ``held_bytes`` for the least. Raises PriceMissing where the book has no type."""
    types = book.node_types() or [""]  # of none, the missing entry is named
    return min(
        (elasticache_nodes(book, node_type, held_bytes) for node_type in types),
        key=lambda found: found.cost.fixed_usd_per_hour,
    )


def elasticache_serverless(book: PriceBook, engine: Engine, *, held_bytes: int, object_bytes: int) -> Alternative:
    """What is held by the hour, and an ECPU for each KB moved, at least one a request. Raises PriceMissing."""
    entry = f"elasticache.serverless.{engine}"
    held_gb = max(held_bytes / GIB, _MINIMUM_GB[engine])
    n_ecpus = max(1.0, object_bytes / _ECPU_BYTES)
    cost = LinearCost(
        fixed_usd_per_hour=held_gb * book.price(f"{entry}.gb_hour", per="GB-hour"),
        usd_per_request=n_ecpus * book.price(f"{entry}.ecpu", per="ECPU"),
    )
    return Alternative(name=_serverless_name(engine), cost=cost)


def _serverless_name(engine: Engine) -> str:
    return f"ElastiCache Serverless ({_ENGINE_NAMES[engine]})"


# ---------------------------------------------------------------- S3


def s3_standard(book: PriceBook, *, held_bytes: int, put_share: float) -> Alternative:
    """Storage and requests; a PUT is taken for one request, however large. Raises PriceMissing."""
    get_usd = book.price("s3.standard.get", per="request")
    put_usd = book.price("s3.standard.put", per="request")
    cost = LinearCost(
        fixed_usd_per_hour=_storage_usd_per_hour(book, "s3.standard", held_bytes),
        usd_per_request=_mix(put_share, put_usd, get_usd),
    )
    return Alternative(name="S3 Standard", cost=cost)


def s3_express(book: PriceBook, *, held_bytes: int, object_bytes: int, put_share: float) -> Alternative:
    """Storage, requests, and each byte that goes in or out. Raises PriceMissing."""
    object_gb = object_bytes / GIB
    get_usd = book.price("s3.express.get", per="request")
    put_usd = book.price("s3.express.put", per="request")
    retrieved_usd = object_gb * book.price("s3.express.retrieved_gb", per="GB")
    uploaded_usd = object_gb * book.price("s3.express.uploaded_gb", per="GB")
    cost = LinearCost(
        fixed_usd_per_hour=_storage_usd_per_hour(book, "s3.express", held_bytes),
        usd_per_request=_mix(put_share, put_usd + uploaded_usd, get_usd + retrieved_usd),
    )
    return Alternative(name="S3 Express One Zone", cost=cost)


def _storage_usd_per_hour(book: PriceBook, entry: str, held_bytes: int) -> float:
    return held_bytes / GIB * book.price(f"{entry}.gb_month", per="GB-month") / HOURS_PER_MONTH


def _mix(put_share: float, put_usd: float, get_usd: float) -> float:
    return math.fsum((put_share * put_usd, (1 - put_share) * get_usd))
