"""Where parity is computed, and what if Ray has no worker free."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import ray

from infiniray import Cache
from infiniray.cluster.codec_tasks import TaskCoder
from infiniray.codec.coder import Coder
from infiniray.codec.schemes import Scheme

SIZE = 6 << 20


@ray.remote
class Occupant:
    """Holds its CPUs as long as it lives."""

    def is_there(self) -> bool:
        return True


async def encode(coder: TaskCoder, scheme: str, data: Any) -> list[Any]:
    parsed = Scheme.parse(scheme)
    outputs = np.empty((parsed.r, parsed.chunk_bytes(len(data))), np.uint8)
    return await coder.encode(parsed, data, list(outputs))


@pytest.mark.parametrize("scheme", ["rs:4+2", "xor:3+1", "rs:2+1"])
async def test_a_task_computes_the_same_parity(local_ray: str, scheme: str) -> None:
    coder = TaskCoder("auto", task_min_bytes=1000)
    data = np.random.default_rng(1).integers(0, 256, 100_003, dtype=np.uint8)
    ref = ray.put(data)
    mapped = await ref
    with coder.object_in_store(mapped, [ref]):
        parity = await encode(coder, scheme, memoryview(mapped))
    expected = Coder().encode(Scheme.parse(scheme), data)
    assert len(parity) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(parity, expected, strict=True))
    assert coder.stats()["task_encodes"] == 1


async def test_small_objects_mirrors_and_unknown_buffers_stay_in_a_thread(local_ray: str) -> None:
    coder = TaskCoder("auto", task_min_bytes=1000)
    small, large = np.zeros(999, np.uint8), np.zeros(5000, np.uint8)
    with coder.object_in_store(small, [ray.put(small)]), coder.object_in_store(large, [ray.put(large)]):
        await encode(coder, "rs:2+1", small)
        await encode(coder, "mirror:3", large)
        await encode(coder, "rs:2+1", large.copy())
    await encode(coder, "rs:2+1", large)
    stats = coder.stats()
    assert (stats["thread_encodes"], stats["task_encodes"], stats["task_fallbacks"]) == (4, 0, 0)


def test_a_write_does_not_wait_for_cpus_that_wait_for_it(whole_cache: Cache, cache: Cache) -> None:
    """Every CPU is taken: the shard gives up on a task, and computes parity itself."""
    value = np.random.default_rng(2).integers(0, 256, SIZE, dtype=np.uint8)
    before = whole_cache.stats()["codec"]
    occupant = Occupant.options(num_cpus=ray.cluster_resources()["CPU"]).remote()
    try:
        assert ray.get(occupant.is_there.remote(), timeout=60)
        cache["k"] = value
    finally:
        ray.kill(occupant)
    after = whole_cache.stats()["codec"]
    assert after["task_fallbacks"] == before["task_fallbacks"] + 1
    np.testing.assert_array_equal(cache["k"], value)
