"""Buffers that are used again, and not a moment too soon."""

from __future__ import annotations

import gc

import numpy as np
import psutil
import pytest

from infiniray.runtime.buffers import BufferPool

SIZE = 1 << 20


def test_memory_comes_back_when_the_last_view_is_gone() -> None:
    pool = BufferPool()
    whole = pool.take(SIZE)
    address = whole.ctypes.data
    part = whole[100:200].reshape(10, 10)
    view = memoryview(whole)[5:]
    del whole
    gc.collect()
    assert pool.free_bytes == 0
    del part
    gc.collect()
    assert pool.free_bytes == 0
    view.release()
    del view
    gc.collect()
    assert pool.free_bytes >= SIZE
    assert pool.take(SIZE).ctypes.data == address


def test_what_is_in_use_is_not_given_away() -> None:
    pool = BufferPool()
    first, second = pool.take(SIZE), pool.take(SIZE)
    first[:], second[:] = 1, 2
    assert (first == 1).all()
    assert not np.shares_memory(first, second)


@pytest.mark.parametrize("n_bytes", [0, 1, 1000, (256 << 10) - 1])
def test_small_ones_are_left_to_the_heap(n_bytes: int) -> None:
    pool = BufferPool()
    buffer = pool.take(n_bytes)
    assert (buffer.nbytes, buffer.dtype, buffer.flags.writeable) == (n_bytes, np.uint8, True)
    del buffer
    gc.collect()
    assert pool.free_bytes == 0


@pytest.mark.parametrize("n_bytes", [256 << 10, SIZE, SIZE + 1, 10_485_763, (1 << 24) - 1])
def test_buffers_have_the_size_that_was_asked_for(n_bytes: int) -> None:
    pool = BufferPool()
    buffer = pool.take(n_bytes)
    assert (buffer.nbytes, buffer.dtype, buffer.flags.writeable) == (n_bytes, np.uint8, True)
    del buffer
    gc.collect()
    assert n_bytes <= pool.free_bytes <= n_bytes * 1.25 + 4096


def test_similar_sizes_share() -> None:
    pool = BufferPool()
    address = pool.take(10_000_000).ctypes.data
    gc.collect()
    assert pool.take(10_100_000).ctypes.data == address


def test_no_more_is_kept_than_the_limit() -> None:
    pool = BufferPool(limit_bytes=3 * SIZE)
    held = [pool.take(SIZE) for _ in range(5)]
    held.clear()
    gc.collect()
    assert pool.free_bytes == 3 * SIZE


def test_a_pool_may_go_before_its_buffers() -> None:
    pool = BufferPool()
    buffer = pool.take(SIZE)
    buffer[:] = 3
    del pool
    gc.collect()
    assert (buffer == 3).all()


def test_what_has_been_idle_goes_back_to_the_machine() -> None:
    clock = Clock()
    pool = BufferPool(now_s=clock)
    used, idle = pool.take(64 * SIZE), pool.take(32 * SIZE)
    used[:], idle[:] = 1, 2
    above = np.ones(1000)  # on the heap, behind them
    before = private_bytes()
    del idle
    gc.collect()
    clock.now_s = 0.9
    del used
    gc.collect()
    pool.trim(1.0)
    assert pool.free_bytes >= 96 * SIZE
    clock.now_s = 1.5
    pool.trim(1.0)
    assert 64 * SIZE <= pool.free_bytes < 96 * SIZE
    assert private_bytes() < before - 28 * SIZE
    clock.now_s = 2.0
    pool.trim(1.0)
    assert pool.free_bytes == 0
    assert private_bytes() < before - 88 * SIZE
    assert above.all()


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def private_bytes() -> int:
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)
