"""Backups: what is copied in which order, what happens meanwhile, and that whatever breaks loses nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from core_fleet import Fleet
from core_world import MIB, ScriptedNode

from infiniray.core import backup as backups
from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.backup import Backup
from infiniray.core.ids import NodeId
from infiniray.wire.describe import ChunkId

NODE = NodeId("n0")


def one_node(n_objects: int = 1, **policy: object) -> Fleet:
    """A node that holds ``a``, ``b``, ``c`` and so on, of 1 MiB each."""
    fleet = Fleet(n_nodes=1, scheme="mirror:1", **policy)
    for key in "abcdefgh"[:n_objects]:
        fleet.put(key)
        fleet.advance(1.0)
    return fleet


def keys(scripted: ScriptedNode) -> set[str]:
    return {chunk.key for chunk in scripted.instance.chunks}


def running(fleet: Fleet) -> Backup:
    backup = fleet.state.nodes[NODE].backup
    assert backup is not None
    return backup


def copied(fleet: Fleet) -> list[str]:
    return [command.chunk.key for command in fleet.said(cmd.CopyChunk)]


def assert_ended(fleet: Fleet, *, done: int = 0, failed: int = 0) -> None:
    """The backup is over, and its slot given back, once; both instances may leave, and the node goes on working."""
    counters = fleet.state.backups.counters
    assert (counters.backups, counters.backups_failed) == (done, failed)
    assert fleet.state.nodes[NODE].backup is None
    assert fleet.state.backups.copying == {}
    assert len(fleet.said(cmd.ReleaseSlot)) == done + failed
    assert fleet.state.backups.ends_at_s(fleet.state.nodes[NODE]) is None
    fleet.holds_copies = False
    for scripted in (fleet.nodes[NODE], fleet.peers[NODE]):
        scripted.is_silent, scripted.outcome = False, None
    fleet.advance(10.0)
    assert fleet.facts(fleet.put("later")).key == "later"


# ---------------------------------------------------------------- the way of a backup


def test_the_peer_has_what_the_node_has_and_takes_over() -> None:
    fleet = one_node(3)
    source = fleet.nodes[NODE].instance
    fleet.back_up()
    assert keys(fleet.peers[NODE]) == {"a", "b", "c"}
    node = fleet.state.nodes[NODE]
    assert node.copy is not None
    assert node.copy.instance == fleet.peers[NODE].instance.id
    assert fleet.on_record[NODE] == fleet.peers[NODE].instance.id
    fleet.lose(NODE)  # the source: nothing depends on it any more
    fleet.swap(NODE)
    assert source.chunks
    assert [fleet.facts(fleet.get(key)).key for key in "abc"] == ["a", "b", "c"]
    counters = fleet.state.backups.counters
    assert (counters.backup_chunks, counters.backup_bytes) == (3, 3 * MIB)


def test_the_most_recently_used_come_first() -> None:
    fleet = one_node(4)
    fleet.get("b")
    fleet.advance(1.0)
    fleet.get("a")
    fleet.back_up()
    assert copied(fleet) == ["a", "b", "d", "c"]


def test_a_second_backup_copies_only_what_has_changed() -> None:
    fleet = one_node(3)
    fleet.back_up()
    fleet.swap(NODE)
    since = len(fleet.commands)
    fleet.put("new")
    fleet.advance(10.0)
    fleet.back_up()
    assert [command.chunk.key for command in fleet.said(cmd.CopyChunk, since)] == ["new"]
    assert keys(fleet.peers[NODE]) == {"a", "b", "c", "new"}


def test_what_the_source_lacks_comes_back_from_the_peer() -> None:
    """The platform serves with a stale replica: what that lacks is brought by a backup that nobody asked for."""
    fleet = one_node(2)
    fleet.back_up()
    fleet.swap(NODE)
    fleet.put("new")
    fleet.swap(NODE)
    fleet.asleep()
    fleet.leave(fleet.peers[NODE], NODE)
    assert keys(fleet.nodes[NODE]) == {"a", "b"}
    fleet.get("a")  # wakes it
    assert keys(fleet.nodes[NODE]) == keys(fleet.peers[NODE]) == {"a", "b", "new"}


def test_a_peer_forgets_what_was_deleted_while_it_slept() -> None:
    fleet = one_node(3)
    fleet.back_up()
    fleet.swap(NODE)
    fleet.leave(fleet.peers[NODE], NODE)
    fleet.delete("b")
    fleet.advance(10.0)
    fleet.back_up()
    assert keys(fleet.peers[NODE]) == {"a", "c"}


def test_no_more_than_the_window_is_copied_at_a_time() -> None:
    fleet = one_node(5, backup_window_bytes=2 * MIB)
    fleet.holds_copies = True
    fleet.back_up()
    assert len(fleet.held_copies) == 2
    fleet.give_copies()
    assert_ended(fleet, done=1)
    assert len(copied(fleet)) == 5


def test_a_chunk_larger_than_the_window_is_copied_alone() -> None:
    fleet = one_node(2, backup_window_bytes=1)
    fleet.holds_copies = True
    fleet.back_up()
    assert len(fleet.held_copies) == 1


def test_what_is_beyond_the_allowance_is_left_to_the_next_backup() -> None:
    fleet = one_node(5, backup_burst_bytes=2 * MIB, backup_retry_s=15.0)
    fleet.back_up()
    assert keys(fleet.peers[NODE]) == {"e", "d"}  # the most recently used
    assert fleet.state.backups.age_s(fleet.state.nodes[NODE]) is None
    for n_there in (4, 5):
        fleet.swap(NODE)
        fleet.advance(16.0)
        assert max(len(keys(fleet.nodes[NODE])), len(keys(fleet.peers[NODE]))) == 5
        assert min(len(keys(fleet.nodes[NODE])), len(keys(fleet.peers[NODE]))) == n_there
    assert fleet.state.backups.age_s(fleet.state.nodes[NODE]) is not None


def test_one_chunk_is_copied_however_large() -> None:
    fleet = one_node(1, backup_burst_bytes=1)
    fleet.back_up()
    assert keys(fleet.peers[NODE]) == {"a"}


# ---------------------------------------------------------------- meanwhile


def test_what_is_written_meanwhile_is_copied_too() -> None:
    fleet = one_node(2)
    fleet.holds_copies = True
    fleet.back_up()
    assert fleet.facts(fleet.put("new")).key == "new"  # acknowledged at once
    fleet.give_copies()
    assert keys(fleet.peers[NODE]) == {"a", "b", "new"}
    assert_ended(fleet, done=1)


def test_who_writes_all_the_time_does_not_keep_a_backup_from_ending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backups, "MAX_ROUNDS", 3)
    fleet = one_node(1)
    fleet.holds_copies = True
    fleet.back_up()
    for n in range(5):
        if fleet.held_copies:
            fleet.put(f"new{n}")
            held, fleet.held_copies = fleet.held_copies, []
            for command in held:
                fleet._copy(command)
    assert_ended(fleet, done=1)
    assert len(copied(fleet)) == 3


def test_reads_are_served_by_the_source_meanwhile() -> None:
    fleet = one_node(2)
    fleet.holds_copies = True
    fleet.back_up()
    since = len(fleet.commands)
    fleet.facts(fleet.get("a"))
    assert [fetch.link for fetch in fleet.said(cmd.FetchChunk, since)] == [fleet.nodes[NODE].instance.link]


def test_what_is_deleted_meanwhile_is_deleted_at_both() -> None:
    fleet = one_node(2, backup_window_bytes=1)
    fleet.holds_copies = True
    fleet.back_up()
    b, a = fleet.held_copies[0], "a"
    fleet.held_copies = []
    fleet._copy(b)  # the peer has it now
    assert keys(fleet.peers[NODE]) == {"b"}
    assert fleet.delete("b")
    assert keys(fleet.nodes[NODE]) == {a}
    assert keys(fleet.peers[NODE]) == set()
    fleet.give_copies()
    assert keys(fleet.peers[NODE]) == {a}
    assert_ended(fleet, done=1)


def test_a_copy_on_its_way_of_what_is_deleted_is_cancelled() -> None:
    fleet = one_node(2)
    fleet.holds_copies = True
    fleet.back_up()
    assert sorted(command.chunk.key for command in fleet.held_copies) == ["a", "b"]
    fleet.delete("a")
    assert [command.chunk.key for command in fleet.held_copies] == ["b"]
    fleet.give_copies()
    assert keys(fleet.peers[NODE]) == {"b"}
    assert_ended(fleet, done=1)


def test_the_end_of_the_last_copy_by_a_delete_ends_the_backup() -> None:
    fleet = one_node(1)
    fleet.holds_copies = True
    fleet.back_up()
    fleet.delete("a")
    assert fleet.state.nodes[NODE].backup is None
    assert_ended(fleet, done=1)


def test_a_chunk_that_the_source_only_seemed_to_have_counts_as_lost() -> None:
    fleet = one_node(2)
    record = fleet.record("a")
    del fleet.nodes[NODE].instance.chunks[ChunkId("a", record.facts.version, 0)]
    fleet.back_up()
    assert keys(fleet.peers[NODE]) == {"b"}
    assert fleet.state.is_lost(record.places[0])
    assert not fleet.state.is_lost(fleet.record("b").places[0])
    assert_ended(fleet, done=1)


# ---------------------------------------------------------------- whatever breaks


def reclaim_source(fleet: Fleet) -> None:
    fleet.lose(NODE)


def cut_peer(fleet: Fleet) -> None:
    fleet.cut(fleet.peers[NODE])


def dismiss_peer(fleet: Fleet) -> None:
    fleet.leave(fleet.peers[NODE], NODE)


def fail_peers_invocation(fleet: Fleet) -> None:
    session = running(fleet).session
    assert session is not None
    fleet.tell(ev.InvokeReturned(node=NODE, session=session, outcome=ev.InvokeOutcome.FUNCTION_ERROR))


def fail_copy(fleet: Fleet) -> None:
    request = fleet.held_copies.pop(0).request
    fleet.tell(ev.CopyFailed(request=request, is_missing=False, detail="full"))


def run_out_of_time(fleet: Fleet) -> None:
    fleet.advance(31.0)


TROUBLES = [reclaim_source, cut_peer, dismiss_peer, fail_peers_invocation, fail_copy, run_out_of_time]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
def test_a_backup_that_is_interrupted_while_it_copies(trouble: Callable[[Fleet], None]) -> None:
    fleet = one_node(3, backup_window_bytes=1)
    fleet.holds_copies = True
    fleet.back_up()
    first, fleet.held_copies = fleet.held_copies[0], []
    fleet._copy(first)
    assert keys(fleet.peers[NODE]) == {"c"}
    trouble(fleet)
    assert fleet.held_copies == []  # those on their way are called off
    assert_ended(fleet, failed=1)
    assert keys(fleet.peers[NODE]) - {"later"} == {"c"}  # what it had got it keeps


def test_when_the_source_goes_the_peer_goes_on_with_what_it_has() -> None:
    fleet = one_node(3, backup_window_bytes=1)
    fleet.holds_copies = True
    fleet.back_up()
    fleet.held_copies, first = [], fleet.held_copies[0]
    fleet._copy(first)
    fleet.lose(NODE)
    node = fleet.state.nodes[NODE]
    assert node.copy is not None
    assert node.copy.instance == fleet.peers[NODE].instance.id
    fleet.swap(NODE)
    assert fleet.facts(fleet.get("c")).key == "c"
    assert fleet.state.is_lost(fleet.record("a").places[0])


def test_when_the_peer_goes_the_source_goes_on() -> None:
    fleet = one_node(2)
    fleet.holds_copies = True
    fleet.back_up()
    fleet.cut(fleet.peers[NODE])
    assert [fleet.facts(fleet.get(key)).key for key in "ab"] == ["a", "b"]


@pytest.mark.parametrize("outcome", [ev.InvokeOutcome.THROTTLED, ev.InvokeOutcome.FUNCTION_ERROR])
def test_a_peer_that_cannot_be_invoked(outcome: ev.InvokeOutcome) -> None:
    fleet = one_node(1)
    fleet.peers[NODE].outcome = outcome
    fleet.back_up()
    assert_ended(fleet, failed=1)


def test_a_peer_that_is_never_heard_of() -> None:
    fleet = one_node(1)
    fleet.peers[NODE].is_silent = True
    fleet.back_up()
    assert running(fleet).phase.value == "peer"
    fleet.advance(31.0)
    assert_ended(fleet, failed=1)


def test_a_peer_that_does_not_confirm_what_it_dropped() -> None:
    fleet = one_node(2)
    fleet.back_up()
    fleet.swap(NODE)
    fleet.leave(fleet.peers[NODE], NODE)
    fleet.delete("b")
    fleet.advance(10.0)
    fleet.peers[NODE].holds = True
    fleet.back_up()
    assert running(fleet).phase.value == "aligning"
    since = len(fleet.commands)
    fleet.advance(31.0)
    assert fleet.state.backups.counters.backups_failed == 1
    assert fleet.said(cmd.CopyChunk, since) == []


def test_a_platform_that_serves_with_the_same_instance_again() -> None:
    """The source's session had ended when the second invocation came: there is no peer."""
    fleet = one_node(1)
    fleet.peers[NODE].is_silent = True
    fleet.back_up()
    session = running(fleet).session
    link = fleet.nodes[NODE].instance.link
    assert session is not None
    assert link is not None
    fleet.nodes[NODE].session = session
    fleet.tell(ev.PongReceived(link=link, session=session))
    assert_ended(fleet, failed=1)


