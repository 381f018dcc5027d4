"""Warm-up: who is invoked when nobody uses it, and when."""

from __future__ import annotations

import pytest
from core_world import World

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import NodeId
from infiniray.core.policy import Warm
from infiniray.wire.describe import SeqSpans


class WarmWorld(World):
    """Nodes that are warmed answer at once that they are as they were."""

    def _execute(self, command: cmd.Command) -> None:
        if isinstance(command, cmd.Invoke) and command.reason == "warm":
            instance = self.nodes[command.node].instance
            report = ev.CopyReport(instance=instance.id, spans=instance.spans.copy())
            self.tell(
                ev.InvokeReturned(node=command.node, session=command.session, outcome=ev.InvokeOutcome.OK, copy=report)
            )
        else:
            super()._execute(command)


def started(n_nodes: int = 4, **policy: object) -> WarmWorld:
    settings = {"scheme": "mirror:2", "warm_interval_s": 60.0, "backup_interval_s": 0.0, **policy}
    world = WarmWorld(n_nodes=n_nodes, **settings)  # type: ignore[arg-type]
    world.tell(ev.Started(registered=()))
    return world


def warmed(world: World, since: int = 0) -> list[NodeId]:
    return [invoke.node for invoke in world.said(cmd.Invoke, since) if invoke.reason == "warm"]


def test_each_node_is_warmed_once_in_an_interval() -> None:
    world = started()
    world.advance(60.0)
    assert sorted(warmed(world)) == ["n0", "n1", "n2", "n3"]
    world.advance(120.0)
    assert sorted(warmed(world)) == sorted(3 * ["n0", "n1", "n2", "n3"])


def test_nodes_do_not_march_in_step() -> None:
    world = started(n_nodes=8)
    at_once = []
    for _ in range(60):
        since = len(world.commands)
        world.advance(1.0)
        at_once.append(len(warmed(world, since)))
    assert sum(at_once) == 8
    assert max(at_once) <= 2


def test_nodes_that_are_due_at_about_the_same_time_share_a_timer() -> None:
    world = started(n_nodes=200)
    world.advance(60.0)  # the first times are as chance has them
    since = len(world.commands)
    world.advance(60.0)
    assert len(warmed(world, since)) == 200
    n_fired = sum(set_.timer[0] == "warm" for set_ in world.said(cmd.SetTimer, since))
    assert n_fired < 80


def test_a_node_that_a_request_has_touched_is_not_warmed_for_an_interval() -> None:
    world = started(n_nodes=2)
    world.advance(60.0)
    since = len(world.commands)
    world.put("a")  # on both
    world.asleep()
    world.advance(59.0)
    assert warmed(world, since) == []
    world.advance(2.0)
    assert sorted(warmed(world, since)) == ["n0", "n1"]


def test_a_node_in_a_session_is_left_alone() -> None:
    world = started(n_nodes=2)
    world.put("a")
    world.advance(180.0)  # nobody says BYE
    assert warmed(world) == []


def test_those_that_hold_nothing_may_go_cold() -> None:
    world = started(n_nodes=4, warm=Warm.HOLDING)
    world.put("a")
    world.asleep()
    world.advance(130.0)
    assert set(warmed(world)) == {place.node for place in world.record("a").places}
    assert len(set(warmed(world))) == 2


@pytest.mark.parametrize("policy", [{"warm": Warm.NONE}, {"warm_interval_s": 0.0}])
def test_warming_can_be_switched_off(policy: dict[str, object]) -> None:
    world = started(**policy)
    world.advance(600.0)
    assert warmed(world) == []
    assert not [timer for timer in world.timers if timer[0] == "warm"]


def test_a_warm_up_tells_of_a_reclaim() -> None:
    world = started(n_nodes=2)
    world.put("a")
    world.asleep()
    node = world.node_of("a", 0)
    world.nodes[node].instance = world._new_instance()  # the platform took the other one away, and says nothing
    assert not world.state.is_lost(world.record("a").places[0])
    world.advance(61.0)
    assert world.state.is_lost(world.record("a").places[0])
    assert world.state.nodes[node].copy is not None
    assert world.state.nodes[node].copy.spans == SeqSpans()


def test_what_was_said_to_an_instance_that_a_warm_up_does_not_find_is_said_to_its_successor() -> None:
    """Its connection may stay open for long, and nobody answers there."""
    world = started(n_nodes=1, scheme="mirror:1")
    [node] = world.nodes
    world.put("a")
    world.put("b")
    world.nodes[node].holds = True
    world.state.evict()
    world.get("b", timeout_s=1.0)  # with it goes the word that "a" is to be deleted, and no answer comes
    world.advance(2.0)
    world.asleep()
    assert len(world.said(cmd.DeleteChunks)) == 1
    scripted = world.nodes[node]
    scripted.instance, scripted.held, scripted.holds = world._new_instance(), [], False  # gone without a word
    world.advance(61.0)  # a warm-up
    world.put("c")
    assert len(world.said(cmd.DeleteChunks)) == 2
    assert not world.state.nodes[node].custody.garbage


def test_nobody_is_warmed_while_a_shard_recovers() -> None:
    """Another instance might answer than the one on record, which has been asked what it holds."""
    world = WarmWorld(n_nodes=4, scheme="mirror:2", warm_interval_s=1.0, recovery_timeout_s=30.0)
    world.nodes[NodeId("n0")].is_silent = True
    world.tell(ev.Started(registered=((NodeId("n0"), world.nodes[NodeId("n0")].instance.id),)))
    world.advance(10.0)
    assert world.state.is_recovering
    assert warmed(world) == []
    world.advance(30.0)
    assert not world.state.is_recovering
    assert {"n1", "n2", "n3"} <= set(warmed(world))
