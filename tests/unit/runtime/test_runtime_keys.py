"""Changing the pool's secret under a cache that is used: two are accepted meanwhile, and nothing is lost."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from grid import Grid
from node_peer import SECRET, soon, until
from script import Stage

from infiniray.core import commands as cmd
from infiniray.core import draining
from infiniray.core import events as ev
from infiniray.core.ids import NodeId, SessionId
from infiniray.runtime.keys import KeyRing
from infiniray.wire import auth
from lambda_agent.invocation import InvalidInvocation, Invocation

NEW = bytes(range(100, 132))
NewGrid = Callable[..., Awaitable[Grid]]
OLD_ID, NEW_ID = auth.key_id(SECRET), auth.key_id(NEW)


def both() -> KeyRing:
    return KeyRing.of(SECRET).rotated(NEW)


# ---------------------------------------------------------------- the ring


def test_a_ring_of_one() -> None:
    ring = KeyRing.of(SECRET)
    assert list(ring) == [SECRET]
    assert ring.find(OLD_ID) == SECRET
    assert ring.find(NEW_ID) is None
    assert KeyRing.of(ring) is ring
    assert ring.retired() == ring


def test_a_rotation_and_its_end() -> None:
    ring = both()
    assert list(ring) == [NEW, SECRET]
    assert (ring.find(OLD_ID), ring.find(NEW_ID)) == (SECRET, NEW)
    assert ring.rotated(NEW) is ring  # asked for again
    assert list(ring.retired()) == [NEW]


def test_two_rotations_at_a_time_are_refused() -> None:
    """The nodes that still have the first secret would be locked out, with all that they hold."""
    with pytest.raises(ValueError, match="retire it first") as caught:
        both().rotated(b"third")
    assert "third" not in str(caught.value)


@pytest.mark.parametrize("secrets", [{"current": b""}, {"current": b"a", "former": b""}])
def test_no_secret_is_none(secrets: dict[str, bytes]) -> None:
    with pytest.raises(ValueError, match="one byte"):
        KeyRing(**secrets)


def test_a_ring_does_not_show_its_secrets() -> None:
    assert repr(both()) == "KeyRing()"
    assert pickle.loads(pickle.dumps(both())) == both()


@pytest.mark.parametrize("name", [None, 7, [], "", "\ud800"])
def test_what_is_no_id_finds_nothing(name: object) -> None:
    assert both().find(name) is None


def test_an_id_is_neither_the_secret_nor_a_part_of_it() -> None:
    assert OLD_ID != NEW_ID
    assert OLD_ID not in SECRET.hex()
    assert auth.key_id(SECRET) == OLD_ID


# ---------------------------------------------------------------- invocations


async def invoked(stage: Stage) -> dict[str, object]:
    stage.do(cmd.Invoke(node=NodeId("n0"), session=SessionId("s1"), reason="serve"))
    await stage.script.next(ev.InvokeReturned)
    said: dict[str, object] = json.loads(stage.invoker.payloads[-1])
    return said


async def test_an_invocation_is_proven_to_functions_with_either_secret(stage: Stage) -> None:
    stage.driver.change_keys(both())
    said = await invoked(stage)
    for secret in (SECRET, NEW):
        assert Invocation.from_event(said, secret).session == "s1"
    with pytest.raises(InvalidInvocation, match="proof"):
        Invocation.from_event(said, b"third")


async def test_after_it_an_invocation_is_proven_to_those_with_the_new_one(stage: Stage) -> None:
    stage.driver.change_keys(both())
    stage.driver.change_keys(both().retired())
    said = await invoked(stage)
    assert Invocation.from_event(said, NEW).session == "s1"
    with pytest.raises(InvalidInvocation, match="proof"):
        Invocation.from_event(said, SECRET)


@pytest.mark.parametrize("proofs", [[], {}, {OLD_ID: None}, {NEW_ID: "00"}, "", None])
async def test_proofs_that_are_none_are_refused(stage: Stage, proofs: object) -> None:
    said = await invoked(stage)
    del said["proof"]
    with pytest.raises(InvalidInvocation):
        Invocation.from_event({**said, "proofs": proofs}, SECRET)


async def test_a_connection_is_not_asked_again_until_its_secret_is_retired(stage: Stage) -> None:
    peer, opened = await stage.connect()
    stage.driver.change_keys(both())
    assert stage.driver.keys_in_use() == Counter({OLD_ID: 1})
    stage.driver.change_keys(both().retired())
    assert await peer.is_hung_up()
    closed = await stage.script.next(ev.LinkClosed)
    assert closed.link == opened.link
    assert stage.driver.keys_in_use() == Counter()


# ---------------------------------------------------------------- a pool


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the next look at what is left on a node."""
    monkeypatch.setattr(draining, "LOOK_S", 0.005)


