"""The connection to a node: the table of transitions, and a node that lives by it."""

from __future__ import annotations

import itertools

import pytest
from core_world import World

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.connection import TRANSITIONS, Action, Activity, Stimulus, Validity, step
from infiniray.core.ids import NodeId, SessionId
from infiniray.errors import ObjectLost
from infiniray.wire.describe import SeqSpans

STATES = list(itertools.product(Activity, Validity))
#: LEAVING and SLEEPING know fewer validities than the awake states: nothing is asked of a node that leaves, and one
#: that sleeps has answered nothing.
REACHABLE = [
    (a, v)
    for a, v in STATES
    if not (a is Activity.LEAVING and v is not Validity.UNVALIDATED)
    and not (a is Activity.SLEEPING and v is Validity.VALIDATED)
]
#: The timer that it comes from runs in these states only.
SILENT = {
    (Activity.SLEEPING, Validity.VALIDATING), (Activity.ACTIVE, Validity.VALIDATING),
    (Activity.MAYBE, Validity.VALIDATING), (Activity.LEAVING, Validity.UNVALIDATED),
}  # fmt: skip


def test_every_state_that_is_reached_is_reachable_by_rule() -> None:
    assert {state for state, _ in TRANSITIONS} == set(REACHABLE)
    assert {after for after, _ in TRANSITIONS.values()} <= set(REACHABLE)


@pytest.mark.parametrize("state", REACHABLE, ids=str)
def test_every_fact_that_can_come_has_a_transition(state: tuple[Activity, Validity]) -> None:
    for stimulus in Stimulus:
        is_possible = {
            Stimulus.SILENCE: state in SILENT,
            Stimulus.WARM: state == (Activity.SLEEPING, Validity.UNVALIDATED),
            Stimulus.ANSWERED: state[0] in (Activity.ACTIVE, Activity.MAYBE) and state[1] is Validity.UNVALIDATED,
        }.get(stimulus, True)
        assert ((state, stimulus) in TRANSITIONS) == is_possible, stimulus


@pytest.mark.parametrize(("state", "stimulus"), [(s, x) for s in STATES for x in Stimulus if (s, x) not in TRANSITIONS])
def test_an_illegal_pair_raises(state: tuple[Activity, Validity], stimulus: Stimulus) -> None:
    with pytest.raises(KeyError):
        step(state, stimulus)


def test_an_illegal_stimulus_changes_nothing_at_a_node() -> None:
    world = World()
    node = world.state.nodes[NodeId("n0")]
    before = repr(node)
    with pytest.raises(KeyError):
        node.on_silence()
    assert repr(node) == before
    assert world.state.context.out == []


def test_only_sleepers_are_invoked_and_only_awake_nodes_are_sent_to() -> None:
    awake = (Activity.ACTIVE, Activity.MAYBE)
    for (before, _), (after, actions) in TRANSITIONS.items():
        if Action.INVOKE in actions:
            assert after == (Activity.SLEEPING, Validity.VALIDATING)
            assert before[0] is not Activity.LEAVING
        if Action.FLUSH in actions:
            assert after[0] in awake
        if Action.AHEAD in actions:
            assert after == (Activity.SLEEPING, Validity.VALIDATING)


def test_a_leaving_node_is_not_invoked_before_its_return() -> None:
    assert not any(
        Action.INVOKE in actions for (state, _), (_, actions) in TRANSITIONS.items() if state[0] is Activity.LEAVING
    )
    world = World(scheme="mirror:1", n_nodes=1)
    world.put("a")
    node = NodeId("n0")
    scripted = world.nodes[node]
    session, scripted.session = scripted.session, None
    assert session is not None
    assert scripted.instance.link is not None
    world.tell(ev.ByeReceived(link=scripted.instance.link, session=session))

    get = world.get("a")
    assert len(world.said(cmd.Invoke)) == 1
    world.tell(ev.InvokeReturned(node=node, session=session, outcome=ev.InvokeOutcome.OK))
    assert len(world.said(cmd.Invoke)) == 2
    assert world.facts(get).key == "a"


@pytest.mark.parametrize("validity", Validity)
def test_a_return_says_nothing_about_somebody_elses_session(validity: Validity) -> None:
    state = (Activity.MAYBE, validity)
    assert step(state, Stimulus.RETURNED) == (state, ())


def test_a_node_that_is_kept_busy_is_not_pinged() -> None:
    world = World(scheme="mirror:1", n_nodes=1)
    world.put("a", 1000)
    before = len(world.commands)
    for _ in range(5):
        world.facts(world.get("a"))
        world.facts(world.put("b", 1000))
    assert world.said(cmd.Ping, before) == []


