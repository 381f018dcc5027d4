"""A write, a read, lost chunks: the same decisions as in the live system, in virtual time."""

from __future__ import annotations

import pytest

from infiniray.codec.schemes import SchemePolicy
from infiniray.core.ids import NodeId
from infiniray.core.policy import Hedge, Policy
from infiniray.core.shard import ShardState
from infiniray.errors import DeadlineExceeded, KeyNotFound, ObjectLost, PoolFull, ValueTooLarge
from infiniray.sim.driver import SimDriver

MiB = 1 << 20


def shard(scheme: str = "rs:4+2", nodes: int = 8, capacity_bytes: int = 64 * MiB, **settings: object) -> SimDriver:
    policy = Policy(schemes=SchemePolicy.of([(None, scheme)]), **settings)  # type: ignore[arg-type]
    pool = {NodeId(f"n{i}"): capacity_bytes for i in range(nodes)}
    return SimDriver(ShardState(shard="s", epoch=1, nodes=pool, policy=policy))


def lose(driver: SimDriver, key: str, n_chunks: int) -> None:
    """Reclaim every instance of the nodes that hold the first chunks of an object."""
    record = driver.state.table.find(key)
    assert record is not None
    for place in record.places[:n_chunks]:
        for instance in list(driver.platform.instances[place.node]):
            driver.platform.reclaim(instance)


@pytest.mark.parametrize("hedge", list(Hedge))
@pytest.mark.parametrize("scheme", ["rs:4+2", "xor:3+1", "mirror:3", "stripe:4"])
def test_what_was_written_is_read(scheme: str, hedge: Hedge) -> None:
    driver = shard(scheme, hedge=hedge)
    assert driver.finish(driver.put("k", 3 * MiB, "bytes")).error is None
    ending = driver.finish(driver.get("k"))
    assert (ending.value, ending.error) == ("bytes", None)


@pytest.mark.parametrize("n_lost", [1, 2])
def test_up_to_r_lost_chunks_are_decoded_and_rebuilt_on_distinct_nodes(n_lost: int) -> None:
    driver = shard()
    driver.finish(driver.put("k", 3 * MiB, "bytes"))
    lose(driver, "k", n_lost)
    assert driver.finish(driver.get("k")).value == "bytes"
    driver.finish(driver.get("k"))  # by now the new instances have told what they lack
    driver.clock.run(driver.clock.now_s + 60)
    record = driver.state.table.find("k")
    assert record is not None
    assert len({place.node for place in record.places}) == 6
    assert driver.finish(driver.get("k")).value == "bytes"


def test_more_than_r_lost_chunks_are_a_reset_with_numbers_and_then_a_miss() -> None:
    driver = shard()
    driver.finish(driver.put("k", 3 * MiB, "bytes"))
    lose(driver, "k", 3)
    error = driver.finish(driver.get("k")).error
    assert isinstance(error, ObjectLost)
    assert (error.have, error.need) == (3, 4)
    assert type(driver.finish(driver.get("k")).error) is KeyNotFound
    assert driver.state.counters.resets == 1
    driver.clock.run(driver.clock.now_s + 60)
    assert driver.state.stored_bytes == 0


def test_repair_brings_the_redundancy_back() -> None:
    driver = shard(hedge=Hedge.ALL)
    driver.finish(driver.put("k", 3 * MiB, "bytes"))
    for _ in range(4):  # eight chunks lost in all, never more than two at a time
        lose(driver, "k", 2)
        for _ in range(3):
            assert driver.finish(driver.get("k")).value == "bytes"
            driver.clock.run(driver.clock.now_s + 5)
    assert driver.state.counters.repairs >= 6


def test_a_hung_node_does_not_hold_a_read_up() -> None:
    driver = shard()
    driver.finish(driver.put("k", 3 * MiB, "bytes"))
    record = driver.state.table.find("k")
    assert record is not None
    for instance in driver.platform.instances[record.places[0].node]:
        driver.platform.hang(instance)
    start_s = driver.clock.now_s
    assert driver.finish(driver.get("k")).value == "bytes"
    assert driver.clock.now_s - start_s < 0.5
    assert driver.state.counters.reads_hedged == 1


