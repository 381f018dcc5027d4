"""Near copies: what is kept, what goes first, and when they may answer."""

from __future__ import annotations

from typing import Any

import pytest
from core_world import World

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import NodeId, OpId
from infiniray.core.near import LEAD_S, NEAR_OVERHEAD_BYTES

SIZE = 1000
FOOTPRINT = SIZE + len("h") + NEAR_OVERHEAD_BYTES


def near_world(n_kept: int = 4, **policy: Any) -> World:
    """A shard that has room for so many near copies, and is sure of its lead."""
    world = World(scheme="mirror:2", near_bytes=n_kept * FOOTPRINT, near_max_bytes=SIZE, **policy)
    world.put("first", SIZE)
    world.delete("first")
    return world


def fetches(world: World, key: str) -> int:
    """Nodes that a read of ``key`` asks; it must be a hit."""
    before = len(world.commands)
    assert world.facts(world.get(key)).key == key
    return len(world.said(cmd.FetchChunk, before))


def test_what_was_written_is_read_without_asking_a_node() -> None:
    world = near_world()
    world.put("a", SIZE)
    op = world.get("a")
    assert world.facts(op) == world.record("a").facts
    assert op in world.released
    assert world.said(cmd.FetchChunk, -3) == []
    assert fetches(world, "a") == 0
    stats = world.state.stats()
    assert (stats["near_hits"], stats["near_objects"], stats["near_bytes"]) == (2, 1, FOOTPRINT)
    assert stats["gets"] == stats["hits"] == 2


def test_what_was_read_is_kept_too() -> None:
    world = near_world(n_kept=1)
    world.put("a", SIZE)
    world.put("b", SIZE)
    assert [fetches(world, "a"), fetches(world, "a")] == [1, 0]


def test_a_node_may_sleep_meanwhile() -> None:
    world = near_world()
    world.put("a", SIZE)
    world.asleep()
    before = len(world.commands)
    world.facts(world.get("a"))
    assert world.said(cmd.Invoke, before) == []


def test_large_values_are_not_kept_and_without_room_nothing_is() -> None:
    world = near_world()
    world.put("a", SIZE + 1)
    assert fetches(world, "a") == fetches(world, "a") == 1
    none = World(scheme="mirror:2")
    none.put("a", 1)
    assert fetches(none, "a") == fetches(none, "a") == 1
    assert none.said(cmd.KeepNear) == none.said(cmd.ConfirmLead) == []


def overwrites(world: World) -> None:
    world.put("a", SIZE)


def deletes(world: World) -> None:
    world.delete("a")
    world.put("a", SIZE + 1)


def expires(world: World) -> None:
    world.touch("a", 1.0)
    world.advance(5.0)
    world.put("a", SIZE + 1)


@pytest.mark.parametrize("change", [overwrites, deletes, expires])
def test_it_goes_with_the_version_that_it_is_of(change: Any) -> None:
    world = near_world()
    world.put("a", SIZE)
    version = world.record("a").facts.version
    before = len(world.commands)
    change(world)
    assert world.said(cmd.DropNear, before) == [cmd.DropNear(key="a")]
    assert world.facts(world.get("a")).version == world.record("a").facts.version > version


def test_a_key_that_is_being_written_is_read_as_it_was_and_afterwards_as_it_is() -> None:
    world = near_world()
    world.put("a", SIZE)
    former = world.record("a").facts
    for node in world.nodes.values():
        node.holds = True
    put = world.put("a", SIZE)
    assert world.facts(world.get("a")) == former
    for name in world.nodes:
        world.let_go(name)
    later = world.facts(put)
    assert later.version > former.version
    assert world.facts(world.get("a")) == later


def test_a_miss_stays_a_miss() -> None:
    world = near_world()
    world.put("a", SIZE, ttl_s=5.0)
    assert fetches(world, "a") == 0
    world.advance(LEAD_S / 2)
    world.now_s += 5.0  # no sweep has been
    assert "a" in world.near
    with pytest.raises(AssertionError):
        world.facts(world.get("a"))


def test_what_is_read_again_stays_and_what_is_only_written_goes_first() -> None:
    world = near_world(n_kept=4)
    for key in ("a", "b"):
        world.put(key, SIZE)
        assert fetches(world, key) == 0
    for i in range(10):
        world.put(f"new{i}", SIZE)
    assert set(world.near) == {"a", "b", "new8", "new9"}
    assert world.state.near.n_bytes == 4 * FOOTPRINT


