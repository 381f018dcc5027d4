"""A cache in front of a bucket (moto's S3 server) and of a directory: through real handles, from several processes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
import ray

import infiniray
from infiniray import Cache, ConfigError, KeyNotFound, ObjectLost
from infiniray.backing import marks
from infiniray.backing.choosing import record
from infiniray.backing.modes import Adopted
from infiniray.backing.records import RayRecords
from infiniray.config import BackingConfig
from infiniray.errors import BackingRefused, BackingUnavailable, WriteLost, WritesUnflushed
from infiniray.faas.local.admin import PlatformAdmin

PATIENCE_S = 60.0
LARGE = 3_000_000
KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}


class Bucket:
    """A bucket on an S3 server that can be switched off and on."""

    def __init__(self) -> None:
        self._server: Any = None
        self._port = 0
        self.switch_on()
        self.options = {"endpoint_url": f"http://127.0.0.1:{self._port}", **KEYS}
        self.name = f"bucket-{uuid.uuid4().hex[:12]}"
        self.client = boto3.client("s3", **self.options)  # type: ignore[call-overload]
        self.client.create_bucket(Bucket=self.name)

    def switch_on(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", self._port, verbose=False)
        self._server.start()
        _, self._port = self._server.get_host_and_port()

    def switch_off(self) -> None:
        self._server.stop()

    def close(self) -> None:
        self.client.close()
        self.switch_off()

    def section(self, **settings: Any) -> dict[str, Any]:
        return {"url": f"s3://{self.name}/pre", "options": self.options, **settings}

    def get(self, key: str) -> bytes | None:
        try:
            data: bytes = self.client.get_object(Bucket=self.name, Key=f"pre/{key}")["Body"].read()
            return data
        except self.client.exceptions.NoSuchKey:
            return None

    def put(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"pre/{key}", Body=data)


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    bucket = Bucket()
    yield bucket
    bucket.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def space(whole_cache: Cache) -> str:
    """A namespace of its own."""
    return uuid.uuid4().hex[:8]


@pytest.fixture
def front(whole_cache: Cache, space: str) -> Cache:
    """The cache alone, without any store."""
    return whole_cache.namespace(space)


def backed(space: str, store: dict[str, Any] | str, mode: str | None = None) -> Cache:
    return infiniray.connect("shared", backing=store, mode=mode).namespace(space)


@ray.remote(num_cpus=0)
class Process:
    """A process with a handle."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def put(self, key: str, value: Any) -> None:
        self.cache.put(key, value)

    def get(self, key: str) -> Any:
        return self.cache[key]

    def get_at_once(self, key: str, n: int) -> list[int]:
        with ThreadPoolExecutor(n) as threads:
            return list(threads.map(lambda _: len(self.cache[key]), range(n)))

    def flush(self) -> None:
        self.cache.flush()

    def count(self, name: str) -> int:
        return int(self.cache.stats()["backing"][name])

    def compute(self, key: str) -> Any:
        return self.cache.get_or_compute(key, lambda: f"computed by {os.getpid()}".encode())


def got(ref: Any) -> Any:
    return ray.get(ref, timeout=PATIENCE_S)


# ---------------------------------------------------------------- it works


def test_write_through_to_a_bucket_that_others_read(front: Cache, space: str, bucket: Bucket) -> None:
    cache = backed(space, bucket.section())
    layer = os.urandom(LARGE)
    cache["layers/1"] = layer
    assert bucket.get(f"{space}/layers/1") == layer
    assert front["layers/1"] == layer
    bucket.put(f"{space}/theirs", b"their own")
    assert "theirs" in cache
    assert cache["theirs"] == front["theirs"] == b"their own"
    assert cache.get_many(["layers/1", "theirs", "absent"]) == {"layers/1": layer, "theirs": b"their own"}
    del cache["layers/1"]
    assert bucket.get(f"{space}/layers/1") is None
    assert "layers/1" not in front
    with pytest.raises(KeyNotFound):
        cache["layers/1"]
    assert cache.get("layers/1", None) is None


def test_a_reset_is_read_from_the_store(whole_cache: Cache, front: Cache, space: str, bucket: Bucket) -> None:
    cache = backed(space, bucket.section())
    array = np.random.default_rng(1).integers(0, 256, LARGE, dtype=np.uint8)
    cache["k"] = array
    PlatformAdmin(whole_cache.status()["endpoint_url"]).reclaim(everything=True)
    np.testing.assert_array_equal(cache["k"], array)
    np.testing.assert_array_equal(front["k"], array)  # there again
    front["beside"] = array
    PlatformAdmin(whole_cache.status()["endpoint_url"]).reclaim(everything=True)
    with pytest.raises(ObjectLost):
        cache["beside"]


def test_readers_in_several_processes_load_once(space: str, front: Cache, bucket: Bucket) -> None:
    bucket.put(f"{space}/k", bytes(LARGE))
    cache = backed(space, bucket.section(), "read-through")
    processes = [Process.remote(cache) for _ in range(3)]
    before = [got(process.count.remote("reads")) for process in processes]
    answers = [process.get_at_once.remote("k", 4) for process in processes]
    assert [got(answer) for answer in answers] == [[LARGE] * 4] * 3
    assert sum(got(process.count.remote("reads")) for process in processes) == sum(before) + 1
    for process in processes:
        ray.kill(process)


