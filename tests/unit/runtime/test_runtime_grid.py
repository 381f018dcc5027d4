"""A shard and its nodes, end to end in one process: what bad luck gets (DESIGN section 8)."""

from __future__ import annotations

import asyncio
import gc
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from grid import SHIPPED, Grid, GridNode, random_bytes
from node_peer import SECRET, NodePeer, soon, until

from infiniray.core.policy import Hedge
from infiniray.core.reading import ChunkState, Read
from infiniray.errors import (
    DeadlineExceeded,
    KeyNotFound,
    ObjectLost,
    PlatformError,
    PlatformThrottled,
    StaleEpoch,
    ValueTooLarge,
)
from infiniray.runtime.driver import ShardDriver
from infiniray.wire.frames import Kind

WITH_TLS_TOO = True  # see conftest
MakeGrid = Callable[..., Awaitable[Grid]]
SIZES = (0, 1, 4095, 100 << 10, (10 << 20) + 3)


# ---------------------------------------------------------------- what was put is what is got


@pytest.mark.parametrize("scheme", SHIPPED)
async def test_bytes_come_back_as_they_were(grid: MakeGrid, scheme: str) -> None:
    pool = await grid(scheme=scheme)
    for size in SIZES:
        data = random_bytes(size)
        await pool.put(f"k{size}", data)
        assert np.array_equal(await pool.get(f"k{size}"), data)
    if scheme != "mirror:3":  # of which any replica may come first
        assert pool.state.counters.reads_decoded == 0
    assert pool.n_chunks() == len(SIZES) * pool.record("k0").facts.scheme.n


def test_it_works_on_uvloop_too() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def put_and_get() -> None:
        pool = Grid("rs:4+2", n_nodes=6)
        await pool.start()
        data = random_bytes((10 << 20) + 3)
        await pool.put("k", data)
        pool.holder("k", 0).reclaim()
        assert np.array_equal(await pool.get("k"), data)
        await pool.close()

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(asyncio.wait_for(put_and_get(), 20))
    finally:
        loop.close()


async def test_a_new_version_replaces_the_old_one(grid: MakeGrid) -> None:
    pool = await grid()
    await pool.put("k", random_bytes(50_000, seed=1))
    await pool.put("k", random_bytes(60_000, seed=2))
    assert np.array_equal(await pool.get("k"), random_bytes(60_000, seed=2))


async def test_sleeping_nodes_are_woken_again(grid: MakeGrid) -> None:
    pool = await grid(n_nodes=6, linger_s=0.0)
    data = random_bytes(1 << 20)
    await pool.put("k", data)
    await until(lambda: not any(node.is_awake for node in pool.state.nodes.values()))
    links = pool.driver.stats()["links"]
    assert np.array_equal(await pool.get("k"), data)
    assert pool.driver.stats()["links"] == links  # over the connections that were kept


async def test_many_at_once(grid: MakeGrid) -> None:
    pool = await grid(n_nodes=8)
    objects = {f"k{i}": random_bytes(200_000 + i, seed=i) for i in range(24)}
    await asyncio.gather(*(pool.put(key, data) for key, data in objects.items()))
    read = await asyncio.gather(*map(pool.get, objects))
    assert all(np.array_equal(got, data) for got, data in zip(read, objects.values(), strict=True))


async def test_results_are_read_only_and_outlive_the_driver(grid: MakeGrid) -> None:
    pool = await grid()
    data = random_bytes(1 << 20)
    await pool.put("k", data)
    got = await pool.get("k")
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 1
    await pool.close()
    assert np.array_equal(got, data)


async def test_deleted_objects_are_gone_from_nodes(grid: MakeGrid) -> None:
    pool = await grid()
    await pool.put("k", random_bytes(100_000))
    assert await pool.driver.delete("k")
    assert not await pool.driver.delete("k")
    with pytest.raises(KeyNotFound):
        await pool.get("k")
    await pool.put("other", random_bytes(100_000))  # wakes nodes; deletes alone are not worth an invocation
    await until(lambda: pool.n_chunks() < 12)


