"""Reads: the first k of an object's chunks, and what happens when some do not come."""

from __future__ import annotations

import itertools

import pytest
from core_world import MIB, START_S, Instance, World

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import InstanceId, NodeId, OpId, SessionId
from infiniray.core.operation import MAX_QUEUED_STALLS
from infiniray.core.policy import Hedge
from infiniray.core.shard import HEDGED_BURST_BYTES, HEDGED_SHARE
from infiniray.errors import DeadlineExceeded, KeyNotFound, ObjectLost, Overloaded, SchemeError

BOTH = pytest.mark.parametrize("hedge", Hedge)


def stored(scheme: str = "rs:4+2", **settings: object) -> World:
    """A world with object "a", every node awake."""
    world = World(scheme=scheme, **settings)  # type: ignore[arg-type]
    world.facts(world.put("a"))
    return world


def asked(world: World, since: int) -> list[int]:
    return [command.index for command in world.said(cmd.FetchChunk, since)]


# ---------------------------------------------------------------- first-d


@BOTH
@pytest.mark.parametrize("scheme", ["rs:4+2", "xor:3+1", "mirror:3", "stripe:4", "rs:1+1"])
def test_what_was_stored_is_read(scheme: str, hedge: Hedge) -> None:
    world = stored(scheme, hedge=hedge)
    put = world.facts(OpId(1))
    get = world.get("a")
    assert world.facts(get) == put
    assert world.released.count(get) == 1
    assert world.state.operations == {}
    assert world.state.counters.hits == 1


def test_delayed_asks_for_data_chunks_alone() -> None:
    world = stored(hedge=Hedge.DELAYED)
    since = len(world.commands)
    world.get("a")
    assert sorted(asked(world, since)) == [0, 1, 2, 3]
    assert world.said(cmd.Decode) == []
    assert world.timers.keys() <= {("silence", 0)}


def test_all_asks_for_every_chunk_and_cancels_the_rest_on_the_wire() -> None:
    world = stored(hedge=Hedge.ALL)
    for index in (1, 4):
        world.nodes[world.node_of("a", index)].holds = True
    since = len(world.commands)
    get = world.get("a")
    assert sorted(asked(world, since)) == [0, 1, 2, 3, 4, 5]
    assert world.facts(get).key == "a"
    cancelled = {command.request for command in world.said(cmd.CancelFetch)}
    held = {c.request for c in world.said(cmd.FetchChunk, since) if c.index in (1, 4)}
    assert cancelled == held
    assert [(c.have, c.want) for c in world.said(cmd.Decode)] == [((0, 2, 3, 5), (1,))]
    assert world.state.counters.fetches_cancelled == 2


def test_delayed_asks_for_more_when_the_first_are_overdue() -> None:
    world = stored(hedge=Hedge.DELAYED, hedge_delay_s=0.02)
    world.nodes[world.node_of("a", 2)].holds = True
    since = len(world.commands)
    get = world.get("a")
    world.advance(0.019)
    assert sorted(asked(world, since)) == [0, 1, 2, 3]
    world.advance(0.002)
    assert sorted(asked(world, since)) == [0, 1, 2, 3, 4, 5]
    assert world.facts(get).key == "a"
    assert len(world.said(cmd.CancelFetch)) == 2  # the overdue one, and one of the two that were asked for at last
    assert world.state.counters.reads_hedged == 1


def test_a_late_chunk_of_a_cancelled_request_changes_nothing() -> None:
    world = stored(hedge=Hedge.ALL)
    node = world.node_of("a", 0)
    world.nodes[node].holds = True
    world.holds_codec = True
    since = len(world.commands)
    get = world.get("a")
    late = next(c.request for c in world.said(cmd.FetchChunk, since) if c.index == 0)
    world.tell(ev.ChunkArrived(request=late))  # crossed the CANCEL on the wire
    world.tell(ev.FetchCancelled(request=late))
    assert world.is_open(get)
    world.tell(ev.Decoded(op=get))
    assert world.facts(get).key == "a"


