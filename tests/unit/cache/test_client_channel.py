"""Which way clients take, and what they make of a connection that ends: the steps of verbs, driven by hand. No Ray."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest

from infiniray.channel.line import ChannelBusy, ChannelLost, ChannelUnreachable, Received, Write
from infiniray.channel.server import Endpoint
from infiniray.channel.waiting import TimedOut, drive, drive_all
from infiniray.cluster import deadline as deadline_module
from infiniray.cluster.channels import Channels
from infiniray.cluster.client import Client
from infiniray.cluster.membership import Membership, plan
from infiniray.cluster.steps import Block, Pause, Steps, Talk, TalkAll, Wait
from infiniray.config import Config
from infiniray.errors import (
    CacheUnavailable,
    DeadlineExceeded,
    InfiniRayError,
    KeyNotFound,
    ShardRecovering,
    StaleEpoch,
    ValueNotStorable,
    WriteFailed,
)
from infiniray.values import Packed, serialize

INLINE, LARGE, FOR_TASK = b"x" * 10, b"x" * 600_000, b"x" * 3_000_000
FAILED = WriteFailed(key="k", stored=1, need=3, detail="no")
ENDPOINT = Endpoint(protocol=1, name="n", address=None, secret=b"s", shared_min_bytes=1000)


@dataclass
class FakeChannel:
    """``answer(verb, keys or writes)`` gives outcomes, or raises what ends the exchange."""

    answer: Callable[[str, Any], Any]
    endpoint: Endpoint = ENDPOINT
    has_shared_memory: bool = True
    was_reached: bool = True
    is_closed: bool = False
    said: list[tuple[str, Any]] = field(default_factory=list)

    def _exchange(self, verb: str, what: Any) -> Iterator[Any]:
        yield lambda: None
        self.said.append((verb, what))
        return self.answer(verb, what)

    def get(self, epoch: int, timeout_s: float, keys: Any) -> Any:
        return self._exchange("get", list(keys))

    def put(self, epoch: int, timeout_s: float, writes: Any) -> Any:
        return self._exchange("put", list(writes))

    def put_shared(self, epoch: int, left_s: Any, write: Write) -> Any:
        return self._exchange("put_shared", write)

    def ask(self, epoch: int, timeout_s: float, method: str, key: str, details: Any) -> Any:
        return self._exchange(method, key)

    def close(self) -> None:
        self.is_closed = True


class Clock:
    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


class World:
    """Shards that can be reached both ways."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[str, Any], Any]) -> None:
        self.clock = Clock()
        self.membership = membership()
        self.channel = FakeChannel(answer)
        self.endpoint: Endpoint | InfiniRayError | None = ENDPOINT
        self.through_ray: list[tuple[str, str, dict[str, Any]]] = []
        self.placed: list[int] = []
        self.look_up: Callable[[str], Any] = lambda method: self.endpoint
        self.ray_answer: Callable[[str, str], Any] = lambda method, key: f"{method} of {key} through Ray"
        monkeypatch.setattr(deadline_module, "time", self.clock)
        monkeypatch.setattr("infiniray.cluster.channels.Channel", lambda endpoint: self.channel)
        monkeypatch.setattr("infiniray.cluster.client.Channel", FakeChannel)
        monkeypatch.setattr("infiniray.cluster.rayapi.find_actor", lambda name: FakeActor(self, name))
        monkeypatch.setattr("infiniray.cluster.rayapi.place", self.place)
        self.channels = Channels(self.clock.monotonic)
        self.client = Client("default", self.channels)

    def place(self, data: Any) -> str:
        self.placed.append(len(data))
        return "reference"

    def called(self, method: str, args: Any, kwargs: Any) -> Any:
        if method == "membership":
            return self.membership
        if method == "channel":
            return self.look_up(method)
        self.through_ray.append((method, args[1], kwargs))
        try:
            return self.ray_answer(method, args[1])
        except InfiniRayError as error:
            return error

    def run(self, steps: Steps[Any]) -> Any:
        advance: Callable[[], Any] = partial(next, steps)
        try:
            while True:
                step = advance()
                try:
                    advance = partial(steps.send, self.perform(step))
                except Exception as error:
                    advance = partial(steps.throw, error)
        except StopIteration as end:
            return end.value

    def perform(self, step: Any) -> Any:
        match step:
            case Pause():
                self.clock.now_s += step.seconds
                return None
            case Block():
                return step.function()
            case Talk():
                try:
                    return drive(step.exchange, step.left_s)
                except TimedOut:
                    raise step.deadline.exceeded(step.operation, step.key, "no answer") from None
            case TalkAll():
                return drive_all(step.exchanges, step.left_s)
            case Wait():
                if isinstance(step.ref, InfiniRayError):
                    raise step.ref
                return step.ref
        raise AssertionError(step)

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.channel.said]


