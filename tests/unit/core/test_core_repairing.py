"""Which lost chunks are rebuilt when, and what that may cost."""

from __future__ import annotations

from typing import Any

import pytest
from core_fleet import Fleet
from core_world import MIB, World

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core import repairing
from infiniray.core.ids import NodeId, OpId
from infiniray.core.policy import RepairMode
from infiniray.core.table import NOWHERE


def world(**policy: Any) -> World:
    return World(**{"n_nodes": 12, "repair": RepairMode.ALWAYS, **policy})


def repaired(world: World) -> list[str]:
    """Keys of what was rebuilt, in order."""
    rebuilt = {command.op for command in world.said(cmd.ShareBuffers)}
    found: list[str] = []
    for command in world.said(cmd.StoreChunk):
        if command.op in rebuilt and command.facts.key not in found:
            found.append(command.facts.key)
    return found


def lose_quietly(world: World, node: NodeId) -> None:
    """The instance is gone, and a new one says HELLO: the shard knows what it lacks."""
    world.lose(node)
    world.second_instance(node, f"after {node}")


def is_whole(world: World, key: str) -> bool:
    return not world.state.lost_chunks(world.record(key))


# ---------------------------------------------------------------- what is repaired


def test_a_lost_chunk_is_rebuilt_though_nobody_reads_the_object() -> None:
    w = world()
    w.put("a")
    lost_at = w.node_of("a", 0)
    lose_quietly(w, lost_at)
    assert is_whole(w, "a")
    assert len({place.node for place in w.record("a").places}) == 6
    assert w.state.counters.repairs == 1
    assert w.accounted_bytes() == w.used_bytes()
    assert w.state.stats()["endangered"] == 0


def test_the_most_endangered_come_first_then_the_most_recently_used() -> None:
    w = world(n_nodes=6, repair_bytes_per_s=1.0, repair_burst_bytes=1.0, usd_per_request=0.0)
    for key in "abcd":
        w.put(key)
        w.advance(1.0)
    w.get("b")
    w.state.repairs.bytes.spend(100.0, w.now_s)  # so that all are found before any is repaired
    lost = w.node_of("a", 0)
    lose_quietly(w, lost)
    record = w.record("c")  # this one loses another
    index = next(i for i, place in enumerate(record.places) if place.node != lost)
    copy = w.state.nodes[record.places[index].node].copy
    assert copy is not None
    copy.spans = copy.spans.without([record.places[index].seq])
    w.state.repairs.add(record)
    assert repaired(w) == []
    for _ in range(4):
        w.advance(1e7)
    assert repaired(w) == ["c", "b", "d", "a"]


@pytest.mark.parametrize("mode", [RepairMode.READS, RepairMode.NONE])
def test_without_background_repair_nothing_is_read_for_it(mode: RepairMode) -> None:
    w = world(repair=mode)
    w.put("a")
    lose_quietly(w, w.node_of("a", 0))
    w.advance(100.0)
    assert w.said(cmd.FetchChunk) == []
    w.get("a")
    assert is_whole(w, "a") == (mode is RepairMode.READS)


def test_an_object_beyond_repair_is_left_to_its_next_reader() -> None:
    w = world(n_nodes=6)
    w.put("a")
    for node in [w.node_of("a", index) for index in range(3)]:
        w.nodes[node].is_silent = True
        w.lose(node)
    w.advance(1.0)
    for node in w.nodes:
        w.nodes[node].is_silent = False
    for index in range(3):
        w.second_instance(w.node_of("a", index), f"new {index}")
    since = len(w.commands)
    w.advance(100.0)
    assert w.said(cmd.FetchChunk, since) == []


def paused(**policy: Any) -> World:
    """The budget is spent: what is found lost waits for ten seconds."""
    w = world(repair_bytes_per_s=MIB, repair_burst_bytes=MIB, **policy)
    w.state.repairs.bytes.spend(11 * MIB, w.now_s)
    return w


@pytest.mark.parametrize("fate", ["deleted", "replaced", "expired", "whole again"])
def test_what_needs_no_repair_any_more_when_its_turn_comes(fate: str) -> None:
    w = paused()
    w.put("a", ttl_s=5.0 if fate == "expired" else None)
    node = w.node_of("a", 0)
    lose_quietly(w, node)
    assert w.state.stats()["endangered"] == 1
    if fate == "deleted":
        w.delete("a")
    elif fate == "replaced":
        w.put("a")
    elif fate == "whole again":
        copy = w.state.nodes[node].copy
        assert copy is not None
        copy.spans.add(w.record("a").places[0].seq)
    w.advance(20.0)
    assert repaired(w) == []
    assert w.state.stats()["endangered"] == 0