def test_nothing_more_is_asked_for_while_it_is_decoded() -> None:
    """A chunk that came then could overwrite one that is decoded already."""
    world = stored(hedge=Hedge.DELAYED)
    world.lose(world.node_of("a", 0))
    world.holds_codec = True
    get = world.get("a")
    assert len(world.said(cmd.Decode)) == 1
    since = len(world.commands)
    world.advance(10.0)
    assert asked(world, since) == []
    world.tell(ev.Decoded(op=get))
    assert world.facts(get).key == "a"


@pytest.mark.parametrize("first", [0, 1, 2])
def test_any_replica_of_a_mirror_will_do(first: int) -> None:
    world = stored("mirror:3", hedge=Hedge.ALL)
    for index in range(3):
        world.nodes[world.node_of("a", index)].holds = index != first
    get = world.get("a")
    assert world.facts(get).key == "a"
    # replica 0 is the object; another one has to be brought in its place
    assert [(c.have, c.want) for c in world.said(cmd.Decode)] == ([] if first == 0 else [((first,), (0,))])
    assert len(world.said(cmd.CancelFetch)) == 2


def test_nodes_known_to_lack_a_chunk_are_not_asked_for_it() -> None:
    world = stored(hedge=Hedge.DELAYED)
    world.second_instance(world.node_of("a", 1), "other")
    since = len(world.commands)
    get = world.get("a")
    assert 1 not in asked(world, since)
    assert world.facts(get).key == "a"


def test_a_copy_that_says_at_hello_that_it_lacks_a_chunk_is_not_asked_for_it() -> None:
    world = stored(hedge=Hedge.ALL)
    lost = world.node_of("a", 0)
    world.lose(lost)
    since = len(world.commands)
    assert world.facts(world.get("a")).key == "a"
    assert world.nodes[lost].instance.link is not None  # invoked, and heard of
    links = {c.link for c in world.said(cmd.FetchChunk, since)}
    assert world.nodes[lost].instance.link not in links
    assert sorted(asked(world, since)) == [1, 2, 3, 4, 5]


def test_sleeping_nodes_are_asked_last() -> None:
    world = stored("mirror:3", hedge=Hedge.DELAYED)
    for index in (0, 2):
        world.end_session(world.node_of("a", index))
    since = len(world.commands)
    world.get("a")
    assert asked(world, since) == [1]
    assert world.said(cmd.Invoke, since) == []


# ---------------------------------------------------------------- lost, damaged, silent


@BOTH
@pytest.mark.parametrize("lost", [x for n in (1, 2) for x in itertools.combinations(range(6), n)], ids=str)
def test_up_to_r_lost_chunks_are_a_hit(lost: tuple[int, ...], hedge: Hedge) -> None:
    world = stored(hedge=hedge)
    for node in [world.node_of("a", index) for index in lost]:
        world.lose(node)
    get = world.get("a")
    assert world.facts(get).key == "a"
    assert world.state.counters.resets == 0


@BOTH
@pytest.mark.parametrize(("scheme", "k", "n_lost"), [("rs:4+2", 4, 3), ("rs:4+2", 4, 6), ("mirror:3", 1, 3)])
def test_more_than_r_lost_is_a_reset_with_numbers_and_then_a_miss(
    scheme: str, k: int, n_lost: int, hedge: Hedge
) -> None:
    world = stored(scheme, hedge=hedge)
    n = len(world.record("a").places)
    for node in [world.node_of("a", index) for index in range(n_lost)]:
        world.lose(node)
    error = world.error(world.get("a"))
    assert isinstance(error, ObjectLost)
    assert (error.need, error.have) == (k, k - 1)
    assert error.have >= n - n_lost
    assert type(world.error(world.get("a"))) is KeyNotFound
    assert world.state.counters.resets == 1
    assert world.state.stored_bytes == 0
    world.asleep()
    assert world.facts(world.put("b")).key == "b"  # which wakes nodes and takes the remains away
    remains = {chunk.key for node in world.nodes.values() if node.session for chunk in node.instance.chunks}
    assert remains <= {"b"}


