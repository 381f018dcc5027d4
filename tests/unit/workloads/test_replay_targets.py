"""One suite over every target; Redis and S3 are real servers on loopback."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from workloads.content import content, verify
from workloads.errors import TargetFailed
from workloads.replay.targets import Target
from workloads.replay.targets.redis import RedisServer, RedisSpec, redis_is_available
from workloads.replay.targets.s3 import S3Spec, S3Store
from workloads.replay.worker import BackingSpec, Worker, WorkerSpec
from workloads.trace import Request

needs_redis = pytest.mark.skipif(not redis_is_available(), reason="no redis-server here")


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with RedisServer(64 << 20) as server:
        yield server.url


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def s3(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> S3Spec:
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3", endpoint_url=s3_url)
    client.create_bucket(Bucket="layers")
    client.close()
    return S3Spec(bucket="layers", prefix="replay/", endpoint_url=s3_url)


@pytest.fixture(params=[pytest.param("redis", marks=needs_redis), "s3"])
def target(request: pytest.FixtureRequest) -> Iterator[Target]:
    if request.param == "redis":
        spec = RedisSpec(url=request.getfixturevalue("redis_url"), prefix="replay/")
        opened: Target = spec.open()
    else:
        opened = request.getfixturevalue("s3").open()
    yield opened
    opened.close()


@pytest.mark.parametrize("size_bytes", [0, 1, 3_000_000])
def test_what_was_stored_comes_back_byte_for_byte(target: Target, size_bytes: int) -> None:
    target.put("v2/a b/ü", content("k", size_bytes))
    assert verify("k", size_bytes, target.get("v2/a b/ü"))


def test_absent_and_deleted_keys_are_misses(target: Target) -> None:
    with pytest.raises(KeyError):
        target.get("absent")
    target.put("k", np.ones(10, np.uint8))
    target.delete("k")
    target.delete("k")
    with pytest.raises(KeyError):
        target.get("k")


@needs_redis
def test_redis_evicts_what_does_not_fit(redis_url: str) -> None:
    redis = RedisSpec(url=redis_url).open()
    for i in range(20):
        redis.put(f"big{i}", content(f"big{i}", 8_000_000))
    found = 0
    for i in range(20):
        try:
            found += verify(f"big{i}", 8_000_000, redis.get(f"big{i}"))
        except KeyError:
            continue
    redis.close()
    assert 1 <= found <= 8  # 64 MiB hold no more


@needs_redis
def test_a_redis_that_has_gone_is_a_typed_error() -> None:
    with RedisServer() as server:
        redis = RedisSpec(url=server.url).open()
        url = server.url
    with pytest.raises(TargetFailed, match="redis: ConnectionError"):
        redis.get("k")
    with pytest.raises(TargetFailed, match="redis: ConnectionError"):
        redis.put("k", np.ones(1, np.uint8))
    with pytest.raises(TargetFailed, match="redis: ConnectionError"):
        redis.delete("k")
    redis.close()
    with pytest.raises(TargetFailed):
        RedisSpec(url=url).open()


def test_a_bucket_that_is_not_there_is_a_typed_error(s3: S3Spec) -> None:
    with pytest.raises(TargetFailed, match="s3: bucket 'nowhere'"):
        S3Spec(bucket="nowhere", endpoint_url=s3.endpoint_url).open()


def test_s3_as_the_backing_store(s3: S3Spec) -> None:
    store = S3Store(s3)
    assert store.get("layer") is None
    assert store.size_bytes("layer") is None
    store.put("layer", content("layer", 1234))
    assert store.size_bytes("layer") == 1234
    assert verify("layer", 1234, store.get("layer"))
    store.close()


@needs_redis
def test_a_replay_of_redis_in_front_of_s3(s3: S3Spec, redis_url: str) -> None:
    spec = WorkerSpec(
        target=RedisSpec(url=redis_url, prefix="whole/"), backing=BackingSpec(s3=s3), speed_up=1e6, n_outstanding=4
    )
    worker = Worker(spec, 0)
    requests = [Request(timestamp_s=float(i), key=f"layer{i % 5}", size_bytes=100_000) for i in range(20)]
    outcomes = [outcome for table in worker.replay(requests) for outcome in table["outcome"].to_pylist()]
    assert sorted(outcomes) == ["hit"] * 15 + ["miss"] * 5
    assert S3Store(s3).size_bytes("layer0") == 100_000
    assert worker.clear() == 5
    worker.close()