def test_more_was_lost_while_it_waited() -> None:
    w = paused(n_nodes=7)
    w.put("a")
    lose_quietly(w, w.node_of("a", 0))
    lose_quietly(w, w.node_of("a", 1))
    w.advance(20.0)
    assert repaired(w) == ["a"]
    assert is_whole(w, "a")


def test_the_queue_does_not_grow_with_what_is_found_lost_again_and_again() -> None:
    w = paused()
    w.put("a")
    lose_quietly(w, w.node_of("a", 0))
    for _ in range(1000):
        w.state.repairs.add(w.record("a"))
    assert len(w.state.repairs._heap) < 100
    assert w.state.stats()["endangered"] == 1
    w.advance(20.0)
    assert repaired(w) == ["a"]


# ---------------------------------------------------------------- a copy costs less


def test_what_the_peer_still_has_is_copied_and_not_rebuilt() -> None:
    fleet = Fleet(n_nodes=8, repair=RepairMode.ALWAYS)
    fleet.put("a")
    fleet.back_up()
    node = fleet.node_of("a", 0)  # its peer is current, the former instance has the chunk too
    fleet.swap(node)
    fleet.put("b")
    fleet.swap(node)
    fleet.leave(fleet.peers[node], node)
    fleet.get("a")
    fleet.advance(10.0)
    assert is_whole(fleet, "a")
    assert is_whole(fleet, "b")
    assert fleet.state.counters.repairs == 0


def test_without_a_slot_for_the_copy_it_is_rebuilt() -> None:
    fleet = Fleet(n_nodes=8, repair=RepairMode.ALWAYS)
    fleet.put("a")
    node = fleet.node_of("a", 0)
    former = fleet.nodes[node]
    fleet.grants_slots = False
    fleet.swap(node)
    fleet.leave(former, node)
    fleet.get("a")  # an empty instance serves; the link to the other one is open
    fleet.advance(10.0)
    assert is_whole(fleet, "a")
    assert fleet.said(cmd.CopyChunk) == []


# ---------------------------------------------------------------- what it may cost


def test_the_next_repair_waits_until_the_bytes_of_the_last_one_are_back() -> None:
    """Of 1 MiB as 4+2: four reads and a write of 256 KiB."""
    w = world(n_nodes=6, repair_bytes_per_s=MIB, repair_burst_bytes=1)
    w.put("a")
    w.put("b")
    node = w.node_of("a", 0)
    lose_quietly(w, node)
    assert len(repaired(w)) == 1
    w.advance(1.2)
    assert len(repaired(w)) == 1
    w.advance(0.1)
    assert len(repaired(w)) == 2
    assert w.state.stats()["repair_bytes"] == 2 * 5 * MIB // 4


def test_the_next_repair_waits_until_the_dollars_of_the_last_one_are_back() -> None:
    w = world(n_nodes=6, repair_usd_per_h=3600.0, usd_per_request=1000.0, usd_per_gb_s=0.0)
    w.put("a")
    w.put("b")
    lose_quietly(w, w.node_of("a", 0))
    assert len(repaired(w)) == 1  # five requests: 5,000 dollars, of which 3,600 were saved up
    w.advance(1399.0)
    assert len(repaired(w)) == 1
    w.advance(2.0)
    assert len(repaired(w)) == 2
    assert w.state.stats()["repair_usd"] == 10_000.0


def test_a_budget_without_income_ends_repair_and_sets_no_timer() -> None:
    w = world(n_nodes=6, repair_bytes_per_s=0.0, repair_burst_bytes=1)
    w.put("a")
    w.put("b")
    lose_quietly(w, w.node_of("a", 0))
    w.advance(1e6)
    assert len(repaired(w)) == 1
    assert ("repair", 0) not in w.timers


def test_a_read_that_finds_chunks_lost_repairs_them_at_once_from_what_it_has() -> None:
    w = world(repair=RepairMode.READS)
    w.put("a")
    lose_quietly(w, w.node_of("a", 0))
    since = len(w.commands)
    w.get("a")
    assert is_whole(w, "a")
    assert len(w.said(cmd.FetchChunk, since)) == 4  # the client's own
    assert w.state.stats()["repair_bytes"] == MIB // 4


def test_a_read_does_not_repair_beyond_the_budget() -> None:
    w = paused()
    w.put("a")
    lose_quietly(w, w.node_of("a", 0))
    w.facts(w.get("a"))
    assert not is_whole(w, "a")
    w.advance(20.0)
    assert is_whole(w, "a")