@BOTH
def test_a_damaged_chunk_counts_as_missing(hedge: Hedge) -> None:
    world = stored(hedge=hedge)
    world.nodes[world.node_of("a", 0)].is_damaged = True
    assert world.facts(world.get("a")).key == "a"
    assert world.state.counters.chunks_damaged == 1
    assert world.state.counters.degraded_reads == 1


def test_too_many_damaged_chunks_are_a_reset() -> None:
    world = stored("stripe:2")
    world.nodes[world.node_of("a", 1)].is_damaged = True
    assert isinstance(world.error(world.get("a")), ObjectLost)


@BOTH
def test_a_node_that_cannot_be_reached_is_replaced_and_its_chunk_is_not_called_lost(hedge: Hedge) -> None:
    world = stored(hedge=hedge)
    world.asleep()
    world.nodes[world.node_of("a", 0)].outcome = ev.InvokeOutcome.THROTTLED
    get = world.get("a")
    world.advance(1.0)
    assert world.facts(get).key == "a"
    assert world.state.counters.degraded_reads == 0
    assert world.state.counters.repairs == 0


@BOTH
def test_unreachable_nodes_that_come_back_are_asked_again(hedge: Hedge) -> None:
    world = stored(hedge=hedge)
    world.asleep()
    for scripted in world.nodes.values():
        scripted.outcome = ev.InvokeOutcome.UNREACHABLE
    get = world.get("a", timeout_s=30.0)
    world.advance(10.0)
    assert world.is_open(get)
    for scripted in world.nodes.values():
        scripted.outcome = None
    world.advance(5.0)
    assert world.facts(get).key == "a"


@BOTH
def test_silence_ends_at_the_deadline_with_what_was_there(hedge: Hedge) -> None:
    world = stored(hedge=hedge)
    for index in (0, 1, 2):
        world.nodes[world.node_of("a", index)].holds = True
    get = world.get("a", timeout_s=7.0)
    world.advance(6.9)
    assert world.is_open(get)
    world.advance(0.2)
    error = world.error(get)
    assert isinstance(error, DeadlineExceeded)
    assert str(error) == (
        "GET of 'a' did not finish within 7 s: 3 of 4 chunks arrived, 0 are lost, the others did not answer"
    )
    assert world.state.operations == {}
    assert not {timer for timer in world.timers if timer[0] not in ("silence", "retry")}
    assert world.released.count(get) == 1


def test_a_stalled_chunk_is_fetched_from_elsewhere() -> None:
    world = stored(hedge=Hedge.DELAYED, hedge_delay_s=1e6)
    world.nodes[world.node_of("a", 3)].holds = True
    get = world.get("a")
    world.advance(3.0)
    assert world.facts(get).key == "a"
    assert world.state.nodes[world.node_of("a", 3)].is_suspect


def test_queued_requests_go_when_the_read_ends() -> None:
    """At a node in the pause after a failed invocation, too: it is not woken for nobody."""
    world = stored(hedge=Hedge.ALL)
    late = world.node_of("a", 5)
    world.end_session(late)
    world.nodes[late].outcome = ev.InvokeOutcome.THROTTLED
    n_invoked = len(world.said(cmd.Invoke))
    assert world.facts(world.get("a")).key == "a"
    world.nodes[late].outcome = None
    world.advance(10.0)
    assert len(world.said(cmd.Invoke)) == n_invoked + 1
    assert world.state.nodes[late].n_unsettled == 0


