"""Whether functions can dial a shard, as real functions report it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator

import pytest
from blackhole import black_hole
from platform_harness import Lambda

from infiniray.cluster.assembly import assemble
from infiniray.cluster.codec_tasks import TaskCoder
from infiniray.cluster.functions import FunctionPool
from infiniray.cluster.membership import plan
from infiniray.config import Config
from infiniray.errors import ShardUnreachable
from infiniray.runtime.driver import ShardDriver

TIMEOUT_S = 30.0


@contextlib.asynccontextmanager
async def shard(functions: Lambda, advertise_host: str | None = None) -> AsyncIterator[ShardDriver]:
    """A shard that listens on loopback, and functions that know its secret."""
    tree = {"name": "c", "pool": {"nodes": 3, "memory_mb": 256}, "ring": {"shards": 1},
            "redundancy": [{"scheme": "rs:2+1"}], "platform": {"advertise_host": advertise_host}}  # fmt: skip
    config, secret, endpoint = Config.load(None, tree, environ={}), secrets.token_bytes(32), functions.platform.endpoint
    members = plan(config)
    FunctionPool(config, members.all_nodes, secret=secret.hex(), endpoint_url=endpoint).ensure()
    driver = assemble(members, "shard-0", config, secret, endpoint, TaskCoder.of(config.codec))
    await driver.start()
    try:
        yield driver
    finally:
        await driver.close()


async def test_the_first_that_dials_is_enough(functions: Lambda) -> None:
    async with shard(functions) as driver:
        await driver.require_reachable(timeout_s=TIMEOUT_S)
        assert driver.stats()["invocations"] == {"serve": 1}


@pytest.mark.parametrize(
    ("host", "reported"),
    [("127.0.0.9", "DialRefused"), ("nowhere.invalid", "NameUnknown"), ("255.255.255.255", "DialFailed")],
)
async def test_an_address_that_leads_nowhere(functions: Lambda, host: str, reported: str) -> None:
    async with shard(functions, host) as driver:
        with pytest.raises(ShardUnreachable) as raised:
            await driver.require_reachable(timeout_s=TIMEOUT_S)
    assert raised.value.detail.startswith(f"{reported}: cannot reach the shard at {driver.address}: ")
    assert raised.value.function.startswith("c-node-")
    assert driver.stats()["invoke_failures"] == {"function error": 2}


async def test_an_address_that_does_not_answer(functions: Lambda) -> None:
    async with shard(functions, "127.0.0.7") as driver:
        port = int(driver.address.rpartition(":")[2])
        with black_hole("127.0.0.7", port), pytest.raises(ShardUnreachable) as raised:
            await driver.require_reachable(timeout_s=TIMEOUT_S)
    assert raised.value.detail == f"DialTimedOut: cannot reach the shard at {driver.address}: timed out"
