"""How clients route, retry and give up: the steps of verbs, driven by hand. No Ray."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from infiniray.cluster import deadline as deadline_module
from infiniray.cluster.client import Client
from infiniray.cluster.membership import Membership, plan
from infiniray.cluster.steps import Block, Pause, Steps, Wait
from infiniray.config import Config
from infiniray.core.ring import Ring
from infiniray.errors import (
    CacheUnavailable,
    DeadlineExceeded,
    InfiniRayError,
    KeyNotFound,
    ObjectReplaced,
    Overloaded,
    ShardRecovering,
    StaleEpoch,
    WriteFailed,
    WriteUncertain,
)

KEYS = [f"key-{i}" for i in range(40)]


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(deadline_module, "time", clock)
    return clock


class FakeMethod:
    def __init__(self, world: World, actor: str, name: str) -> None:
        self._called = lambda args, kwargs: world.called(actor, name, args, kwargs)

    def remote(self, *args: Any, **kwargs: Any) -> int:
        return self._called(args, kwargs)


class FakeActor:
    def __init__(self, world: World, name: str) -> None:
        self._world, self._name = world, name

    def __getattr__(self, method: str) -> FakeMethod:
        return FakeMethod(self._world, self._name, method)


Answer = Callable[[str, str, tuple[Any, ...], dict[str, Any]], Any]


class World:
    """A cache of fake actors. ``answer`` says what a call gives; an exception is raised where it is waited for."""

    def __init__(self, membership: Membership, answer: Answer, clock: Clock) -> None:
        self.membership = membership
        self.answer = answer
        self.clock = clock
        self.log: list[tuple[str, str, Any]] = []
        self.waiting: dict[int, Any] = {}
        self.most_waiting = 0
        self.missing: set[str] = set()

    def find_actor(self, name: str) -> FakeActor:
        if name in self.missing:
            raise CacheUnavailable(detail=f"no Ray actor {name!r}")
        return FakeActor(self, name)

    def called(self, actor: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        self.log.append((actor, method, args))
        ref = len(self.log)
        if method == "membership":
            self.waiting[ref] = self.membership
        else:
            try:
                self.waiting[ref] = self.answer(actor, method, args, kwargs)
            except InfiniRayError as error:
                self.waiting[ref] = error
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        return ref

    def run(self, steps: Steps[Any]) -> Any:
        advance: Callable[[], Any] = partial(next, steps)
        try:
            while True:
                step = advance()
                try:
                    advance = partial(steps.send, self.perform(step))
                except InfiniRayError as error:
                    advance = partial(steps.throw, error)
        except StopIteration as end:
            return end.value

    def perform(self, step: Any) -> Any:
        if isinstance(step, Pause):
            self.clock.now_s += step.seconds
            return None
        if isinstance(step, Block):
            return step.function()
        assert isinstance(step, Wait)
        answer = self.waiting.pop(step.ref)
        if isinstance(answer, InfiniRayError):
            raise answer
        return answer

    def calls(self, method: str) -> list[tuple[str, Any]]:
        return [(actor, args) for actor, called, args in self.log if called == method]


def membership(epoch: int = 1, shards: int = 3) -> Membership:
    config = Config.load(None, {"ring": {"shards": shards}, "pool": {"nodes": 12 * shards}}, environ={})
    first = plan(config)
    ring = Ring(epoch=epoch, shards=first.ring.shards, virtual_nodes=first.ring.virtual_nodes)
    return Membership(
        name="default", ring=ring, nodes=first.nodes, deadline_s=30, inline_max_bytes=1000, task_min_bytes=5000
    )  # fmt: skip


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Callable[[Answer], tuple[Client, World]]:
    def make(answer: Answer) -> tuple[Client, World]:
        world = World(membership(), answer, clock)
        monkeypatch.setattr("infiniray.cluster.rayapi.find_actor", world.find_actor)
        monkeypatch.setattr("infiniray.cluster.rayapi.place", lambda buffer: ("placed", buffer))
        return Client("default"), world

    return make


def echo(actor: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return f"value of {args[1]}"


def test_the_plan_deals_every_node_to_one_shard() -> None:
    members = plan(Config.load(None, {"ring": {"shards": 2}, "pool": {"nodes": 29}}, environ={}))
    assert sorted(map(len, members.nodes.values())) == [14, 15]
    assert members.all_nodes == tuple(f"default-node-{i:04}" for i in range(29))
    assert members.actors == ("default:shard-0", "default:shard-1")


def test_a_key_goes_to_the_shard_that_the_ring_names(make: Any) -> None:
    client, world = make(echo)
    for key in KEYS:
        assert world.run(client.get(key, 5)) == f"value of {key}"
    owners = {args[1]: actor for actor, args in world.calls("get")}
    assert owners == {key: f"default:{world.membership.ring.owner(key)}" for key in KEYS}
    assert len(set(owners.values())) == 3
    assert len(world.calls("membership")) == 1


def test_a_stale_epoch_is_renewed_and_the_call_made_again(make: Any) -> None:
    def answer(actor: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args[0] != 2:
            world.membership = membership(epoch=2)
            raise StaleEpoch(seen=args[0], current=2)
        return "new"

    client, world = make(answer)
    assert world.run(client.get("k", 5)) == "new"
    assert [args[0] for _, args in world.calls("get")] == [1, 2]
    assert len(world.calls("membership")) == 2
    assert world.run(client.get("k", 5)) == "new"
    assert len(world.calls("membership")) == 2


def test_a_restarting_shard_is_waited_for(make: Any) -> None:
    failures = iter(range(3))

    def answer(*call: Any) -> Any:
        if next(failures, None) is not None:
            raise CacheUnavailable(detail="restarting")
        return "back"

    client, world = make(answer)
    assert world.run(client.get("k", 5)) == "back"
    assert len(world.calls("get")) == 4


def test_a_put_that_is_retried_is_the_same_request(make: Any) -> None:
    requests: list[str] = []

    def answer(actor: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        requests.append(kwargs["request"])
        if len(requests) < 3:
            raise CacheUnavailable(detail="restarting")
        return None

    client, world = make(answer)
    world.run(client.put("k", b"v", None, 5))
    assert len(requests) == 3
    assert len(set(requests)) == 1
    world.run(client.put("k", b"v", None, 5))
    assert len(set(requests)) == 2


@pytest.mark.parametrize("is_many", [False, True])
def test_a_put_that_nobody_answered_says_so_when_it_comes_again(make: Any, is_many: bool) -> None:
    """Unlike one that was refused, which was not carried out."""
    troubles = [
        StaleEpoch(seen=1, current=1),
        ShardRecovering(shard="s", retry_after_s=0.1),
        CacheUnavailable(detail="the actor died"),
        StaleEpoch(seen=1, current=1),
    ]
    told: list[bool] = []

    def answer(actor: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        told.append(kwargs["is_again"])
        if len(told) <= len(troubles):
            raise troubles[len(told) - 1]
        raise WriteUncertain(key="k")

    client, world = make(answer)
    with pytest.raises(WriteUncertain, match="put it again"):
        world.run(client.put_many({"k": b"v"}, None, 5) if is_many else client.put("k", b"v", None, 5))
    assert told == [False, False, False, True, True]


def test_a_shard_that_stays_away_is_given_up_at_the_deadline(make: Any, clock: Clock) -> None:
    def answer(*call: Any) -> Any:
        raise CacheUnavailable(detail="the actor died")

    client, world = make(answer)
    began_s = clock.now_s
    with pytest.raises(CacheUnavailable, match=r"GET of 'k' found no shard within 5 s: the actor died"):
        world.run(client.get("k", 5))
    assert 3 < clock.now_s - began_s <= 5
    assert len(world.calls("get")) > 4


def test_membership_that_never_settles_is_given_up_too(make: Any) -> None:
    def answer(actor: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise StaleEpoch(seen=args[0], current=9)

    client, world = make(answer)
    with pytest.raises(DeadlineExceeded, match="kept changing") as caught:
        world.run(client.get("k", 2))
    assert caught.value.deadline_s == 2


def test_a_recovering_shard_is_asked_again_when_it_says(make: Any, clock: Clock) -> None:
    left = iter(range(5))

    def answer(*call: Any) -> Any:
        if next(left, None) is not None:
            raise ShardRecovering(shard="shard-0", retry_after_s=0.2)
        return "back"

    client, world = make(answer)
    began_s = clock.now_s
    assert world.run(client.get("k", 5)) == "back"
    assert 5 * 0.1 <= clock.now_s - began_s <= 5 * 0.3
    assert len(world.calls("membership")) == 1  # it is where it was


def test_a_shard_that_recovers_for_longer_than_the_deadline_is_what_the_caller_hears(make: Any, clock: Clock) -> None:
    def answer(*call: Any) -> Any:
        raise ShardRecovering(shard="shard-0", retry_after_s=0.2)

    client, world = make(answer)
    began_s = clock.now_s
    with pytest.raises(ShardRecovering):
        world.run(client.get("k", 2))
    assert 1.7 <= clock.now_s - began_s <= 2


def test_an_object_that_was_replaced_while_it_was_read_is_read_again_at_once(make: Any, clock: Clock) -> None:
    left = iter(range(3))

    def answer(*call: Any) -> Any:
        if next(left, None) is not None:
            raise ObjectReplaced(key="k")
        return "the new one"

    client, world = make(answer)
    began_s = clock.now_s
    assert world.run(client.get("k", 5)) == "the new one"
    assert clock.now_s == began_s
    assert len(world.calls("get")) == 4


def test_a_reference_is_given_out_by_a_shard_that_lives_in_this_membership(make: Any) -> None:
    """What meets the reference itself is raised where it is used, so nothing avoidable may meet it."""
    troubles: list[InfiniRayError] = [
        CacheUnavailable(detail="restarting"),
        ShardRecovering(shard="shard-0", retry_after_s=0.1),
        StaleEpoch(seen=1, current=2),
    ]

    def answer(actor: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if troubles:
            world.membership = membership(epoch=2)
            raise troubles.pop(0)
        return f"{method} at epoch {args[0]}"

    client, world = make(answer)
    ref = world.run(client.get_ref("k", 5))
    assert world.waiting == {ref: "get at epoch 2"}
    assert len(world.calls("get")) == 1


def test_other_errors_are_not_retried(make: Any) -> None:
    def answer(*call: Any) -> Any:
        raise Overloaded(in_flight=9, limit=8, retry_after_s=1)

    client, world = make(answer)
    with pytest.raises(Overloaded):
        world.run(client.get("k", 5))
    assert len(world.calls("get")) == 1


def test_without_a_supervisor_a_client_that_knows_the_membership_works_on(make: Any) -> None:
    fail = [True]

    def answer(*call: Any) -> Any:
        if fail.pop() if fail else False:
            raise CacheUnavailable(detail="restarting")
        return "value"

    client, world = make(lambda *call: "value")
    world.run(client.get("k", 5))
    world.answer = answer
    world.missing.add("default:supervisor")
    assert world.run(client.get("k", 5)) == "value"


def test_a_cache_that_is_not_there_says_what_to_do(make: Any) -> None:
    client, world = make(echo)
    world.missing.add("default:supervisor")
    with pytest.raises(CacheUnavailable, match=r"no cache 'default' runs here.*infiniray up"):
        world.run(client.get("k", 5))


def test_small_values_travel_in_the_call_and_large_ones_by_reference(make: Any) -> None:
    client, world = make(lambda *call: None)
    world.run(client.put("small", b"x" * 999, None, 5))
    world.run(client.put("large", b"x" * 1000, None, 5))
    world.run(client.put("coded", b"x" * 5000, None, 5))
    small, large, coded = (args for _, args in world.calls("put"))
    assert small[3:] == (b"x" * 999, [])
    (tag, buffer), refs = large[3:]
    assert (tag, type(buffer), buffer.nbytes, refs) == ("placed", np.ndarray, 1000, [])
    payload, refs = coded[3:]
    assert refs == [payload]


def test_get_many_asks_for_all_before_it_waits_and_leaves_misses_out(make: Any) -> None:
    def answer(actor: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args[1] == "key-7":
            raise KeyNotFound(key=args[1])
        return f"value of {args[1]}"

    client, world = make(answer)
    found = world.run(client.get_many([*KEYS, "key-3"], 5))
    assert list(found) == [key for key in KEYS if key != "key-7"]
    assert found["key-3"] == "value of key-3"
    assert world.most_waiting == len(KEYS)


def test_many_calls_are_bounded_in_number(make: Any) -> None:
    client, world = make(echo)
    keys = [f"key-{i}" for i in range(500)]
    assert len(world.run(client.get_many(keys, 5))) == 500
    assert world.most_waiting == 64


def test_many_calls_are_bounded_in_bytes(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infiniray.cluster.client._WINDOW_BYTES", 10_000)
    client, world = make(lambda *call: None)
    world.run(client.put_many(dict.fromkeys(KEYS, b"x" * 4000), None, 5))
    assert len(world.calls("put")) == len(KEYS)
    assert world.most_waiting == 2


def test_an_error_among_many_is_raised_after_the_others_have_ended(make: Any) -> None:
    def answer(actor: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args[1] in ("key-7", "key-9"):
            raise WriteFailed(key=args[1], stored=1, need=3, detail="x")

    client, world = make(answer)
    with pytest.raises(WriteFailed) as caught:
        world.run(client.put_many(dict.fromkeys(KEYS, b"v"), None, 5))
    assert caught.value.key == "key-7"
    assert len(world.calls("put")) == len(KEYS)
    assert world.waiting == {}


def test_listing_asks_every_shard_and_sorts(make: Any) -> None:
    def answer(actor: str, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        assert args[1:] == ("a", 3)
        return world.membership.ring.shards, [(f"a{i}-{actor[-1]}", 10, None) for i in range(3)]

    client, world = make(answer)
    entries = world.run(client.entries("a", 3, 5))
    assert [entry.key for entry in entries] == ["a0-0", "a0-1", "a0-2"]
    assert {actor for actor, _ in world.calls("list")} == set(world.membership.actors)