def test_an_object_that_cannot_be_decoded_is_an_error_not_wrong_bytes() -> None:
    world = stored(hedge=Hedge.DELAYED)
    world.lose(world.node_of("a", 0))
    world.holds_codec = True
    get = world.get("a")
    world.tell(ev.CodecFailed(op=get, detail="checksum"))
    assert isinstance(world.error(get), SchemeError)
    assert world.released.count(get) == 1


def test_a_caller_that_goes_away_leaves_nothing_open() -> None:
    world = stored()
    world.nodes[world.node_of("a", 0)].holds = True
    world.nodes[world.node_of("a", 1)].holds = True
    world.nodes[world.node_of("a", 2)].holds = True
    get = world.get("a")
    world.tell(ev.OpCancelled(op=get))
    assert world.state.operations == {}
    assert get not in world.endings
    assert world.released.count(get) == 1
    assert world.timers.keys() <= {("silence", 0)}
    assert sum(node.n_unsettled for node in world.state.nodes.values()) == 0


# ---------------------------------------------------------------- beside writes, deletes and repairs


def test_a_read_keeps_the_version_that_it_began_with() -> None:
    world = stored()
    old = world.record("a").facts
    slow = world.node_of("a", 0)
    world.nodes[slow].holds = True
    get = world.get("a", timeout_s=5.0)
    for index in range(1, 6):
        world.nodes[world.node_of("a", index)].holds = False
    world.nodes[slow].holds = False
    world.put("a", 2 * MIB)
    world.let_go(slow)
    assert world.facts(get) == old
    assert world.facts(world.get("a")).size_bytes == 2 * MIB
    assert world.accounted_bytes() == world.used_bytes()


def test_a_deleted_object_is_kept_until_its_last_reader_ends() -> None:
    world = stored(hedge=Hedge.ALL)
    for index in (0, 1, 2):
        world.nodes[world.node_of("a", index)].holds = True
    nodes = [place.node for place in world.record("a").places]
    get = world.get("a")
    assert not world.delete("a")  # it waits for the reader, whom nobody else joins
    assert type(world.error(world.get("a"))) is KeyNotFound
    assert world.said(cmd.DeleteChunks) == []
    for node in nodes:
        world.let_go(node)
    assert world.facts(get).key == "a"
    assert len(world.said(cmd.DeleteChunks)) == 3  # r + 1; the others are told with whatever is said to them next
    assert world.state.stored_bytes == 0


def test_a_read_sees_where_a_repair_has_brought_its_chunk() -> None:
    """Chunk 0 is lost and rebuilt while a read waits; then two more go: five are there, four are needed."""
    world = stored(hedge=Hedge.ALL, n_nodes=12)
    nodes = [place.node for place in world.record("a").places]
    world.lose(nodes[0])
    for node in (nodes[1], nodes[2]):
        world.nodes[node].holds = True
    slow = world.get("a")  # finds chunk 0 missing; has 3, 4, 5
    assert world.is_open(slow)
    for node in (nodes[1], nodes[2]):
        world.nodes[node].holds = False
    quick = world.get("a")
    assert world.facts(quick).key == "a"
    assert world.state.counters.repairs == 1
    for node in (nodes[1], nodes[2]):
        world.lose(node)
    world.advance(5.0)
    assert world.facts(slow).key == "a"
    assert world.state.counters.resets == 0


def test_a_chunk_that_was_rebuilt_meanwhile_is_not_rebuilt_again() -> None:
    world = stored(hedge=Hedge.ALL, n_nodes=12)
    nodes = [place.node for place in world.record("a").places]
    world.lose(nodes[0])
    world.nodes[nodes[1]].holds = world.nodes[nodes[2]].holds = True
    slow = world.get("a")
    world.nodes[nodes[1]].holds = world.nodes[nodes[2]].holds = False
    world.facts(world.get("a"))
    assert world.state.counters.repairs == 1
    world.let_go(nodes[1])
    assert world.facts(slow).key == "a"
    assert world.state.counters.repairs == 1


