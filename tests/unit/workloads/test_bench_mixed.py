"""The mix of GETs and PUTs: its proportions, that stale bytes are noticed; and what is held meanwhile."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from workloads.baselines import MemcpyTarget
from workloads.bench.measuring import Conditions
from workloads.bench.memory import Resident, measure_memory, render_memory
from workloads.bench.mixed import Mix, measure_mixed, render_mixed
from workloads.errors import TargetFailed

CONDITIONS = Conditions(scheme="rs:4+2")


class Counting(MemcpyTarget):
    """Counts calls, and can be late by a fixed time."""

    def __init__(self, name: str, delay_s: float = 0.0) -> None:
        super().__init__()
        self.name = name
        self.calls: Counter[str] = Counter()
        self.slices: list[int] = []
        self._delay_s = delay_s
        self._lock = threading.Lock()

    def put(self, key: str, value: Any) -> None:
        time.sleep(self._delay_s)
        with self._lock:
            self.calls["put"] += 1
        super().put(key, value)

    def get(self, key: str) -> Any:
        time.sleep(self._delay_s)
        with self._lock:
            self.calls["get"] += 1
        return super().get(key)


@pytest.fixture
def other_pid() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def test_systems_get_the_mix_in_slices_and_growth_is_the_caches_alone() -> None:
    cache, redis = Counting("infiniray", 0.001), Counting("redis", 0.002)
    mix = Mix(size_bytes=4096, clients=4, get_percent=75, seconds=0.4)
    settled: list[int] = []
    rows = measure_mixed(
        [cache, redis], mix, CONDITIONS, shard_pid=os.getpid(), slice_s=0.1, settle=lambda: settled.append(1)
    )
    assert len(settled) == 4
    by_name = {(row.system, row.op): row for row in rows}
    for target in (cache, redis):
        mixed = by_name[target.name, "mixed"]
        keys = mix.keys_per_client * mix.clients
        assert mixed.n_calls == target.calls.total() - 2 * keys  # but what was stored before, and read at the end
        assert by_name[target.name, "get"].n_calls + by_name[target.name, "put"].n_calls == mixed.n_calls
        assert 0.5 < by_name[target.name, "get"].n_calls / mixed.n_calls < 0.95
        assert mixed.bytes_per_s <= mix.clients * 4096 / 0.001
    assert by_name["infiniray", "mixed"].ratio_to_redis is not None
    assert by_name["infiniray", "mixed"].client_growth_bytes is not None
    assert by_name["redis", "mixed"].client_growth_bytes is None
    assert render_mixed(rows).row_count == 6


def test_a_read_of_an_older_version_is_noticed() -> None:
    class Stale(MemcpyTarget):
        name = "stale"

        def put(self, key: str, value: Any) -> None:
            if key not in self._stored:
                super().put(key, value)

    with pytest.raises(TargetFailed, match="stale"):
        measure_mixed(
            [Stale()], Mix(size_bytes=4096, clients=1, get_percent=50, seconds=0.2), CONDITIONS,
            shard_pid=os.getpid(), slice_s=0.1,
        )  # fmt: skip


class Keeping(MemcpyTarget):
    """A put keeps the caller's array, a get gives a copy in new pages."""

    name = "keeping"

    def put(self, key: str, value: Any) -> None:
        self._stored[key] = value

    def get(self, key: str) -> Any:
        return np.array(self._stored[key])


class Leaking(Keeping):
    def get(self, key: str) -> Any:
        self._landed[key + str(len(self._landed))] = value = super().get(key)
        return value


@pytest.mark.parametrize(("kind", "is_back"), [(Keeping, True), (Leaking, False)])
def test_what_a_client_holds_is_seen_and_so_is_whether_it_is_gone_afterwards(
    kind: type[Keeping], is_back: bool, other_pid: int
) -> None:
    size = 64 << 20
    put, get = measure_memory(
        kind(), CONDITIONS, size_bytes=size, clients=1, rounds=2, shard_pid=other_pid, settle_s=0.2
    )
    assert (put.op, get.op) == ("put", "get")
    assert get.peak_client_bytes >= 0.9 * size
    assert get.peak_ratio >= 0.9
    assert get.peak_shard_bytes < 8 << 20
    assert get.is_back is is_back
    assert ("not back" in render_memory([get])) is not is_back
    if is_back:
        assert max(get.after_bytes, get.idle_bytes) < 0.2 * size
        assert put.is_back


def test_growth_is_the_difference_and_shared_pages_count_once() -> None:
    base = Resident(client_bytes=10, shard_bytes=20, shared_bytes=5)
    now = Resident(client_bytes=13, shard_bytes=27, shared_bytes=50)
    assert now.since(base) == Resident(client_bytes=3, shard_bytes=7, shared_bytes=45)
    assert now.since(base).private_bytes == 10
    assert now.since(base).all_bytes == 55


def test_shared_memory_counts_once_in_however_many_mappings(other_pid: int) -> None:
    size = 32 << 20
    base = Resident.of(other_pid)
    descriptor = os.memfd_create("test")
    try:
        os.ftruncate(descriptor, size)
        with (
            mmap.mmap(descriptor, size) as to_write,
            mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as to_read,
        ):
            to_write[:] = bytes(size)
            assert not any(to_read[:: mmap.PAGESIZE])
            grown = Resident.of(other_pid).since(base)
            assert 0 <= grown.shared_bytes - size < 4 << 20
    finally:
        os.close(descriptor)
    assert Resident.of(other_pid).since(base).shared_bytes < 4 << 20


def test_shared_memory_of_two_processes_counts_once() -> None:
    size = 32 << 20
    code = (
        "import mmap, sys; mapped = mmap.mmap(int(sys.argv[1]), 0);"
        "print(mapped[:: mmap.PAGESIZE].count(1), flush=True); input()"
    )
    descriptor = os.memfd_create("test")
    try:
        os.ftruncate(descriptor, size)
        with mmap.mmap(descriptor, size) as ours:
            ours[:] = bytes([1]) * size
            with subprocess.Popen(
                [sys.executable, "-c", code, str(descriptor)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[descriptor],
            ) as process:  # fmt: skip
                assert process.stdout is not None
                assert int(process.stdout.readline()) == size // mmap.PAGESIZE
                both = Resident.of(process.pid)
                process.kill()
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
            neither = Resident.of(process.pid)
            process.kill()
    finally:
        os.close(descriptor)
    assert 0.9 * size < both.since(neither).shared_bytes < 1.3 * size
