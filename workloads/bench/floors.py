"""What a byte costs on this machine, whoever moves it: the floors under every figure of the benchmark.

CPU time of one thread, so that it hardly matters what else the machine does.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from infiniray.codec.checksum import checksum
from infiniray.codec.coder import Coder
from infiniray.codec.kernels import find_kernel
from infiniray.codec.schemes import Scheme

__all__ = ["Floor", "measure_floors", "render_floors"]

_PAGE_BYTES = mmap.PAGESIZE
_MADV_POPULATE_WRITE = 23  # Linux 5.14; Python's mmap does not name it


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """One thing done to ``size_bytes``: the median of CPU seconds, and bytes per second of that."""

    what: str
    size_bytes: int
    cpu_s: float
    bytes_per_s: float

    def to_json_dict(self) -> dict[str, Any]:
        return {"system": "floor", **asdict(self)}


def measure_floors(size_bytes: int, rounds: int) -> list[Floor]:
    """All of them, ``rounds`` times each."""
    source = np.random.default_rng(0).integers(0, 256, size_bytes, np.uint8)
    target = np.zeros(size_bytes, np.uint8)
    coder, scheme = Coder(find_kernel("auto")), Scheme.parse("rs:10+2")
    shared = os.memfd_create("floors")
    try:
        os.ftruncate(shared, size_bytes)
        with mmap.mmap(shared, size_bytes) as kept:
            _touch(kept)
            acts: dict[str, Callable[[], object]] = {
                "copy, pages are there": lambda: np.copyto(target, source),
                "checksum": lambda: checksum(source),
                "parity of rs:10+2": lambda: coder.encode(scheme, source),
                "new private pages, by faults": lambda: _use(mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE), _touch),
                "new private pages, at once": lambda: _use(mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE), _populate),
                "new shared pages, by faults": lambda: _new_shared(size_bytes),
                "shared pages that are there, mapped anew": lambda: _use(mmap.mmap(shared, size_bytes), _look),
            }
            return [_floor(what, act, size_bytes, rounds) for what, act in acts.items()]
    finally:
        os.close(shared)


def _floor(what: str, act: Callable[[], object], size_bytes: int, rounds: int) -> Floor:
    act()
    taken_s = []
    for _ in range(rounds):
        start_s = time.thread_time()
        act()
        taken_s.append(time.thread_time() - start_s)
    cpu_s = float(np.median(taken_s))
    return Floor(what=what, size_bytes=size_bytes, cpu_s=cpu_s, bytes_per_s=size_bytes / cpu_s)


def _use(memory: mmap.mmap, act: Callable[[mmap.mmap], None]) -> None:
    with memory:
        act(memory)


def _new_shared(size_bytes: int) -> None:
    descriptor = os.memfd_create("floors")
    try:
        os.ftruncate(descriptor, size_bytes)
        _use(mmap.mmap(descriptor, size_bytes), _touch)
    finally:
        os.close(descriptor)


def _touch(memory: mmap.mmap) -> None:
    np.frombuffer(memory, np.uint8)[::_PAGE_BYTES] = 1


def _look(memory: mmap.mmap) -> None:
    np.frombuffer(memory, np.uint8)[::_PAGE_BYTES].max()


def _populate(memory: mmap.mmap) -> None:
    memory.madvise(_MADV_POPULATE_WRITE)


def render_floors(floors: list[Floor]) -> str:
    """For people."""
    return "\n".join(
        f"{floor.what:42} {floor.bytes_per_s / 1e9:6.1f} GB/s {floor.cpu_s * 1e3:8.2f} ms" for floor in floors
    )