def test_what_has_not_been_read_for_long_goes_when_all_have_been_read() -> None:
    world = near_world(n_kept=3)
    for key in ("a", "b", "c"):
        world.put(key, SIZE)
        fetches(world, key)
    fetches(world, "a")
    for key in ("d", "e"):
        world.put(key, SIZE)
        fetches(world, key)
    assert set(world.near) == {"a", "d", "e"}


def test_lost_chunks_do_not_matter_while_it_is_there() -> None:
    world = near_world()
    world.put("a", SIZE)
    for node in world.nodes:
        world.lose(node)
    assert fetches(world, "a") == 0


# ---------------------------------------------------------------- the lead


def test_the_first_read_asks_a_node_while_it_is_not_sure_that_there_is_no_other_shard() -> None:
    world = World(scheme="mirror:2", near_bytes=4 * FOOTPRINT, near_max_bytes=SIZE)
    world.put("a", SIZE)
    world.advance(2 * LEAD_S)
    world.holds_registry = True
    assert [fetches(world, "a"), fetches(world, "a")] == [1, 1]
    world.tell(ev.LeadConfirmed(is_sure=True))
    assert fetches(world, "a") == 0


def test_what_is_kept_is_asked_for_so_that_the_first_reads_of_many_ask_no_node() -> None:
    """Many keys at once are asked for before an answer can come: too late for these."""
    world = World(scheme="mirror:2", near_bytes=4 * FOOTPRINT, near_max_bytes=SIZE)
    for key in ("a", "b", "c"):
        world.put(key, SIZE)
    assert len(world.said(cmd.ConfirmLead)) == 1
    world.advance(0.6 * LEAD_S)
    world.put("d", SIZE)
    assert len(world.said(cmd.ConfirmLead)) == 2
    world.advance(0.6 * LEAD_S)
    assert [fetches(world, key) for key in "abcd"] == [0, 0, 0, 0]


def test_it_asks_again_before_it_is_not_sure_any_more_and_only_if_somebody_reads_or_writes() -> None:
    world = near_world()
    world.put("a", SIZE)
    n = len(world.said(cmd.ConfirmLead))
    world.advance(0.6 * LEAD_S)
    assert len(world.said(cmd.ConfirmLead)) == n
    assert fetches(world, "a") == 0
    assert len(world.said(cmd.ConfirmLead)) == n + 1
    world.advance(0.6 * LEAD_S)
    assert fetches(world, "a") == 0
    world.advance(2 * LEAD_S)
    assert [fetches(world, "a"), fetches(world, "a")] == [1, 0]


def test_an_answer_counts_from_when_it_was_asked_for() -> None:
    world = near_world()
    world.put("a", SIZE)
    world.holds_registry = True
    world.advance(2 * LEAD_S)
    assert fetches(world, "a") == 1
    world.advance(0.9 * LEAD_S)
    world.tell(ev.LeadConfirmed(is_sure=True))
    assert fetches(world, "a") == 0
    world.advance(0.2 * LEAD_S)
    assert fetches(world, "a") == 1


def test_nobody_to_ask_is_no_answer_and_one_question_is_out_at_a_time() -> None:
    world = near_world()
    world.put("a", SIZE)
    world.holds_registry = True
    world.advance(2 * LEAD_S)
    n = len(world.said(cmd.ConfirmLead))
    assert fetches(world, "a") == fetches(world, "a") == 1
    assert len(world.said(cmd.ConfirmLead)) == n + 1
    world.tell(ev.LeadConfirmed(is_sure=False))
    assert fetches(world, "a") == 1
    assert len(world.said(cmd.ConfirmLead)) == n + 2


def test_a_shard_that_is_deposed_answers_nobody() -> None:
    world = near_world()
    world.put("a", SIZE)
    world.tell(ev.Deposed())
    op = world.get("a")
    assert world.error(op)
    assert not world.said(cmd.ReadNear)


@pytest.mark.parametrize(("near_bytes", "waits"), [(FOOTPRINT, True), (0, False)])
def test_a_shard_that_takes_over_answers_nobody_before_the_one_before_it_has_stopped(
    near_bytes: int, waits: bool
) -> None:
    world = World(scheme="mirror:1", n_nodes=1, near_bytes=near_bytes)
    instance = world.nodes[NodeId("n0")].instance.id
    world.tell(ev.Started(registered=((NodeId("n0"), instance),)))
    (asked,) = world.said(cmd.ListChunks)
    world.tell(ev.InventoryArrived(request=asked.request, chunks=(), more=False))
    assert world.state.is_recovering == waits
    world.advance(0.9 * LEAD_S)
    assert world.state.is_recovering == waits
    world.advance(0.2 * LEAD_S)
    assert not world.state.is_recovering
    assert OpId(1) not in world.endings