async def test_values_larger_than_the_pool_are_refused_before_anything_is_sent(grid: MakeGrid) -> None:
    pool = await grid(n_nodes=6, node_bytes=1 << 20)
    with pytest.raises(ValueTooLarge):
        await pool.put("k", random_bytes(8 << 20))
    assert all(node.n_invocations == 0 for node in pool.nodes.values())


# ---------------------------------------------------------------- lost chunks


@pytest.mark.parametrize("scheme", ["rs:10+2", "rs:4+2", "xor:5+1", "mirror:3"])
async def test_as_many_chunks_lost_as_there_is_parity(grid: MakeGrid, scheme: str) -> None:
    pool = await grid(scheme=scheme)
    data = random_bytes((3 << 20) + 7)
    await pool.put("k", data)
    n_lost = pool.record("k").facts.scheme.r
    for node in pool.holders("k", range(n_lost)):
        node.reclaim()
    assert np.array_equal(await pool.read_after_losses("k", n_lost), data)
    assert pool.state.counters.degraded_reads == 1
    await pool.settled()
    assert pool.state.counters.repairs == n_lost


@pytest.mark.parametrize("hedge", [Hedge.ALL, Hedge.DELAYED])
@pytest.mark.parametrize("scheme", ["rs:4+2", "xor:5+1", "mirror:3"])
async def test_repaired_chunks_are_the_right_ones(grid: MakeGrid, scheme: str, hedge: Hedge) -> None:
    """What a repair wrote is all that is left to read from."""
    pool = await grid(scheme=scheme, hedge=hedge)
    data = random_bytes((1 << 20) + 7)
    await pool.put("k", data)
    n, r = pool.record("k").facts.scheme.n, pool.record("k").facts.scheme.r
    for node in pool.holders("k", range(r)):
        node.reclaim()
    assert np.array_equal(await pool.read_after_losses("k", r), data)
    await pool.settled()
    assert pool.state.counters.repairs == r
    for node in pool.holders("k", range(n - r, n)):
        node.reclaim()
    assert np.array_equal(await pool.get("k"), data)


async def test_a_repair_of_a_mirror_does_not_spread_damage(grid: MakeGrid) -> None:
    pool = await grid(scheme="mirror:3", hedge=Hedge.ALL)
    data = random_bytes(1 << 20)
    await pool.put("k", data)
    for node in pool.holders("k", (0, 1)):
        node.corrupt()
    assert np.array_equal(await pool.read_after_losses("k", 2), data)
    await pool.settled()
    assert pool.state.counters.chunks_damaged == pool.state.counters.repairs == 2
    for node in pool.holders("k", range(3)):
        (crc,) = {place.crc for place in pool.record("k").places}
        assert crc == zlib.crc32(data)
        assert data.tobytes() in [bytes(chunk.body) for chunk in node.chunks()]


@pytest.mark.parametrize("scheme", ["rs:10+2", "rs:4+2", "xor:5+1", "mirror:3", "stripe:8"])
async def test_one_chunk_more_lost_is_a_reset_with_numbers(grid: MakeGrid, scheme: str) -> None:
    pool = await grid(scheme=scheme)
    await pool.put("k", random_bytes(300_000))
    s = pool.record("k").facts.scheme
    for node in pool.holders("k", range(s.r + 1)):
        node.reclaim()
    with pytest.raises(ObjectLost) as error:
        await pool.get("k")
    assert (error.value.key, error.value.have, error.value.need) == ("k", s.k - 1, s.k)
    assert pool.state.counters.resets == 1
    with pytest.raises(KeyNotFound):
        await pool.get("k")
    assert pool.state.counters.resets == 1