class FakeActor:
    def __init__(self, world: World, name: str) -> None:
        self._world = world

    def __getattr__(self, method: str) -> Any:
        world = self._world

        class Method:
            def remote(self, *args: Any, **kwargs: Any) -> Any:
                return world.called(method, args, kwargs)

        return Method()


def membership() -> Membership:
    config = Config.load(None, {"ring": {"shards": 2}, "pool": {"nodes": 24}}, environ={})
    first = plan(config)
    return Membership(
        name="default", ring=first.ring, nodes=first.nodes, deadline_s=30, inline_max_bytes=1000,
        task_min_bytes=2_000_000,
    )  # fmt: skip


Make = Callable[[Callable[[str, Any], Any]], World]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Make:
    return partial(World, monkeypatch)


def stored(value: Any) -> Received:
    head, data = serialize(value)
    return Received(head, data)


def raises(error: Exception) -> Callable[[str, Any], Any]:
    def answer(verb: str, what: Any) -> Any:
        raise error

    return answer


# ---------------------------------------------------------------- the direct way


def test_values_come_over_the_channel(make: Make) -> None:
    world = make(lambda verb, keys: [stored(np.arange(5))])
    assert world.run(world.client.get("k", None)).tolist() == [0, 1, 2, 3, 4]
    assert world.channel.said == [("get", ["k"])]
    assert world.through_ray == []


def test_errors_come_as_they_were_raised(make: Make) -> None:
    world = make(lambda verb, keys: [KeyNotFound(key="k")])
    with pytest.raises(KeyNotFound):
        world.run(world.client.get("k", None))
    world.channel.answer = lambda verb, keys: [FAILED]
    with pytest.raises(WriteFailed):
        world.run(world.client.get("k", None))
    assert world.through_ray == []


@pytest.mark.parametrize("method", ["delete", "exists", "ttl"])
def test_small_verbs_too(make: Make, method: str) -> None:
    world = make(lambda verb, key: (verb, key))
    assert world.run(getattr(world.client, method)("k", None)) == (method, "k")
    assert world.through_ray == []


@pytest.mark.parametrize(("value", "verbs"), [(INLINE, ["put"]), (LARGE, ["put_shared"])])
def test_where_values_travel(make: Make, value: bytes, verbs: list[str]) -> None:
    world = make(lambda verb, what: [None])
    world.run(world.client.put("k", value, None, None))
    assert world.verbs == verbs
    assert (world.through_ray, world.placed) == ([], [])


def test_what_a_task_codes_stays_in_rays_store(make: Make) -> None:
    world = make(lambda verb, what: [None])
    world.run(world.client.put("k", FOR_TASK, None, None))
    assert world.verbs == []
    assert world.placed == [len(FOR_TASK)]


def test_without_memory_to_spare_a_large_value_goes_through_ray(make: Make) -> None:
    world = make(lambda verb, what: None)
    world.run(world.client.put("k", LARGE, None, None))
    assert world.verbs == ["put_shared"]
    assert [method for method, _, _ in world.through_ray] == ["put"]
    assert world.placed == [len(LARGE)]


def test_from_another_machine_it_goes_in_a_frame(make: Make) -> None:
    world = make(lambda verb, what: None if verb == "put_shared" else [None])
    world.channel.has_shared_memory = False
    world.run(world.client.put("k", LARGE, None, None))
    assert world.verbs == ["put_shared", "put"]
    assert world.through_ray == []


def test_references_and_turns_stay_with_ray(make: Make) -> None:
    world = make(raises(AssertionError("said over the channel")))
    world.run(world.client.get_ref("k", None))
    world.run(world.client.take_turn("k", "me", 1.0, None))
    world.run(world.client.put_computed("k", "me", INLINE, None, 0.0, None))
    assert [method for method, _, _ in world.through_ray] == ["exists", "get", "take_turn", "put_computed"]


# ---------------------------------------------------------------- no way there


def test_a_shard_without_a_channel_is_asked_again_after_a_while(make: Make) -> None:
    world = make(lambda verb, keys: [stored(b"direct")])
    world.endpoint = None
    for _ in range(3):
        assert world.run(world.client.get("k", None)) == "get of k through Ray"
    world.endpoint = ENDPOINT
    assert world.run(world.client.get("k", None)) == "get of k through Ray"
    world.clock.now_s += 60
    assert world.run(world.client.get("k", None)) == b"direct"


