"""Shards are spread over machines."""

from __future__ import annotations

from collections import Counter

import pytest
import ray
import ray.exceptions

from infiniray.cluster import rayapi
from infiniray.cluster.machines import spread
from infiniray.cluster.rayapi import Machine
from infiniray.errors import CacheUnavailable


def machines(n: int, n_cpus: float = 4) -> list[Machine]:
    return [Machine(id=f"m{i}", address=f"10.0.0.{i}", n_cpus=n_cpus) for i in range(n)]


def shards(n: int, first: int = 0) -> list[str]:
    return [f"shard-{i}" for i in range(first, first + n)]


def test_each_shard_has_a_machine_of_its_own_while_there_are_enough() -> None:
    assert sorted(spread(shards(3), machines(3), ()).values()) == ["m0", "m1", "m2"]
    assert len(set(spread(shards(2), machines(5), ()).values())) == 2


def test_with_fewer_machines_than_shards_none_has_two_more_than_another() -> None:
    counts = Counter(spread(shards(7), machines(3), ()).values())
    assert sorted(counts.values()) == [2, 2, 3]


def test_one_machine_takes_all() -> None:
    assert set(spread(shards(4), machines(1), ()).values()) == {"m0"}


def test_those_that_are_there_count_and_those_whose_machine_is_gone_do_not() -> None:
    assert spread(shards(2, first=3), machines(3), ["m0", "m0", "m2", "lost"]) == {"shard-3": "m1", "shard-4": "m1"}


def test_a_machine_without_cpus_is_left_alone_unless_there_is_no_other() -> None:
    head = Machine(id="head", address="10.0.0.9", n_cpus=0)
    assert "head" not in spread(shards(4), [head, *machines(2)], ()).values()
    assert set(spread(shards(2), [head], ()).values()) == {"head"}


@pytest.mark.parametrize("error", [ray.exceptions.RaySystemError("no answer"), RuntimeError("no answer")], ids=repr)
def test_that_nobody_knows_the_machines_is_an_error_like_any_other(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "nodes", fail)
    monkeypatch.setattr(ray.util, "list_named_actors", fail)
    with pytest.raises(CacheUnavailable, match="no answer"):
        rayapi.machines()
    with pytest.raises(CacheUnavailable, match="no answer"):
        rayapi.actor_names()