def test_overload_is_refused_with_numbers() -> None:
    world = stored(max_in_flight=2)
    for scripted in world.nodes.values():
        scripted.holds = True
    first, second = world.get("a"), world.get("a")
    third = world.get("a")
    error = world.error(third)
    assert isinstance(error, Overloaded)
    assert (error.in_flight, error.limit, error.retry_after_s) == (2, 2, 0.1)
    assert world.released == [OpId(1), third]
    assert world.is_open(first)
    assert world.is_open(second)
    assert world.state.counters.refused == 1


# ---------------------------------------------------------------- when a large object's chunks are late


def half_arrived(after_s: float) -> tuple[World, OpId, int]:
    """A large object's read: two of its chunks took so long, the others are on their way."""
    world = World(hedge_delay_s=0.02)
    world.facts(world.put("a", 100 * MIB))
    nodes = [world.node_of("a", index) for index in range(4)]
    for node in nodes:
        world.nodes[node].holds = True
    since = len(world.commands)
    get = world.get("a")
    world.advance(after_s)
    for node in nodes[:2]:
        world.let_go(node)
    assert sorted(asked(world, since)) == [0, 1, 2, 3]
    return world, get, since


def test_a_large_object_is_not_overdue_after_the_delay_of_a_small_one() -> None:
    world, get, since = half_arrived(after_s=0.1)
    world.advance(0.02)
    assert sorted(asked(world, since)) == [0, 1, 2, 3]
    assert world.is_open(get)


def test_chunks_are_overdue_when_they_take_a_quarter_longer_than_the_others_did() -> None:
    world, get, since = half_arrived(after_s=0.1)
    world.advance(0.026)
    assert sorted(asked(world, since)) == [0, 1, 2, 3, 4, 5]
    assert world.facts(get).key == "a"
    assert world.state.counters.reads_hedged == 1


# ---------------------------------------------------------------- behind many others


def many_half_arrived(n: int) -> tuple[World, list[OpId]]:
    """Reads of one large object at once, each of which has all but two of its chunks; the nodes of these are busy."""
    world = World(hedge_delay_s=0.02)
    world.facts(world.put("a", 100 * MIB))
    nodes = [world.node_of("a", index) for index in range(4)]
    for node in world.nodes.values():
        node.holds = True
    gets = [world.get("a") for _ in range(n)]
    world.advance(0.1)
    for node in nodes[:2]:
        world.let_some_go(node, lambda command: True)
    return world, gets


def answer_one(world: World) -> None:
    """Every node answers one more of what it was asked."""
    for name, node in world.nodes.items():
        if node.held:
            first = node.held[0][0]
            world.let_some_go(name, lambda command, first=first: command is first)


def test_among_many_reads_hedges_ask_for_a_share_of_what_is_read() -> None:
    world, gets = many_half_arrived(20)
    while any(world.is_open(get) for get in gets):
        world.advance(0.1)
        answer_one(world)
    asked_bytes = 25 * MIB * (len(world.said(cmd.FetchChunk)) - 4 * len(gets))
    assert 0 <= asked_bytes <= HEDGED_BURST_BYTES + HEDGED_SHARE * len(gets) * 100 * MIB
    assert world.state.counters.hits == len(gets)


def test_a_node_that_says_nothing_for_long_is_not_waited_for_however_many_wait() -> None:
    world, gets = many_half_arrived(20)
    world.advance(3.0)
    assert world.state.counters.reads_hedged == len(gets)


def test_what_waits_behind_others_has_not_stalled() -> None:
    world, gets = many_half_arrived(20)
    for _ in range(40):  # far beyond the time for one chunk
        world.advance(0.1)
        answer_one(world)
    for node in world.nodes:
        assert world.state.nodes[node].suspect_until_s == 0.0
    assert world.state.counters.hits == len(gets)


