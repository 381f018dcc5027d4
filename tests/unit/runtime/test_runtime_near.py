"""Near copies on the wire and in memory: what a read of one costs, and that nobody can change it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from grid import Grid, random_bytes

from infiniray.channel.shared import Landing, SharedPool
from infiniray.core import commands as cmd
from infiniray.errors import CacheUnavailable, KeyNotFound, StaleEpoch

MakeGrid = Callable[..., Awaitable[Grid]]
SIZE = 200_000
NEAR = {"near_bytes": 8 << 20, "near_max_bytes": 1 << 20}


async def sure(pool: Grid) -> None:
    """The shard has looked whether there is another."""
    await pool.put("first", b"x")
    await pool.get("first")
    while not pool.state.near.lead.is_sure:
        await asyncio.sleep(0.01)
        await pool.get("first")


async def asked_nodes(pool: Grid, key: str) -> int:
    """Bytes that went to nodes or came from there for a read."""
    before = pool.driver.stats()
    await pool.get(key)
    after = pool.driver.stats()
    return int(after["bytes_out"] + after["bytes_in"] - before["bytes_out"] - before["bytes_in"])


async def test_a_read_of_a_near_copy_moves_nothing(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2", linger_s=5.0, **NEAR)
    data = random_bytes(SIZE)
    await pool.put("k", data)
    await sure(pool)
    assert await asked_nodes(pool, "k") == 0
    assert np.array_equal(await pool.get("k"), data)
    assert pool.driver.stats()["near_hits"] >= 2


async def test_it_is_a_copy_of_what_the_writer_has_and_readers_cannot_write(grid: MakeGrid) -> None:
    pool = await grid(scheme="mirror:2", linger_s=5.0, **NEAR)
    await sure(pool)
    data = bytearray(b"abc" * 1000)
    await pool.put("k", data)
    kept = bytes(data)
    data[:] = bytes(len(data))
    found = await pool.get("k")
    assert found.tobytes() == kept
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1


async def test_what_was_given_out_stays_when_the_key_is_written_again(grid: MakeGrid) -> None:
    pool = await grid(scheme="mirror:2", linger_s=5.0, **NEAR)
    await sure(pool)
    old, new = random_bytes(SIZE, seed=1), random_bytes(SIZE, seed=2)
    await pool.put("k", old)
    before = await pool.get("k")
    await pool.put("k", new)
    assert np.array_equal(before, old)
    assert np.array_equal(await pool.get("k"), new)
    await pool.driver.delete("k")
    with pytest.raises(KeyNotFound):
        await pool.get("k")
    assert "k" not in pool.driver._near


async def test_clients_that_map_memory_look_at_the_same_slot(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2", linger_s=5.0, **NEAR)
    await sure(pool)
    data = random_bytes(SIZE)
    await pool.put("k", data)
    shared = SharedPool(8 << 20, lambda: 0.0)

    async def read() -> tuple[Landing, Any]:
        landing = Landing(shared, 100_000, pool.driver.pool)
        _, found = await pool.driver.get("k", timeout_s=5.0, landing=landing)
        assert np.array_equal(found, data)
        return landing, found

    (first, _), (second, _) = await read(), await read()
    assert first.slot is second.slot is not None
    shared.give_up(first.slot.segment)  # somebody who had it went without a word
    third, _ = await read()
    assert third.slot is not None
    assert third.slot is not first.slot
    shared.close()


async def test_what_was_written_from_a_slot_stays_there(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2", linger_s=5.0, **NEAR)
    await sure(pool)
    shared = SharedPool(8 << 20, lambda: 0.0)
    slot = shared.take(SIZE)
    assert slot is not None
    slot.array[:] = random_bytes(SIZE)
    await pool.driver.put("k", "head", slot.array, expires_s=None, timeout_s=5.0, place=slot)
    landing = Landing(shared, 100_000, pool.driver.pool)
    _, found = await pool.driver.get("k", timeout_s=5.0, landing=landing)
    assert landing.slot is slot
    assert np.shares_memory(found, slot.array)
    assert np.array_equal(found, random_bytes(SIZE))
    del slot, landing, found
    assert shared.stats()["bytes_in_use"] > 0
    await pool.driver.delete("k")
    await pool.settled()
    assert shared.stats()["bytes_in_use"] == 0
    shared.close()


async def test_small_ones_and_those_that_find_no_room_are_copied(grid: MakeGrid) -> None:
    pool = await grid(scheme="mirror:2", linger_s=5.0, **NEAR)
    await sure(pool)
    for key, size in (("small", 1000), ("large", SIZE)):
        await pool.put(key, random_bytes(size))
        landing = Landing(SharedPool(0, lambda: 0.0), 100_000, pool.driver.pool)
        _, found = await pool.driver.get(key, timeout_s=5.0, landing=landing)
        assert np.array_equal(found, random_bytes(size))
        assert landing.slot is None


async def test_a_shard_that_is_replaced_hears_of_it_when_it_wants_to_rely_on_being_the_only_one(grid: MakeGrid) -> None:
    pool = await grid(scheme="mirror:2", linger_s=5.0, **NEAR)
    await sure(pool)
    former = await pool.restart()

    async def read_on() -> None:
        for _ in range(200):
            await former.get("first", timeout_s=5.0)
            await asyncio.sleep(0.01)

    with pytest.raises(StaleEpoch):
        await read_on()


async def test_a_read_that_begins_at_once_is_answered_at_once(grid: MakeGrid) -> None:
    pool = await grid(scheme="mirror:2", linger_s=5.0, **NEAR)
    await sure(pool)
    await pool.put("k", b"abc")
    answers: list[Any] = []
    pool.driver.begin_get("k", answers.append, timeout_s=5.0)
    pool.driver.begin_get("none", answers.append, timeout_s=5.0)
    (facts, found), miss = answers
    assert isinstance(facts, cmd.ObjectFacts)
    assert found.tobytes() == b"abc"
    assert isinstance(miss, KeyNotFound)


async def test_a_read_that_is_given_up_is_not_answered_and_leaves_nothing(grid: MakeGrid) -> None:
    pool = await grid(scheme="mirror:2", linger_s=5.0)
    await pool.put("k", random_bytes(SIZE))
    for node in pool.nodes.values():
        node.hang()
    answers: list[Any] = []
    give_up = pool.driver.begin_get("k", answers.append, timeout_s=5.0)
    give_up()
    give_up()
    assert answers == []
    assert not pool.state.operations
    assert not pool.driver._buffers


async def test_closing_answers_those_who_wait(grid: MakeGrid) -> None:
    pool = await grid(scheme="mirror:2", linger_s=5.0)
    await pool.put("k", random_bytes(SIZE))
    for node in pool.nodes.values():
        node.hang()
    answers: list[Any] = []
    give_up = pool.driver.begin_get("k", answers.append, timeout_s=5.0)
    await pool.driver.close()
    assert [type(answer) for answer in answers] == [CacheUnavailable]
    give_up()