def test_a_node_that_has_not_answered_is_pinged_with_the_next_request() -> None:
    world = World(scheme="mirror:1", n_nodes=1)
    world.put("a", 1000)
    world.nodes[NodeId("n0")].holds = True
    before = len(world.commands)
    world.get("a")
    assert world.said(cmd.Ping, before) == []
    world.get("a")
    assert len(world.said(cmd.Ping, before)) == 1


def test_a_node_that_somebody_else_woke_serves_without_an_invocation() -> None:
    world = World(scheme="mirror:1", n_nodes=1)
    world.second_instance(NodeId("n0"), "not ours")
    put = world.put("a")
    assert world.facts(put).key == "a"
    assert world.said(cmd.Invoke) == []
    assert world.state.nodes[NodeId("n0")].activity is Activity.MAYBE


def test_requests_follow_the_ping_without_waiting_for_its_answer() -> None:
    world = World(scheme="mirror:1", n_nodes=1)
    world.put("a")
    world.nodes[NodeId("n0")].holds = True
    since = len(world.commands)
    world.get("a")  # just heard of: no need to ask
    world.get("a")
    sent = [type(c) for c in world.commands[since:] if isinstance(c, (cmd.Ping, cmd.FetchChunk))]
    assert sent == [cmd.FetchChunk, cmd.Ping, cmd.FetchChunk]


def test_a_return_that_overtakes_the_last_answers_loses_none() -> None:
    world = World(scheme="mirror:1", n_nodes=1)
    world.put("a")
    node, scripted = NodeId("n0"), world.nodes[NodeId("n0")]
    scripted.holds = True
    get = world.get("a")
    assert scripted.session is not None
    world.tell(ev.InvokeReturned(node=node, session=scripted.session, outcome=ev.InvokeOutcome.OK))
    assert world.is_open(get)
    assert len(world.said(cmd.Invoke)) == 1
    world.let_go(node)
    assert world.facts(get).key == "a"


def test_the_return_of_the_session_in_use_counts_while_another_invocation_hangs() -> None:
    """A hung invocation stays out for minutes; sessions that end normally meanwhile must not wait for it."""
    world = World(scheme="mirror:1", n_nodes=1)
    node, scripted = NodeId("n0"), world.nodes[NodeId("n0")]
    scripted.is_silent = True
    put = world.put("a")
    world.advance(3.01)  # the first invocation is given up
    scripted.is_silent = False
    world.advance(3.0)
    assert world.facts(put).key == "a"

    world.end_session(node)
    assert world.state.nodes[node].activity is Activity.SLEEPING
    get = world.get("a")
    assert world.facts(get).key == "a"


def test_a_refused_invocation_counts_while_another_one_hangs() -> None:
    world = World(scheme="mirror:1", n_nodes=1)
    scripted = world.nodes[NodeId("n0")]
    scripted.is_silent = True
    put = world.put("a")
    world.advance(3.01)
    scripted.is_silent, scripted.outcome = False, ev.InvokeOutcome.THROTTLED
    world.advance(0.2)
    n_invoked = len(world.said(cmd.Invoke))
    assert n_invoked >= 2
    scripted.outcome = None
    world.advance(0.5)
    assert world.facts(put).key == "a"


def test_a_node_that_speaks_up_ends_the_pause_after_a_failure() -> None:
    world = World(scheme="mirror:1", n_nodes=1, backoff_s=10.0, backoff_max_s=10.0)
    node, scripted = NodeId("n0"), world.nodes[NodeId("n0")]
    scripted.outcome = ev.InvokeOutcome.THROTTLED
    first = world.put("a")
    assert ("retry", node) in world.timers
    world.second_instance(node, "somebody else's")
    assert world.facts(first).key == "a"
    assert ("retry", node) not in world.timers
    assert world.facts(world.put("b")).key == "b"


def test_at_most_two_invocations_of_a_node_are_out() -> None:
    world = World(scheme="mirror:1", n_nodes=1)
    world.nodes[NodeId("n0")].is_silent = True
    put = world.put("a", timeout_s=29.0)
    world.advance(30.0)
    assert len(world.said(cmd.Invoke)) == 2
    assert "did not finish within 29 s" in str(world.error(put))


