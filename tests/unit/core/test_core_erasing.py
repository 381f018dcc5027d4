"""Deletes and replacements: acknowledged when the old object cannot come back, and not before."""

from __future__ import annotations

import pytest
from core_fleet import Fleet
from core_world import MIB, World

from infiniray.codec.schemes import SchemePolicy
from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.erasing import Delete
from infiniray.core.ids import NodeId, OpId
from infiniray.core.requests import Outcome, Request, RequestKind, Settled
from infiniray.errors import DeadlineExceeded, KeyNotFound, ObjectReplaced

OP = OpId(500)


def delete(world: World, key: str = "a", timeout_s: float = 30.0) -> OpId:
    world.tell(ev.DeleteRequested(op=OP, key=key, deadline_s=world.now_s + timeout_s))
    return OP


def hold_deletes(world: World) -> None:
    """Nobody confirms a deletion."""
    for scripted in world.nodes.values():
        scripted.holds = True


def stored(world: World, key: str = "a") -> list[NodeId]:
    """Write an object; the nodes of its chunks."""
    world.facts(world.put(key))
    return [place.node for place in world.record(key).places]


# ---------------------------------------------------------------- when it is acknowledged


@pytest.mark.parametrize(("scheme", "n_needed"), [("rs:4+2", 3), ("mirror:3", 3), ("stripe:4", 1), ("xor:3+1", 2)])
def test_a_delete_is_acknowledged_when_fewer_than_k_chunks_are_left(scheme: str, n_needed: int) -> None:
    world = World(scheme=scheme)
    places = stored(world)
    hold_deletes(world)
    op = delete(world)
    for n, node in enumerate(places):
        assert world.is_open(op) == (n < n_needed)
        world.let_go(node)
    assert world.endings[op] is True


def test_readers_miss_it_at_once() -> None:
    world = World()
    stored(world)
    hold_deletes(world)
    delete(world)
    assert isinstance(world.error(world.get("a")), KeyNotFound)


def test_only_as_many_nodes_are_woken_as_have_to_forget() -> None:
    world = World()
    stored(world)
    world.asleep()
    since = len(world.commands)
    assert world.delete("a")
    assert len(world.said(cmd.Invoke, since)) == 3  # r + 1


def test_nodes_that_are_awake_anyway_are_not_joined_by_others() -> None:
    world = World()
    places = stored(world)
    world.asleep()
    for node in places[:3]:
        world.second_instance(node, f"again {node}")  # awake, and it lacks the chunk
    since = len(world.commands)
    assert world.delete("a")
    assert world.said(cmd.Invoke, since) == []


def test_another_node_is_woken_for_one_that_does_not_answer() -> None:
    world = World()
    places = stored(world)
    world.asleep()
    for node in places[:2]:
        world.nodes[node].is_silent = True
    op = delete(world)
    world.advance(10.0)
    assert world.endings[op] is True


def test_a_delete_that_cannot_be_made_safe_says_how_much_is_left() -> None:
    world = World()
    stored(world)
    world.asleep()
    for scripted in world.nodes.values():
        scripted.is_silent = True
    op = delete(world, timeout_s=5.0)
    world.advance(6.0)
    error = world.error(op)
    assert isinstance(error, DeadlineExceeded)
    assert "6 chunks of what was there before are on nodes that did not answer" in str(error)


def test_a_delete_that_failed_can_be_tried_again() -> None:
    """The object is not in the table any more: what matters is what may be on nodes."""
    world = World()
    stored(world)
    hold_deletes(world)
    delete(world, timeout_s=5.0)
    world.advance(6.0)
    assert isinstance(world.error(OP), DeadlineExceeded)
    again = OpId(501)
    world.tell(ev.DeleteRequested(op=again, key="a", deadline_s=world.now_s + 30.0))
    assert world.is_open(again)
    for node in world.nodes:
        world.let_go(node)
    assert world.endings[again] is False  # there was nothing to be found


def test_nothing_there_is_no_work() -> None:
    world = World()
    assert not world.delete("a")
    assert world.said(cmd.Invoke) == []


