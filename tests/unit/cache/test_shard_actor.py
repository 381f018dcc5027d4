"""What the shard actor adds to its driver: epochs, requests that come twice, listings. No Ray."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from infiniray.cluster import shard as shard_module
from infiniray.cluster.enrolment import Enrolment
from infiniray.cluster.membership import Membership, plan
from infiniray.cluster.registry import ShardRegistry
from infiniray.cluster.shard import Shard
from infiniray.cluster.supervisor import totals
from infiniray.codec.schemes import Scheme
from infiniray.config import Config
from infiniray.core.commands import ObjectFacts
from infiniray.core.table import ObjectRecord, ObjectTable
from infiniray.errors import CacheUnavailable, KeyNotFound, ShardRecovering, StaleEpoch, WriteFailed, WriteUncertain
from infiniray.runtime.keys import KeyRing

SCHEME = Scheme.parse("rs:2+1")


class FakeDriver:
    """Keeps objects in a dict; ``gate`` holds writes up, ``failures`` are raised first."""

    def __init__(self) -> None:
        self.state = self
        self.table = ObjectTable()
        self.data: dict[str, bytes] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures: list[Exception] = []
        self.n_puts = self.n_starts = self.n_deletes = 0
        self.is_closed = self.is_recovering = False

    async def start(self) -> None:
        self.n_starts += 1
        if self.failures:
            raise self.failures.pop()

    async def close(self) -> None:
        self.is_closed = True

    async def put(
        self, key: str, head: str, data: Any, *, expires_s: float | None, timeout_s: float, place: object = None
    ) -> None:
        self.n_puts += 1
        await self.gate.wait()
        if self.failures:
            raise self.failures.pop()
        facts = ObjectFacts(key=key, version=1, scheme=SCHEME, size_bytes=len(data), head=head, expires_s=0.0)
        self.table.insert(ObjectRecord(facts=facts, places=[], expires_s=expires_s))
        self.data[key] = bytes(data)

    async def get(self, key: str, *, timeout_s: float) -> tuple[ObjectFacts, Any]:
        record = self.table.find(key)
        if record is None:
            raise KeyNotFound(key=key)
        return record.facts, np.frombuffer(self.data[key], np.uint8)

    async def delete(self, key: str, *, timeout_s: float) -> bool:
        self.n_deletes += 1
        return self.table.remove(key) is not None


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
def shard() -> Shard:
    config = Config.load(None, {"redundancy": [{"scheme": "rs:2+1"}], "ring": {"shards": 1}}, environ={})
    return Shard(membership=plan(config), shard="shard-0", config=config, endpoint_url=None)


async def put(
    shard: Shard, key: str = "k", *, request: str = "r1", ttl_s: float | None = None, is_again: bool = False
) -> None:
    await shard.put(1, key, '["bytes"]', b"value", [], request=request, is_again=is_again, ttl_s=ttl_s, timeout_s=5)


async def test_the_first_call_starts_the_driver_once(shard: Shard, driver: FakeDriver) -> None:
    await asyncio.gather(*(put(shard, f"k{i}", request=f"r{i}") for i in range(5)))
    assert driver.n_starts == 1
    assert driver.n_puts == 5


async def test_a_start_that_failed_is_tried_again_by_the_next_call(shard: Shard, driver: FakeDriver) -> None:
    driver.failures.append(CacheUnavailable(detail="the port is taken"))
    with pytest.raises(CacheUnavailable):
        await put(shard)
    await put(shard)
    assert driver.n_starts == 2


async def test_callers_who_think_that_another_shards_key_is_mine_are_turned_away(driver: FakeDriver) -> None:
    config = Config.load(None, {"redundancy": [{"scheme": "rs:2+1"}], "ring": {"shards": 2}}, environ={})
    membership = plan(config)
    key = next(f"k{i}" for i in range(100) if membership.ring.owner(f"k{i}") == "shard-1")
    shard = Shard(membership=membership, shard="shard-0", config=config, endpoint_url=None)
    calls = [
        shard.put(0, key, "", b"", [], request="r", ttl_s=None, timeout_s=5),
        shard.get(0, key, raw=False, timeout_s=5),
        shard.delete(0, key, request="r", timeout_s=5),
        shard.touch(0, key, ttl_s=None, timeout_s=5),
        shard.exists(0, key, timeout_s=5),
        shard.ttl(0, key, timeout_s=5),
    ]
    for call in calls:
        with pytest.raises(StaleEpoch) as caught:
            await call
        assert (caught.value.seen, caught.value.current) == (0, 1)
    assert driver.n_puts == 0


@pytest.mark.parametrize("epoch", [0, 2])
async def test_an_epoch_that_was_raised_by_a_restart_turns_nobody_away(
    shard: Shard, driver: FakeDriver, epoch: int
) -> None:
    await shard.put(epoch, "k", "", b"", [], request="r", ttl_s=None, timeout_s=5)
    assert driver.n_puts == 1


async def test_callers_wait_while_the_table_is_rebuilt(shard: Shard, driver: FakeDriver) -> None:
    driver.is_recovering = True
    for call in (shard.exists(1, "k", timeout_s=5), shard.ttl(1, "k", timeout_s=5), shard.list(1, "", None)):
        with pytest.raises(ShardRecovering):
            await call


async def test_a_shard_that_learns_at_its_start_of_a_later_one_ends(
    shard: Shard, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def too_late(membership: Membership, shard: str, incarnation: str) -> Enrolment:
        raise StaleEpoch(seen=3, current=5)

    exits: list[int] = []
    ended = asyncio.Event()

    def end(code: int) -> None:
        exits.append(code)
        ended.set()

    monkeypatch.setattr(shard_module, "enroll", too_late)
    monkeypatch.setattr(shard_module, "_LAST_WORDS_S", 0.0)
    monkeypatch.setattr(shard_module.os, "_exit", end)
    with pytest.raises(StaleEpoch):
        await put(shard)
    await asyncio.wait_for(ended.wait(), 5)
    assert exits == [1]
    assert driver.n_starts == 0


async def test_a_request_that_comes_again_is_done_once(shard: Shard, driver: FakeDriver) -> None:
    driver.gate.clear()
    attempts = [asyncio.ensure_future(put(shard)) for _ in range(2)]
    await asyncio.sleep(0)
    driver.gate.set()
    await asyncio.gather(*attempts)
    await put(shard)
    assert driver.n_puts == 1
    await put(shard, request="r2")
    assert driver.n_puts == 2


async def test_what_a_former_incarnation_was_asked_to_store_is_not_stored_once_more(
    shard: Shard, driver: FakeDriver
) -> None:
    with pytest.raises(WriteUncertain):
        await put(shard, request="lost", is_again=True)
    await put(shard, request="r1")
    shard._answers.clear()  # as if this were the next incarnation
    await put(shard, request="r1", is_again=True)  # it is what is there
    with pytest.raises(WriteUncertain):  # it was replaced
        await put(shard, request="r0", is_again=True)
    assert driver.n_puts == 1


async def test_a_write_in_the_middle_of_which_its_shard_is_deposed_may_have_been_made(
    shard: Shard, driver: FakeDriver
) -> None:
    await put(shard, "other", request="r0")
    driver.failures.append(StaleEpoch(seen=1, current=2))
    with pytest.raises(CacheUnavailable, match="deposed while it stored"):
        await put(shard)


async def test_a_delete_that_comes_again_is_answered_as_before(shard: Shard, driver: FakeDriver) -> None:
    await put(shard)
    assert await shard.delete(1, "k", request="d1", timeout_s=5) is True
    assert await shard.delete(1, "k", request="d1", timeout_s=5) is True
    assert await shard.delete(1, "k", request="d2", timeout_s=5) is False
    assert driver.n_deletes == 2


async def test_a_request_that_failed_may_be_tried_again(shard: Shard, driver: FakeDriver) -> None:
    await put(shard, "another", request="r0")
    driver.failures.append(WriteFailed(key="k", stored=0, need=3, detail="x"))
    with pytest.raises(WriteFailed):
        await put(shard)
    await put(shard)
    assert driver.n_puts == 3


async def test_listing_and_ttl_leave_out_what_has_expired(shard: Shard, driver: FakeDriver) -> None:
    for i, ttl_s in enumerate([None, 100.0, -1.0, None]):
        await put(shard, f"k{i}", request=f"r{i}", ttl_s=ttl_s)
    await put(shard, "other", request="o")
    assert [row[0] for row in (await shard.list(1, "k", None))[1]] == ["k0", "k1", "k3"]
    assert [row[0] for row in (await shard.list(1, "", 2))[1]] == ["k0", "k1"]
    assert await shard.ttl(1, "k0", timeout_s=5) is None
    assert 90 < (await shard.ttl(1, "k1", timeout_s=5) or 0) <= 100
    with pytest.raises(KeyNotFound):
        await shard.ttl(1, "k2", timeout_s=5)
    assert not await shard.exists(1, "k2", timeout_s=5)
    assert await shard.exists(1, "k3", timeout_s=5)


async def test_close_closes_the_driver(shard: Shard, driver: FakeDriver) -> None:
    await shard.close()
    assert not driver.is_closed  # it never started
    await put(shard)
    await shard.close()
    assert driver.is_closed


def test_totals_add_up_by_name() -> None:
    shards = [
        {"shard": "a", "gets": 1, "codec": {"kernel": "isal", "tasks": 2}, "invocations": {"serve": 3}},
        {"shard": "b", "gets": 4, "codec": {"kernel": "isal", "tasks": 5}, "invocations": {"warm": 6}},
    ]
    assert totals(shards) == {"gets": 5, "codec": {"tasks": 7}, "invocations": {"serve": 3, "warm": 6}}
    assert totals([]) == {}
