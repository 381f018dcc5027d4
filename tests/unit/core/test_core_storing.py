"""Writes and repairs: all of an object's chunks, or nothing."""

from __future__ import annotations

import itertools

import pytest
from core_world import MIB, World

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import NodeId
from infiniray.core.policy import Hedge, RepairMode, footprint_bytes
from infiniray.errors import DeadlineExceeded, KeyNotFound, Overloaded, PoolFull, ValueTooLarge, WriteFailed


def assert_nothing_is_left(world: World) -> None:
    """No memory is reserved, no operation or request is open, and every chunk that was sent is deleted again."""
    assert set(world.used_bytes().values()) == {0}
    assert world.state.operations == {}
    assert sum(node.n_unsettled for node in world.state.nodes.values()) == 0
    for scripted in world.nodes.values():
        scripted.is_silent = scripted.holds = scripted.refuses = False
        scripted.outcome = None
    world.advance(150.0)
    for node in world.nodes:
        world.let_go(node)
    assert not [chunk for scripted in world.nodes.values() if scripted.session for chunk in scripted.instance.chunks]


# ---------------------------------------------------------------- a write


def test_a_write_counts_when_its_last_chunk_is_stored_and_not_before() -> None:
    world = World(n_nodes=6)
    for node in world.nodes:
        world.nodes[node].holds = True
    put = world.put("a")
    for node in list(world.nodes):
        assert world.is_open(put)
        assert world.state.table.find("a") is None
        assert type(world.error(world.get("a"))) is KeyNotFound
        world.let_go(node)
    facts = world.facts(put)
    assert world.record("a").facts == facts
    assert world.released.count(put) == 1
    assert len({place.node for place in world.record("a").places}) == 6
    assert world.accounted_bytes() == world.used_bytes()


def test_data_is_sent_while_parity_is_computed() -> None:
    world = World()
    world.holds_codec = True
    put = world.put("a")
    assert sorted(c.index for c in world.said(cmd.StoreChunk)) == [0, 1, 2, 3]
    assert len(world.said(cmd.Invoke)) == 6  # nodes for parity are woken meanwhile
    world.tell(ev.Encoded(op=put))
    assert sorted(c.index for c in world.said(cmd.StoreChunk)) == [0, 1, 2, 3, 4, 5]
    assert world.facts(put).key == "a"


@pytest.mark.parametrize(("scheme", "n"), [("mirror:3", 3), ("stripe:4", 4)])
def test_schemes_without_parity_need_no_codec(scheme: str, n: int) -> None:
    world = World(scheme=scheme)
    world.facts(world.put("a"))
    assert len(world.said(cmd.StoreChunk)) == n
    assert world.said(cmd.Encode) == []


def test_a_write_whose_parity_cannot_be_computed_fails() -> None:
    world = World()
    world.holds_codec = True
    put = world.put("a")
    world.tell(ev.CodecFailed(op=put, detail="no kernel"))
    assert isinstance(world.error(put), WriteFailed)
    assert world.state.counters.puts_failed == 1
    assert_nothing_is_left(world)


@pytest.mark.parametrize("size_bytes", [0, 1, 4, 5, 4096 * 4 + 1, 10 * MIB])
def test_memory_is_counted_in_whole_pages(size_bytes: int) -> None:
    world = World()
    facts = world.facts(world.put("a", size_bytes))
    scheme = facts.scheme
    assert world.state.stored_bytes == sum(footprint_bytes(scheme.stored_bytes(i, size_bytes)) for i in range(scheme.n))
    assert world.state.table.object_bytes == size_bytes


# ---------------------------------------------------------------- bad luck


@pytest.mark.parametrize("trouble", ["refuses", "is_silent", "throttled"])
def test_a_chunk_that_one_node_does_not_take_goes_to_another(trouble: str) -> None:
    world = World(n_nodes=8)
    bad = [NodeId("n0"), NodeId("n1")]
    for node in bad:
        if trouble == "throttled":
            world.nodes[node].outcome = ev.InvokeOutcome.THROTTLED
        else:
            setattr(world.nodes[node], trouble, True)
    puts = [world.put(f"k{i}") for i in range(4)]
    world.advance(10.0)
    for put in puts:
        places = world.record(world.facts(put).key).places
        assert len({place.node for place in places}) == 6
        assert not {place.node for place in places} & set(bad)
    assert world.accounted_bytes() == world.used_bytes()


