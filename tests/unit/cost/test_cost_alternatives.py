"""What else would hold the objects."""

from __future__ import annotations

import pytest

from infiniray.cost.alternatives import (
    alternatives,
    cheapest_nodes,
    elasticache_nodes,
    elasticache_serverless,
    n_nodes,
    s3_express,
    s3_standard,
)
from infiniray.cost.comparison import compare
from infiniray.cost.model import Behaviour, Load, Pool, Side
from infiniray.cost.price_book import GIB, PriceBook, load_price_book
from infiniray.errors import PriceMissing

THEN, NOW = load_price_book("2019"), load_price_book("2026")


def without(book: PriceBook, *names: str) -> PriceBook:
    return book.model_copy(update={"entries": {k: v for k, v in book.entries.items() if k not in names}})


def test_fast20_fifty_hours_of_one_r5_24xlarge() -> None:
    found = elasticache_nodes(THEN, "cache.r5.24xlarge", 635 * 10**9)
    assert found.name == "ElastiCache, 1 x cache.r5.24xlarge"
    assert 50 * found.cost.usd_per_hour(3654) == pytest.approx(518.40)


def test_more_bytes_than_a_node_holds_take_more_nodes() -> None:
    one = NOW.node_bytes("cache.r5.large")
    assert [n_nodes(NOW, "cache.r5.large", n) for n in (0, 1, one, one + 1, 10 * one)] == [1, 1, 1, 2, 10]


def test_the_cheapest_nodes_are_small_for_little_and_large_for_much() -> None:
    assert cheapest_nodes(NOW, GIB).name == "ElastiCache, 1 x cache.r5.large"
    assert cheapest_nodes(NOW, 635 * GIB).name == "ElastiCache, 1 x cache.r5.24xlarge"  # 49 small ones cost more
    with pytest.raises(PriceMissing):
        cheapest_nodes(without(NOW, *(f"elasticache.node.{name}" for name in NOW.node_types())), GIB)


def test_serverless_is_billed_by_what_it_holds_and_by_the_kilobyte() -> None:
    valkey = elasticache_serverless(NOW, "valkey", held_bytes=100 * GIB, object_bytes=10_000 * 1024).cost
    assert valkey.fixed_usd_per_hour == pytest.approx(8.4)
    assert valkey.usd_per_request == pytest.approx(10_000 * 0.0023e-6)
    least = elasticache_serverless(NOW, "redis", held_bytes=0, object_bytes=1).cost
    assert (least.fixed_usd_per_hour, least.usd_per_request) == pytest.approx((0.125, 0.0034e-6))


def test_s3_is_billed_by_requests_and_express_by_bytes_too() -> None:
    standard = s3_standard(NOW, held_bytes=730 * GIB, put_share=0.5).cost
    assert standard.fixed_usd_per_hour == pytest.approx(0.023)
    assert standard.usd_per_request == pytest.approx((0.4e-6 + 5e-6) / 2)
    express = s3_express(NOW, held_bytes=730 * GIB, object_bytes=GIB, put_share=0.25).cost
    assert express.fixed_usd_per_hour == pytest.approx(0.11)
    assert express.usd_per_request == pytest.approx(0.25 * (1.13e-6 + 0.0032) + 0.75 * (0.03e-6 + 0.0006))


def test_what_was_not_sold_in_2019_is_left_out_and_named() -> None:
    found, gone = alternatives(THEN, held_bytes=GIB, object_bytes=10**7)
    assert [other.name.split(",")[0] for other in found] == ["ElastiCache", "ElastiCache", "S3 Standard"]
    assert len(gone) == 3
    assert len(alternatives(NOW, held_bytes=GIB, object_bytes=10**7)[0]) == 6


@pytest.mark.parametrize(
    "entry",
    [
        name
        for name in NOW.entries
        if not name.startswith(("elasticache.node.", "ec2.c5n.large", "lambda.gb_second.arm"))
    ],
)
def test_no_comparison_is_made_with_a_price_missing(entry: str) -> None:
    pool = Pool(n_nodes=400, memory_mb=1536, data_chunks=10, parity_chunks=2)
    load = Load(requests_per_hour=1.0, object_bytes=10**7)
    with pytest.raises(PriceMissing) as caught:
        compare(without(NOW, entry), pool, load, Behaviour(serve_ms=5.0))
    assert caught.value.entry == entry


def test_hosts_of_proxies_move_the_crossover() -> None:
    pool = Pool(n_nodes=400, memory_mb=1536, data_chunks=10, parity_chunks=2)
    load = Load(requests_per_hour=750.0, object_bytes=10**7)
    found = compare(THEN, pool, load, Behaviour(serve_ms=5.0, gets_read_parity=True), n_hosts=2)
    large = found.others[0]
    assert large.with_hosts.cheaper is large.metered.cheaper is Side.BELOW
    assert found.hosts.usd_per_hour == pytest.approx(2 * 0.864)
    moved = (large.metered.requests_per_hour or 0) - (large.with_hosts.requests_per_hour or 0)
    assert moved == pytest.approx(2 * 0.864 / 3.24e-5, rel=1e-3)


def test_no_hosts_need_no_price() -> None:
    pool = Pool(n_nodes=400, memory_mb=1536, data_chunks=10, parity_chunks=2)
    load = Load(requests_per_hour=1.0, object_bytes=10**7)
    found = compare(without(NOW, "ec2.c5n.4xlarge"), pool, load, Behaviour(serve_ms=5.0), n_hosts=0)
    assert found.hosts.usd_per_hour == 0
