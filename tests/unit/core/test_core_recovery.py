"""A shard gets its table back from what its nodes hold: what counts, what does not, and who is waited for."""

from __future__ import annotations

import pytest
from core_fleet import Fleet, keep
from core_world import MIB, crc_of

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core import outbox, recovery
from infiniray.core.custody import NOBODY
from infiniray.core.ids import NodeId
from infiniray.core.policy import RepairMode
from infiniray.errors import KeyNotFound, ShardRecovering
from infiniray.wire.describe import ChunkId, ChunkInfo


def holding(*keys: str, **policy: object) -> Fleet:
    """A fleet whose nodes hold objects of 4+2 chunks."""
    fleet = Fleet(**{"recovery_timeout_s": 30.0, "warm_interval_s": 0.0, **policy})  # type: ignore[arg-type]
    for key in keys:
        fleet.put(key)
        fleet.advance(1.0)
    return fleet


def invent(fleet: Fleet, chunk: ChunkId, *, on: NodeId, scheme: str = "rs:4+2", size_bytes: int = MIB) -> None:
    """Have a node hold a chunk that this shard never stored."""
    instance = fleet.nodes[on].instance
    keep(instance, chunk, instance.spans.last + 1)
    fleet.infos[chunk] = ChunkInfo(
        key=chunk.key, version=chunk.version, index=chunk.index, seq=0, scheme=scheme, object_bytes=size_bytes,
        chunk_bytes=size_bytes // 4, crc=crc_of(chunk), expires_s=0.0, head="h",
    )  # fmt: skip


def held(fleet: Fleet, key: str) -> list[ChunkId]:
    """Chunks of an object that are anywhere."""
    return [chunk for scripted in fleet.nodes.values() for chunk in scripted.instance.chunks if chunk.key == key]


def use_all(fleet: Fleet) -> None:
    """Every node hears of something new, and with that of what it is to delete."""
    for n in range(20):
        fleet.put(f"use{n}", 1)


# ---------------------------------------------------------------- the table comes back


def test_everything_is_there_again() -> None:
    fleet = holding("a", "b", "c")
    before = {record.facts.key: record for record in fleet.state.table}
    used = fleet.used_bytes()
    fleet.restart()
    assert not fleet.state.is_recovering
    for record in fleet.state.table:
        assert (record.facts, record.places) == (before[record.facts.key].facts, before[record.facts.key].places)
    assert fleet.stored_keys() == {"a", "b", "c"}
    assert fleet.used_bytes() == fleet.accounted_bytes() == used
    assert [fleet.facts(fleet.get(key)).key for key in "abc"] == ["a", "b", "c"]


def test_a_shard_that_has_nothing_on_record_is_open_at_once() -> None:
    fleet = holding()
    fleet.restart()
    assert not fleet.state.is_recovering
    assert fleet.said(cmd.ListChunks) == []
    assert fleet.facts(fleet.put("a")).key == "a"


def test_a_record_of_nodes_that_are_not_mine_any_more_says_nothing() -> None:
    fleet = holding("a")
    fleet.on_record[NodeId("of another shard")] = fleet.nodes[NodeId("n0")].instance.id
    fleet.restart()
    assert fleet.stored_keys() == {"a"}


def test_expiry_is_what_was_said_when_the_object_was_written() -> None:
    fleet = holding()
    fleet.put("a", ttl_s=100.0)
    fleet.restart()
    fleet.advance(90.0)
    assert fleet.facts(fleet.get("a")).key == "a"
    fleet.advance(10.0)
    assert isinstance(fleet.error(fleet.get("a")), KeyNotFound)


def test_clients_have_to_wait_until_then() -> None:
    fleet = holding("a")
    for scripted in fleet.nodes.values():
        scripted.holds = True
    fleet.restart()
    assert isinstance(fleet.error(fleet.get("a")), ShardRecovering)
    assert isinstance(fleet.error(fleet.put("b")), ShardRecovering)
    for node in fleet.nodes:
        fleet.let_go(node)
    assert fleet.facts(fleet.get("a")).key == "a"


def test_nothing_is_idle_while_clients_have_to_wait() -> None:
    """An object is given up that nobody has used for long; but nobody could."""
    fleet = holding("a", "b", idle_byte_s=10.0 * MIB * 1.5, sweep_interval_s=0.1)
    fleet.holds_registry = True
    fleet.lose(NodeId("n0"))
    fleet.restart()
    assert fleet.state.is_recovering
    fleet.advance(60.0)
    assert fleet.state.is_recovering
    for node, instance in [(c.node, c.instance) for c in fleet.said(cmd.RegisterCopy)]:
        fleet.tell(ev.CopyRegistered(node=node, instance=instance))
    assert not fleet.state.is_recovering
    assert fleet.stored_keys() == {"a", "b"}
    fleet.advance(30.0)
    assert fleet.stored_keys() == set()


def test_inventories_come_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "LIST_BATCH", 2)
    fleet = holding(*"abcde", n_nodes=6)
    since = len(fleet.commands)
    fleet.restart()
    assert fleet.stored_keys() == set("abcde")
    assert len(fleet.said(cmd.ListChunks, since)) == 6 * 3


