"""What a scaling changes: planned as a whole, and no more than has to be."""

from __future__ import annotations

import pytest

from infiniray.cluster.membership import Membership, plan
from infiniray.cluster.scaling import ScalePlan, plan_scale
from infiniray.config import Config
from infiniray.errors import ConfigError

KEYS = [f"key-{i}" for i in range(4000)]
MINIMUM = 3


def membership(shards: int, nodes: int) -> Membership:
    settings = {"ring": {"shards": shards}, "pool": {"nodes": nodes}, "redundancy": [{"scheme": "rs:2+1"}]}
    return plan(Config.load(None, settings, environ={}))


def planned(before: Membership, shards: int | None = None, nodes: int | None = None) -> ScalePlan:
    return plan_scale(before, shards=shards, nodes=nodes, minimum=MINIMUM)


def after(before: Membership, scaling: ScalePlan) -> Membership:
    return scaling.switched(scaling.prepared(before))


def moved(before: Membership, later: Membership) -> list[str]:
    return [key for key in KEYS if before.ring.owner(key) != later.ring.owner(key)]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_a_shard_that_joins_takes_its_share_and_nothing_else_moves(n: int) -> None:
    before = membership(n, 4 * n)
    later = after(before, planned(before, shards=n + 1))
    keys = moved(before, later)
    assert {later.ring.owner(key) for key in keys} == {f"shard-{n}"}
    assert 0.6 / (n + 1) < len(keys) / len(KEYS) < 1.5 / (n + 1)


@pytest.mark.parametrize("n", [2, 3, 4, 8])
def test_a_shard_that_leaves_gives_its_keys_away_and_nothing_else_moves(n: int) -> None:
    before = membership(n, 4 * n)
    later = after(before, planned(before, shards=n - 1))
    assert moved(before, later) == [key for key in KEYS if before.ring.owner(key) == f"shard-{n - 1}"]


def test_nodes_stay_with_their_shards() -> None:
    before = membership(2, 8)
    later = after(before, planned(before, shards=4, nodes=20))
    for shard, nodes in before.nodes.items():
        assert set(nodes) <= set(later.nodes[shard])
    assert sorted(map(len, later.nodes.values())) == [5, 5, 5, 5]
    assert len(set(later.all_nodes)) == 20


def test_a_new_shard_gets_as_many_nodes_as_the_others_have() -> None:
    before = membership(2, 12)
    assert {shard: len(nodes) for shard, nodes in planned(before, shards=3).joining.items()} == {"shard-2": 6}


def test_more_and_fewer_nodes_move_no_key() -> None:
    before = membership(2, 8)
    for nodes in (6, 12):
        later = after(before, planned(before, nodes=nodes))
        assert moved(before, later) == []
        assert later.former is None
        assert len(later.all_nodes) - len(later.leaving) == nodes


def test_nodes_that_leave_are_there_until_they_are_empty() -> None:
    before = membership(2, 10)
    scaling = planned(before, nodes=7)
    later = after(before, scaling)
    assert later.nodes == before.nodes
    assert later.leaving == {node for nodes in scaling.leaving.values() for node in nodes}
    assert sorted(len(set(nodes) - later.leaving) for nodes in later.nodes.values()) == [3, 4]


def test_what_was_prepared_can_be_undone() -> None:
    before = membership(2, 8)
    for scaling in (planned(before, shards=4), planned(before, nodes=13), planned(before, shards=3, nodes=9)):
        prepared = scaling.prepared(before)
        assert [prepared.ring.owner(key) for key in KEYS] == [before.ring.owner(key) for key in KEYS]
        assert scaling.undone(prepared) == before


def test_names_are_not_given_twice() -> None:
    before = membership(3, 12)
    smaller = after(before, planned(before, shards=2))
    settled = Membership(**{**{name: getattr(smaller, name) for name in smaller.__dataclass_fields__}, "former": None})
    again = planned(settled, shards=3)
    assert not {node for nodes in again.joining.values() for node in nodes} & set(settled.all_nodes)


def test_nothing_to_do_is_said() -> None:
    before = membership(2, 8)
    assert planned(before).is_nothing
    assert planned(before, shards=2, nodes=8).is_nothing


@pytest.mark.parametrize(("shards", "nodes"), [(0, None), (-1, None), (4, 8), (None, 5), (3, 8)])
def test_what_cannot_be_is_refused(shards: int | None, nodes: int | None) -> None:
    with pytest.raises(ConfigError):
        planned(membership(2, 8), shards=shards, nodes=nodes)