def test_a_connection_that_is_dialled_again_replaces_the_old_one() -> None:
    world = World(scheme="mirror:1", n_nodes=1)
    world.put("a")
    node, scripted = NodeId("n0"), world.nodes[NodeId("n0")]
    old = scripted.instance.link
    scripted.holds = True
    get = world.get("a")
    scripted.instance.link, scripted.held, scripted.holds = None, [], False
    world._open(node, SessionId("next"))
    assert [c.link for c in world.said(cmd.CloseLink)] == [old]
    assert world.facts(get).key == "a"  # asked again over the new one
    assert len(world.said(cmd.FetchChunk)) == 2


def test_requests_on_a_lost_connection_are_sent_again_to_whoever_answers() -> None:
    world = World(scheme="mirror:1", n_nodes=1)
    node, scripted = NodeId("n0"), world.nodes[NodeId("n0")]
    scripted.holds = True
    put = world.put("a")
    assert world.is_open(put)
    scripted.holds = False
    world.lose(node)
    world.advance(0.2)  # the pause after the failure
    assert world.facts(put).key == "a"
    stores = world.said(cmd.StoreChunk)
    assert len({c.request for c in stores}) == len({c.seq for c in stores}) == 2


def test_a_second_instance_starts_no_second_numbering() -> None:
    world = World(scheme="mirror:1", n_nodes=1)
    world.put("a")
    world.put("b")
    world.second_instance(NodeId("n0"), "other")
    world.put("c")
    numbers = [c.seq for c in world.said(cmd.StoreChunk)]
    assert numbers == sorted(set(numbers))


def test_a_number_that_an_instance_knows_is_not_given_again() -> None:
    """A restarted shard finds instances that have history: its numbers begin above any that were given before."""
    world = World(scheme="mirror:1", n_nodes=1)
    ahead = int(world.now_s * 1e6) + 1000  # by a clock that was ahead of ours
    world.nodes[NodeId("n0")].instance.spans.add(1, ahead)
    world.put("a")
    assert [c.seq for c in world.said(cmd.StoreChunk)] == [ahead + 2]  # after the telling what to keep


def test_a_stale_instance_does_not_pull_the_numbers_back() -> None:
    world = World(scheme="mirror:1", n_nodes=1)
    world.nodes[NodeId("n0")].instance.spans.add(1, 41)
    world.put("a")
    (seq,) = [c.seq for c in world.said(cmd.StoreChunk)]
    assert seq >= int(world.now_s * 1e6) - 10**6


def test_a_stranger_is_hung_up_on() -> None:
    world = World()
    before = world.nodes[NodeId("n0")].instance
    world.tell(
        ev.LinkOpened(
            link=99,  # type: ignore[arg-type]
            node=NodeId("stranger"), instance=before.id, session=SessionId("x"), spans=before.spans,
        )
    )  # fmt: skip
    assert [c.link for c in world.said(cmd.CloseLink)] == [99]


def sleeper() -> World:
    """One node that holds "a", sleeps, and will not wake."""
    world = World(scheme="mirror:1", n_nodes=1)
    world.put("a")
    world.asleep()
    world.nodes[NodeId("n0")].is_silent = True
    return world


def sent(world: World, since: int) -> list[type]:
    kinds = (cmd.Invoke, cmd.Ping, cmd.FetchChunk, cmd.StoreChunk)
    return [type(command) for command in world.commands[since:] if isinstance(command, kinds)]


def test_reads_are_sent_together_with_the_invocation_and_while_it_is_out() -> None:
    world = sleeper()
    since = len(world.commands)
    gets = [world.get("a"), world.get("a")]
    assert sent(world, since) == [cmd.Invoke, cmd.FetchChunk, cmd.FetchChunk]
    assert all(map(world.is_open, gets))


def test_a_write_waits_until_its_node_has_spoken() -> None:
    world = sleeper()
    since = len(world.commands)
    world.put("b")
    assert sent(world, since) == [cmd.Invoke]


def test_reads_that_were_sent_ahead_follow_the_instance_that_wakes() -> None:
    world = sleeper()
    get = world.get("a")
    since = len(world.commands)
    world.second_instance(NodeId("n0"), world.said(cmd.Invoke)[-1].session)
    assert isinstance(world.error(get), ObjectLost)  # this one never had it, and is not asked
    assert sent(world, since) == []


def test_reads_are_not_sent_to_a_copy_that_lacks_the_chunk() -> None:
    world = sleeper()
    link = world.state.nodes[NodeId("n0")].link
    assert link is not None
    link.copy.spans = SeqSpans()
    since = len(world.commands)
    world.get("a")
    assert sent(world, since) == [cmd.Invoke]