def test_no_more_nodes_are_asked_at_a_time_than_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "WINDOW", 2)
    fleet = holding("a", n_nodes=6)
    for scripted in fleet.nodes.values():
        scripted.holds = True
    since = len(fleet.commands)
    fleet.restart()
    assert len(fleet.said(cmd.ListChunks, since)) == 2
    for n_answered in range(1, 7):
        fleet.let_go(fleet.state.context.homes[fleet.said(cmd.ListChunks, since)[n_answered - 1].request].id)
        assert len(fleet.said(cmd.ListChunks, since)) == min(6, n_answered + 2)
    assert fleet.stored_keys() == {"a"}


# ---------------------------------------------------------------- nodes that do not answer


def test_a_node_that_cannot_say_is_asked_again() -> None:
    fleet = holding("a")
    node = fleet.node_of("a", 0)
    fleet.nodes[node].refuses = True
    fleet.restart()
    assert fleet.state.is_recovering
    fleet.nodes[node].refuses = False
    fleet.advance(recovery.RETRY_S)
    assert not fleet.state.is_recovering
    assert fleet.record("a").places[0].node == node


def test_a_node_that_does_not_answer_in_time_counts_as_gone() -> None:
    fleet = holding("a", "b")
    node = fleet.node_of("a", 0)
    fleet.nodes[node].holds = True
    fleet.restart()
    fleet.advance(29.0)
    assert fleet.state.is_recovering
    fleet.advance(2.0)
    assert not fleet.state.is_recovering
    assert fleet.stored_keys() == {"a", "b"}
    assert fleet.record("a").places[0].node == ""
    assert fleet.on_record[node] == NOBODY
    assert fleet.facts(fleet.get("a")).key == "a"


def test_nobody_is_served_before_those_who_did_not_answer_are_struck_off_the_record() -> None:
    fleet = holding("a")
    fleet.nodes[fleet.node_of("a", 0)].holds = True
    fleet.holds_registry = True
    fleet.restart()
    fleet.advance(31.0)
    assert fleet.state.is_recovering
    [strike] = [command for command in fleet.said(cmd.RegisterCopy) if command.instance == NOBODY]
    fleet.holds_registry = False
    fleet.tell(ev.CopyRegistered(node=strike.node, instance=NOBODY))
    assert fleet.facts(fleet.get("a")).key == "a"


def test_an_object_of_which_too_few_chunks_answer_is_a_miss_and_what_is_left_of_it_is_deleted() -> None:
    fleet = holding("a")
    for index in range(3):
        fleet.nodes[fleet.node_of("a", index)].is_silent = True
    fleet.restart()
    fleet.advance(60.0)
    assert isinstance(fleet.error(fleet.get("a")), KeyNotFound)
    fleet.put("b")  # wakes nodes
    fleet.advance(60.0)
    assert len(held(fleet, "a")) == 3
    assert set(fleet.accounted_bytes().items()) == set(fleet.used_bytes().items())


def test_a_late_inventory_changes_nothing() -> None:
    fleet = holding("a")
    node = fleet.node_of("a", 0)
    fleet.nodes[node].holds = True
    fleet.restart()
    fleet.advance(31.0)
    before = fleet.used_bytes()
    fleet.let_go(node)
    assert fleet.used_bytes() == before
    assert fleet.record("a").places[0].node == ""


def test_what_is_found_lost_is_rebuilt() -> None:
    fleet = holding("a", repair=RepairMode.ALWAYS)
    fleet.nodes[fleet.node_of("a", 0)].holds = True
    fleet.restart()
    fleet.advance(40.0)
    assert fleet.state.counters.repairs == 1
    assert fleet.state.lost_chunks(fleet.record("a")) == ()


# ---------------------------------------------------------------- which instance counts


def stale_first(fleet: Fleet, node: NodeId) -> None:
    """Back up the node; then have the platform serve with the former instance, which is not on record."""
    fleet.back_up()
    assert fleet.on_record[node] == fleet.peers[node].instance.id


def test_the_instance_on_record_is_looked_for_behind_another_one_that_answers() -> None:
    fleet = holding("a", n_nodes=6)
    node = fleet.node_of("a", 0)
    stale_first(fleet, node)
    fleet.restart()
    fleet.advance(recovery.RETRY_S * 10)
    assert fleet.stored_keys() == {"a"}
    assert fleet.state.lost_chunks(fleet.record("a")) == ()
    assert fleet.state.counters.repairs == 0


def test_an_instance_that_is_not_on_record_does_not_count_however_much_it_has() -> None:
    fleet = holding("a", n_nodes=6)
    stale_first(fleet, fleet.node_of("a", 0))
    for scripted in fleet.peers.values():
        scripted.outcome = ev.InvokeOutcome.THROTTLED  # those on record never answer
    fleet.restart()
    fleet.advance(60.0)
    assert not fleet.state.is_recovering
    assert fleet.stored_keys() == set()
    assert set(fleet.on_record.values()) == {instance.instance.id for instance in fleet.nodes.values()}