async def test_damaged_chunks_count_as_missing(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2")
    data = random_bytes((5 << 20) + 1)
    await pool.put("k", data)
    for node in pool.holders("k", (0, 3)):
        node.corrupt()
    assert np.array_equal(await pool.get("k"), data)
    assert pool.state.counters.chunks_damaged == 2
    assert pool.state.counters.reads_decoded == 1


@pytest.mark.parametrize("changes", [{"version": 1}, {"index": 5}, {"key": "other"}, {"chunk_bytes": 17}])
async def test_a_chunk_that_says_it_is_another_counts_as_missing(grid: MakeGrid, changes: dict[str, Any]) -> None:
    pool = await grid(scheme="rs:4+2")
    data = random_bytes(4 << 20)
    await pool.put("k", data)
    pool.holder("k", 0).relabel(**changes)
    assert np.array_equal(await pool.get("k"), data)
    assert pool.state.counters.chunks_damaged == 1


async def test_too_many_damaged_chunks_are_a_reset_not_wrong_bytes(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2")
    await pool.put("k", random_bytes(4 << 20))
    for node in pool.holders("k", (0, 1, 2)):
        node.corrupt()
    with pytest.raises(ObjectLost) as error:
        await pool.get("k")
    assert (error.value.have, error.value.need) == (3, 4)
    assert pool.state.counters.chunks_damaged == 3


# ---------------------------------------------------------------- slow and silent nodes


async def test_a_silent_node_does_not_hold_up_a_read(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2", hedge_delay_s=0.005, linger_s=5)
    data = random_bytes((4 << 20) + 3)
    await pool.put("k", data)
    pool.holder("k", 1).hang()
    assert np.array_equal(await pool.get("k"), data)
    assert pool.state.counters.reads_hedged == 1
    assert pool.state.counters.reads_decoded == 1


async def test_a_straggler_is_cancelled_on_the_wire(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2", hedge_delay_s=0.005, linger_s=5)
    data = random_bytes(16 << 20)
    await pool.put("k", data)
    slow = pool.holder("k", 2)
    slow.stop_after(1)
    read = asyncio.ensure_future(pool.get("k"))
    await pool.stops(slow)
    got = await soon(read)
    assert np.array_equal(got, data)
    slow.resume()  # it finds the CANCEL before it would send the next of its 4 segments
    (instance,) = slow.instances
    await until(lambda: instance.channel is not None and not instance.channel.chunks)
    assert slow.n_segments == 1
    assert np.array_equal(got, data)  # nothing was written to it any more


async def test_parity_takes_the_place_of_a_chunk_that_is_far_behind(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2", hedge_delay_s=0.05, linger_s=5)
    data = random_bytes(24 << 20)
    await pool.put("k", data)
    behind, others = pool.holder("k", 2), pool.holders("k", (0, 1, 3))
    behind.hang()
    for node in others:
        node.stop_after(2)  # of 6 segments
    read = asyncio.ensure_future(pool.get("k"))
    await until(lambda: pool.state.counters.reads_hedged == 1)  # though no chunk is complete
    (operation,) = pool.state.operations.values()
    assert isinstance(operation, Read)
    asked = [index for index, state in enumerate(operation.states) if state is not ChunkState.UNASKED]
    assert len(asked) > 4
    for node in others:
        node.resume()
    assert np.array_equal(await soon(read), data)
    assert pool.state.counters.reads_decoded == 1


async def test_asking_all_at_once_takes_the_first_k(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2", hedge=Hedge.ALL, linger_s=5)
    data = random_bytes((8 << 20) + 5)
    await pool.put("k", data)
    for node in pool.holders("k", (0, 5)):
        node.hang()
    assert np.array_equal(await pool.get("k"), data)
    assert pool.state.counters.fetches_cancelled == 2


async def test_nothing_more_is_asked_for_while_a_read_is_decoded(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2", hedge_delay_s=0.01, linger_s=5, repair=False)
    data = random_bytes(1 << 20)
    await pool.put("k", data)
    pool.holder("k", 0).reclaim()
    pool.coder.gate.clear()
    read = asyncio.ensure_future(pool.get("k"))
    await until(lambda: pool.coder.n_decodes)
    (operation,) = pool.state.operations.values()
    assert isinstance(operation, Read)
    n_idle = operation.states.count(ChunkState.UNASKED)  # one, unless this machine is so busy that several were late
    await until(lambda: not any(timer[0] == "hedge" for timer in pool.driver._timers._set))
    assert operation.states.count(ChunkState.UNASKED) == n_idle
    pool.coder.gate.set()
    assert np.array_equal(await soon(read), data)
    assert pool.coder.n_decodes == 1


async def test_a_node_that_never_answers_gets_no_chunk(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2", n_nodes=8, stall_s=0.1, connect_timeout_s=0.5)
    for name in ("n0", "n1"):
        pool.nodes[name].hang()
    data = random_bytes(1 << 20)
    await pool.put("k", data)
    assert {"n0", "n1"}.isdisjoint(place.node for place in pool.record("k").places)
    assert np.array_equal(await pool.get("k"), data)


# ---------------------------------------------------------------- broken connections and platforms


async def test_a_connection_lost_in_the_middle_of_a_chunk(grid: MakeGrid) -> None:
    pool = await grid(scheme="stripe:8", linger_s=5)
    data = random_bytes(24 << 20)
    await pool.put("k", data)
    broken = pool.holder("k", 3)
    broken.stop_after(2, is_cut_off=True)
    read = asyncio.ensure_future(pool.get("k"))
    await pool.stops(broken)
    broken.resume()
    assert np.array_equal(await soon(read), data)  # stripes have no parity: it was asked again
    assert broken.n_invocations > 1


async def test_connections_lost_during_a_write(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2", n_nodes=8, linger_s=5)
    data = random_bytes(32 << 20)
    for name in ("n0", "n1", "n2"):
        pool.nodes[name].hang()
    write = asyncio.ensure_future(pool.put("k", data))
    await until(lambda: pool.driver.stats()["links"] >= 3)
    for name in ("n0", "n1", "n2"):
        pool.nodes[name].cut()
        pool.nodes[name].resume()
    await soon(write)
    assert np.array_equal(await pool.get("k"), data)


async def test_broken_functions_are_replaced_by_others(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2", n_nodes=8, backoff_s=0.001)
    for name in ("n3", "n4"):
        pool.nodes[name].break_()
    data = random_bytes(1 << 20)
    await pool.put("k", data)
    assert {"n3", "n4"}.isdisjoint(place.node for place in pool.record("k").places)
    assert np.array_equal(await pool.get("k"), data)


async def test_throttling_is_waited_out(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2", n_nodes=6, backoff_s=0.001)
    for node in pool.nodes.values():
        fields = {"operation": "invoke", "function": node.name, "detail": "no"}
        node.errors = [PlatformThrottled(retry_after_s=0.001, **fields), PlatformError(**fields)]
    data = random_bytes(100_000)
    await pool.put("k", data)
    assert np.array_equal(await pool.get("k"), data)
    assert pool.driver.stats()["invoke_failures"] == {"throttled": 6, "unreachable": 6}


async def test_full_nodes_evict_and_never_exceed_their_memory(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2", n_nodes=6, node_bytes=2 << 20)
    for i in range(12):
        await pool.put(f"k{i}", random_bytes(2 << 20, seed=i))
    assert pool.state.counters.evictions >= 8
    assert np.array_equal(await pool.get("k11"), random_bytes(2 << 20, seed=11))
    assert all(i.store.used_bytes <= 2 << 20 for node in pool.nodes.values() for i in node.instances)


# ---------------------------------------------------------------- deadlines and callers who leave


async def test_a_read_ends_at_its_deadline(grid: MakeGrid) -> None:
    pool = await grid(linger_s=5)
    await pool.put("k", random_bytes(1 << 20))
    for node in pool.nodes.values():
        node.hang()
    with pytest.raises(DeadlineExceeded) as error:
        await pool.get("k", timeout_s=0.05)
    assert (error.value.operation, error.value.key, error.value.deadline_s) == ("GET", "k", 0.05)
    for node in pool.nodes.values():
        node.resume()
    assert np.array_equal(await pool.get("k"), random_bytes(1 << 20))


async def test_a_write_that_misses_its_deadline_leaves_nothing(grid: MakeGrid) -> None:
    pool = await grid(n_nodes=6)
    pool.nodes["n2"].hang()
    with pytest.raises(DeadlineExceeded):
        await pool.put("k", random_bytes(1 << 20), timeout_s=0.05)
    pool.nodes["n2"].resume()
    with pytest.raises(KeyNotFound):
        await pool.get("k")
    await pool.put("other", random_bytes(1 << 20))
    await until(lambda: pool.n_chunks() == 6)
    assert pool.state.stored_bytes == pool.record("other").stored_bytes


async def test_a_caller_who_leaves_stops_its_operation(grid: MakeGrid) -> None:
    pool = await grid(n_nodes=6, linger_s=5)
    data = random_bytes(24 << 20)
    await pool.put("k", data)
    for node in pool.nodes.values():
        node.stop_after(1)
    read = asyncio.ensure_future(pool.get("k"))
    await pool.stops(pool.holder("k", 0))
    read.cancel()
    with pytest.raises(asyncio.CancelledError):
        await read
    assert not pool.state.operations
    assert not pool.driver._buffers
    assert all(not link._incoming for link in pool.driver._links.values())
    for node in pool.nodes.values():
        node.resume()
    assert np.array_equal(await pool.get("k"), data)


async def test_a_writer_who_leaves_leaves_nothing(grid: MakeGrid) -> None:
    pool = await grid(n_nodes=6, linger_s=5)
    pool.nodes["n0"].hang()
    write = asyncio.ensure_future(pool.put("k", random_bytes(24 << 20)))
    await until(lambda: pool.n_chunks() == 5)
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    pool.nodes["n0"].resume()
    await until(lambda: pool.n_chunks() == 0)
    assert pool.state.stored_bytes == 0


async def test_a_caller_who_leaves_at_once(grid: MakeGrid) -> None:
    """Before what its commands began has run."""
    pool = await grid(n_nodes=6)
    write = asyncio.ensure_future(pool.put("k", random_bytes(1 << 20)))
    await asyncio.sleep(0)
    assert pool.state.operations
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    await pool.put("other", random_bytes(1 << 20))
    assert len(pool.state.table) == 1
    assert pool.state.stored_bytes == pool.record("other").stored_bytes


# ---------------------------------------------------------------- strangers


async def test_garbage_on_the_port_disturbs_nobody(grid: MakeGrid) -> None:
    pool = await grid(n_nodes=6)
    data = random_bytes(1 << 20)
    await pool.put("k", data)
    stranger = await NodePeer.dial(pool.driver.address, certificate=pool.fingerprint)
    await stranger.send_raw(b"GET / HTTP/1.1\r\nHost: cache\r\n\r\n" * 10)
    await stranger.challenge()
    assert await stranger.is_hung_up()
    stranger.close()
    assert np.array_equal(await pool.get("k"), data)
    assert pool.driver.stats()["connections_refused"] == {"not a frame": 1}


async def test_nodes_of_another_pool_are_refused(grid: MakeGrid) -> None:
    pool = await grid(n_nodes=6)
    other = ShardDriver(pool.state, pool.platform, pool.coder, bytes(32), certificate=pool.certificate)
    await other.start()
    stranger = await NodePeer.dial(other.address, certificate=pool.fingerprint)
    nonce = await stranger.challenge()
    await stranger.send(Kind.HELLO, meta=stranger.hello(nonce, secret=SECRET))
    assert await stranger.is_hung_up()
    stranger.close()
    assert other.stats()["connections_refused"] == {"wrong proof": 1}
    await soon(other.close())


# ---------------------------------------------------------------- memory


async def test_receive_buffers_are_used_again(grid: MakeGrid) -> None:
    pool = await grid(scheme="rs:4+2", n_nodes=6)
    data = random_bytes(4 << 20)
    await pool.put("k", data)
    address = (await pool.get("k")).ctypes.data
    gc.collect()
    held = await pool.get("k")
    assert held.ctypes.data == address
    assert (await pool.get("k")).ctypes.data != address  # the first is still somebody's
    assert np.array_equal(held, data)


# ---------------------------------------------------------------- another incarnation of the shard


async def recovered(pool: Grid) -> None:
    await until(lambda: not pool.state.is_recovering, lambda: pool.state.stats())


async def test_a_shard_that_starts_again_finds_what_its_nodes_hold(grid: MakeGrid) -> None:
    pool = await grid(n_nodes=8)
    objects = {f"k{i}": random_bytes(100_000 + i, seed=i) for i in range(20)}
    for key, data in objects.items():
        await pool.put(key, data)
    assert len(pool.coordinator.copies) == 8
    former = await pool.restart()
    await recovered(pool)
    assert len(pool.state.table) == len(objects)
    for key, data in objects.items():
        assert np.array_equal(await pool.get(key), data)
    await pool.put("new", random_bytes(50_000))
    with pytest.raises(StaleEpoch):
        await former.put("late", "head", random_bytes(50_000), expires_s=None, timeout_s=10)
    with pytest.raises(StaleEpoch):
        await former.get("k0", timeout_s=10)
    assert np.array_equal(await pool.get("new"), random_bytes(50_000))
    with pytest.raises(KeyNotFound):
        await pool.get("late")


async def test_what_was_deleted_stays_deleted_over_a_restart(grid: MakeGrid) -> None:
    pool = await grid(n_nodes=6)
    await pool.put("gone", random_bytes(100_000))
    await pool.put("kept", random_bytes(100_000))
    assert await pool.driver.delete("gone")
    await pool.restart()
    await recovered(pool)
    with pytest.raises(KeyNotFound):
        await pool.get("gone")
    assert np.array_equal(await pool.get("kept"), random_bytes(100_000))


# ---------------------------------------------------------------- backups and warm-ups


async def test_a_second_instance_takes_over_when_the_first_is_reclaimed(grid: MakeGrid) -> None:
    pool = await grid(n_nodes=6, backup_interval_s=0.1, backup_retry_s=0.1)
    objects = {f"k{i}": random_bytes(100_000 + i, seed=i) for i in range(10)}
    for key, data in objects.items():
        await pool.put(key, data)
    await until(lambda: is_backed_up(pool), pool.state.stats)
    for node in pool.nodes.values():
        node.reclaim(node.instances[0])
    for key, data in objects.items():
        assert np.array_equal(await pool.get(key), data)
    assert pool.state.counters.degraded_reads == 0  # parity may have been faster, but nothing was lost


def is_backed_up(pool: Grid) -> bool:
    """Whether every node has a twin that knows it is one: no backup is in the middle of anything."""
    stats = pool.state.stats()
    is_quiet = not stats["backups_running"] and not stats["nodes_never_backed_up"]
    return is_quiet and all(has_a_twin(node) for node in pool.nodes.values())


def has_a_twin(node: GridNode) -> bool:
    """Whether two instances hold the same, ten chunks."""
    held = [set(instance.store.recency()) for instance in list(node.instances)]
    return len(held) >= 2 and len(held[0]) == 10 and held[0] == held[1]


async def test_nodes_are_kept_warm_without_a_session(grid: MakeGrid) -> None:
    pool = await grid(n_nodes=6, warm_interval_s=0.05)
    data = random_bytes(100_000)
    await pool.put("k", data)
    n_before = {name: node.n_invocations for name, node in pool.nodes.items()}
    await until(lambda: all(node.n_invocations >= n_before[name] + 3 for name, node in pool.nodes.items()))
    assert pool.driver.stats()["links"] == 6
    assert np.array_equal(await pool.get("k"), data)
    assert pool.state.counters.degraded_reads == 0