def test_but_not_for_ever() -> None:
    world = World(stall_s=0.5, hedge_delay_s=100.0)
    world.facts(world.put("a", 100 * MIB))
    node = world.node_of("a", 0)
    world.nodes[node].holds = True
    world.get("a")
    since = len(world.commands)
    for _ in range(200):
        world.advance(0.1)
        world.state.nodes[node].answered_s = world.now_s  # it answers others
        if asked(world, since):
            break
    assert asked(world, since)
    assert world.now_s - START_S < 2 * MAX_QUEUED_STALLS * 0.5 + 100 * MIB / (20 * MIB)


def queue_at_one_node(n: int) -> tuple[World, OpId, list[OpId]]:
    """A read of "a" that its node does not answer, and ``n`` others that wait behind it at the same node."""
    world = stored("mirror:3", n_nodes=3, hedge=Hedge.DELAYED, hedge_delay_s=0.02)
    for node in world.nodes.values():
        node.holds = True
    return world, world.get("a"), [world.get("a") for _ in range(n)]


def answer(world: World, get: OpId) -> None:
    for node in world.nodes:
        world.let_some_go(node, lambda command: isinstance(command, cmd.FetchChunk) and command.op == get)


def test_a_read_whose_node_answers_others_is_not_hedged_yet() -> None:
    world, get, (other,) = queue_at_one_node(1)
    world.advance(0.015)
    answer(world, other)
    world.facts(other)
    world.advance(0.01)
    assert world.state.counters.reads_hedged == 0
    world.advance(0.02)  # in which nothing came
    assert world.state.counters.reads_hedged == 1
    assert world.is_open(get)


def test_a_node_that_answers_others_for_long_is_slow_all_the_same() -> None:
    world, get, others = queue_at_one_node(12)
    n_asked = []
    for other in others:
        world.advance(0.01)
        answer(world, other)
        n_asked.append(sum(command.op == get for command in world.said(cmd.FetchChunk)))
    assert n_asked[:9] == [1] * 9
    assert n_asked[-1] == 3


# ---------------------------------------------------------------- stragglers, told by how far they have come


def on_the_way(size_bytes: int = 40 * MIB, **settings: object) -> tuple[World, OpId, int]:
    """A read of six large chunks, of which none has come after the delay, and the first command after its timer."""
    world = World(scheme="rs:4+2", capacity_bytes=256 * MIB, hedge=Hedge.DELAYED, hedge_delay_s=0.02, **settings)  # type: ignore[arg-type]
    world.facts(world.put("a", size_bytes))
    for node in world.nodes.values():
        node.holds = True
    get = world.get("a")
    since = len(world.commands)
    world.advance(0.021)
    return world, get, since


def gauged(world: World, get: OpId, *shares: float) -> list[int]:
    """The chunks that are asked for when these have come so far."""
    since = len(world.commands)
    world.tell(ev.Gauged(op=get, shares=shares))
    return asked(world, since)


def test_reads_of_large_chunks_ask_how_far_these_are() -> None:
    world, get, since = on_the_way()
    (gauge,) = world.said(cmd.Gauge, since)
    fetches = [command for command in world.said(cmd.FetchChunk) if command.op == get]
    assert gauge == cmd.Gauge(op=get, requests=tuple((fetch.link, fetch.request) for fetch in fetches))


@pytest.mark.parametrize(("scheme", "size_bytes"), [("rs:4+2", 3 * MIB), ("mirror:3", 8 * MIB), ("stripe:4", 40 * MIB)])
def test_small_chunks_and_single_ones_are_not_asked_about(scheme: str, size_bytes: int) -> None:
    world = World(scheme=scheme, capacity_bytes=256 * MIB, hedge=Hedge.DELAYED, hedge_delay_s=0.02)
    world.facts(world.put("a", size_bytes))
    for node in world.nodes.values():
        node.holds = True
    world.get("a")
    world.advance(0.021)
    assert world.said(cmd.Gauge) == []