def test_the_search_ends_when_the_platform_has_only_new_instances_to_offer() -> None:
    fleet = holding("a", n_nodes=6)
    gone = fleet.node_of("a", 0)
    fleet.nodes[gone].instance = fleet._new_instance()
    since = len(fleet.commands)
    fleet.restart()
    fleet.advance(20.0)
    assert not fleet.state.is_recovering
    searches = [invoke for invoke in fleet.said(cmd.Invoke, since) if invoke.reason == "backup"]
    assert {invoke.node for invoke in searches} == {gone}
    assert 1 <= len(searches) <= recovery.MAX_SEARCHES
    assert fleet.record("a").places[0].node == ""
    assert fleet.facts(fleet.get("a")).key == "a"


def test_another_instance_that_answers_in_the_middle_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half an inventory of one and half of another are not the inventory of anybody."""
    monkeypatch.setattr(outbox, "LIST_BATCH", 1)
    monkeypatch.setattr(recovery, "MAX_SEARCHES", 0)
    fleet = holding("a", "b", n_nodes=1, scheme="mirror:1")
    node = NodeId("n0")
    fleet.nodes[node].holds = True
    fleet.restart()
    fleet.let_some_go(node, lambda command: isinstance(command, cmd.ListChunks))  # the first page
    assert fleet.state.is_recovering
    first = fleet.nodes[node].instance
    fleet.lose(node)
    fleet.nodes[node].instance.chunks.update({c: seq for c, seq in first.chunks.items() if c.key == "b"})
    fleet.nodes[node].holds = False
    fleet.advance(20.0)
    fleet.let_go(node)
    assert not fleet.state.is_recovering
    assert fleet.stored_keys() == set()  # the second one is not on record


# ---------------------------------------------------------------- which version counts


def test_the_latest_version_with_enough_chunks_is_the_object() -> None:
    fleet = holding("a", n_nodes=6)
    former = fleet.record("a").facts.version
    later = former + 10
    for n in range(4):
        invent(fleet, ChunkId("a", later, n), on=NodeId(f"n{n}"))
    fleet.restart()
    assert fleet.record("a").facts.version == later
    use_all(fleet)
    assert {chunk.version for chunk in held(fleet, "a")} == {later}
    assert fleet.accounted_bytes() == fleet.used_bytes()


def test_a_later_version_with_too_few_chunks_was_never_acknowledged() -> None:
    fleet = holding("a", n_nodes=6)
    former = fleet.record("a").facts.version
    for n in range(3):
        invent(fleet, ChunkId("a", former + 10, n), on=NodeId(f"n{n}"))
    fleet.restart()
    assert fleet.record("a").facts.version == former
    use_all(fleet)
    assert {chunk.version for chunk in held(fleet, "a")} == {former}
    assert fleet.facts(fleet.get("a")).version == former


def test_a_chunk_that_is_at_two_nodes_counts_once_and_the_other_is_deleted() -> None:
    fleet = holding("a", n_nodes=7)
    record = fleet.record("a")
    spare = next(node for node in fleet.nodes if node not in {place.node for place in record.places})
    invent(fleet, record.chunk_id(0), on=spare)
    fleet.restart()
    use_all(fleet)
    assert len(held(fleet, "a")) == 6
    assert len({place.node for place in fleet.record("a").places}) == 6
    assert fleet.accounted_bytes() == fleet.used_bytes()


def test_two_chunks_of_an_object_on_one_node_count_as_one() -> None:
    fleet = holding("a", n_nodes=6)
    record = fleet.record("a")
    invent(fleet, record.chunk_id(1), on=record.places[0].node)
    fleet.nodes[record.places[1].node].holds = True
    fleet.restart()
    fleet.advance(31.0)
    places = [place.node for _, place in fleet.record("a").placed()]
    assert len(places) == len(set(places)) == 5


@pytest.mark.parametrize("scheme", ["rs:3+2", "nonsense"])
def test_chunks_that_do_not_fit_the_others_are_deleted(scheme: str) -> None:
    fleet = holding("a", n_nodes=6)
    version = fleet.record("a").facts.version
    for n in range(5):
        invent(fleet, ChunkId("z" if scheme == "nonsense" else "a", version, 20 + n), on=NodeId(f"n{n}"), scheme=scheme)
    fleet.restart()
    use_all(fleet)
    assert "z" not in fleet.stored_keys()
    assert {chunk.index for chunk in held(fleet, "a")} == set(range(6))
    assert held(fleet, "z") == []


def test_a_node_is_told_what_to_keep_only_when_that_is_known() -> None:
    fleet = holding("a", n_nodes=6)
    for scripted in fleet.nodes.values():
        scripted.holds = True
    since = len(fleet.commands)
    fleet.restart()
    fleet.second_instance(NodeId("n0"), "late")
    assert fleet.said(cmd.Retain, since) == []
    assert fleet.said(cmd.DeleteChunks, since) == []
