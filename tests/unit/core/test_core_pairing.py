"""Warm-ups in pairs: what both instances tell, what follows from it, and when nobody has to move."""

from __future__ import annotations

from typing import Any

import pytest
from core_fleet import Fleet

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import InstanceId, NodeId, SessionId
from infiniray.core.pairing import Pair
from infiniray.core.policy import Warm

NODE = NodeId("n0")


class PairFleet(Fleet):
    """Of warm-ups that are out at once the first is answered by the node, the second by its peer. With
    ``holds_warm_ups`` they are answered when the test says so."""

    def __init__(self, **policy: Any) -> None:
        self.holds_warm_ups = False
        self.warm_ups: list[cmd.Invoke] = []
        super().__init__(
            n_nodes=1, scheme="mirror:1", warm=Warm.HOLDING, warm_interval_s=60.0, **{"warm_replicas": True, **policy}
        )
        self.tell(ev.Started(registered=()))

    def _execute(self, command: cmd.Command) -> None:
        if isinstance(command, cmd.Invoke) and command.reason == "warm":
            self.warm_ups.append(command)
        else:
            super()._execute(command)

    def advance(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            super().advance(1.0)
            if not self.holds_warm_ups:
                self.answer_warm_ups()

    def answer_warm_ups(self) -> None:
        warm_ups, self.warm_ups = self.warm_ups, []
        for invoke, scripted in zip(warm_ups, (self.nodes[NODE], self.peers[NODE]), strict=False):
            self.warmed(invoke, scripted.instance.id, scripted.instance.spans)

    def warmed(self, invoke: cmd.Invoke, instance: InstanceId, spans: Any) -> None:
        report = ev.CopyReport(instance=instance, spans=spans.copy())
        self.tell(ev.InvokeReturned(node=invoke.node, session=invoke.session, outcome=ev.InvokeOutcome.OK, copy=report))

    def end_sessions(self) -> None:
        for scripted in (self.nodes[NODE], self.peers[NODE]):
            self.leave(scripted, NODE)

    def n_pairs(self, since: int = 0) -> int:
        invocations = [invoke for invoke in self.said(cmd.Invoke, since) if invoke.reason == "warm"]
        assert len(invocations) % 2 == 0
        return len(invocations) // 2


def backed_up(**policy: Any) -> PairFleet:
    """A node with an object that its peer has, too, both asleep."""
    fleet = PairFleet(**policy)
    fleet.put("a")
    fleet.back_up()
    fleet.swap(NODE)  # the connection is the peer's now
    fleet.end_sessions()
    return fleet


def test_a_node_and_its_replica_are_warmed_at_every_interval() -> None:
    fleet = backed_up()
    since = len(fleet.commands)
    fleet.advance(600.0)
    assert fleet.n_pairs(since) == 10
    assert fleet.state.nodes[NODE].pair.replica is not None
    assert fleet.state.nodes[NODE].pair.replica.instance == fleet.peers[NODE].instance.id


@pytest.mark.parametrize("policy", [{"warm_replicas": False}, {"backup_interval_s": 0.0}])
def test_without_replicas_warm_ups_are_single(policy: dict[str, Any]) -> None:
    fleet = PairFleet(**policy)
    fleet.put("a")
    fleet.end_sessions()
    since = len(fleet.commands)
    fleet.advance(600.0)
    assert len(fleet.said(cmd.Invoke, since)) == 10


def test_a_node_that_holds_nothing_is_warmed_alone() -> None:
    fleet = PairFleet()
    fleet.put("a")
    fleet.delete("a")
    fleet.end_sessions()
    since = len(fleet.commands)
    fleet.advance(300.0)
    assert not [invoke for invoke in fleet.said(cmd.Invoke, since) if invoke.reason == "warm"]


def test_a_replica_that_was_reclaimed_is_replaced_at_once() -> None:
    fleet = backed_up()
    fleet.peers[NODE].instance = fleet._new_instance()  # without a word
    since = len(fleet.commands)
    fleet.advance(61.0)
    assert [copy.chunk.key for copy in fleet.said(cmd.CopyChunk, since)] == ["a"]
    assert len(fleet.peers[NODE].instance.chunks) == len(fleet.nodes[NODE].instance.chunks) == 1


def test_a_current_instance_that_was_reclaimed_is_replaced_at_once() -> None:
    fleet = backed_up()
    fleet.nodes[NODE].instance = fleet._new_instance()
    since = len(fleet.commands)
    fleet.advance(61.0)
    assert [copy.chunk.key for copy in fleet.said(cmd.CopyChunk, since)] == ["a"]
    assert not fleet.state.lost_chunks(fleet.record("a"))


def test_a_replica_that_has_everything_is_not_backed_up_to() -> None:
    fleet = backed_up(backup_interval_s=100.0, backup_max_age_s=1.0)
    since = len(fleet.commands)
    fleet.advance(1000.0)
    assert not [invoke for invoke in fleet.said(cmd.Invoke, since) if invoke.reason == "backup"]


def test_what_is_new_waits_for_the_interval() -> None:
    fleet = backed_up(backup_interval_s=1000.0)
    fleet.put("b")
    fleet.end_sessions()
    since = len(fleet.commands)
    fleet.advance(300.0)
    assert fleet.n_pairs(since) >= 4
    assert fleet.said(cmd.CopyChunk, since) == []
    fleet.advance(1000.0)
    assert [copy.chunk.key for copy in fleet.said(cmd.CopyChunk, since)] == ["b"]


def test_answers_in_the_other_order_mean_the_same() -> None:
    fleet = backed_up()
    fleet.holds_warm_ups = True
    fleet.advance(61.0)
    first, second = fleet.warm_ups
    node, peer = fleet.nodes[NODE].instance, fleet.peers[NODE].instance
    fleet.warmed(second, node.id, node.spans)
    fleet.warmed(first, peer.id, peer.spans)
    state = fleet.state.nodes[NODE]
    assert state.copy is not None
    assert state.pair.replica is not None
    assert {state.copy.instance, state.pair.replica.instance} == {node.id, peer.id}
    assert not fleet.state.lost_chunks(fleet.record("a"))


def test_one_instance_that_answers_both_is_no_replica() -> None:
    fleet = backed_up()
    fleet.holds_warm_ups = True
    fleet.advance(61.0)
    node = fleet.nodes[NODE].instance
    before = fleet.state.nodes[NODE].pair.replica
    for invoke in fleet.warm_ups:
        fleet.warmed(invoke, node.id, node.spans)
    assert fleet.state.nodes[NODE].pair.replica is before
    assert fleet.state.nodes[NODE].copy is not None
    assert fleet.state.nodes[NODE].copy.instance == node.id


def test_requests_are_served_while_the_replica_starts() -> None:
    fleet = backed_up()
    fleet.holds_warm_ups = True
    fleet.advance(61.0)
    first, second = fleet.warm_ups
    node, peer = fleet.nodes[NODE].instance, fleet.peers[NODE].instance
    fleet.warmed(first, node.id, node.spans)
    op = fleet.get("a")
    assert fleet.facts(op).key == "a"
    fleet.warmed(second, peer.id, peer.spans)  # it answers at last: that changes nothing about who is current
    assert fleet.state.nodes[NODE].copy is not None
    assert fleet.state.nodes[NODE].copy.instance == node.id
    assert fleet.facts(fleet.get("a")).key == "a"


def test_a_backup_waits_for_the_second_warm_up() -> None:
    """The replica is busy with it: the platform would start a third instance."""
    fleet = backed_up()
    fleet.holds_warm_ups = True
    fleet.advance(61.0)
    first, second = fleet.warm_ups
    node, peer = fleet.nodes[NODE].instance, fleet.peers[NODE].instance
    fleet.warmed(first, node.id, node.spans)
    since = len(fleet.commands)
    fleet.back_up()
    assert fleet.said(cmd.Invoke, since) == []
    fleet.warmed(second, peer.id, peer.spans)
    assert [invoke.reason for invoke in fleet.said(cmd.Invoke, since)] == ["backup", "backup"]


def test_a_backup_does_not_wait_for_ever() -> None:
    fleet = backed_up()
    fleet.holds_warm_ups = True
    fleet.advance(61.0)
    fleet.warmed(fleet.warm_ups[0], fleet.nodes[NODE].instance.id, fleet.nodes[NODE].instance.spans)
    since = len(fleet.commands)
    fleet.back_up()
    fleet.advance(2.0)
    assert [invoke.reason for invoke in fleet.said(cmd.Invoke, since)] == ["backup", "backup"]


def test_a_second_warm_up_that_fails_tells_nothing() -> None:
    fleet = backed_up()
    fleet.holds_warm_ups = True
    fleet.advance(61.0)
    first, second = fleet.warm_ups
    before = fleet.state.nodes[NODE].pair.replica
    failed = ev.InvokeReturned(node=NODE, session=second.session, outcome=ev.InvokeOutcome.THROTTLED)
    fleet.tell(failed)
    fleet.warmed(first, fleet.nodes[NODE].instance.id, fleet.nodes[NODE].instance.spans)
    assert not fleet.state.nodes[NODE].pair.is_out
    assert fleet.state.nodes[NODE].pair.replica is before
    fleet.holds_warm_ups, fleet.warm_ups = False, []
    assert fleet.facts(fleet.get("a")).key == "a"


def test_of_a_pair_each_answer_comes_once() -> None:
    pair = Pair()
    pair.begin(SessionId("second"))
    assert pair.is_out
    assert pair.is_first()
    assert not pair.is_first()
    assert not pair.returned(SessionId("first"))
    assert pair.returned(SessionId("second"))
    assert not pair.returned(SessionId("second"))
    assert not pair.is_out
