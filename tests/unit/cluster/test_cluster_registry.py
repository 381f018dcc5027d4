"""The record of copies: one incarnation writes it, whoever else lingers. No Ray."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator

import pytest
from control_store import ControlStore

from infiniray.cluster.registry import ShardRegistry, copies_on_record
from infiniray.core.ids import InstanceId, NodeId
from infiniray.errors import StaleEpoch

NODE = NodeId("n1")
A, B, C = InstanceId("a"), InstanceId("b"), InstanceId("c")


@pytest.fixture
def registries() -> Iterator[dict[int, ShardRegistry]]:
    """By epoch."""
    made = {epoch: ShardRegistry("cache", "s", epoch) for epoch in (3, 10, 11)}
    yield made
    for registry in made.values():
        registry.close()


async def test_a_new_incarnation_finds_what_the_last_one_wrote(
    store: ControlStore, registries: dict[int, ShardRegistry]
) -> None:
    assert await registries[3].open() == {}
    await registries[3].register({NODE: A})
    await registries[3].register({NODE: B, NodeId("n2"): C})
    assert await registries[10].open() == {NODE: B, "n2": C}
    assert copies_on_record("cache", "s") == ({NODE: B, "n2": C}, 10)


async def test_shards_and_caches_have_records_of_their_own(store: ControlStore) -> None:
    names = [("cache", "s"), ("cache", "s-1"), ("cache-1", "s")]
    registries = [ShardRegistry(cache, shard, 2 + i) for i, (cache, shard) in enumerate(names)]
    for i, registry in enumerate(registries):
        assert await registry.open() == {}
        await registry.register({NODE: InstanceId(f"i{i}")})
    assert [copies_on_record(*name)[0] for name in names] == [{NODE: "i0"}, {NODE: "i1"}, {NODE: "i2"}]
    for registry in registries:
        registry.close()


async def test_a_former_incarnation_can_write_nothing_any_more(
    store: ControlStore, registries: dict[int, ShardRegistry]
) -> None:
    await registries[3].open()
    await registries[3].register({NODE: A})
    await registries[10].open()
    with pytest.raises(StaleEpoch) as caught:
        await registries[3].register({NODE: B})
    assert (caught.value.seen, caught.value.current) == (3, 10)
    assert copies_on_record("cache", "s") == ({NODE: A}, 10)


async def test_what_a_former_incarnation_was_refused_is_not_found_by_the_next_but_one(
    store: ControlStore, registries: dict[int, ShardRegistry]
) -> None:
    """The second one ends before it has written anything but what it found."""
    await registries[3].open()
    await registries[3].register({NODE: A})
    await registries[10].open()
    with pytest.raises(StaleEpoch):
        await registries[3].register({NODE: B})
    assert await registries[11].open() == {NODE: A}


async def test_an_incarnation_that_comes_late_does_not_lower_the_fence(
    store: ControlStore, registries: dict[int, ShardRegistry]
) -> None:
    await registries[10].open()
    await registries[10].register({NODE: A})
    with pytest.raises(StaleEpoch):
        await registries[3].open()
    with pytest.raises(StaleEpoch):
        await registries[3].register({NODE: B})
    await registries[10].register({NODE: C})
    assert copies_on_record("cache", "s") == ({NODE: C}, 10)


async def test_only_the_newest_record_and_fence_are_kept(
    store: ControlStore, registries: dict[int, ShardRegistry]
) -> None:
    for registry in registries.values():
        await registry.open()
        await registry.register({NODE: A})
    assert sorted(store.values) == ["cache/copies/s/11", "cache/fence/s/11"]


@pytest.mark.parametrize("is_writer_interrupted", [True, False])
@pytest.mark.parametrize("n_step", range(1, 10))
def test_however_a_write_and_a_beginning_interleave_what_was_acknowledged_is_found(
    store: ControlStore, registries: dict[int, ShardRegistry], is_writer_interrupted: bool, n_step: int
) -> None:
    """All of the one happens just before a step of the other."""
    former, later = registries[3], registries[10]
    former._open()
    former._write(record(A))
    found: list[dict[NodeId, InstanceId]] = []
    acknowledged = [A]

    def write() -> None:
        with contextlib.suppress(StaleEpoch):
            former._write(record(B))
            acknowledged.append(B)

    def begin() -> None:
        found.append(later._open())

    outer, inner = (write, begin) if is_writer_interrupted else (begin, write)
    steps = itertools.count(1)

    def interrupt(operation: str, key: str) -> None:
        if next(steps) == n_step:
            store.before = lambda operation, key: None
            inner()

    store.before = interrupt
    outer()
    if store.before is interrupt:  # it has fewer steps: one after the other
        store.before = lambda operation, key: None
        inner()
    assert acknowledged[-1] == A or found == [{NODE: B}]
    assert copies_on_record("cache", "s") == (found[0], 10)
    with pytest.raises(StaleEpoch):
        former._write(record(C))
    assert copies_on_record("cache", "s") == (found[0], 10)


def record(instance: InstanceId) -> str:
    return json.dumps({NODE: instance})
