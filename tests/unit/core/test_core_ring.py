"""The ring: the same everywhere, balanced, and steady when shards come and go."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest

from infiniray.core.ids import NodeId
from infiniray.core.ring import Ring
from infiniray.errors import ConfigError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "ring.json").read_text())
KEYS = [f"key-{i}" for i in range(20_000)]
NODES = [NodeId(f"node-{i}") for i in range(40)]


def shares(ring: Ring) -> dict[str, float]:
    counts = Counter(map(ring.owner, KEYS))
    return {shard: counts[shard] / len(KEYS) for shard in ring.shards}


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: v["name"])
def test_placement_is_frozen(vector: dict[str, object]) -> None:
    """Changing it would lose every object of a running cache at the next update."""
    ring = Ring(epoch=1, shards=vector["shards"], virtual_nodes=vector["virtual_nodes"])  # type: ignore[arg-type]
    assert {key: ring.owner(key) for key in vector["owners"]} == vector["owners"]  # type: ignore[attr-defined]
    nodes = [NodeId(node) for taken in vector["nodes"].values() for node in taken]  # type: ignore[attr-defined]
    assert {shard: list(taken) for shard, taken in ring.assign(nodes).items()} == vector["nodes"]


@pytest.mark.parametrize(("virtual_nodes", "deviation"), [(16, 0.75), (128, 0.27), (1024, 0.10)])
def test_more_virtual_nodes_balance_better(virtual_nodes: int, deviation: float) -> None:
    """The share of a shard deviates by about 1 / sqrt(virtual nodes); three times that is the bound here."""
    ring = Ring(epoch=1, shards={f"s{i}": 1 for i in range(8)}, virtual_nodes=virtual_nodes)
    for shard, share in shares(ring).items():
        assert abs(share * 8 - 1) < deviation, shard


def test_a_heavier_shard_owns_more() -> None:
    owned = shares(Ring(epoch=1, shards={"light": 1, "heavy": 3}, virtual_nodes=512))
    assert owned["heavy"] == pytest.approx(0.75, abs=0.05)


def test_a_shard_that_joins_takes_its_share_and_nothing_else_moves() -> None:
    before = Ring(epoch=1, shards={f"s{i}": 1 for i in range(4)})
    after = Ring(epoch=2, shards={f"s{i}": 1 for i in range(5)})
    moved = [(before.owner(key), after.owner(key)) for key in KEYS if before.owner(key) != after.owner(key)]
    assert {to for _, to in moved} == {"s4"}
    assert len(moved) / len(KEYS) == pytest.approx(1 / 5, abs=0.05)


def test_a_shard_that_leaves_moves_only_its_own_keys() -> None:
    before = Ring(epoch=1, shards={"a": 1, "b": 1, "c": 1})
    after = Ring(epoch=2, shards={"a": 1, "b": 1})
    assert all(before.owner(key) == "c" for key in KEYS if before.owner(key) != after.owner(key))


def test_the_order_of_shards_does_not_matter() -> None:
    one, other = Ring(epoch=1, shards={"a": 1, "b": 2}), Ring(epoch=1, shards={"b": 2, "a": 1})
    assert all(one.owner(key) == other.owner(key) for key in KEYS[:1000])


@pytest.mark.parametrize(
    ("weights", "sizes"),
    [
        ({"a": 1, "b": 1}, {"a": 20, "b": 20}),
        ({"a": 1, "b": 1, "c": 1}, {"a": 14, "b": 13, "c": 13}),
        ({"a": 1, "b": 3}, {"a": 10, "b": 30}),
        ({"a": 0.5, "b": 0.25, "c": 0.25}, {"a": 20, "b": 10, "c": 10}),
    ],
)
def test_every_node_is_dealt_once_and_shares_are_exact(weights: dict[str, float], sizes: dict[str, int]) -> None:
    dealt = Ring(epoch=1, shards=weights).assign(NODES)
    assert {shard: len(taken) for shard, taken in dealt.items()} == sizes
    assert sorted(node for taken in dealt.values() for node in taken) == sorted(NODES)


def test_few_nodes_change_hands_when_a_shard_joins() -> None:
    before = Ring(epoch=1, shards={f"s{i}": 1 for i in range(4)}).assign(NODES)
    after = Ring(epoch=2, shards={f"s{i}": 1 for i in range(5)}).assign(NODES)
    stay = sum(len(set(before[shard]) & set(after[shard])) for shard in before)
    assert stay >= len(NODES) // 2  # 32 of 40 could; bounded load shifts some more


def test_too_few_nodes_for_the_widest_scheme_are_refused_with_numbers() -> None:
    ring = Ring(epoch=1, shards={"a": 1, "b": 1, "c": 1})
    assert ring.assign(NODES, minimum=13)
    with pytest.raises(ConfigError, match=r"40 nodes over shards .* give one of them 13; its widest scheme needs 14"):
        ring.assign(NODES, minimum=14)


@pytest.mark.parametrize("shards", [{}, {"a": 0}, {"a": 1, "b": -1}])
def test_a_ring_without_weight_is_refused(shards: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="positive weight"):
        Ring(epoch=1, shards=shards)


def test_it_travels_as_a_few_names() -> None:
    ring = Ring(epoch=7, shards={f"s{i}": 1 for i in range(16)}, virtual_nodes=1024)
    packed = pickle.dumps(ring)
    assert len(packed) < 500
    copy = pickle.loads(packed)
    assert repr(copy) == repr(ring)
    assert all(copy.owner(key) == ring.owner(key) for key in KEYS[:1000])