def test_handles_carry_the_store_into_tasks(space: str, front: Cache, folder: Path) -> None:
    cache = backed(space, str(folder))
    twin = pickle.loads(pickle.dumps(cache))
    twin["k"] = b"from the twin"
    assert (folder / space / "k").read_bytes() == b"from the twin"

    @ray.remote
    def task(cache: Cache) -> Any:
        cache["t"] = b"from a task"
        return cache["k"]

    front.delete("k")
    assert got(task.remote(cache)) == b"from the twin"
    assert (folder / space / "t").read_bytes() == b"from a task"


async def test_the_asynchronous_twin_does_the_same(space: str, front: Cache, folder: Path) -> None:
    cache = backed(space, str(folder), "write-back").aio
    await cache.put("k", b"value")
    await cache.put_many({"a": b"1", "b": b"2"})
    await cache.flush()
    assert (folder / space / "k").read_bytes() == b"value"
    for key in "kab":
        front.delete(key)
    assert await cache.get("k") == b"value"
    assert await cache.exists("a")
    assert await cache.get_many(["a", "b", "c"]) == {"a": b"1", "b": b"2"}
    assert await cache.get_or_compute("c", lambda: b"3") == b"3"
    assert (folder / space / "c").read_bytes() == b"3"
    assert await cache.delete("c")
    assert not (folder / space / "c").exists()
    assert (await cache.adopt_unflushed()).flushed == ()
    assert (await cache.stats())["backing"]["mode"] == "write-back"


def test_references_and_raw_reads_come_from_the_store_too(space: str, front: Cache, folder: Path) -> None:
    cache = backed(space, str(folder))
    cache["k"] = np.arange(100_000)
    front.delete("k")
    np.testing.assert_array_equal(got(cache.get_ref("k")), np.arange(100_000))
    front.delete("k")
    assert cache.get("k", raw=True).nbytes == 800_000
    with pytest.raises(KeyNotFound):
        got(cache.get_ref("absent"))


def test_what_the_store_has_is_not_computed(space: str, front: Cache, folder: Path) -> None:
    cache = backed(space, str(folder))
    process = Process.remote(cache)
    computed = got(process.compute.remote("k"))
    assert (folder / space / "k").read_bytes() == computed == cache["k"]
    front.delete("k")
    assert cache.get_or_compute("k", lambda: b"not called") == computed
    assert front["k"] == computed
    assert cache.get_or_compute("brief", lambda: b"x", ttl=60) == b"x"  # with a ttl: the cache's alone
    assert not (folder / space / "brief").exists()
    ray.kill(process)


def test_a_ttl_is_the_caches_alone(space: str, front: Cache, folder: Path) -> None:
    cache = backed(space, str(folder))
    cache["k"] = b"old"
    cache.put("k", b"new", ttl=60)
    assert not (folder / space / "k").exists()
    assert cache["k"] == b"new"
    front.delete("k")
    assert "k" not in cache


# ---------------------------------------------------------------- the store fails, and comes back


def test_fail_closed_until_the_bucket_is_back(space: str, front: Cache, bucket: Bucket) -> None:
    cache = backed(space, bucket.section(timeout_s=5))
    cache["k"] = b"old"
    cache["gone"] = b"stored"
    front.delete("gone")
    bucket.switch_off()
    assert cache["k"] == b"old"
    for act in (
        lambda: cache["gone"],
        lambda: cache.put("k", b"new"),
        lambda: cache.delete("k"),
        lambda: cache.get("gone", "default"),
        lambda: cache.get_or_compute("gone", lambda: b"not called"),
    ):
        with pytest.raises(BackingUnavailable):
            act()
    assert cache["k"] == b"old"
    bucket.switch_on()
    assert cache["gone"] == b"stored"
    cache["k"] = b"new"
    assert bucket.get(f"{space}/k") == front["k"] == b"new"


def test_degraded_until_the_bucket_is_back(space: str, front: Cache, bucket: Bucket) -> None:
    cache = backed(space, bucket.section(timeout_s=5, on_error="degrade"))
    cache["k"] = b"old"
    bucket.switch_off()
    assert cache.get("absent", "default") == "default"
    cache["k"] = b"new"
    assert cache["k"] == b"new"
    assert cache.get_or_compute("c", lambda: b"computed") == b"computed"
    with pytest.raises(WritesUnflushed):
        cache.flush(timeout=0.1)
    bucket.switch_on()
    cache.flush()
    assert bucket.get(f"{space}/k") == b"new"
    assert bucket.get(f"{space}/c") == b"computed"
    counts = cache.stats()["backing"]
    assert counts["degraded_writes"] == 2
    assert counts["degraded_reads"] >= 2
    assert counts["unflushed"] == counts["dirty"] == 0


