"""A cache gets a new secret: in which order, and whoever crashes in the middle of it. No Ray."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from control_store import ControlStore

from infiniray.cluster import rayapi, rotator, undertaking
from infiniray.cluster import supervisor as supervisor_module
from infiniray.cluster.membership import Membership
from infiniray.cluster.rotation import Rotation
from infiniray.cluster.supervisor import Supervisor
from infiniray.config import Config
from infiniray.core.ids import NodeId
from infiniray.errors import CacheUnavailable, ConfigError, PlatformError, PoolFull, RotationUnderWay, ScalingUnderWay
from infiniray.runtime.keys import KeyRing
from infiniray.wire.auth import key_id

DEADLINE_S = 20.0
FIRST = bytes(range(32))
N_SHARDS, N_NODES, MINIMUM = 2, 10, 3


class Crash(BaseException):
    """The supervisor's process ends here."""


class World:
    """What a supervisor acts on, and what outlives it: shards, which drain and accept, and functions' settings.

    It checks every act: that no function is changed which holds anything, or which its shard would then refuse.
    """

    def __init__(self) -> None:
        self.functions: dict[NodeId, bytes] = {}
        self.members: dict[str, Membership] = {}
        self.rings: dict[str, KeyRing] = {}
        self.held_bytes: dict[NodeId, int] = {}
        self.behind: list[set[str]] = []  # what shards answer to the next questions of who is
        self.batches: list[frozenset[NodeId]] = []
        self.refusals: list[Exception] = []  # of the platform
        self.stored_bytes = 1000
        self.crash_at: int | None = None
        self.n_acts = 0

    def act(self) -> None:
        """The moment before something is done."""
        self.n_acts += 1
        if self.n_acts - 1 == self.crash_at:
            raise Crash

    def ask(self, shard: str, method: str, args: tuple[Any, ...]) -> Any:
        if method == "stats":
            return {"stored_bytes": self.stored_bytes}
        if method == "adopt":
            (self.members[shard],) = args
            return None
        if method == "change_keys":
            _, self.rings[shard] = args
            mine = self.members[shard].nodes[shard]
            assert all(self.functions[node] in self.rings[shard] for node in mine), "a function is locked out"
            return None
        if method == "keys":
            return {"accepted": [], "behind": self.behind.pop() if self.behind else set()}
        assert method == "progress"
        left = {}
        for node in self.members[shard].nodes[shard]:
            if node in self.members[shard].leaving and self.held_bytes[node]:
                self.held_bytes[node] -= 1
                left[node] = self.held_bytes[node]
        return {"epoch": self.members[shard].epoch, "leaving": left}

    def renew(self, nodes: frozenset[NodeId], secret: bytes) -> None:
        if self.refusals:
            raise self.refusals.pop()
        for shard, members in self.members.items():
            mine = set(members.nodes[shard])
            assert nodes & mine <= members.leaving, "its shard uses it"
            assert secret in self.rings[shard], "its shard would refuse it"
            assert len(mine - members.leaving) >= MINIMUM
        assert all(self.held_bytes[node] == 0 for node in nodes), "what it holds is lost"
        if any(self.functions[node] != secret for node in nodes):
            self.batches.append(nodes)
        self.functions |= dict.fromkeys(nodes, secret)

    def fill(self) -> None:
        self.held_bytes = dict.fromkeys(self.functions, 2)


class NoWatch:
    """Instead of a thread that asks shards how they are."""

    def __init__(self, actors: object) -> None:
        pass


class Grounded(Supervisor):
    """A supervisor in a :class:`World`."""

    world: World

    async def ask_all(self, method: str, *args: Any) -> dict[str, Any]:
        self.world.act()
        return {shard: self.world.ask(shard, method, args) for shard in self.members.shards}

    async def ensure_shards(self) -> None:
        self.world.act()

    async def renew_functions(self, nodes: frozenset[NodeId], secret: bytes) -> None:
        self.world.act()
        self.world.renew(nodes, secret)
        self.world.act()  # it was done, and nobody has been told


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "HealthWatch", NoWatch)
    monkeypatch.setattr(supervisor_module, "_resume", lambda cache: None)  # tests do, when they are ready for it
    monkeypatch.setattr(rotator, "_POLL_S", 0.0)
    monkeypatch.setattr(undertaking, "_FIRST_PAUSE_S", 0.0)