async def change_secret(grid: Grid, name: str) -> None:
    """What an operator does to one function: have it emptied, change its settings (which replaces its instances), and
    take it back."""
    node, everyone = grid.nodes[name], {NodeId(n): grid._node_bytes for n in grid.nodes}
    grid.driver.change_pool({n: size for n, size in everyone.items() if n != name})
    await until(lambda: name not in grid.state.nodes, lambda: grid.state.draining.left())
    node.reclaim()
    node.secret = NEW
    grid.driver.change_pool(everyone)


@pytest.mark.parametrize("scheme", ["rs:4+2", "stripe:4"])  # the second cannot do without any chunk
async def test_a_pool_gets_a_new_secret_and_loses_nothing(grid: NewGrid, scheme: str) -> None:
    pool = await grid(scheme=scheme, n_nodes=7)
    values = {f"k{i}": np.frombuffer(np.random.default_rng(i).bytes(40_000 + i), np.uint8) for i in range(12)}
    for key, value in values.items():
        await soon(pool.put(key, value))
    pool.driver.change_keys(both())
    for i, name in enumerate(list(pool.nodes)):
        await change_secret(pool, name)
        key = f"k{i}"
        values[key] = values[key][::-1].copy()  # it is written to meanwhile, and read
        await soon(pool.put(key, values[key]))
        for read_key, value in values.items():
            assert np.array_equal(await soon(pool.get(read_key)), value)
    pool.driver.change_keys(pool.driver.keys.retired())
    for key, value in values.items():
        assert np.array_equal(await soon(pool.get(key)), value)
    stats = pool.driver.stats()
    assert (stats["resets"], stats["gets"], stats["hits"]) == (0, 8 * 12, 8 * 12)
    instances = [instance for node in pool.nodes.values() for instance in node.instances]
    assert {instance.secret for instance in instances} == {NEW}
    assert set(pool.driver.keys_in_use()) <= {NEW_ID}
    assert stats["connections_refused"].keys() <= {"hung up"}  # reclaimed while it dialled; no secret was wrong


async def test_a_node_left_behind_is_locked_out(grid: NewGrid) -> None:
    """Retired too early: the function with the former secret counts as lost, and the others make up for it."""
    pool = await grid(scheme="rs:4+2", n_nodes=7)
    data = np.frombuffer(np.random.default_rng(1).bytes(60_000), np.uint8)
    await soon(pool.put("k", data))
    (behind,) = pool.holders("k", [0])  # asked first by every read
    pool.driver.change_keys(both())
    for name in pool.nodes:
        if name != behind.name:
            await change_secret(pool, name)
    pool.driver.change_keys(both().retired())
    assert OLD_ID not in pool.driver.keys_in_use()
    assert np.array_equal(await soon(pool.get("k")), data)
    await until(lambda: pool.driver.counters[ev.InvokeOutcome.FUNCTION_ERROR.value] > 0, pool.driver.stats)
    assert OLD_ID not in pool.driver.keys_in_use()