def test_without_a_node_to_spare_the_write_waits_for_one() -> None:
    world = World(n_nodes=6)
    world.nodes[NodeId("n3")].refuses = True
    put = world.put("a")
    world.advance(5.0)
    assert world.is_open(put)
    world.nodes[NodeId("n3")].refuses = False
    world.advance(3.0)
    assert world.facts(put).key == "a"
    assert world.accounted_bytes() == world.used_bytes()


def test_a_write_that_cannot_finish_ends_at_its_deadline_and_leaves_nothing() -> None:
    world = World(n_nodes=6)
    world.nodes[NodeId("n3")].refuses = True
    put = world.put("a", timeout_s=4.0)
    world.advance(4.1)
    error = world.error(put)
    assert isinstance(error, DeadlineExceeded)
    assert str(error).startswith(
        "PUT of 'a' did not finish within 4 s: 5 of 6 chunks stored; last failure: n3: refused"
    )
    assert world.state.counters.puts_failed == 1
    assert_nothing_is_left(world)


def test_a_writer_that_goes_away_leaves_nothing() -> None:
    world = World(n_nodes=6)
    world.nodes[NodeId("n0")].holds = world.nodes[NodeId("n1")].holds = True
    put = world.put("a")
    world.tell(ev.OpCancelled(op=put))
    assert len(world.said(cmd.AbortStore)) == 2
    assert world.released.count(put) == 1
    assert put not in world.endings
    assert_nothing_is_left(world)


def test_a_chunk_that_stalls_is_aborted_and_stored_elsewhere() -> None:
    world = World(n_nodes=8)
    world.nodes[NodeId("n2")].holds = True
    puts = [world.put(f"k{i}") for i in range(4)]
    world.advance(6.0)  # connect, and stall
    for put in puts:
        assert "n2" not in {place.node for place in world.record(world.facts(put).key).places}
    assert len(world.said(cmd.AbortStore)) >= 1
    world.let_go(NodeId("n2"))
    assert not world.nodes[NodeId("n2")].instance.chunks


def test_an_instance_that_takes_over_before_the_end_must_have_what_was_confirmed() -> None:
    world = World(n_nodes=6)
    last = NodeId("n5")
    world.nodes[last].holds = True
    put = world.put("a")
    first = next(node for node in world.nodes if node != last)
    world.second_instance(first, "other")  # a copy without the chunk that its predecessor confirmed
    world.let_go(last)
    assert world.facts(put).key == "a"
    world.get("a")
    assert world.state.counters.degraded_reads == 0
    assert world.accounted_bytes() == world.used_bytes()


def test_deletes_go_out_before_what_is_sent_later() -> None:
    """So that their memory is free by then; and a chunk that comes back is not deleted by an old order."""
    world = World(n_nodes=1, scheme="stripe:1", capacity_bytes=3 * MIB)
    world.facts(world.put("a", 2 * MIB))
    world.asleep()
    world.facts(world.put("b", 2 * MIB))  # "a" has to go
    order = [type(c) for c in world.commands if isinstance(c, (cmd.DeleteChunks, cmd.StoreChunk))]
    assert order == [cmd.StoreChunk, cmd.DeleteChunks, cmd.StoreChunk]
    assert {chunk.key for chunk in world.nodes[NodeId("n0")].instance.chunks} == {"b"}


def test_a_delete_wakes_as_many_nodes_as_it_takes_to_make_the_object_unreadable() -> None:
    world = World()
    world.facts(world.put("a"))
    world.asleep()
    since = len(world.commands)
    assert world.delete("a")
    assert len(world.said(cmd.Invoke, since)) == 3  # of rs:4+2, three chunks are left, and four were needed


