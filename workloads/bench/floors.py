"""What a byte costs on this machine, whoever moves it: the floors under every figure of the benchmark.

CPU time of one thread, so that it hardly matters what else the machine does.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from infiniray.codec import isal
from infiniray.codec.buffers import ByteArray
from infiniray.codec.checksum import checksum
from infiniray.codec.coder import Coder
from infiniray.codec.kernels import find_kernel
from infiniray.codec.matrices import recovery
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
    coding = _coding(source)
    shared = os.memfd_create("floors")
    try:
        os.ftruncate(shared, size_bytes)
        with mmap.mmap(shared, size_bytes) as kept:
            _touch(kept)
            acts: dict[str, Callable[[], object]] = {
                "copy, pages are there": lambda: np.copyto(target, source),
                "checksum": lambda: checksum(source),
                **coding,
                "new private pages, by faults": lambda: _use(mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE), _touch),
                "new private pages, at once": lambda: _use(mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE), _populate),
                "new shared pages, by faults": lambda: _new_shared(size_bytes),
                "shared pages that are there, mapped anew": lambda: _use(mmap.mmap(shared, size_bytes), _look),
            }
            return [_floor(what, act, size_bytes, rounds) for what, act in acts.items()]
    finally:
        os.close(shared)


def _coding(source: ByteArray) -> dict[str, Callable[[], object]]:
    """What is computed, and the kernel's part of it, into memory that has its pages."""
    coder, scheme = Coder(find_kernel("auto")), Scheme.parse("rs:10+2")
    length = scheme.chunk_bytes(len(source))
    parity = [np.zeros(length, np.uint8) for _ in range(scheme.r)]
    coder.encode_into(scheme, source, parity)
    chunks = {i: source[slice(*scheme.chunk_range(i, len(source)))] for i in range(scheme.k)}
    left = {i: chunks[i] for i in range(scheme.r, scheme.k)} | {scheme.k + i: c for i, c in enumerate(parity)}
    lost = {i: np.zeros(len(chunks[i]), np.uint8) for i in range(scheme.r)}
    acts: dict[str, Callable[[], object]] = {
        "parity of rs:10+2": lambda: coder.encode_into(scheme, source, parity),
        "two lost chunks of rs:10+2": lambda: coder.reconstruct(scheme, len(source), left, lost),
    }
    library = isal.load()
    if library is not None and len(source) % scheme.k == 0:
        rows = recovery(scheme, tuple(chunks), tuple(range(scheme.k, scheme.n)))
        tables = ctypes.create_string_buffer(32 * rows.size)
        library.ec_init_tables(scheme.k, scheme.r, rows.ctypes.data, tables)
        places = [
            (ctypes.c_void_p * len(them))(*[one.ctypes.data for one in them]) for them in ([*chunks.values()], parity)
        ]
        acts["parity of rs:10+2, the kernel alone"] = lambda: library.ec_encode_data(
            length, scheme.k, scheme.r, tables, *places
        )
    return acts


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