def test_what_was_evicted_must_not_come_back_after_a_delete_either() -> None:
    world = World()
    stored(world)
    hold_deletes(world)
    assert world.state.evict()
    op = delete(world)
    assert world.is_open(op)
    for node in world.nodes:
        world.let_go(node)
    assert world.endings[op] is False


def test_a_confirmation_counts_only_from_the_copy_on_record() -> None:
    fleet = Fleet(scheme="mirror:1", n_nodes=1, backup_interval_s=0.0)
    [node] = stored(fleet)
    fleet.holds_registry = True
    fleet.lose(node)  # another one takes over, and is not on record yet
    op = delete(fleet)
    assert fleet.is_open(op)
    copy = fleet.state.nodes[node].copy
    assert copy is not None
    fleet.tell(ev.CopyRegistered(node=node, instance=copy.instance))
    assert fleet.endings[op] is True


# ---------------------------------------------------------------- replacements


def test_a_first_write_waits_for_nobody() -> None:
    world = World()
    stored(world)
    assert world.said(cmd.DeleteChunks) == []
    assert len(world.said(cmd.Invoke)) == 6


def test_a_replacement_where_the_former_version_was_waits_for_nobody() -> None:
    """What may be left of the former one goes with the chunks of the later one, or before them."""
    world = World(n_nodes=20)
    places = stored(world)
    former = world.record("a").facts.version
    hold_deletes(world)
    since = len(world.commands)
    later = world.put("a")
    for node in world.nodes:
        world.let_some_go(node, lambda command: isinstance(command, cmd.StoreChunk))
    assert world.facts(later).version > former
    assert {place.node for place in world.record("a").places} == set(places)
    assert world.said(cmd.DeleteChunks, since) == []  # not worth a frame of its own


def test_what_was_replaced_is_deleted_before_anything_else_is_said() -> None:
    world = World(n_nodes=6)
    stored(world)
    world.facts(world.put("a"))
    since = len(world.commands)
    world.facts(world.put("b"))
    said = [type(command) for command in world.commands[since:]]
    assert said.count(cmd.DeleteChunks) == said.count(cmd.StoreChunk) == 6
    links: set[int] = set()
    for command in world.commands[since:]:
        if isinstance(command, cmd.DeleteChunks):
            links.add(command.link)
        elif isinstance(command, cmd.StoreChunk):
            assert command.link in links
    assert world.state.residues == {}


@pytest.mark.parametrize(
    ("scheme", "n_elsewhere", "n_needed"),
    [
        ("rs:4+2", 0, 0), ("rs:4+2", 1, 1), ("rs:4+2", 2, 2), ("rs:4+2", 6, 3),
        ("mirror:3", 0, 0), ("mirror:3", 1, 1), ("mirror:3", 3, 3),
    ],
)  # fmt: skip
def test_of_what_is_not_where_the_later_version_is_enough_has_to_be_gone(
    scheme: str, n_elsewhere: int, n_needed: int
) -> None:
    world = World(scheme=scheme, n_nodes=12)
    places = stored(world)
    former = world.record("a").facts.version
    hold_deletes(world)
    for node in places[:n_elsewhere]:
        world.state.nodes[node].capacity_bytes = 0  # no room for another
    since = len(world.commands)
    later = world.put("a")
    for node in world.nodes:
        world.let_some_go(node, lambda command: isinstance(command, cmd.StoreChunk))
    links = {command.link for command in world.said(cmd.DeleteChunks, since)}
    told = [node for node in places if world.nodes[node].instance.link in links]
    assert len(told) == n_needed
    assert set(told) <= set(places[:n_elsewhere])
    assert world.record("a").facts.version > former  # read at once
    for node in told:
        assert world.is_open(later)
        world.let_go(node)
    assert world.facts(later) == world.record("a").facts