def test_deletions_that_nobody_waits_for_wake_nobody() -> None:
    world = World()
    world.facts(world.put("a", ttl_s=1.0))
    world.asleep()
    since = len(world.commands)
    world.advance(100.0)
    assert world.said(cmd.Invoke, since) == []
    assert world.state.stored_bytes == 0
    world.facts(world.put("b"))
    gone = [chunk.key for scripted in world.nodes.values() if scripted.session for chunk in scripted.instance.chunks]
    assert "a" not in gone


def test_deletes_on_a_lost_connection_are_sent_again() -> None:
    world = World(n_nodes=1, scheme="stripe:1")
    world.facts(world.put("a"))
    node = NodeId("n0")
    world.nodes[node].holds = True
    assert not world.delete("a")  # not acknowledged before it is confirmed
    assert len(world.said(cmd.DeleteChunks)) == 1
    world.nodes[node].holds = False
    link, session = world.nodes[node].instance.link, world.nodes[node].session
    assert link is not None
    assert session is not None
    world.nodes[node].instance.link = None  # the instance lives, and dials again in its next session
    world.nodes[node].held.clear()
    world.tell(ev.LinkClosed(link=link), ev.InvokeReturned(node=node, session=session, outcome=ev.InvokeOutcome.OK))
    world.facts(world.put("b"))
    assert {chunk.key for chunk in world.nodes[node].instance.chunks} == {"b"}


def test_deletes_that_a_node_refuses_are_not_sent_for_ever() -> None:
    """It knows a newer epoch: what it holds is somebody else's business now."""
    world = World(n_nodes=1, scheme="stripe:1")
    world.facts(world.put("a"))
    world.nodes[NodeId("n0")].refuses = True
    assert not world.delete("a", timeout_s=3.0)
    since = len(world.commands)
    world.advance(60.0)
    assert len(world.said(cmd.DeleteChunks, since)) < 10
    assert world.state.operations == {}


# ---------------------------------------------------------------- several writes, and limits


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_two_writes_the_later_one_stays_whichever_ends_last(order: tuple[int, int]) -> None:
    world = World(n_nodes=12)
    for scripted in world.nodes.values():
        scripted.holds = True
    sizes = [MIB, 2 * MIB]
    writes = [world.put("a", size_bytes) for size_bytes in sizes]
    for i in order:

        def is_of_this_write(command: cmd.Command, size_bytes: int = sizes[i]) -> bool:
            return isinstance(command, cmd.DeleteChunks) or (
                isinstance(command, cmd.StoreChunk) and command.facts.size_bytes == size_bytes
            )

        for _ in range(2):  # the chunks, then the deletion of what they replace
            for node in world.nodes:
                world.let_some_go(node, is_of_this_write)
        assert not world.is_open(writes[i])
    assert world.record("a").facts == world.facts(writes[1])
    assert world.accounted_bytes() == world.used_bytes()


def test_versions_rise_also_over_a_restart_of_the_shard() -> None:
    world = World()
    first, second = world.facts(world.put("a")), world.facts(world.put("b"))
    assert first.version < second.version
    restarted = World()  # knows nothing of the one before, but that time has passed
    restarted.now_s = world.now_s + 1
    assert restarted.facts(restarted.put("a")).version > second.version


def test_room_is_made_by_evicting_what_was_not_used() -> None:
    world = World(n_nodes=6, capacity_bytes=2 * MIB)
    for key in "abcdef":
        world.facts(world.put(key, MIB))
    world.facts(world.get("b"))
    world.facts(world.put("g", MIB))
    world.facts(world.put("h", MIB))
    assert world.state.counters.evictions > 0
    assert world.facts(world.get("b")).key == "b"
    assert type(world.error(world.get("a"))) is KeyNotFound
    assert world.accounted_bytes() == world.used_bytes()
    assert max(world.used_bytes().values()) <= 2 * MIB