def test_closing_says_what_has_not_reached_the_store(front: Cache, space: str, folder: Path) -> None:
    away = folder.with_name("away")
    session = infiniray.connect("shared", backing={"url": str(folder), "flush_timeout_s": 0.1}, mode="write-back")
    cache = session.namespace(space)
    folder.rename(away)
    cache["k"] = b"value"
    with pytest.raises(WritesUnflushed, match="1 acknowledged write"):
        session.close()
    away.rename(folder)
    same = backed(space, {"url": str(folder), "flush_timeout_s": 0.1}, "write-back")
    same.flush(timeout=PATIENCE_S)
    assert (folder / space / "k").read_bytes() == b"value"


def test_writes_of_a_process_that_was_killed(
    front: Cache, space: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = {"url": str(folder), "flush_delay_s": "1h"}
    cache = backed(space, store, "write-back")
    process = Process.remote(cache)
    got(process.put.remote("kept", b"kept"))
    got(process.put.remote("lost", b"lost"))
    assert cache["kept"] == b"kept"
    ray.kill(process)
    front.delete("lost")  # as when functions are reclaimed
    monkeypatch.setattr(marks, "EXPIRY_S", 0.0)  # it is not heard of any more
    assert cache.stats()["backing"]["orphaned"] == 2
    with pytest.raises(WriteLost):
        cache["lost"]
    assert cache.adopt_unflushed() == Adopted(flushed=(f"{space}/kept",), lost=(f"{space}/lost",))
    assert (folder / space / "kept").read_bytes() == b"kept"
    assert not cache.delete("lost")
    with pytest.raises(KeyNotFound):
        cache["lost"]
    assert cache.stats()["backing"]["dirty"] == 0


def test_a_process_that_ends_flushes_first(front: Cache, space: str, folder: Path) -> None:
    code = """
import infiniray, sys
cache = infiniray.connect("shared", backing={"url": sys.argv[1], "flush_delay_s": "1h"}, mode="write-back")
cache[sys.argv[2]] = b"value"
"""
    environment = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    arguments = [sys.executable, "-c", code, str(folder), f"{space}/k"]
    subprocess.run(arguments, env=environment, check=True, timeout=PATIENCE_S)
    assert (folder / space / "k").read_bytes() == b"value"
    assert front["k"] == b"value"


def test_several_processes_write_one_key(front: Cache, space: str, folder: Path) -> None:
    processes = [Process.remote(backed(space, str(folder), mode)) for mode in ("write-through", "write-back") * 2]
    for ref in [process.put.remote("k", b"%d" % i) for i in range(5) for process in processes]:
        got(ref)
    for process in processes:
        got(process.flush.remote())
    assert (folder / space / "k").read_bytes() == front["k"]
    for process in processes:
        ray.kill(process)


# ---------------------------------------------------------------- which store


def test_those_who_connect_find_the_store_that_the_cache_was_started_with(
    front: Cache, space: str, folder: Path
) -> None:
    record("shared", BackingConfig(url=str(folder), mode="read-through"))
    try:
        cache = infiniray.connect("shared").namespace(space)
        (folder / space).mkdir()
        (folder / space / "k").write_bytes(b"theirs")
        assert cache["k"] == b"theirs"
        cache["mine"] = b"mine"
        assert not (folder / space / "mine").exists()
        writer = infiniray.connect("shared", mode="write-through").namespace(space)
        writer["mine"] = b"mine"
        assert (folder / space / "mine").read_bytes() == b"mine"
        assert "backing" not in infiniray.connect("shared", backing=False).stats()
    finally:
        RayRecords("shared").delete("config")


def test_a_cache_is_started_in_front_of_a_store(local_ray: str, folder: Path) -> None:
    small = {"nodes": 3, "shards": 1, "scheme": "rs:2+1", "memory_mb": 256}
    with infiniray.start(name="fronting", backing=str(folder), mode="write-back", **small) as cache:
        cache["k"] = b"value"
        assert infiniray.connect("fronting").stats()["backing"]["mode"] == "write-back"
    assert (folder / "k").read_bytes() == b"value"


@pytest.mark.parametrize(
    ("store", "mode", "error"),
    [
        (None, "write-through", ConfigError),
        ("s3://", None, ConfigError),
        ({"url": "s3://bucket", "options": {"endpoint": 1}}, None, ConfigError),
        ({"ur": "s3://bucket"}, None, ConfigError),
        ("somewhere", "write-around", ConfigError),
        ({"mode": "write-back"}, None, ConfigError),
        ("/no/such/folder", None, BackingUnavailable),
    ],
)
def test_stores_that_cannot_be_are_refused_at_once(front: Cache, store: Any, mode: Any, error: Any) -> None:
    with pytest.raises(error):
        infiniray.connect("shared", backing=store, mode=mode)


def test_a_bucket_that_is_not_there_is_refused_at_once(front: Cache, bucket: Bucket) -> None:
    with pytest.raises(BackingRefused, match="no bucket"):
        infiniray.connect("shared", backing={"url": "s3://none-such", "options": bucket.options})
    with pytest.raises(BackingRefused, match="no bucket"):
        infiniray.start(name="never", backing={"url": "s3://none-such", "options": bucket.options})
