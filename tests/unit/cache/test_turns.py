"""Who computes and who waits, at the shard actor: leases, fences, waiters. No Ray, no functions."""

from __future__ import annotations

import asyncio
import pickle
import time
from typing import Any

import numpy as np
import pytest

from infiniray.cluster import flights as flights_module
from infiniray.cluster import shard as shard_module
from infiniray.cluster.enrolment import Enrolment
from infiniray.cluster.flights import Flights
from infiniray.cluster.membership import Membership, plan
from infiniray.cluster.registry import ShardRegistry
from infiniray.cluster.shard import Shard
from infiniray.cluster.turns import Turn
from infiniray.codec.schemes import Scheme
from infiniray.config import Config
from infiniray.core.commands import ObjectFacts
from infiniray.core.table import ObjectRecord, ObjectTable
from infiniray.errors import (
    CacheUnavailable,
    DeadlineExceeded,
    KeyNotFound,
    LeaseLost,
    ObjectLost,
    Overloaded,
    PoolFull,
    ShardRecovering,
    StaleEpoch,
    ValueTooLarge,
)
from infiniray.runtime.keys import KeyRing
from infiniray.values import deserialize, serialize

SCHEME = Scheme.parse("rs:2+1")


class FakeDriver:
    """Keeps objects in a dict, versions in the order in which writes begin; ``gate`` holds writes up."""

    def __init__(self) -> None:
        self.state = self
        self.is_recovering = False
        self.table = ObjectTable()
        self.data: dict[str, bytes] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.put_failures: list[Exception] = []
        self.get_failures: list[Exception] = []
        self.n_gets = self.n_versions = 0

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def put(
        self, key: str, head: str, data: Any, *, expires_s: float | None, timeout_s: float, place: object = None
    ) -> None:
        self.n_versions += 1
        version = self.n_versions
        await self.gate.wait()
        if self.put_failures:
            raise self.put_failures.pop()
        facts = ObjectFacts(key=key, version=version, scheme=SCHEME, size_bytes=len(data), head=head, expires_s=0.0)
        current = self.table.find(key)
        if current is None or current.facts.version < version:
            self.table.insert(ObjectRecord(facts=facts, places=[], expires_s=expires_s))
            self.data[key] = bytes(data)

    async def get(self, key: str, *, timeout_s: float) -> tuple[ObjectFacts, Any]:
        self.n_gets += 1
        if self.get_failures:
            self.table.remove(key)
            raise self.get_failures.pop()
        record = self.table.find(key)
        if record is None:
            raise KeyNotFound(key=key)
        return record.facts, np.frombuffer(self.data[key], np.uint8)

    async def delete(self, key: str, *, timeout_s: float) -> bool:
        return self.table.remove(key) is not None

    def value(self, key: str) -> Any:
        record = self.table.find(key)
        return None if record is None else deserialize(record.facts.head, self.data[key])