def test_another_instance_that_speaks_up_as_the_source_ends_the_backup() -> None:
    fleet = one_node(1)
    fleet.peers[NODE].is_silent = True
    fleet.back_up()
    fleet.second_instance(NODE, "of nobody we invoked")
    assert_ended(fleet, failed=1)


def test_a_node_that_cannot_be_woken_is_not_backed_up() -> None:
    fleet = one_node(1)
    fleet.asleep()
    fleet.nodes[NODE].outcome = ev.InvokeOutcome.THROTTLED
    fleet.back_up()
    fleet.advance(10.0)
    assert_ended(fleet, failed=1)


def test_no_peer_is_invoked_while_too_many_invocations_are_out() -> None:
    fleet = one_node(1)
    fleet.peers[NODE].is_silent = True
    for n_failed in (1, 2):
        fleet.back_up()
        fleet.advance(31.0)
        assert fleet.state.backups.counters.backups_failed == n_failed
    since = len(fleet.commands)
    fleet.back_up()
    assert fleet.said(cmd.Invoke, since) == []
    assert fleet.state.backups.counters.backups_failed == 3


def test_late_words_of_a_backup_that_is_over_change_nothing() -> None:
    fleet = one_node(2)
    fleet.holds_copies = True
    fleet.back_up()
    requests = [command.request for command in fleet.held_copies]
    backup = running(fleet)
    fleet.cut(fleet.peers[NODE])
    for request in requests:
        fleet.tell(ev.ChunkCopied(request=request))
        fleet.tell(ev.CopyFailed(request=request, is_missing=True, detail="late"))
    backup.fail("again")
    fleet.advance(fleet.state.context.policy.backup_timeout_s)
    assert fleet.state.backups.counters.backup_chunks == 0
    assert_ended(fleet, failed=1)