def test_a_damaged_chunk_counts_as_missing() -> None:
    driver = shard()
    driver.finish(driver.put("k", 3 * MiB, "bytes"))
    record = driver.state.table.find("k")
    assert record is not None
    driver.platform.instances[record.places[1].node][0].is_corrupt = True
    assert driver.finish(driver.get("k")).value == "bytes"
    assert driver.state.counters.chunks_damaged == 1
    assert driver.state.counters.degraded_reads == 1


def test_throttling_is_waited_out() -> None:
    driver = shard()
    driver.platform.throttle_next = 8
    assert driver.finish(driver.put("k", 3 * MiB, "bytes")).error is None


def test_a_platform_that_only_throttles_ends_at_the_deadline_and_nothing_is_kept() -> None:
    driver = shard()
    driver.platform.throttle_next = 10**9
    error = driver.finish(driver.put("k", 3 * MiB, "bytes", timeout_s=7.0)).error
    assert isinstance(error, DeadlineExceeded)
    assert error.deadline_s == 7.0
    assert "0 of 6 chunks" in str(error)
    assert driver.state.stored_bytes == 0
    assert driver.open_operations == []


def test_full_nodes_make_room_by_clock() -> None:
    driver = shard(capacity_bytes=8 * MiB)
    for i in range(30):
        assert driver.finish(driver.put(f"k{i}", 4 * MiB, i)).error is None
        driver.finish(driver.get("k0"))  # used all the time: the hand passes it by
    assert driver.state.counters.evictions > 10
    assert driver.finish(driver.get("k0")).value == 0
    assert driver.finish(driver.get("k29")).value == 29
    for fleet in driver.platform.instances.values():
        for instance in fleet:
            assert sum(kept.info.chunk_bytes for kept in instance.chunks.values()) <= 8 * MiB


def test_values_that_can_never_fit_and_values_that_do_not_fit_now() -> None:
    driver = shard(capacity_bytes=8 * MiB)
    assert isinstance(driver.finish(driver.put("k", 100 * MiB, "x")).error, ValueTooLarge)
    writes = [driver.put(f"k{i}", 28 * MiB, i) for i in range(3)]  # all at once: nothing can be evicted yet
    errors = [driver.finish(op).error for op in writes]
    assert errors[0] is None
    assert any(isinstance(error, PoolFull) for error in errors)


def test_a_write_that_cannot_succeed_pushes_nothing_out() -> None:
    driver = shard(capacity_bytes=8 * MiB)
    driver.finish(driver.put("kept", MiB, "kept"))
    writes = [driver.put(f"k{i}", 24 * MiB, i) for i in range(3)]
    assert any(isinstance(driver.finish(op).error, PoolFull) for op in writes)
    assert driver.state.counters.evictions == 0
    assert driver.finish(driver.get("kept")).value == "kept"


def test_expiry_is_a_miss_and_frees_memory_unread() -> None:
    driver = shard()
    driver.finish(driver.put("k", 3 * MiB, "bytes", ttl_s=5.0))
    driver.finish(driver.put("forever", 3 * MiB, "bytes"))
    used = driver.state.stored_bytes
    assert driver.finish(driver.get("k")).value == "bytes"
    driver.clock.run(driver.clock.now_s + 10)
    assert isinstance(driver.finish(driver.get("k")).error, KeyNotFound)
    assert driver.state.stored_bytes == used // 2
    assert driver.state.counters.expired == 1


def test_a_new_version_replaces_the_old_one_whole() -> None:
    driver = shard()
    driver.finish(driver.put("k", 3 * MiB, "old"))
    used = driver.state.stored_bytes
    write, read = driver.put("k", 3 * MiB, "new"), driver.get("k")
    assert driver.finish(read).value in ("old", "new")
    driver.finish(write)
    assert driver.finish(driver.get("k")).value == "new"
    assert driver.state.stored_bytes == used


def test_sleeping_nodes_are_invoked_once_each_and_never_twice_at_once() -> None:
    driver = shard()
    driver.finish(driver.put("k", 3 * MiB, "bytes"))
    for _ in range(20):
        driver.finish(driver.get("k"))
        driver.clock.run(driver.clock.now_s + 1)
    assert driver.platform.n_started == 6  # no second instance of any node
