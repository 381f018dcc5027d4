"""The direct way between processes and shards: it is taken where it can be, and nothing is missed where it cannot."""

from __future__ import annotations

import asyncio
import gc
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray

import infiniray
from infiniray import Cache
from infiniray.cluster.status import shard_pid

LARGE = 2_000_000


@pytest.fixture(scope="module")
def small(local_ray: str) -> Iterator[Cache]:
    """With little memory to share, which it soon gives back."""
    with infiniray.start(
        name="small", nodes=4, shards=1, scheme="rs:2+1", memory_mb=256,
        channel={"shared_memory_bytes": "48MiB", "idle_s": "2s"},
    ) as cache:  # fmt: skip
        yield cache


def data(n_bytes: int) -> np.ndarray:
    return np.random.default_rng(n_bytes).integers(0, 256, n_bytes, dtype=np.uint8)


def channel(cache: Cache) -> dict[str, Any]:
    return dict(cache.stats()["channel"])  # summed over the shards that have been connected to


def until(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 90  # a late chunk is received until its node is awake again
    while not condition():
        assert time.monotonic() < until_s, "it did not happen"
        time.sleep(0.05)


def n_descriptors(pid: int) -> int:
    return psutil.Process(pid).num_fds()


def test_all_verbs_but_those_for_references_go_over_the_channel(cache: Cache) -> None:
    cache.put_many({f"k{i}": b"1" for i in range(20)})  # to both shards
    before = channel(cache)["requests"]
    cache["small"] = b"1"
    cache["large"] = data(LARGE)
    assert cache["small"] == b"1"
    assert (cache["large"] == data(LARGE)).all()
    assert "small" in cache
    assert cache.ttl("small") is None
    assert cache.touch("small", 100)
    assert cache.delete("small")
    assert cache.get("small", "nothing") == "nothing"
    assert channel(cache)["requests"] >= before + 10  # a large value is two requests


def test_a_large_value_is_a_view_of_the_shards_memory_for_as_long_as_it_lives(cache: Cache) -> None:
    cache["k"] = data(LARGE)
    value = cache["k"]
    assert not value.flags.writeable
    assert channel(cache)["leases"] == 1
    part = value[1000:].reshape(-1, 8)
    del value
    gc.collect()
    for _ in range(3):
        cache["k"] = np.zeros(LARGE, np.uint8)
        assert not cache["k"].any()
    assert part.tobytes() == data(LARGE)[1000:].tobytes()
    del part
    gc.collect()
    until(lambda: channel(cache)["leases"] == 0)
    until(lambda: channel(cache)["shared"]["bytes_in_use"] == 0)


def test_many_keys_are_few_requests(cache: Cache) -> None:
    values = {f"k{i}": data(1000 + i) for i in range(200)}
    cache.put_many(values)
    before = channel(cache)["requests"]
    cache.put_many(values)
    found = cache.get_many([*values, "missing"])
    assert list(found) == list(values)
    assert all((found[key] == value).all() for key, value in values.items())
    assert channel(cache)["requests"] - before <= 10


def test_many_values_of_all_sizes(cache: Cache) -> None:
    values = {f"k{i}": data(size) for i, size in enumerate([0, 1, 100, 99_000, 600_000, LARGE, 5_000_000, 7])}
    cache.put_many(values)
    assert {key: bytes(value) for key, value in cache.get_many(values).items()} == {
        k: bytes(v) for k, v in values.items()
    }


async def test_event_loops_have_many_requests_at_once(cache: Cache) -> None:
    values = {f"k{i}": data(50_000 + 10_000 * i) for i in range(30)}
    await asyncio.gather(*(cache.aio.put(key, value) for key, value in values.items()))
    found = await asyncio.gather(*(cache.aio.get(key) for key in values))
    assert all((one == value).all() for one, value in zip(found, values.values(), strict=True))
    many = await cache.aio.get_many(values)
    assert list(many) == list(values)


@ray.remote
def reads_directly(cache: Cache) -> int:
    return int(cache["k"].sum())


@ray.remote
class Keeper:
    def __init__(self, cache: Cache) -> None:
        self.value = cache["k"]

    def total(self) -> int:
        return int(self.value.sum())


def test_a_process_that_ends_gives_back_what_it_had(cache: Cache) -> None:
    near = channel(cache)["shared"]["bytes_in_use"]  # of smaller values that were read
    cache["k"] = data(LARGE)
    keeper = Keeper.remote(cache)
    total = int(data(LARGE).sum())
    assert ray.get(keeper.total.remote(), timeout=60) == total
    assert channel(cache)["leases"] == 1
    ray.kill(keeper)
    until(lambda: channel(cache)["leases"] == 0)
    until(lambda: channel(cache)["shared"]["bytes_in_use"] <= near)
    assert ray.get(reads_directly.remote(cache), timeout=60) == total


def test_values_outlive_a_killed_shard(small: Cache) -> None:
    small["k"] = data(LARGE)
    value = small["k"]
    shard = psutil.Process(shard_pid(small.name, "shard-0"))
    shard.kill()
    until(lambda: not shard.is_running() or shard.status() == psutil.STATUS_ZOMBIE)
    small["other"] = data(LARGE)  # waits for the next incarnation
    assert value.tobytes() == data(LARGE).tobytes()
    assert small["k"].tobytes() == value.tobytes()
    assert small["other"].nbytes == LARGE
    assert channel(small)["requests"] > 0


def test_descriptors_do_not_grow(small: Cache) -> None:
    def work() -> None:
        for i in range(10):
            small["k"] = data(LARGE + 100_000 * i)
            small["s"] = b"x"
            assert small["k"].nbytes == LARGE + 100_000 * i
        small.get_many(["k", "s"])
        gc.collect()

    pids = os.getpid(), shard_pid(small.name, "shard-0")
    work()
    before = [n_descriptors(pid) for pid in pids]
    for _ in range(5):
        work()
    after = [n_descriptors(pid) for pid in pids]
    assert all(now <= then + 6 for now, then in zip(after, before, strict=True)), (before, after)


def test_idle_memory_is_given_back(small: Cache) -> None:
    small["k"] = data(20_000_000)
    assert small["k"].nbytes == 20_000_000
    gc.collect()
    until(lambda: channel(small)["shared"]["bytes_mapped"] == 0)


def test_beyond_the_budget_values_are_copied(small: Cache) -> None:
    small["k"] = data(10_000_000)
    held = [small["k"] for _ in range(8)]
    assert all((value == data(10_000_000)).all() for value in held)
    stats = channel(small)["shared"]
    assert stats["bytes_mapped"] <= 48 << 20
    assert stats["denied"] > 0
    small["w"] = data(12_000_000)
    assert (small["w"] == data(12_000_000)).all()


@pytest.mark.parametrize("settings", [{"enabled": False}, {"shared_memory_bytes": 0}])
def test_without_it_the_verbs_are_the_same(local_ray: str, settings: dict[str, Any]) -> None:
    with infiniray.start(name="other", nodes=4, shards=1, scheme="rs:2+1", memory_mb=256, channel=settings) as cache:
        cache.put_many({"small": b"1", "large": data(LARGE)})
        assert cache["small"] == b"1"
        assert (cache.get_many(["large"])["large"] == data(LARGE)).all()
        assert ("channel" in cache.stats()) == ("enabled" not in settings)
        assert cache.delete("small")


def test_nothing_of_it_has_a_name_in_the_file_system(cache: Cache) -> None:
    cache["k"] = data(LARGE)
    value = cache["k"]
    sockets = Path("/proc/net/unix").read_text()
    assert "@infiniray-" in sockets
    maps = Path("/proc/self/maps").read_text()
    assert "/memfd:infiniray (deleted)" in maps
    assert value.nbytes == LARGE
