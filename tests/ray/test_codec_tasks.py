"""Where parity is computed, and what if Ray has no worker free."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
import ray

from infiniray import Cache
from infiniray.cluster import codec_tasks
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
async def test_a_task_computes_the_same_parity(local_ray: str, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    monkeypatch.setattr(codec_tasks, "_START_LIMIT_S", 60.0)  # a busy machine starts the first worker at leisure
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


async def test_mirrors_and_unknown_buffers_stay_in_a_thread_and_small_objects_on_the_spot(local_ray: str) -> None:
    coder = TaskCoder("auto", task_min_bytes=1000)
    small, large = np.zeros(999, np.uint8), np.zeros(5000, np.uint8)
    with coder.object_in_store(small, [ray.put(small)]), coder.object_in_store(large, [ray.put(large)]):
        await encode(coder, "rs:2+1", small)
        await encode(coder, "mirror:3", large)
        await encode(coder, "rs:2+1", large.copy())
    await encode(coder, "rs:2+1", large)
    stats = coder.stats()
    assert (stats["encodes_at_once"], stats["thread_encodes"]) == (1, 3)
    assert (stats["task_encodes"], stats["task_fallbacks"]) == (0, 0)


@pytest.mark.parametrize("kernel", ["isal", "zfec"])
@pytest.mark.parametrize("size", [1000, 128 << 10, (2 << 20) + 1])
async def test_small_objects_are_coded_before_anybody_else_has_a_turn(kernel: str, size: int) -> None:
    coder, scheme = TaskCoder(kernel, task_min_bytes=1 << 30), Scheme.parse("rs:4+2")
    data = np.random.default_rng(1).integers(0, 256, size, dtype=np.uint8)
    others_had_a_turn = asyncio.Event()
    asyncio.get_running_loop().call_soon(others_had_a_turn.set)
    parity = await encode(coder, "rs:4+2", data)
    is_at_once = size <= 128 << 10
    assert others_had_a_turn.is_set() != is_at_once
    assert all(np.array_equal(a, b) for a, b in zip(parity, Coder().encode(scheme, data), strict=True))
    chunks = {i: data[slice(*scheme.chunk_range(i, size))] for i in range(4)}
    lost = np.empty(len(chunks[0]), np.uint8)
    await coder.reconstruct(scheme, size, {1: chunks[1], 2: chunks[2], 3: chunks[3], 4: parity[0]}, {0: lost})
    assert np.array_equal(lost, chunks[0])
    stats = coder.stats()
    assert (stats["encodes_at_once"], stats["decodes_at_once"]) == ((1, 1) if is_at_once else (0, 0))
    assert (stats["thread_encodes"], stats["thread_decodes"]) == ((0, 0) if is_at_once else (1, 1))


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