def test_what_is_being_read_is_not_evicted() -> None:
    world = World(n_nodes=2, scheme="stripe:2", capacity_bytes=3 * MIB)
    world.facts(world.put("a", 4 * MIB))
    for scripted in world.nodes.values():
        scripted.holds = True
    get = world.get("a")
    error = world.error(world.put("b", 4 * MIB))
    assert isinstance(error, PoolFull)
    assert (error.free_bytes, error.need_bytes) == (2 * (MIB - 4096), 2 * (2 * MIB + 4096))
    assert world.state.counters.puts_failed == 1
    for node in world.nodes:
        world.let_go(node)
    assert world.facts(get).key == "a"
    assert world.facts(world.put("b", 4 * MIB)).key == "b"


@pytest.mark.parametrize(
    ("n_nodes", "size_bytes", "limit_bytes"), [(5, 1, 0), (6, 5 * MIB, 6 * MIB), (8, 5 * MIB, 6 * MIB), (0, 1, 0)]
)
def test_a_value_that_can_never_fit_is_refused_before_anything_is_sent(
    n_nodes: int, size_bytes: int, limit_bytes: int
) -> None:
    world = World(n_nodes=n_nodes, capacity_bytes=MIB)
    put = world.put("a", size_bytes)
    error = world.error(put)
    assert isinstance(error, ValueTooLarge)
    assert error.size_bytes > error.limit_bytes == limit_bytes
    assert [type(c) for c in world.commands] == [cmd.Fail, cmd.Release]
    assert world.state.counters.refused == 1


def test_the_largest_value_that_fits_is_stored() -> None:
    world = World(n_nodes=6, capacity_bytes=MIB)
    assert world.facts(world.put("a", 4 * (MIB - 4096))).key == "a"
    assert isinstance(world.error(world.put("b", 4 * (MIB - 4096) + 1)), ValueTooLarge)


def test_more_bytes_in_flight_than_allowed_are_refused_but_one_value_always_goes() -> None:
    world = World(max_in_flight_bytes=3 * MIB)
    for scripted in world.nodes.values():
        scripted.holds = True
    first = world.put("a", 8 * MIB)
    assert isinstance(world.error(world.put("b", 1)), Overloaded)
    for node in world.nodes:
        world.let_go(node)
    assert world.facts(first).key == "a"
    assert world.facts(world.put("b", 1)).key == "b"


# ---------------------------------------------------------------- expiry


def test_expired_objects_are_misses_and_their_memory_comes_back() -> None:
    world = World()
    world.facts(world.put("a", ttl_s=5.0))
    world.facts(world.put("b"))
    world.advance(4.9)
    assert world.facts(world.get("a")).expires_s == world.now_s - 4.9 + 5.0
    world.advance(0.2)
    assert type(world.error(world.get("a"))) is KeyNotFound
    world.advance(1.5)
    assert world.state.table.find("a") is None
    assert world.accounted_bytes() == world.used_bytes()
    assert world.state.counters.expired == 1
    assert world.timers.keys() <= {("silence", 0), ("sweep", 0)}  # until its nodes have confirmed that it is gone


def test_touch_moves_the_expiry() -> None:
    world = World()
    world.facts(world.put("a", ttl_s=5.0))
    assert world.touch("a", 60.0)
    world.advance(30.0)
    assert world.facts(world.get("a")).key == "a"
    assert world.touch("a", None)
    world.advance(1000.0)
    assert world.facts(world.get("a")).key == "a"
    assert not world.touch("b", 1.0)
    assert world.timers.keys() <= {("sweep", 0), ("silence", 0)}


# ---------------------------------------------------------------- repair


@pytest.mark.parametrize("scheme", ["rs:4+2", "mirror:3", "xor:3+1"])
@pytest.mark.parametrize("hedge", Hedge)
def test_lost_chunks_are_rebuilt_on_distinct_nodes(scheme: str, hedge: Hedge) -> None:
    world = World(scheme=scheme, hedge=hedge, n_nodes=10)
    facts = world.facts(world.put("a"))
    for index in range(facts.scheme.r):
        world.second_instance(world.node_of("a", index), "other")  # says what it lacks: it is not even asked
    world.facts(world.get("a"))
    assert world.state.counters.degraded_reads == 1
    assert world.state.counters.repairs == facts.scheme.r
    places = world.record("a").places
    assert len({place.node for place in places}) == facts.scheme.n
    assert world.accounted_bytes() == world.used_bytes()
    since = len(world.commands)
    world.facts(world.get("a"))
    world.facts(world.get("a"))
    assert world.said(cmd.ShareBuffers, since) == []
    assert world.state.operations == {}


