"""Handles and values in other processes: tasks, actors, other jobs, event loops."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import ray

import infiniray
from infiniray import AsyncCache, Cache, CacheUnavailable, InvalidKey, KeyNotFound

LARGE = 2_000_000


@ray.remote
def read(cache: Cache, key: str) -> int:
    return int(cache[key].sum())


@ray.remote
def write(cache: Cache, key: str, n: int) -> None:
    cache[key] = np.full(n, 7, np.uint8)


@ray.remote
def total(value: np.ndarray) -> tuple[int, bool]:
    return int(value.sum()), value.flags.writeable


@ray.remote
class Holder:
    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def read(self, key: str) -> int:
        return int(self.cache[key].sum())


@ray.remote
class AsyncHolder:
    def __init__(self, cache: Cache) -> None:
        self.cache = cache.aio

    async def read(self, keys: list[str]) -> list[int]:
        values = await asyncio.gather(*map(self.cache.get, keys))
        return [int(value.sum()) for value in values]


def test_a_handle_travels_to_tasks_and_actors(cache: Cache) -> None:
    cache["k"] = np.ones(LARGE, np.uint8)
    assert ray.get(read.remote(cache, "k"), timeout=60) == LARGE
    ray.get(write.remote(cache, "from-task", LARGE), timeout=60)
    assert int(cache["from-task"].sum()) == 7 * LARGE
    holder = Holder.remote(cache)
    assert ray.get(holder.read.remote("k"), timeout=60) == LARGE
    holder = AsyncHolder.remote(cache)
    assert ray.get(holder.read.remote(["k", "from-task"]), timeout=60) == [LARGE, 7 * LARGE]


def test_a_pickled_handle_carries_no_secret_and_keeps_its_namespace(cache: Cache) -> None:
    models = cache.namespace("models")
    models["k"] = 3
    pickled = pickle.dumps(models)
    assert len(pickled) < 300
    copy = pickle.loads(pickled)
    assert copy["k"] == 3
    assert repr(copy) == repr(models)
    assert "models" in repr(copy)


def test_a_reference_to_a_value_is_resolved_where_it_is_used(cache: Cache) -> None:
    cache["k"] = np.ones(LARGE, np.uint8)
    ref = cache.get_ref("k")
    assert isinstance(ref, ray.ObjectRef)
    assert ray.get(total.remote(ref), timeout=60) == (LARGE, False)
    assert int(ray.get(ref, timeout=60).sum()) == LARGE
    cache["bytes"] = b"abc"
    assert ray.get(cache.get_ref("bytes"), timeout=60) == b"abc"


def test_a_miss_is_raised_where_the_reference_is_used(cache: Cache) -> None:
    with pytest.raises(KeyNotFound):
        ray.get(cache.get_ref("absent"), timeout=60)
    with pytest.raises(KeyNotFound):
        ray.get(total.remote(cache.get_ref("absent")), timeout=60)


def test_errors_are_the_same_after_crossing_ray(cache: Cache) -> None:
    with pytest.raises(KeyNotFound) as caught:
        cache["absent"]
    assert type(caught.value) is KeyNotFound
    assert caught.value.key.endswith("/absent")
    assert str(caught.value) == f"no object under key {caught.value.key!r}"


async def test_the_asynchronous_twin_has_the_same_verbs(cache: Cache) -> None:
    aio = cache.aio
    assert isinstance(aio, AsyncCache)
    value = np.arange(LARGE, dtype=np.uint8)
    await aio.put("k", value, ttl="1h")
    np.testing.assert_array_equal(await aio.get("k"), value)
    np.testing.assert_array_equal(cache["k"], value)
    assert await aio.exists("k")
    assert 3000 < (await aio.ttl("k") or 0) <= 3600
    assert await aio.touch("k", None)
    assert await aio.ttl("k") is None
    await aio.put_many({"a": 1, "b": 2})
    assert await aio.get_many(["a", "b", "c"]) == {"a": 1, "b": 2}
    assert await aio.keys() == ["a", "b", "k"]
    assert [entry.key for entry in await aio.entries("a")] == ["a"]
    assert await aio.namespace("n").get("a", None) is None
    assert await (await aio.get_ref("a")) == 1
    assert await aio.delete("a")
    assert (await aio.stats())["objects"] >= 2
    with pytest.raises(KeyNotFound) as caught:
        await aio.get("absent")
    assert type(caught.value) is KeyNotFound
    with pytest.raises(InvalidKey):
        await aio.put("", 1)


def test_every_verb_of_one_twin_is_a_verb_of_the_other() -> None:
    def verbs(kind: type) -> set[str]:
        return {name for name in dir(kind) if not name.startswith("_")}

    assert verbs(Cache) - verbs(AsyncCache) == {"aio"}
    assert verbs(AsyncCache) <= verbs(Cache)


async def test_reads_of_one_event_loop_go_on_together(cache: Cache) -> None:
    cache.put_many({f"k{i}": np.full(LARGE, i, np.uint8) for i in range(8)})
    values = await asyncio.gather(*(cache.aio.get(f"k{i}") for i in range(8)))
    assert [int(value[-1]) for value in values] == list(range(8))


async def test_a_cancelled_read_leaves_the_cache_usable(cache: Cache) -> None:
    cache["k"] = np.ones(LARGE, np.uint8)
    reading = asyncio.ensure_future(cache.aio.get("k"))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert int((await cache.aio.get("k")).sum()) == LARGE


def test_connect_finds_the_cache_by_name(whole_cache: Cache, cache: Cache) -> None:
    cache["k"] = 1
    found = infiniray.connect("shared")
    prefix = cache.keys()[0]
    assert prefix == "k"
    assert found.stats()["nodes"] == 8
    found.close()
    with pytest.raises(CacheUnavailable, match="closed"):
        found.keys()
    assert cache["k"] == 1  # closing a connection ends nothing but itself


def test_connect_to_what_is_not_there_says_what_to_do(local_ray: str) -> None:
    with pytest.raises(CacheUnavailable, match=r"no cache 'nobody' runs here.*infiniray up"):
        infiniray.connect("nobody")


def test_another_job_reads_and_writes(whole_cache: Cache, cache: Cache, local_ray: str) -> None:
    cache["k"] = np.ones(LARGE, np.uint8)
    code = f"""
import pickle, sys
import infiniray
cache = pickle.loads({pickle.dumps(cache)!r})
print(int(cache["k"].sum()))
cache["back"] = b"from another job"
other = infiniray.connect("shared")
print(other.stats()["nodes"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(LARGE), "8"]
    assert cache["back"] == b"from another job"


def test_values_outlive_what_served_them(local_ray: str) -> None:
    """A value is its reader's own: neither the shard nor the cache has to live on."""
    held: dict[str, Any] = {}
    with infiniray.start(nodes=3, shards=1, scheme="rs:2+1", memory_mb=256, name="short") as cache:
        cache["k"] = np.full(LARGE, 5, np.uint8)
        held["value"] = cache["k"]
        held["ref"] = cache.get_ref("k")
        ray.wait([held["ref"]], timeout=60)
    assert int(held["value"].sum()) == 5 * LARGE
    assert int(ray.get(held["ref"], timeout=60).sum()) == 5 * LARGE
    with pytest.raises(CacheUnavailable):
        cache["k"]
