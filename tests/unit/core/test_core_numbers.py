"""The numbers of a node's changes: what was abandoned must not push out what is there."""

from __future__ import annotations

from core_world import World

from infiniray.core import events as ev
from infiniray.core.ids import NodeId
from infiniray.wire.describe import SeqSpans

NODE = NodeId("n0")
#: More than a link's spans can be, if each of these left a gap.
MANY = SeqSpans.MAX_SPANS + 10


def a_world() -> World:
    """One node, with an object "kept" that is never touched while other writes come and go."""
    world = World(scheme="mirror:1", n_nodes=1)
    world.facts(world.put("kept"))
    return world


def kept_is_read(world: World) -> bool:
    link = world.state.nodes[NODE].link
    assert link is not None
    assert len(list(link.spans)) <= 2
    return world.facts(world.get("kept")).key == "kept"


def test_writes_that_their_callers_give_up_do_not_make_older_objects_lost() -> None:
    world = a_world()
    for _ in range(MANY):
        world.nodes[NODE].holds = True
        world.tell(ev.OpCancelled(op=world.put("given up")))
        world.let_go(NODE)
        world.facts(world.put("other"))
    assert kept_is_read(world)


def test_writes_that_a_node_refuses_do_not_make_older_objects_lost() -> None:
    world = a_world()
    for _ in range(MANY):
        world.nodes[NODE].refuses = True
        refused = world.put("refused")
        world.nodes[NODE].refuses = False
        world.tell(ev.OpCancelled(op=refused))
        world.facts(world.put("other"))
    assert kept_is_read(world)
    assert world.state.counters.resets == 0


def test_a_number_under_which_nothing_was_stored_is_no_chunk() -> None:
    """The next write of the same key has a number of its own."""
    world = a_world()
    world.nodes[NODE].holds = True
    world.tell(ev.OpCancelled(op=world.put("a")))
    world.let_go(NODE)
    world.facts(world.put("a"))
    place = world.record("a").places[0]
    assert not world.state.nodes[NODE].lacks(place.seq)
    assert world.facts(world.get("a")).key == "a"