def test_so_many_repairs_at_a_time() -> None:
    w = world(n_nodes=6, max_repairs=2)
    for key in "abcde":
        w.put(key)
    for scripted in w.nodes.values():
        scripted.holds = True
    lose_quietly(w, w.node_of("a", 0))
    assert sum(op.name == "rebuild" for op in w.state.operations.values()) == 2
    assert w.state.stats()["endangered"] == 5
    for node in w.nodes:
        w.let_go(node)
    for node in w.nodes:
        w.let_go(node)
    assert all(is_whole(w, key) for key in "abcde")


# ---------------------------------------------------------------- when it fails


def test_a_repair_that_failed_is_tried_again_after_a_while() -> None:
    w = world(n_nodes=6)
    w.put("a")
    node = w.node_of("a", 0)
    w.nodes[node].refuses = True
    lose_quietly(w, node)
    w.advance(repairing.REPAIR_DEADLINE_S + 1.0)
    assert w.state.counters.repairs_failed > 0
    assert w.state.stats()["endangered"] == 1
    assert not is_whole(w, "a")
    w.nodes[node].refuses = False
    w.advance(repairing.RETRY_S)
    assert is_whole(w, "a")
    assert w.state.stats()["endangered"] == 0
    assert w.accounted_bytes() == w.used_bytes()


def test_a_chunk_that_could_not_be_replaced_where_it_was_is_nowhere() -> None:
    """It was damaged, its node does not take another, and is told to delete it: nobody is to be sent there."""
    w = world(n_nodes=6, repair=RepairMode.READS)
    w.put("a")
    node = w.node_of("a", 0)
    w.nodes[node].is_damaged = w.nodes[node].refuses = True
    w.facts(w.get("a"))
    assert w.record("a").places[0] is NOWHERE
    w.advance(repairing.REPAIR_DEADLINE_S + 1.0)
    assert not is_whole(w, "a")
    assert w.accounted_bytes() == w.used_bytes()
    w.nodes[node].is_damaged = w.nodes[node].refuses = False
    since = len(w.commands)
    w.facts(w.get("a"))
    assert w.said(cmd.FetchChunk, since) != []
    assert 0 not in {fetch.index for fetch in w.said(cmd.FetchChunk, since)}
    assert is_whole(w, "a")
    assert w.accounted_bytes() == w.used_bytes()


def test_a_repair_whose_bytes_cannot_be_coded_is_tried_again() -> None:
    w = world(n_nodes=6)
    w.put("a")
    w.holds_codec = True
    lose_quietly(w, w.node_of("a", 0))
    w.tell(*(ev.CodecFailed(op=op, detail="no") for op in list(w.state.operations)))
    assert w.state.stats()["endangered"] == 1
    w.holds_codec = False
    w.advance(repairing.RETRY_S + 1.0)
    assert is_whole(w, "a")


def test_what_was_deleted_meanwhile_is_not_tried_again() -> None:
    w = world(n_nodes=6)
    w.put("a")
    node = w.node_of("a", 0)
    w.nodes[node].refuses = True
    lose_quietly(w, node)
    w.advance(repairing.REPAIR_DEADLINE_S + 1.0)
    w.delete("a")
    since = len(w.commands)
    w.advance(repairing.RETRY_S)
    assert w.said(cmd.FetchChunk, since) == []


def test_what_is_moved_is_let_alone_and_looked_at_afterwards() -> None:
    w = world(n_nodes=6)
    w.put("a")
    record = w.record("a")
    w.state.repairs.claim(record)
    lose_quietly(w, w.node_of("a", 0))
    assert repaired(w) == []
    w.state.repairs.release(record)
    w.tell(ev.OpCancelled(op=OpId(12345)))  # any event: what was decided is carried out with it
    assert repaired(w) == ["a"]


def test_what_is_moved_while_its_repair_is_waiting_is_let_alone_too() -> None:
    """Or both would bring chunks of it to the same node."""
    w = paused()
    w.put("a")
    lose_quietly(w, w.node_of("a", 0))
    record = w.record("a")
    w.state.repairs.claim(record)
    w.advance(20.0)
    assert repaired(w) == []
    w.state.repairs.release(record)
    w.tell(ev.OpCancelled(op=OpId(12345)))
    assert repaired(w) == ["a"]


def test_the_numbers_of_repairs_are_nobody_elses() -> None:
    w = world()
    numbers = [w.state.repairs.new_op() for _ in range(3)]
    assert len(set(numbers)) == 3
    assert max(numbers) < -1  # which is the recovery's, and clients count up from 1
