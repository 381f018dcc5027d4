"""Where chunks go: distinct nodes with room, the same ones for the same events."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infiniray.codec.schemes import SchemePolicy
from infiniray.core.context import Context
from infiniray.core.ids import NodeId
from infiniray.core.node import Node
from infiniray.core.placement import choose_nodes
from infiniray.core.policy import Policy, footprint_bytes


def a_context(seed: int = 0) -> Context:
    return Context(Policy(schemes=SchemePolicy.of([(None, "rs:4+2")]), seed=seed), epoch=1)


def pool(context: Context, *free_bytes: int) -> dict[NodeId, Node]:
    return {NodeId(f"n{i}"): Node(NodeId(f"n{i}"), free, context) for i, free in enumerate(free_bytes)}


@given(
    free=st.lists(st.integers(0, 100), max_size=12),
    needs=st.lists(st.integers(1, 100), min_size=1, max_size=6),
    excluded=st.sets(st.integers(0, 11)),
)
def test_every_chunk_gets_a_node_of_its_own_with_room(free: list[int], needs: list[int], excluded: set[int]) -> None:
    context = a_context()
    exclude = {NodeId(f"n{i}") for i in excluded}
    chosen = choose_nodes(pool(context, *free), needs, exclude, context, "salt")
    able = [i for i, room in enumerate(free) if room >= max(needs) and i not in excluded]
    assert (chosen is not None) == (len(able) >= len(needs))
    if chosen is not None:
        assert len({node.id for node in chosen}) == len(needs)
        assert all(node.free_bytes >= need for node, need in zip(chosen, needs, strict=True))
        assert exclude.isdisjoint(node.id for node in chosen)


def test_suspects_come_last() -> None:
    context = a_context()
    context.now_s = 100.0
    nodes = pool(context, *[10] * 6)
    for name in ("n0", "n1", "n2"):
        nodes[NodeId(name)].note_stall()
    for salt in range(20):
        chosen = choose_nodes(nodes, [1] * 4, (), context, salt)
        assert chosen is not None
        assert {node.id for node in chosen[:3]} == {"n3", "n4", "n5"}
    context.now_s += 60.0
    chosen_later = [choose_nodes(nodes, [1], (), context, salt) for salt in range(40)]
    assert {nodes[0].id for nodes in chosen_later if nodes} > {"n0", "n1", "n2"}


def test_the_same_salt_and_seed_give_the_same_nodes_and_others_do_not() -> None:
    def names(seed: int, salt: int) -> list[NodeId]:
        context = a_context(seed)
        chosen = choose_nodes(pool(context, *[10] * 20), [1] * 6, (), context, salt)
        assert chosen is not None
        return [node.id for node in chosen]

    assert names(1, 5) == names(1, 5)
    assert len({tuple(names(1, salt)) for salt in range(10)}) == 10
    assert names(1, 5) != names(2, 5)


def test_objects_spread_evenly() -> None:
    context = a_context()
    nodes = pool(context, *[10] * 12)
    count: Counter[NodeId] = Counter()
    for salt in range(600):
        count.update(node.id for node in choose_nodes(nodes, [1] * 6, (), context, salt) or ())
    assert set(count) == set(nodes)
    assert all(240 <= n <= 360 for n in count.values())  # 300 each, in expectation


@pytest.mark.parametrize(("chunk", "taken"), [(0, 4096), (1, 8192), (4096, 8192), (4097, 12288)])
def test_a_chunk_takes_whole_pages_and_one_for_its_description(chunk: int, taken: int) -> None:
    assert footprint_bytes(chunk) == taken