class Clock:
    """The event loop's time and Unix time, as far as leases and freshness see them."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def time(self) -> float:
        return time.time() + self.ahead_s

    def now_s(self) -> float:
        return asyncio.get_running_loop().time() + self.ahead_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(flights_module, "_now_s", clock.now_s)
    monkeypatch.setattr(shard_module, "time", clock)
    return clock


async def enroll(membership: Membership, shard: str, incarnation: str) -> Enrolment:
    registry = ShardRegistry(membership.name, shard, 1)
    keys = KeyRing(current=b"s")
    return Enrolment(membership=membership, epoch=1, keys=keys, registry=registry, on_record={})


async def renewed(membership: Membership) -> Membership:
    return membership


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    driver = FakeDriver()
    monkeypatch.setattr(shard_module, "assemble", lambda *args, **kwargs: driver)
    monkeypatch.setattr(shard_module, "enroll", enroll)
    monkeypatch.setattr(shard_module, "renewed", renewed)
    return driver


@pytest.fixture
def shard(driver: FakeDriver) -> Shard:
    config = Config.load(
        None, {"redundancy": [{"scheme": "rs:2+1"}], "limits": {"max_in_flight": 32}, "ring": {"shards": 1}}, environ={}
    )
    return Shard(membership=plan(config), shard="shard-0", config=config, endpoint_url=None)


async def take(shard: Shard, holder: str, *, lease_s: float = 60.0, timeout_s: float = 60.0) -> Turn:
    return await shard.take_turn(1, "k", holder=holder, lease_s=lease_s, timeout_s=timeout_s)


async def store(
    shard: Shard, holder: str, value: Any, *, ttl_s: float | None = None, stale_s: float = 0.0, request: str = ""
) -> None:
    head, data = serialize(value)
    await shard.put_computed(
        1, "k", head, data.tobytes(), [], holder=holder, request=request or f"of {holder}",
        ttl_s=ttl_s, stale_s=stale_s, timeout_s=60,
    )  # fmt: skip


async def plain_put(shard: Shard, value: Any, request: str = "plain") -> None:
    head, data = serialize(value)
    await shard.put(1, "k", head, data.tobytes(), [], request=request, ttl_s=None, timeout_s=60)


async def waiting(shard: Shard, *holders: str, **options: float) -> list[asyncio.Task[Turn]]:
    """Callers that have begun to wait."""
    before = (await computing(shard))["waiting"]
    tasks = [asyncio.create_task(take(shard, holder, **options)) for holder in holders]
    while (await computing(shard))["waiting"] < before + len(holders):
        await asyncio.sleep(0)
    return tasks


async def computing(shard: Shard) -> dict[str, int]:
    await shard._at(1, "k", 5.0)
    return shard._flights.stats()


def value_of(turn: Turn) -> Any:
    assert not turn.is_granted
    return pickle.loads(pickle.dumps(turn.value, protocol=5))


async def test_one_computes_and_fifty_who_wait_get_the_value_without_a_read(shard: Shard, driver: FakeDriver) -> None:
    assert (await take(shard, "first")).is_granted
    waiters = await waiting(shard, *(f"w{i}" for i in range(50)))
    await store(shard, "first", b"value")
    assert [value_of(turn) for turn in await asyncio.gather(*waiters)] == [b"value"] * 50
    assert driver.n_gets == 0
    assert await computing(shard) == {
        "granted": 1, "expired": 0, "computed": 1, "lost": 0, "given_up": 0, "waits": 50, "waiting": 0
    }  # fmt: skip
    assert value_of(await take(shard, "later")) == b"value"
    assert driver.n_gets == 1


async def test_when_the_computer_gives_up_one_of_those_who_wait_computes(shard: Shard) -> None:
    assert (await take(shard, "first")).is_granted
    waiters = await waiting(shard, "a", "b", "c")
    await shard.give_up_turn(1, "k", holder="first", timeout_s=5)
    done, pending = await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    (next_turn,) = (task.result() for task in done)
    assert next_turn.is_granted
    assert len(pending) == 2
    await store(shard, "abc"[[task in done for task in waiters].index(True)], "second")
    assert [value_of(await task) for task in pending] == ["second", "second"]


async def test_a_silent_computers_lease_expires_and_one_who_waits_takes_over(shard: Shard, driver: FakeDriver) -> None:
    assert (await take(shard, "dead", lease_s=0.05)).is_granted
    turns = await asyncio.gather(*(await waiting(shard, "next")))
    assert turns[0].is_granted
    with pytest.raises(LeaseLost):
        await store(shard, "dead", "late")
    await store(shard, "next", "value")
    assert driver.value("k") == "value"
    assert (await computing(shard))["lost"] == (await computing(shard))["expired"] == 1


async def test_a_renewed_lease_lasts(shard: Shard, clock: Clock) -> None:
    assert (await take(shard, "slow", lease_s=10)).is_granted
    for _ in range(5):
        clock.ahead_s += 9
        await shard.renew_turn(1, "k", holder="slow", lease_s=10, timeout_s=5)
    (waiter,) = await waiting(shard, "other")
    await store(shard, "slow", "value")
    assert value_of(await waiter) == "value"


async def test_a_lease_that_was_renewed_and_then_expired_goes_to_one_who_waits(shard: Shard) -> None:
    assert (await take(shard, "dead", lease_s=0.05)).is_granted
    (waiter,) = await waiting(shard, "next")
    await shard.renew_turn(1, "k", holder="dead", lease_s=0.2, timeout_s=5)
    assert (await waiter).is_granted


async def test_a_paused_computer_never_replaces_what_its_successor_stored(
    shard: Shard, driver: FakeDriver, clock: Clock
) -> None:
    await take(shard, "paused", lease_s=10)
    clock.ahead_s += 11
    with pytest.raises(LeaseLost):
        await shard.renew_turn(1, "k", holder="paused", lease_s=10, timeout_s=5)
    assert (await take(shard, "successor")).is_granted
    await store(shard, "successor", "newer")
    with pytest.raises(LeaseLost):
        await store(shard, "paused", "older")
    assert driver.value("k") == "newer"


async def test_a_store_that_began_before_its_lease_expired_does_not_replace_a_later_one(
    shard: Shard, driver: FakeDriver, clock: Clock
) -> None:
    await take(shard, "slow", lease_s=10)
    driver.gate.clear()
    slow = asyncio.create_task(store(shard, "slow", "older"))
    while not driver.n_versions:
        await asyncio.sleep(0)
    clock.ahead_s += 11
    assert (await take(shard, "fast")).is_granted
    fast = asyncio.create_task(store(shard, "fast", "newer"))
    while driver.n_versions < 2:
        await asyncio.sleep(0)
    driver.gate.set()
    await asyncio.gather(slow, fast)
    assert driver.value("k") == "newer"


@pytest.mark.parametrize("when", ["before", "during"])
async def test_a_plain_write_is_not_replaced_by_what_was_computed_before_it(
    shard: Shard, driver: FakeDriver, when: str
) -> None:
    if when == "before":
        await take(shard, "computer")
    driver.gate.clear()
    write = asyncio.create_task(plain_put(shard, "written"))
    while not driver.n_versions:
        await asyncio.sleep(0)
    if when == "during":
        await take(shard, "computer")
    (waiter,) = await waiting(shard, "waiter") if when == "during" else [None]
    driver.gate.set()
    await write
    with pytest.raises(LeaseLost):
        await store(shard, "computer", "computed")
    assert driver.value("k") == "written"
    if waiter is not None:
        assert value_of(await waiter) == "written"


async def test_what_was_computed_before_a_plain_write_is_refused_while_that_is_under_way(
    shard: Shard, driver: FakeDriver
) -> None:
    """It would get a higher version."""
    await take(shard, "computer")
    driver.gate.clear()
    write = asyncio.create_task(plain_put(shard, "written"))
    while not driver.n_versions:
        await asyncio.sleep(0)
    with pytest.raises(LeaseLost):
        await store(shard, "computer", "computed")
    driver.gate.set()
    await write
    assert driver.value("k") == "written"


async def test_a_deletion_stops_what_is_being_computed_from_coming_back(shard: Shard, driver: FakeDriver) -> None:
    await plain_put(shard, "old")
    await shard.delete(1, "k", request="d0", timeout_s=5)
    await take(shard, "computer")
    (waiter,) = await waiting(shard, "waiter")
    await shard.delete(1, "k", request="d1", timeout_s=5)
    with pytest.raises(LeaseLost):
        await store(shard, "computer", "computed before")
    assert (await waiter).is_granted
    assert driver.value("k") is None


async def test_a_deletion_stops_a_computed_value_on_its_way_into_the_pool(shard: Shard, driver: FakeDriver) -> None:
    await take(shard, "computer")
    driver.gate.clear()
    storing = asyncio.create_task(store(shard, "computer", "computed before"))
    while not driver.n_versions:
        await asyncio.sleep(0)
    await shard.delete(1, "k", request="d", timeout_s=5)
    driver.gate.set()
    with pytest.raises(LeaseLost):
        await storing
    assert driver.value("k") is None
    assert (await take(shard, "next")).is_granted


async def test_a_store_that_comes_again_is_answered_as_before(shard: Shard, driver: FakeDriver) -> None:
    await take(shard, "computer")
    await store(shard, "computer", "value", request="r")
    await store(shard, "computer", "value", request="r")
    assert driver.n_versions == 1
    with pytest.raises(LeaseLost):
        await store(shard, "computer", "value", request="another")


async def test_a_turn_that_is_asked_for_again_is_the_same(shard: Shard) -> None:
    """Its first answer was lost on the way."""
    assert (await take(shard, "a")).is_granted
    assert (await take(shard, "a")).is_granted


async def test_a_value_that_cannot_be_stored_now_still_reaches_those_who_wait(shard: Shard, driver: FakeDriver) -> None:
    await take(shard, "computer")
    (waiter,) = await waiting(shard, "waiter")
    driver.put_failures.append(PoolFull(need_bytes=2, free_bytes=1))
    with pytest.raises(PoolFull):
        await store(shard, "computer", "value")
    assert value_of(await waiter) == "value"
    assert (await take(shard, "next")).is_granted


async def test_after_a_value_that_can_never_be_stored_the_next_computes(shard: Shard, driver: FakeDriver) -> None:
    await take(shard, "computer")
    (waiter,) = await waiting(shard, "waiter")
    driver.put_failures.append(ValueTooLarge(size_bytes=2, limit_bytes=1))
    with pytest.raises(ValueTooLarge):
        await store(shard, "computer", "value")
    assert (await waiter).is_granted


async def test_a_storing_client_that_goes_away_leaves_the_turn_to_the_next(shard: Shard, driver: FakeDriver) -> None:
    await take(shard, "computer")
    (waiter,) = await waiting(shard, "waiter")
    driver.gate.clear()
    storing = asyncio.create_task(store(shard, "computer", "value"))
    while not driver.n_versions:
        await asyncio.sleep(0)
    storing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await storing
    assert (await waiter).is_granted
    assert driver.value("k") is None


async def test_a_stale_value_is_served_while_exactly_one_computes_the_next(
    shard: Shard, driver: FakeDriver, clock: Clock
) -> None:
    await take(shard, "first")
    await store(shard, "first", "old", ttl_s=100, stale_s=50)
    clock.ahead_s += 99
    assert value_of(await take(shard, "a")) == "old"
    clock.ahead_s += 2
    assert (await take(shard, "b")).is_granted
    assert [value_of(await take(shard, f"c{i}")) for i in range(5)] == ["old"] * 5
    await store(shard, "b", "new", ttl_s=100, stale_s=50)
    assert value_of(await take(shard, "d")) == "new"
    clock.ahead_s += 151
    assert (await take(shard, "e")).is_granted
    (waiter,) = await waiting(shard, "f")  # expired: there is nothing to be served
    waiter.cancel()


async def test_a_value_whose_chunks_are_lost_is_computed_again(shard: Shard, driver: FakeDriver) -> None:
    await plain_put(shard, "value")
    driver.get_failures.append(ObjectLost(key="k", have=1, need=2))
    assert (await take(shard, "a")).is_granted


async def test_a_wait_has_a_deadline_and_leaves_nothing_behind(shard: Shard) -> None:
    await take(shard, "computer")
    with pytest.raises(DeadlineExceeded, match="somebody else is still computing"):
        await take(shard, "waiter", timeout_s=0.05)
    assert (await computing(shard))["waiting"] == 0


async def test_those_who_wait_are_bounded_in_number(shard: Shard) -> None:
    await take(shard, "computer")
    waiters = await waiting(shard, *(f"w{i}" for i in range(64)))
    with pytest.raises(Overloaded) as caught:
        await take(shard, "one too many")
    assert (caught.value.in_flight, caught.value.limit) == (64, 64)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.gather(*waiters, return_exceptions=True)
    assert (await computing(shard))["waiting"] == 0
    await store(shard, "computer", "value")


async def test_a_shard_that_has_restarted_refuses_what_was_computed_before(driver: FakeDriver, shard: Shard) -> None:
    with pytest.raises(LeaseLost):
        await store(shard, "of the former incarnation", "value")
    assert driver.value("k") is None


async def test_nothing_is_computed_before_a_recovering_shard_knows_what_there_is(
    shard: Shard, driver: FakeDriver
) -> None:
    driver.is_recovering = True
    with pytest.raises(ShardRecovering):
        await take(shard, "a")
    driver.is_recovering = False
    assert (await take(shard, "a")).is_granted


async def test_a_shard_that_closes_lets_go_of_those_who_wait(shard: Shard) -> None:
    await take(shard, "computer")
    waiters = await waiting(shard, "a", "b")
    await shard.close()
    for waiter in waiters:
        with pytest.raises(CacheUnavailable):
            await waiter


async def test_callers_who_think_that_another_shards_key_is_mine_are_turned_away(shard: Shard) -> None:
    shard._shard = "shard-1"  # so that "k" is another's
    calls = [
        shard.take_turn(2, "k", holder="a", lease_s=1, timeout_s=5),
        shard.renew_turn(2, "k", holder="a", lease_s=1, timeout_s=5),
        shard.give_up_turn(2, "k", holder="a", timeout_s=5),
        shard.put_computed(
            2, "k", "", b"", [], holder="a", request="r", ttl_s=None, stale_s=0, timeout_s=5
        ),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StaleEpoch):
            await call


async def test_alarms_end_with_what_they_watch(shard: Shard) -> None:
    flights: Flights = shard._flights
    await take(shard, "computer")
    (waiter,) = await waiting(shard, "waiter")
    assert len(flights._alarms) == 1
    await store(shard, "computer", "value")
    await waiter
    assert not flights._alarms
    assert not flights._ends
    assert not flights._stores
