"""Nodes that leave the pool: when nothing refers to them any more, and not before."""

from __future__ import annotations

from core_world import World

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.custody import NOBODY
from infiniray.core.draining import LOOK_S
from infiniray.core.ids import NodeId
from infiniray.core.policy import RepairMode
from infiniray.errors import ObjectReplaced


def send_away(world: World, node: NodeId) -> None:
    left = tuple((other.id, other.capacity_bytes) for other in world.state.nodes.values() if other.id != node)
    world.tell(ev.PoolChanged(nodes=left))


def test_a_node_leaves_when_its_chunks_are_elsewhere() -> None:
    world = World(n_nodes=8)
    world.put("a")
    node = world.node_of("a", 0)
    send_away(world, node)
    world.advance(3 * LOOK_S)
    assert node not in world.state.nodes
    assert world.state.counters.moves == 1
    assert world.facts(world.get("a")).key == "a"


def test_a_node_that_comes_back_starts_afresh() -> None:
    """Nothing that was expected of it before it left is expected of it now."""
    world = World(n_nodes=8)
    pool = tuple((node.id, node.capacity_bytes) for node in world.state.nodes.values())
    world.put("a")
    node = world.node_of("a", 0)
    send_away(world, node)
    world.advance(3 * LOOK_S)
    assert node not in world.state.nodes
    assert [timer for timer in world.timers if timer[1] == node] == []
    world.tell(ev.PoolChanged(nodes=pool))
    world.advance(10.0)
    for n in range(10):
        world.put(f"b{n}")
    assert world.state.nodes[node].used_bytes > 0


def test_a_node_that_is_wanted_again_after_it_was_struck_off_is_put_on_record_without_being_woken() -> None:
    """Deletes may wait for its word, which counts only then."""
    world = World(n_nodes=8)
    pool = tuple((node.id, node.capacity_bytes) for node in world.state.nodes.values())
    for n in range(10):
        world.put(f"b{n}")  # so that all nodes are on record
    node = world.node_of("b0", 0)
    instance = world.nodes[node].instance.id
    world.holds_registry = True
    send_away(world, node)
    world.asleep()
    world.advance(3 * LOOK_S)
    world.asleep()
    world.advance(3 * LOOK_S)
    struck = [command for command in world.said(cmd.RegisterCopy) if command.node == node][-1]
    assert struck.instance == NOBODY
    since = len(world.commands)
    world.tell(ev.PoolChanged(nodes=pool))
    assert [(c.node, c.instance) for c in world.said(cmd.RegisterCopy, since)] == [(node, instance)]
    assert [invoke for invoke in world.said(cmd.Invoke, since) if invoke.node == node] == []
    world.tell(ev.CopyRegistered(node=node, instance=NOBODY), ev.CopyRegistered(node=node, instance=instance))
    assert world.state.nodes[node].is_registered


def test_a_node_stays_for_a_read_of_what_was_deleted_under_it() -> None:
    """It may still be asked for a chunk, as any that the read has not tried."""
    world = World(n_nodes=8, erase_patience_s=1.0)
    world.put("a")
    places = [place.node for place in world.record("a").places]
    leaving = places[5]  # parity: it is not asked at first
    for node in places[:4]:
        world.nodes[node].holds = True
    get = world.get("a", timeout_s=60.0)
    world.delete("a")
    world.advance(1.1)  # the delete does not wait any longer
    for node in places[:3]:
        world.let_some_go(node, lambda command: isinstance(command, cmd.DeleteChunks))
    send_away(world, leaving)
    world.advance(2 * LOOK_S)
    assert world.is_open(get)
    assert leaving in world.state.nodes
    for node in places[:4]:
        world.let_go(node)
    assert isinstance(world.error(get), ObjectReplaced)
    world.advance(3 * LOOK_S)
    assert leaving not in world.state.nodes


def test_a_node_leaves_although_it_does_not_have_what_its_copy_claims() -> None:
    """Nothing else of the object can be read either, so no rebuild takes the chunk off its books."""
    world = World(n_nodes=8, repair=RepairMode.ALWAYS)
    world.put("a")
    places = [place.node for place in world.record("a").places]
    for node in places[:4]:
        world.nodes[node].instance.chunks.clear()
    send_away(world, places[0])
    world.advance(5 * LOOK_S)
    assert places[0] not in world.state.nodes