NewSupervisor = Callable[..., Grounded]


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def new(store: ControlStore, world: World, monkeypatch: pytest.MonkeyPatch) -> NewSupervisor:
    """A supervisor; ``is_restarted``: the one that follows it."""

    def new(*, is_restarted: bool = False, nodes: int = N_NODES) -> Grounded:
        monkeypatch.setattr(rayapi, "was_restarted", lambda: is_restarted)
        settings = {
            "name": "cache",
            "ring": {"shards": N_SHARDS},
            "pool": {"nodes": nodes},
            "redundancy": [{"scheme": "rs:2+1"}],
        }
        config = Config.load(None, settings, environ={})
        supervisor = Grounded(config=config, secret=FIRST.hex(), endpoint_url=None, is_local=True, owner=None)
        supervisor.world = world
        if not is_restarted:
            world.functions = dict.fromkeys(supervisor.members.all_nodes, FIRST)
            world.members = dict.fromkeys(supervisor.members.shards, supervisor.members)
            world.rings = dict.fromkeys(supervisor.members.shards, supervisor.keys)
            world.fill()
        return supervisor

    def crash_before_writing(operation: str, key: str) -> None:
        if operation == "put":
            world.act()

    store.before = crash_before_writing
    return new


async def over(supervisor: Grounded) -> None:
    """Until the rotation is. Raises: Crash: its process has ended."""
    await asyncio.wait_for(supervisor._rotator._work.wait(), DEADLINE_S)


def assert_rotated(supervisor: Grounded, world: World) -> bytes:
    """All have one new secret, and nobody accepts another; the secret."""
    (secret,) = set(world.functions.values())
    assert secret != FIRST
    assert [list(ring) for ring in world.rings.values()] == [[secret]] * N_SHARDS
    assert list(supervisor.keys) == [secret]
    assert supervisor.rotation is None
    assert supervisor.members.leaving == frozenset()
    assert {shard: members.leaving for shard, members in world.members.items()} == dict.fromkeys(
        supervisor.members.shards, frozenset()
    )
    return secret


# ---------------------------------------------------------------- all goes well


@pytest.mark.parametrize(("batch", "n_batches"), [(1, 5), (2, 3), (5, 3)])  # 2 of 5 can be spared, whatever is asked
async def test_every_function_gets_it_a_batch_at_a_time(
    new: NewSupervisor, world: World, batch: int, n_batches: int
) -> None:
    supervisor = new()
    assert await supervisor.rotate_secret(batch=batch, may_evict=False) == {"nodes": N_NODES}
    await over(supervisor)
    assert_rotated(supervisor, world)
    assert len(world.batches) == n_batches
    assert sorted(node for nodes in world.batches for node in nodes) == list(supervisor.members.all_nodes)


async def test_it_can_be_done_again(new: NewSupervisor, world: World) -> None:
    supervisor, seen = new(), {FIRST}
    for _ in range(2):
        world.fill()
        await supervisor.rotate_secret(batch=2, may_evict=False)
        await over(supervisor)
        seen.add(assert_rotated(supervisor, world))
    assert len(seen) == 3


async def test_its_report_says_how_far_it_is_and_no_secret(new: NewSupervisor, world: World) -> None:
    supervisor, reports = new(), []
    await supervisor.rotate_secret(batch=1, may_evict=False)
    while (report := supervisor._rotator.report()) is not None:
        reports.append(report)
        await asyncio.sleep(0)
    secret = assert_rotated(supervisor, world)
    assert [report["nodes_done"] for report in reports] == sorted(report["nodes_done"] for report in reports)
    assert {report["nodes"] for report in reports} == {N_NODES}
    assert {"emptying functions", "changing functions"} <= {report["stage"] for report in reports}
    for shown in (repr(reports), repr(supervisor._known), repr(vars(supervisor._rotator))):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


# ---------------------------------------------------------------- who restarts meanwhile


