"""The floors store what they are given and give it back, to several threads at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from infiniray.codec.schemes import Scheme
from workloads.baselines import LoopbackTarget, MemcpyTarget, RedisTarget, Target
from workloads.bench.measuring import random_values
from workloads.bench.relay import RelayTarget
from workloads.errors import TargetFailed


def relay(scheme: str) -> Callable[[], Target]:
    return lambda: RelayTarget(lambda n_bytes: Scheme.parse(scheme))


#: larger than what a socket takes at once, and the smallest there is
SIZES = [1, 2, 4096, (9 << 20) + 1]


@pytest.mark.parametrize("make", [LoopbackTarget, MemcpyTarget, relay("rs:4+2"), relay("mirror:3"), relay("rs:10+2")])
@pytest.mark.parametrize("size_bytes", SIZES)
def test_a_floor_moves_the_bytes(make: Callable[[], Target], size_bytes: int) -> None:
    target = make()
    try:
        for value in random_values(size_bytes, ["first", "second"]).values():
            target.put("k", value)
            value_then = value.copy()
            value[:] ^= 255
            assert np.array_equal(target.get("k"), value_then)  # a copy, not what was handed in
    finally:
        target.close()


@pytest.mark.parametrize("make", [LoopbackTarget, MemcpyTarget])
def test_a_floor_serves_several_threads(make: type[Target]) -> None:
    target = make()
    values = random_values(1 << 20, [str(i) for i in range(4)])

    def use(key: str) -> bool:
        for _ in range(5):
            target.put(key, values[key])
            if not np.array_equal(target.get(key), values[key]):
                return False
        return True

    try:
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(use, values))
    finally:
        target.close()


def test_a_relay_leaves_no_process_and_refuses_schemes_that_it_has_no_nodes_for() -> None:
    target = RelayTarget(lambda n_bytes: Scheme.parse("rs:4+2"), n_nodes=3)
    processes = list(target._processes)
    with pytest.raises(TargetFailed, match="needs 6 nodes, there are 3"):
        target.put("k", np.zeros(10, np.uint8))
    target.close()
    assert [process.poll() for process in processes] == [0] * 4


@pytest.mark.skipif(not RedisTarget.is_available(), reason="no redis-server here")
def test_redis_takes_several_values_in_a_pipeline() -> None:
    values = random_values(4096, [str(i) for i in range(100)])
    target = RedisTarget()
    try:
        target.put_many(values)
        found = target.get_many(list(values))
        assert list(found) == list(values)
        assert all(found[key] == value.tobytes() for key, value in values.items())
    finally:
        target.close()