def test_what_a_repair_replaces_is_deleted() -> None:
    world = World(hedge=Hedge.DELAYED, n_nodes=16)
    world.facts(world.put("a"))
    damaged = world.node_of("a", 0)
    world.nodes[damaged].is_damaged = True
    world.facts(world.get("a"))
    assert world.state.counters.repairs == 1
    assert world.node_of("a", 0) != damaged
    holders = [node for node, s in world.nodes.items() if any(chunk.index == 0 for chunk in s.instance.chunks)]
    assert holders == [world.node_of("a", 0)]
    assert world.accounted_bytes() == world.used_bytes()


def test_every_pair_of_lost_chunks_is_rebuilt() -> None:
    for lost in itertools.combinations(range(6), 2):
        world = World(hedge=Hedge.ALL, n_nodes=9)
        world.facts(world.put("a"))
        for node in [world.node_of("a", index) for index in lost]:
            world.lose(node)
        for _ in range(3):
            world.facts(world.get("a"))
        for place in world.record("a").places:
            chunks = {(c.key, c.index) for c in world.nodes[place.node].instance.chunks}
            assert ("a", world.record("a").places.index(place)) in chunks
        assert world.accounted_bytes() == world.used_bytes()


def test_a_repair_holds_the_bytes_of_its_read_until_its_own_end() -> None:
    world = World(hedge=Hedge.ALL, n_nodes=10)
    world.facts(world.put("a"))
    world.lose(world.node_of("a", 0))
    for scripted in world.nodes.values():
        scripted.refuses = True
    get = world.get("a")
    assert world.facts(get).key == "a"
    share = world.said(cmd.ShareBuffers)
    assert [c.source for c in share] == [get]
    order = [c for c in world.commands if isinstance(c, (cmd.ShareBuffers, cmd.Release))]
    assert order.index(share[0]) < order.index(cmd.Release(op=get))
    assert share[0].op not in world.released
    world.advance(31.0)  # nobody took the chunk
    assert share[0].op in world.released
    assert world.state.counters.repairs_failed == 1
    assert world.accounted_bytes() == world.used_bytes()
    assert world.state.operations == {}


def test_a_repair_of_what_is_replaced_meanwhile_leaves_nothing() -> None:
    world = World(hedge=Hedge.ALL, n_nodes=10)
    world.facts(world.put("a"))
    world.lose(world.node_of("a", 0))
    for scripted in world.nodes.values():
        scripted.refuses = True
    world.facts(world.get("a"))
    assert not world.delete("a", timeout_s=3.0)
    for scripted in world.nodes.values():
        scripted.refuses = False
    world.advance(5.0)
    assert world.state.operations == {}
    assert world.state.counters.repairs_failed == 1
    assert_nothing_is_left(world)


def test_repairs_are_limited_and_an_object_is_repaired_once_at_a_time() -> None:
    world = World(hedge=Hedge.ALL, n_nodes=40, max_repairs=2)
    for key in "abcd":
        world.facts(world.put(key))
    for key in "abcd":
        world.lose(world.node_of(key, 0))
    world.asleep()
    for scripted in world.nodes.values():
        scripted.refuses = True
    for key in "abcdaa":
        get = world.get(key)
        world.advance(0.1)
        assert not world.is_open(get)
    assert len(world.said(cmd.ShareBuffers)) == 2


def test_repair_can_be_switched_off() -> None:
    world = World(repair=RepairMode.NONE)
    world.facts(world.put("a"))
    world.lose(world.node_of("a", 0))
    world.facts(world.get("a"))
    assert world.said(cmd.ShareBuffers) == []
    assert world.state.counters.degraded_reads == 1
