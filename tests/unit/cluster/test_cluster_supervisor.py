"""What a supervisor knows, and what its next process knows of that. No Ray."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from control_store import ControlStore

from infiniray.cluster import rayapi
from infiniray.cluster import supervisor as supervisor_module
from infiniray.cluster.supervisor import Supervisor
from infiniray.config import Config
from infiniray.errors import CacheUnavailable


class NoWatch:
    """Instead of a thread that asks shards how they are."""

    def __init__(self, actors: object) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which would look for actors, and have Ray start one of its own for that."""
    monkeypatch.setattr(supervisor_module, "HealthWatch", NoWatch)
    monkeypatch.setattr(supervisor_module, "_resume", lambda cache: None)


def supervisor(monkeypatch: pytest.MonkeyPatch, *, is_restarted: bool, slots: int = 1) -> Supervisor:
    monkeypatch.setattr(rayapi, "was_restarted", lambda: is_restarted)
    settings = {"name": "cache", "ring": {"shards": 2}, "availability": {"backup_slots": slots}}
    config = Config.load(None, settings, environ={})
    return Supervisor(config=config, secret="00ff", endpoint_url=None, is_local=True, owner=None)


@pytest.fixture
def first(store: ControlStore, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    return supervisor(monkeypatch, is_restarted=False)


async def test_each_incarnation_gets_an_epoch_above_all_before(first: Supervisor) -> None:
    epochs = [
        (await first.enroll(shard, incarnation))[1]
        for shard, incarnation in [("shard-0", "a"), ("shard-1", "b"), ("shard-0", "c"), ("shard-1", "d")]
    ]
    assert epochs == sorted(set(epochs))
    assert (await first.membership()).epoch == epochs[-1]


async def test_asked_again_an_incarnation_gets_the_same_epoch(first: Supervisor) -> None:
    _, epoch, _ = await first.enroll("shard-0", "a")
    _, other, _ = await first.enroll("shard-1", "b")
    membership, again, _ = await first.enroll("shard-0", "a")
    assert again == epoch
    assert membership.epoch == other


async def test_incarnations_that_enroll_at_once_get_different_epochs(first: Supervisor) -> None:
    answers = await asyncio.gather(*(first.enroll("shard-0", f"i{i}") for i in range(8)))
    assert len({epoch for _, epoch, _ in answers}) == 8


async def test_its_next_process_gives_no_epoch_again(
    first: Supervisor, store: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await asyncio.gather(*(first.enroll(f"shard-{i % 2}", f"i{i}") for i in range(6)))
    second = supervisor(monkeypatch, is_restarted=True)
    assert (await second.membership()).epoch == max(epoch for _, epoch, _ in before)
    assert (await second.enroll("shard-1", "i5"))[1] == before[5][1]
    assert (await second.enroll("shard-1", "new"))[1] > max(epoch for _, epoch, _ in before)


async def test_a_slow_write_is_not_overtaken_by_the_next(
    first: Supervisor, store: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, arrived, n_puts = threading.Event(), asyncio.Event(), 0
    loop = asyncio.get_running_loop()

    def hold_the_first(operation: str, key: str) -> None:
        nonlocal n_puts
        n_puts += 1
        if n_puts == 1:
            loop.call_soon_threadsafe(arrived.set)
            assert gate.wait(10)

    store.before = hold_the_first
    slow = asyncio.ensure_future(first.enroll("shard-0", "a"))
    await asyncio.wait_for(arrived.wait(), 10)
    quick = asyncio.ensure_future(first.enroll("shard-1", "b"))
    await asyncio.sleep(0)
    gate.set()
    epochs = [(await slow)[1], (await quick)[1]]
    store.before = lambda operation, key: None
    assert (await supervisor(monkeypatch, is_restarted=True).membership()).epoch == max(epochs)


async def test_an_epoch_that_could_not_be_written_down_is_given_to_nobody(
    first: Supervisor, store: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    epoch = (await first.membership()).epoch
    store.is_away = True
    for _ in range(2):
        with pytest.raises(CacheUnavailable):
            await first.enroll("shard-0", "a")
    assert (await first.membership()).epoch == epoch
    store.is_away = False
    _, given, _ = await first.enroll("shard-0", "a")
    assert (await supervisor(monkeypatch, is_restarted=True).enroll("shard-0", "a"))[1] == given


async def test_a_new_cache_forgets_what_a_former_one_of_its_name_left(
    store: ControlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.values.update({"cache/membership": b"?", "cache/copies/shard-0/7": b"{}", "cache-2/membership": b"!"})
    fresh = supervisor(monkeypatch, is_restarted=False)
    assert store.values == {"cache-2/membership": b"!"}
    assert (await fresh.membership()).shards == ("shard-0", "shard-1")


async def test_a_shard_that_crashed_leaves_no_slot_taken(first: Supervisor) -> None:
    await first.enroll("shard-0", "a")
    assert await first.acquire_slot("shard-0", "n1")
    assert not await first.acquire_slot("shard-1", "n2")
    await first.enroll("shard-0", "a")  # the same one: it may still be at it
    assert not await first.acquire_slot("shard-1", "n2")
    await first.enroll("shard-0", "b")
    assert await first.acquire_slot("shard-1", "n2")


class Hung:
    """The actor of a shard that never answers."""

    def __init__(self) -> None:
        self.health = self

    def remote(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()


async def test_a_shard_that_hangs_is_not_waited_for_without_end(
    first: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_START_TIMEOUT_S", 0.05)
    monkeypatch.setattr(rayapi, "find_actor", lambda name: Hung())
    with pytest.raises(CacheUnavailable, match="a shard does not run"):
        await asyncio.wait_for(first.ensure_shards(), 10)