def test_parity_is_asked_for_in_the_place_of_stragglers() -> None:
    world, get, _ = on_the_way()
    assert gauged(world, get, 0.15, 0.01, 0.14, 0.16) == [4]
    assert world.state.counters.reads_hedged == 1


def test_as_many_as_there_are_stragglers() -> None:
    world, get, _ = on_the_way()
    assert gauged(world, get, 0, 0.15, 0, 0.16) == [4, 5]


def test_chunks_that_are_all_alike_are_left_alone_and_asked_about_again_a_few_times() -> None:
    world, get, since = on_the_way()
    for _ in range(8):
        assert gauged(world, get, 0.03, 0.02, 0.02, 0.03) == []
        world.advance(0.021)
    assert 2 <= len(world.said(cmd.Gauge, since)) <= 6
    assert world.state.counters.reads_hedged == 0


def test_a_network_that_is_slow_as_a_whole_has_no_stragglers() -> None:
    world, get, _ = on_the_way()
    assert gauged(world, get, 0, 0, 0, 0) == []
    assert gauged(world, get, 0.05, 0, 0, 0) == []  # three of four are not stragglers


def test_chunks_that_will_soon_be_there_are_waited_for() -> None:
    world, get, _ = on_the_way()
    assert gauged(world, get, 0.9, 0.9, 0.9, 0.05) == []


def test_what_comes_after_the_end_of_a_read_is_no_news() -> None:
    world, get, _ = on_the_way()
    for node in world.nodes:
        world.let_go(node)
    world.facts(get)
    assert gauged(world, get, 0.15, 0.01, 0.14, 0.16) == []


# ---------------------------------------------------------------- instances that are late


def overtaken(world: World) -> tuple[OpId, dict[NodeId, tuple[Instance, SessionId]]]:
    """Every node sleeps, is invoked for a read and not heard of in time; invoked again, it is an empty instance that
    answers. The read, and of each node the instance that is late, with the session that it was invoked for."""
    world.asleep()
    for scripted in world.nodes.values():
        scripted.is_silent = True
    since = len(world.commands)
    get = world.get("a")
    late = {c.node: (world.nodes[c.node].instance, c.session) for c in world.said(cmd.Invoke, since)}
    assert late
    for scripted in world.nodes.values():
        scripted.is_silent = False
        scripted.instance = Instance(InstanceId(f"second of {scripted.instance.id}"))
    world.advance(world.state.context.policy.connect_timeout_s + 5)
    assert {c.node for c in world.said(cmd.Invoke, since)} >= late.keys()
    return get, late


def test_an_object_is_not_lost_while_those_who_have_it_may_only_be_late() -> None:
    world = stored()
    get, late = overtaken(world)
    assert world.is_open(get)
    for node, (instance, session) in late.items():
        world.nodes[node].instance = instance
        assert instance.link is not None
        world.nodes[node].session = session
        world.tell(ev.PongReceived(link=instance.link, session=session))
    world.advance(5)
    assert world.facts(get).key == "a"
    assert world.state.counters.resets == 0


def test_an_object_is_lost_when_those_who_had_it_ended_without_a_word() -> None:
    world = stored()
    get, late = overtaken(world)
    for node, (instance, session) in late.items():
        assert instance.link is not None
        world.tell(ev.LinkClosed(link=instance.link))
        world.tell(ev.InvokeReturned(node=node, session=session, outcome=ev.InvokeOutcome.FUNCTION_ERROR))
    world.advance(5)
    assert isinstance(world.error(get), ObjectLost)
    assert world.state.counters.resets == 1


def test_those_who_are_late_are_waited_for_until_the_deadline() -> None:
    world = stored()
    get, _ = overtaken(world)
    world.advance(30)
    assert isinstance(world.error(get), DeadlineExceeded)
    assert world.state.counters.resets == 0