def test_a_channel_that_never_answered_is_avoided_for_a_while(make: Make) -> None:
    world = make(raises(ChannelUnreachable("refused")))
    world.channel.was_reached = False
    assert world.run(world.client.get("k", None)) == "get of k through Ray"
    assert world.run(world.client.get("k", None)) == "get of k through Ray"
    assert world.verbs == ["get"]
    assert world.channel.is_closed


def test_one_that_did_is_looked_up_again(make: Make) -> None:
    world = make(raises(ChannelUnreachable("refused")))
    n_looked_up = 0

    def looked_up(method: str) -> Any:
        nonlocal n_looked_up
        n_looked_up += 1
        if n_looked_up == 2:  # the actor has not been started again yet
            return CacheUnavailable(detail="restarting")
        world.channel.answer = lambda verb, keys: [stored(b"direct")] if n_looked_up > 2 else gone(verb, keys)
        return ENDPOINT

    gone = raises(ChannelUnreachable("refused"))
    world.look_up = looked_up
    assert world.run(world.client.get("k", None)) == b"direct"
    assert n_looked_up == 3
    assert world.through_ray == []


def test_a_busy_channel_is_kept(make: Make) -> None:
    world = make(raises(ChannelBusy("too many")))
    assert world.run(world.client.get("k", None)) == "get of k through Ray"
    assert not world.channel.is_closed


# ---------------------------------------------------------------- connections that end


@pytest.mark.parametrize("may_have_run", [False, True])
def test_a_write_whose_connection_ended_is_made_again_as_such(make: Make, may_have_run: bool) -> None:
    world = make(lambda verb, what: [None])
    calls: list[Write] = []

    def answer(verb: str, writes: list[Write]) -> Any:
        calls.extend(writes)
        if len(calls) == 1:
            raise ChannelLost("gone", may_have_run=may_have_run)
        return [None]

    world.channel.answer = answer
    world.run(world.client.put("k", INLINE, None, None))
    first, second = calls
    assert first.request == second.request
    assert (first.is_again, second.is_again) == (False, may_have_run)


def test_a_write_that_may_have_run_is_made_again_through_ray_as_such(make: Make) -> None:
    said: list[int] = []

    def lost_then_unreachable(verb: str, what: Any) -> Any:
        said.append(1)
        world.channel.was_reached = len(said) == 1
        raise ChannelLost("gone", may_have_run=True) if len(said) == 1 else ChannelUnreachable("refused")

    world = make(lost_then_unreachable)
    world.run(world.client.put("k", INLINE, None, None))
    ((method, key, details),) = world.through_ray
    assert (method, key, details["is_again"]) == ("put", "k", True)


@pytest.mark.parametrize("trouble", [StaleEpoch(seen=1, current=2), ShardRecovering(shard="s", retry_after_s=0.1)])
def test_refusals_are_no_reason_to_think_that_it_ran(make: Make, trouble: InfiniRayError) -> None:
    calls: list[Write] = []

    def answer(verb: str, writes: list[Write]) -> Any:
        calls.extend(writes)
        return [trouble if len(calls) == 1 else None]

    world = make(answer)
    world.run(world.client.put("k", INLINE, None, None))
    assert [call.is_again for call in calls] == [False, False]


def test_a_shard_that_was_deposed_in_the_middle_may_have_stored_it(make: Make) -> None:
    calls: list[Write] = []

    def answer(verb: str, writes: list[Write]) -> Any:
        calls.extend(writes)
        return [CacheUnavailable(detail="deposed") if len(calls) == 1 else None]

    world = make(answer)
    world.run(world.client.put("k", INLINE, None, None))
    assert [call.is_again for call in calls] == [False, True]


def test_at_the_deadline_it_is_over(make: Make) -> None:
    world = make(raises(TimedOut()))
    with pytest.raises(DeadlineExceeded):
        world.run(world.client.get("k", 1.0))
    world.channel.answer = raises(ChannelLost("gone", may_have_run=True))
    with pytest.raises(CacheUnavailable, match="found no shard within 1 s"):
        world.run(world.client.get("k", 1.0))


# ---------------------------------------------------------------- many keys


KEYS = [f"key-{i}" for i in range(700)]


def test_many_keys_are_few_frames(make: Make) -> None:
    world = make(lambda verb, keys: [stored(key.encode()) for key in keys])
    found = world.run(world.client.get_many([*KEYS, KEYS[0]], None))
    assert found == {key: key.encode() for key in KEYS}
    assert list(found) == KEYS
    assert 4 <= len(world.channel.said) <= 6
    assert all(len(keys) <= ENDPOINT.max_keys for _, keys in world.channel.said)
    assert world.through_ray == []