@pytest.mark.parametrize(("former_bytes", "later_bytes", "n_needed"), [(1, MIB, 3), (MIB, 1, 0)])
def test_versions_of_different_schemes(former_bytes: int, later_bytes: int, n_needed: int) -> None:
    """One of three replicas may be left where the later version, of 4+2 chunks, has too few left. The other way round
    three chunks of the former version are where no replica is: too few."""
    world = World(scheme=SchemePolicy.of([(100, "mirror:3"), (None, "rs:4+2")]), n_nodes=6)
    world.facts(world.put("a", former_bytes))
    hold_deletes(world)
    since = len(world.commands)
    put = world.put("a", later_bytes)
    for node in world.nodes:
        world.let_some_go(node, lambda command: isinstance(command, cmd.StoreChunk))
    assert len(world.said(cmd.DeleteChunks, since)) == n_needed
    assert world.is_open(put) == (n_needed > 0)
    for node in world.nodes:
        world.let_go(node)
    assert world.facts(put).size_bytes == later_bytes


def test_a_delete_behind_a_replacement_deletes_the_former_version_first() -> None:
    """The order that makes the former version harmless: no node loses the later one before it."""
    world = World(scheme="mirror:3", n_nodes=3)
    stored(world)
    former = world.record("a").facts.version
    world.facts(world.put("a"))
    hold_deletes(world)
    since = len(world.commands)
    op = delete(world)
    told = world.said(cmd.DeleteChunks, since)
    assert [[chunk.version == former for chunk in command.chunk_ids] for command in told] == [[True, False]] * 3
    assert world.is_open(op)
    for node in world.nodes:
        world.let_go(node)
    assert world.endings[op] is True


def test_what_a_write_left_where_it_could_not_stay_counts_too() -> None:
    """A node that was given up may have stored its chunk all the same."""
    world = World(scheme="mirror:1", n_nodes=2)
    for scripted in world.nodes.values():
        scripted.holds = True
    put = world.put("a", 100)
    [given_up] = [node for node, scripted in world.nodes.items() if scripted.held]
    [other] = [node for node in world.nodes if node != given_up]
    world.nodes[other].holds = False
    world.advance(10.0)
    assert world.facts(put).key == "a"
    assert world.node_of("a", 0) == other
    op = delete(world)
    assert world.is_open(op)  # the other one has confirmed
    world.let_go(given_up)
    assert world.endings[op] is True


# ---------------------------------------------------------------- readers of what goes


def test_readers_have_their_time_and_then_have_to_begin_again() -> None:
    world = World(erase_patience_s=1.0)
    places = stored(world)
    hold_deletes(world)
    get = world.get("a")
    op = delete(world)
    assert world.said(cmd.DeleteChunks) == []
    world.advance(0.9)
    assert world.said(cmd.DeleteChunks) == []
    world.advance(0.2)
    for node in places:
        world.let_some_go(node, lambda command: isinstance(command, cmd.DeleteChunks))
    assert world.endings[op] is True
    for node in places:
        world.let_go(node)
    assert isinstance(world.error(get), ObjectReplaced)


def test_when_the_last_reader_ends_the_chunks_go_at_once() -> None:
    world = World(erase_patience_s=100.0)
    places = stored(world)
    hold_deletes(world)
    get = world.get("a")
    op = delete(world)
    for node in places:
        world.let_go(node)
    world.facts(get)
    assert world.endings[op] is True


# ---------------------------------------------------------------- what a delete is not


def test_a_delete_codes_nothing_and_asks_for_nothing_of_its_own() -> None:
    world = World()
    stored(world)
    hold_deletes(world)
    operation = world.state.operations[delete(world)]
    assert isinstance(operation, Delete)
    assert operation.open == {}
    with pytest.raises(AssertionError):
        operation.on_coded(None)
    request = Request(id=world.state.context.new_request_id(), kind=RequestKind.FETCH, node=NodeId("n0"))
    with pytest.raises(AssertionError):
        operation.on_settled(Settled(request=request, outcome=Outcome.DONE))


def test_a_caller_that_walks_away_leaves_nothing_behind() -> None:
    world = World()
    stored(world)
    hold_deletes(world)
    op = delete(world)
    world.tell(ev.OpCancelled(op=op))
    assert world.state.operations == {}
    assert not [timer for timer in world.timers if timer[1] == op]
    for node in world.nodes:
        world.let_go(node)
    world.advance(5.0)
    assert world.state.residues == {}