async def test_a_shard_that_enrolls_in_the_middle_of_it_gets_both(new: NewSupervisor, world: World) -> None:
    supervisor = new()
    assert list((await supervisor.enroll("shard-0", "a"))[2]) == [FIRST]
    world.refusals = [PlatformError(operation="change", function="f", detail="not now")]
    rings = []
    renew = world.renew

    def note(nodes: frozenset[NodeId], secret: bytes) -> None:
        rings.append(supervisor.keys)
        renew(nodes, secret)

    world.renew = note  # type: ignore[method-assign]
    await supervisor.rotate_secret(batch=1, may_evict=False)
    await over(supervisor)
    secret = assert_rotated(supervisor, world)
    assert {tuple(ring) for ring in rings} == {(secret, FIRST)}
    assert list((await supervisor.enroll("shard-0", "b"))[2]) == [secret]


async def test_wherever_the_supervisor_ends_its_next_process_finishes(new: NewSupervisor, world: World) -> None:
    """Before each of its acts in turn, and after those that it cannot know to have been done."""
    crash_at, has_crashed = 0, True
    while has_crashed:
        supervisor = new()
        world.batches, world.n_acts, world.crash_at = [], 0, crash_at
        try:
            await supervisor.rotate_secret(batch=2, may_evict=False)
            await over(supervisor)
            has_crashed = False
        except Crash:
            has_crashed = True
            world.crash_at = None
            supervisor = new(is_restarted=True)
            await supervisor.resume()
            await over(supervisor)
        if set(world.functions.values()) != {FIRST}:  # it had not been written down yet
            assert_rotated(supervisor, world)
            assert len(world.batches) == 3
        elif has_crashed:
            assert supervisor.rotation is None
            assert list(supervisor.keys) == [FIRST]
            assert crash_at < 2
        crash_at += 1
    assert crash_at > 30


async def test_what_is_resumed_is_the_rotation_and_no_scaling(new: NewSupervisor, world: World) -> None:
    """For a scaling, nodes that leave are to be deleted."""
    supervisor = new()
    leaving = replace(supervisor.members, leaving=frozenset(supervisor.members.all_nodes[:1]))
    await supervisor.publish_keys(leaving, supervisor.keys.rotated(b"new"), Rotation(batch=1))
    second = new(is_restarted=True)
    assert second._rotator.report() is not None  # who waits for it to be over waits on
    with pytest.raises(RotationUnderWay):  # it may be asked before it is told to go on
        await second.scale(shards=1, nodes=None, may_evict=True)
    await over(second)
    assert second._scaler.report() is None
    assert assert_rotated(second, world) == b"new"


async def test_functions_that_are_made_again_get_the_secret_that_they_had(new: NewSupervisor, world: World) -> None:
    """`up` of a cache that is running completes it: also while its secret is changed."""
    supervisor = new()
    first, *others = supervisor.members.all_nodes
    rotation = Rotation(batch=1).emptied(frozenset({first}))
    await supervisor.publish_keys(supervisor.members, supervisor.keys.rotated(b"new"), rotation)
    assert supervisor._known.by_secret(supervisor.members.all_nodes) == {b"new": [first], FIRST: others}


# ---------------------------------------------------------------- what is in the way


async def test_a_node_that_an_old_instance_speaks_for_is_emptied_once_more(new: NewSupervisor, world: World) -> None:
    supervisor = new()
    (late,) = supervisor.members.all_nodes[3:4]
    world.behind = [set(), {late}, {late}]  # shards are asked from the last: both say so, then one, then none
    emptied: list[frozenset[NodeId]] = []
    renew = world.renew

    def note(nodes: frozenset[NodeId], secret: bytes) -> None:
        emptied.append(nodes)
        renew(nodes, secret)
        world.held_bytes |= dict.fromkeys(nodes, 3)  # they are used again

    world.renew = note  # type: ignore[method-assign]
    await supervisor.rotate_secret(batch=5, may_evict=False)
    await over(supervisor)
    assert_rotated(supervisor, world)
    assert emptied[3:] == [frozenset({late})]
    assert world.behind == []


