"""Shards and the supervisor are killed: what was acknowledged is still there, what was deleted stays deleted."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import infiniray
from infiniray import Cache, CacheUnavailable, KeyNotFound
from infiniray.cli import running
from infiniray.cluster import rayapi
from infiniray.cluster.deadline import Deadline
from infiniray.cluster.registry import ShardRegistry, copies_on_record
from infiniray.cluster.status import back_up, cache_status, shard_pid
from infiniray.core.ids import InstanceId, NodeId
from infiniray.errors import StaleEpoch
from infiniray.faas.local.admin import PlatformAdmin

SIZES = (0, 100, 70_000, 1_200_000)


@pytest.fixture(scope="module")
def mortal(local_ray: str) -> Iterator[Cache]:
    """A cache whose actors are killed."""
    with infiniray.start(nodes=5, shards=1, scheme="rs:2+1", memory_mb=256, name="mortal") as cache:
        yield cache
        assert rayapi.store_keys("mortal/")
    assert rayapi.store_keys("mortal/") == []  # nothing of it is left


def kill_shard() -> None:
    os.kill(shard_pid("mortal", "shard-0"), signal.SIGKILL)


def value(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SIZES[seed % len(SIZES)], np.uint8)


def test_a_killed_shard_comes_back_with_all_that_was_acknowledged(mortal: Cache) -> None:
    cache = mortal.namespace("all")
    values = {f"k{i}": value(i) for i in range(40)}
    cache.put_many(values)
    cache.put("k3", values["k2"])  # replaced
    values["k3"] = values["k2"]
    for key in ("k4", "k5"):
        assert cache.delete(key)
        del values[key]
    epoch = cache_status("mortal")["shards"]["shard-0"]["epoch"]
    kill_shard()
    found = cache.get_many([f"k{i}" for i in range(40)])
    assert found.keys() == values.keys()
    assert all(np.array_equal(found[key], values[key]) for key in values)
    assert cache_status("mortal")["shards"]["shard-0"]["epoch"] > epoch
    cache.put("k4", b"again")
    assert cache["k4"] == b"again"


def test_values_and_references_outlive_the_shard_that_gave_them(mortal: Cache) -> None:
    cache = mortal.namespace("held")
    cache.put("k", value(3))
    held, ref = cache["k"], cache.get_ref("k")
    rayapi.wait(ref, Deadline.after(20), "GET")
    kill_shard()
    assert np.array_equal(held, value(3))
    assert np.array_equal(rayapi.wait(ref, Deadline.after(20), "GET"), value(3))
    later = cache.get_ref("k")  # of a shard that is being restarted
    assert np.array_equal(rayapi.wait(later, Deadline.after(20), "GET"), value(3))


def test_status_shows_that_a_shard_was_restarted(mortal: Cache) -> None:
    mortal.namespace("status").put_many({f"k{i}": value(i) for i in range(30)})  # something on every function
    before = report_of(mortal)
    kill_shard()
    states = set()
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s:
        report = report_of(mortal)
        states.add(report["shards"][0]["state"])
        assert report["ok"] == (report["shards"][0]["state"] != "down")
        if report["shards"][0]["state"] == "up" and report["shards"][0]["epoch"] > before["shards"][0]["epoch"]:
            break
    assert "up" in states <= {"up", "recovering", "down"}
    assert report["epoch"] >= report["shards"][0]["epoch"] > before["shards"][0]["epoch"]
    assert report["objects"] == before["objects"]
    assert report["shards"][0]["nodes"] == 5
    assert report["backups"]["nodes_never_backed_up"] + report["backups"]["nodes_backed_up"] == 5
    assert report["backup_slots"]["of"] == 8


def test_times_to_live_outlive_a_shard(mortal: Cache) -> None:
    cache = mortal.namespace("ttl")
    cache.put("brief", b"1", ttl=1.0)
    cache.put("long", b"2", ttl=600.0)
    kill_shard()
    left_s = cache.ttl("long")
    assert left_s is not None
    assert 500 < left_s < 600
    deadline_s = time.monotonic() + 20
    while "brief" in cache and time.monotonic() < deadline_s:
        time.sleep(0.1)
    with pytest.raises(KeyNotFound):
        cache["brief"]


def test_a_shard_may_be_killed_again_and_again(mortal: Cache) -> None:
    cache = mortal.namespace("again")
    for round_ in range(3):
        cache.put(f"k{round_}", value(round_))
        kill_shard()
        for earlier in range(round_ + 1):
            assert np.array_equal(cache[f"k{earlier}"], value(earlier))


def test_without_the_supervisor_reads_and_writes_go_on_and_it_comes_back_as_it_was(mortal: Cache) -> None:
    cache = mortal.namespace("supervisor")
    cache.put("before", value(3))
    epoch = cache_status("mortal")["epoch"]
    rayapi.crash(rayapi.find_actor("mortal:supervisor"))
    assert np.array_equal(cache["before"], value(3))
    cache.put("meanwhile", value(2))
    status = eventually_status()
    assert status["epoch"] == epoch
    assert status["ok"]
    assert np.array_equal(cache["meanwhile"], value(2))


def test_both_may_be_killed_at_once(mortal: Cache) -> None:
    cache = mortal.namespace("both")
    cache.put("k", value(7))
    epoch = cache_status("mortal")["epoch"]
    kill_shard()
    rayapi.crash(rayapi.find_actor("mortal:supervisor"))
    assert np.array_equal(cache["k"], value(7))
    assert eventually_status()["epoch"] > epoch


def test_what_was_backed_up_survives_the_loss_of_every_primary_instance(mortal: Cache) -> None:
    cache = mortal.namespace("backup")
    admin = mortal_platform()
    values = {f"k{i}": value(i) for i in range(12)}
    cache.put_many(values)
    primaries = {row["function"]: row["id"] for row in admin.instances()}
    done = mortal.stats()["backups"]
    back_up("mortal")
    deadline_s = time.monotonic() + 60
    while mortal.stats()["backups_running"] and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert mortal.stats()["backups"] >= done + 5
    ages = report_of(mortal)["backups"]
    assert ages["nodes_backed_up"] == 5
    assert 0 <= ages["median_s"] <= ages["oldest_s"]
    assert all(len([row for row in admin.instances() if row["function"] == node]) > 1 for node in primaries)
    for instance in primaries.values():
        admin.reclaim(instance=instance)
    found = cache.get_many(values)
    assert all(np.array_equal(found[key], values[key]) for key in values)


def test_two_incarnations_cannot_both_write_the_record(local_ray: str) -> None:
    import asyncio

    async def both() -> None:
        node = NodeId("n1")
        first, second = ShardRegistry("fenced", "s", 3), ShardRegistry("fenced", "s", 5)
        assert await first.open() == {}
        await first.register({node: InstanceId("a")})
        assert await second.open() == {node: "a"}
        with pytest.raises(StaleEpoch):
            await first.register({node: InstanceId("b")})
        await second.register({node: InstanceId("c")})
        assert copies_on_record("fenced", "s") == ({node: "c"}, 5)
        first.close()
        second.close()

    try:
        asyncio.run(both())
    finally:
        rayapi.store_delete_all("fenced/")


def report_of(cache: Cache) -> dict[str, Any]:
    """What `infiniray status --json` prints."""
    return running._report(cache)


def mortal_platform() -> PlatformAdmin:
    return PlatformAdmin(cache_status("mortal")["endpoint_url"])


def eventually_status() -> dict[str, object]:
    deadline_s = time.monotonic() + 40
    while True:
        try:
            return cache_status("mortal", timeout_s=10)
        except CacheUnavailable:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.2)