# ---------------------------------------------------------------- when


def scheduled(**policy: object) -> Fleet:
    fleet = Fleet(n_nodes=1, scheme="mirror:1", warm_interval_s=0.0, **{"backup_interval_s": 100.0, **policy})
    fleet.tell(ev.Started(registered=()))
    return fleet


def n_backups(fleet: Fleet) -> int:
    return fleet.state.backups.counters.backups


def test_a_node_is_backed_up_within_an_interval_of_a_change_and_not_again_before_the_next() -> None:
    fleet = scheduled()
    fleet.put("a")
    fleet.advance(101.0)
    assert n_backups(fleet) == 1
    fleet.swap(NODE)
    fleet.advance(300.0)
    assert n_backups(fleet) == 1
    fleet.put("b")
    fleet.advance(101.0)
    assert n_backups(fleet) == 2


def test_a_node_that_has_not_changed_is_backed_up_when_its_backup_is_old() -> None:
    fleet = scheduled(backup_max_age_s=500.0)
    fleet.put("a")
    fleet.advance(101.0)
    fleet.swap(NODE)
    fleet.advance(399.0)
    assert n_backups(fleet) == 1
    fleet.advance(202.0)
    assert n_backups(fleet) == 2


def test_a_node_that_holds_nothing_is_not_backed_up() -> None:
    fleet = scheduled()
    fleet.advance(500.0)
    assert fleet.said(cmd.AcquireSlot) == []


