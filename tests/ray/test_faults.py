"""What the platform does behind the cache's back, seen from a client."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

import infiniray
from infiniray import Cache, KeyNotFound, ObjectLost
from infiniray.cluster import lifecycle, rayapi
from infiniray.config import Config
from infiniray.faas.local.admin import PlatformAdmin

LARGE = 3_000_000


@pytest.fixture
def admin(whole_cache: Cache) -> PlatformAdmin:
    return PlatformAdmin(whole_cache.status()["endpoint_url"])


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, LARGE, dtype=np.uint8)


def test_status_says_what_there_is(whole_cache: Cache) -> None:
    status = whole_cache.status()
    assert status["ok"]
    assert status["name"] == "shared"
    assert {shard: len(nodes) for shard, nodes in status["nodes"].items()} == {"shard-0": 4, "shard-1": 4}
    assert "error" not in str(status["shards"])


def test_objects_survive_the_loss_of_r_chunks_each(whole_cache: Cache, cache: Cache, admin: PlatformAdmin) -> None:
    values = {f"k{i}": noise(i)[: 1 << 20] for i in range(40)}
    cache.put_many(values)
    before = whole_cache.stats()
    for shard, nodes in whole_cache.status()["nodes"].items():
        assert admin.reclaim(function=nodes[0])["reclaimed"], shard
    found = cache.get_many(values)
    assert list(found) == list(values)
    for key, value in values.items():
        np.testing.assert_array_equal(found[key], value)
    after = whole_cache.stats()
    assert after["reads_decoded"] > before["reads_decoded"]
    assert after["resets"] == before["resets"]


def test_more_losses_are_a_typed_miss_with_numbers(whole_cache: Cache, cache: Cache, admin: PlatformAdmin) -> None:
    cache["k"] = noise(1)
    cache["small"] = b"x"
    before = whole_cache.stats()
    admin.reclaim(everything=True)
    with pytest.raises(ObjectLost) as caught:
        cache["k"]
    assert type(caught.value) is ObjectLost
    assert isinstance(caught.value, KeyError)
    assert caught.value.have < caught.value.need == 2
    with pytest.raises(KeyNotFound):  # it is a plain miss from now on
        cache["k"]
    assert cache.get("small", "default") == "default"
    assert cache.get_many(["k", "small"]) == {}
    assert whole_cache.stats()["resets"] == before["resets"] + 2
    cache["k"] = noise(2)
    np.testing.assert_array_equal(cache["k"], noise(2))


def test_throttling_is_waited_out(cache: Cache, admin: PlatformAdmin) -> None:
    admin.reclaim(everything=True)
    admin.throttle(4)
    cache["k"] = noise(3)
    np.testing.assert_array_equal(cache["k"], noise(3))


async def test_a_lost_object_is_a_typed_miss_for_the_asynchronous_twin(cache: Cache, admin: PlatformAdmin) -> None:
    await cache.aio.put("k", noise(4))
    await asyncio.to_thread(admin.reclaim, everything=True)
    with pytest.raises(ObjectLost) as caught:
        await cache.aio.get("k")
    assert type(caught.value) is ObjectLost


def test_a_killed_shard_comes_back_and_serves(local_ray: str) -> None:
    with infiniray.start(nodes=3, shards=1, scheme="rs:2+1", memory_mb=256, name="crash") as cache:
        cache["before"] = noise(5)
        rayapi.crash(rayapi.find_actor("crash:shard-0"))
        np.testing.assert_array_equal(cache["before"], noise(5))
        assert cache.get("never stored", None) is None
        cache["after"] = noise(6)
        np.testing.assert_array_equal(cache["after"], noise(6))


def test_bringing_up_again_changes_nothing(whole_cache: Cache, cache: Cache, admin: PlatformAdmin) -> None:
    cache["k"] = noise(7)
    config = Config.load(None, {"name": "shared"}, environ={})
    membership = lifecycle.bring_up(config, platform_endpoint=admin.endpoint)
    assert len(membership.all_nodes) == 8
    np.testing.assert_array_equal(cache["k"], noise(7))