def test_misses_are_left_out_and_the_first_error_is_raised(make: Make) -> None:
    misses = {KEYS[1], KEYS[5]}
    world = make(lambda verb, keys: [KeyNotFound(key=k) if k in misses else stored(k.encode()) for k in keys])
    assert set(world.run(world.client.get_many(KEYS, None))) == set(KEYS) - misses
    world.channel.answer = lambda verb, keys: [FAILED for _ in keys]
    with pytest.raises(WriteFailed):
        world.run(world.client.get_many(KEYS, None))
    assert world.through_ray == []


def test_what_a_frame_did_not_settle_is_asked_for_again(make: Make) -> None:
    world = make(
        lambda verb, keys: [StaleEpoch(seen=1, current=2) if k in KEYS[:3] else stored(b"direct") for k in keys]
    )
    found = world.run(world.client.get_many(KEYS[:10], None))
    assert [found[key] for key in KEYS[:3]] == [f"get of {key} through Ray" for key in KEYS[:3]]
    assert [found[key] for key in KEYS[3:10]] == [b"direct"] * 7


@pytest.mark.parametrize(
    "error", [ChannelLost("gone", may_have_run=True), ChannelUnreachable("no"), ChannelBusy("full")]
)
def test_many_keys_go_through_ray_if_they_have_to(make: Make, error: Exception) -> None:
    world = make(raises(error))
    found = world.run(world.client.get_many(KEYS, None))
    assert found == {key: f"get of {key} through Ray" for key in KEYS}


def test_many_values_are_few_frames_and_large_ones_go_alone(make: Make) -> None:
    world = make(lambda verb, what: [None] if verb == "put_shared" else [None for _ in what])
    values = {**dict.fromkeys(KEYS, INLINE), "large": LARGE, "for a task": FOR_TASK}
    world.run(world.client.put_many(values, None, None))
    puts = [writes for verb, writes in world.channel.said if verb == "put"]
    assert sorted(write.key for writes in puts for write in writes) == sorted(KEYS)
    assert len(puts) <= 6
    assert [write.key for verb, write in world.channel.said if verb == "put_shared"] == ["large"]
    assert [key for _, key, _ in world.through_ray] == ["for a task"]


def test_a_frame_has_no_more_bytes_than_it_may(make: Make) -> None:
    world = make(lambda verb, what: [None for _ in what])
    world.run(world.client.put_many({f"k{i}": b"x" * 500_000 for i in range(100)}, None, None))
    sizes = [sum(len(write.data) for write in writes) for _, writes in world.channel.said]
    assert sum(sizes) == 100 * 500_000
    assert max(sizes) <= ENDPOINT.max_body_bytes


@pytest.mark.parametrize("may_have_run", [False, True])
def test_writes_that_may_have_run_are_made_again_as_such(make: Make, may_have_run: bool) -> None:
    world = make(raises(ChannelLost("gone", may_have_run=may_have_run)))
    world.ray_answer = lambda method, key: "done"
    world.run(world.client.put_many(dict.fromkeys(KEYS[:10], INLINE), None, None))
    said = {write.key: write.request for _, writes in world.channel.said for write in writes}
    assert {key: details["request"] for _, key, details in world.through_ray} == said
    assert {details["is_again"] for _, _, details in world.through_ray} == {may_have_run}


def test_the_first_error_of_many_writes_is_raised_when_all_have_ended(make: Make) -> None:
    world = make(
        lambda verb, what: [
            WriteFailed(key="k", stored=1, need=3, detail="no") if w.key == KEYS[2] else None for w in what
        ]
    )
    with pytest.raises(WriteFailed):
        world.run(world.client.put_many(dict.fromkeys(KEYS[:10], INLINE), None, None))
    assert world.through_ray == []


def test_what_cannot_be_serialized_does_not_keep_the_others(make: Make) -> None:
    world = make(lambda verb, what: [None for _ in what])
    with pytest.raises(ValueNotStorable):
        world.run(world.client.put_many({"a": 1, "b": (x for x in ()), "c": 3}, None, None))
    assert sorted(write.key for _, writes in world.channel.said for write in writes) == ["a", "c"]
    assert world.through_ray == []


def test_values_are_unpacked_the_same_either_way(make: Make) -> None:
    value = {"a": [1, 2, 3], "b": b"x"}
    world = make(lambda verb, keys: [stored(value)])
    assert world.run(world.client.get("k", None)) == value
    reduced = Packed(*serialize(value)).__reduce__()
    assert reduced[0](*reduced[1]) == value