def test_backups_can_be_switched_off() -> None:
    fleet = scheduled(backup_interval_s=0.0)
    fleet.put("a")
    fleet.back_up()
    fleet.advance(500.0)
    assert fleet.said(cmd.AcquireSlot) == []


def test_without_a_slot_it_is_asked_for_again_later() -> None:
    fleet = scheduled()
    fleet.put("a")
    fleet.grants_slots = False
    fleet.advance(101.0)
    assert fleet.said(cmd.AcquireSlot)
    assert fleet.said(cmd.ReleaseSlot) == []
    fleet.grants_slots = True
    fleet.advance(2 * backups.SLOT_RETRY_S)
    assert n_backups(fleet) == 1


def test_it_is_asked_for_one_slot_at_a_time() -> None:
    fleet = scheduled()
    fleet.grants_slots = None
    fleet.put("a")
    fleet.advance(101.0)
    fleet.back_up()
    fleet.advance(101.0)
    assert len(fleet.said(cmd.AcquireSlot)) == 1
    assert fleet.state.stats()["backups_running"] == 1


def test_a_backup_that_failed_is_tried_again_soon() -> None:
    fleet = scheduled(backup_retry_s=15.0)
    fleet.put("a")
    fleet.peers[NODE].outcome = ev.InvokeOutcome.THROTTLED
    fleet.advance(101.0)
    assert fleet.state.backups.counters.backups_failed > 0
    fleet.peers[NODE].outcome = None
    fleet.advance(16.0)
    assert n_backups(fleet) == 1


def test_the_age_of_a_backup() -> None:
    fleet = one_node(1)
    node = fleet.state.nodes[NODE]
    assert fleet.state.backups.ages_s() == [None]
    assert fleet.state.stats()["nodes_never_backed_up"] == 1
    fleet.back_up()
    fleet.advance(7.0)
    fleet.tell(ev.TimerFired(timer=("sweep", 0)))
    assert fleet.state.backups.age_s(node) == pytest.approx(7.0)
    assert fleet.state.stats()["backup_ages_s"] == [pytest.approx(7.0)]


def test_what_is_running_says_so() -> None:
    fleet = one_node(1)
    fleet.holds_copies = True
    fleet.back_up()
    assert repr(running(fleet)) == f"<Backup of n0 copying, {MIB} bytes>"