async def test_a_platform_that_refuses_is_asked_again(new: NewSupervisor, world: World) -> None:
    supervisor, troubles = new(), set()
    world.refusals = [PlatformError(operation="change", function="f", detail="not allowed") for _ in range(3)]
    await supervisor.rotate_secret(batch=1, may_evict=False)
    while (report := supervisor._rotator.report()) is not None:
        troubles.add(report["trouble"])
        await asyncio.sleep(0)
    assert any("not allowed" in trouble for trouble in troubles)
    assert_rotated(supervisor, world)


async def test_what_nobody_has_thought_of_stops_it_and_is_said(new: NewSupervisor, world: World) -> None:
    supervisor = new()
    world.refusals = [KeyError("what is that")]
    await supervisor.rotate_secret(batch=1, may_evict=False)
    with pytest.raises(KeyError):
        await over(supervisor)
    report = supervisor._rotator.report()
    assert report is not None
    assert "KeyError: 'what is that'" in report["trouble"]
    await supervisor.resume()
    await over(supervisor)
    assert_rotated(supervisor, world)


async def test_one_thing_at_a_time(new: NewSupervisor, world: World) -> None:
    supervisor = new()
    begun = asyncio.ensure_future(supervisor.rotate_secret(batch=1, may_evict=False))
    await asyncio.sleep(0)
    for refused in (
        supervisor.rotate_secret(batch=1, may_evict=False),
        supervisor.scale(shards=1, nodes=None, may_evict=True),
    ):
        with pytest.raises(RotationUnderWay, match="new secret"):
            await refused
    await begun
    await over(supervisor)
    (secret,) = set(world.functions.values())
    assert list(supervisor.keys) == [secret]


async def test_a_cache_that_is_being_scaled_is_left_alone(new: NewSupervisor, world: World) -> None:
    supervisor = new()
    scaling = asyncio.ensure_future(supervisor._scaler._work.begin(asyncio.sleep(DEADLINE_S)))
    await asyncio.sleep(0)
    try:
        with pytest.raises(ScalingUnderWay):
            await supervisor.rotate_secret(batch=1, may_evict=False)
    finally:
        supervisor._scaler.stop()
        with pytest.raises(asyncio.CancelledError):
            await scaling
    assert list(supervisor.keys) == [FIRST]


async def test_without_a_function_to_spare_it_is_refused(new: NewSupervisor, world: World) -> None:
    supervisor = new(nodes=N_SHARDS * MINIMUM)
    with pytest.raises(ConfigError, match=f"have {N_SHARDS * (MINIMUM + 1)} for the time"):
        await supervisor.rotate_secret(batch=1, may_evict=False)
    with pytest.raises(ConfigError, match="not 0"):
        await new().rotate_secret(batch=0, may_evict=False)
    assert world.n_acts == 0


async def test_what_would_not_fit_is_refused_unless_it_may_go(new: NewSupervisor, world: World) -> None:
    supervisor = new()
    node_bytes = supervisor._config.pool.node_bytes
    world.stored_bytes = round(0.94 * 4 * node_bytes)
    with pytest.raises(PoolFull):
        await supervisor.rotate_secret(batch=2, may_evict=False)
    assert list(supervisor.keys) == [FIRST]
    await supervisor.rotate_secret(batch=2, may_evict=True)
    await over(supervisor)
    assert_rotated(supervisor, world)
    await supervisor.rotate_secret(batch=1, may_evict=False)  # with one away, it fits
    await over(supervisor)


async def test_what_cannot_be_written_down_is_not_begun(new: NewSupervisor, world: World, store: ControlStore) -> None:
    supervisor = new()
    store.is_away = True
    with pytest.raises(CacheUnavailable):
        await supervisor.rotate_secret(batch=1, may_evict=False)
    store.is_away = False
    assert list(supervisor.keys) == [FIRST]
    assert supervisor._rotator.report() is None


def test_a_rotation_holds_no_secret_and_a_ring_tells_whose_turn_it_is() -> None:
    rotation = Rotation(batch=2).emptied(frozenset({NodeId("n0")})).taken_back(frozenset({NodeId("n0")}))
    assert pickle.loads(pickle.dumps(rotation)) == rotation
    assert rotation.done == {"n0"}
    assert not rotation.is_emptied
    assert rotation.again(frozenset({NodeId("n0")})).renewed == {"n0"}
    assert key_id(FIRST) not in repr(rotation)
