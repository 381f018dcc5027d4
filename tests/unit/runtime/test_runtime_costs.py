"""What a PUT and a GET cost where it can be counted: bytes on the wire, frames, bytes looked at, memory taken.

docs/performance.md has these numbers in its table of copies. They do not depend on how busy the machine is.
"""

from __future__ import annotations

import gc
import socket
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest
from grid import Grid, random_bytes

from infiniray.codec.checksum import checksum
from infiniray.codec.schemes import Scheme
from infiniray.runtime import buffers, link
from infiniray.wire.frames import _SCRATCH_BYTES, SEGMENT_BYTES, Kind
from lambda_agent import session

MakeGrid = Callable[..., Awaitable[Grid]]
#: Of one chunk beside its bytes: header and description, and the answer.
HEAD_BYTES = 512
#: What else may be allocated meanwhile: events, frames, the interpreter's own.
SMALL_BYTES = 1 << 20
SIZE = 16 << 20


class Counted:
    """Frames by kind, sent by either side, and bytes whose checksum the shard has computed."""

    def __init__(self) -> None:
        self.frames: Counter[Kind] = Counter()
        self.checked_bytes = 0

    def clear(self) -> None:
        self.frames.clear()
        self.checked_bytes = 0

    def chunk_frames(self) -> int:
        return sum(self.frames[kind] for kind in (Kind.STORE, Kind.CHUNK, Kind.DATA))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted()
    for module in (link, session):

        def pack(kind: Kind, *args: Any, packs: Any = module.pack, **kwargs: Any) -> bytes:
            counted.frames[kind] += 1
            packed: bytes = packs(kind, *args, **kwargs)
            return packed

        monkeypatch.setattr(module, "pack", pack)

    def checked(view: Any, *start: int) -> int:
        counted.checked_bytes += memoryview(view).nbytes
        return checksum(view, *start)

    monkeypatch.setattr(link, "checksum", checked)
    return counted


@pytest.fixture
def on_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large buffers come from where tracemalloc sees them."""
    monkeypatch.setattr(buffers, "_pages", lambda n_bytes: np.empty(n_bytes, np.uint8))


async def warm(pool: Grid, size: int) -> None:
    """Have every node awake and every buffer that is kept for the next one made."""
    for i in range(8):
        await pool.put(f"warm{i}", random_bytes(size))
        await pool.get(f"warm{i}")
        await pool.driver.delete(f"warm{i}")
    await pool.settled()
    gc.collect()


def segments(scheme: Any, indices: range, size: int) -> int:
    return sum(max(1, -(-scheme.stored_bytes(i, size) // SEGMENT_BYTES)) for i in indices)


@pytest.mark.parametrize(("name", "size"), [("rs:10+2", SIZE), ("rs:4+2", 1 << 20), ("mirror:3", 4096)])
async def test_every_chunk_crosses_the_wire_once_and_a_read_takes_no_more_than_the_object(
    grid: MakeGrid, counted: Counted, name: str, size: int
) -> None:
    pool = await grid(scheme=name, n_nodes=Scheme.parse(name).n, linger_s=5.0)  # all are awake
    await warm(pool, size)
    await pool.put("before", random_bytes(size))  # every node has just answered
    await pool.settled()
    data = random_bytes(size, seed=1)

    before = pool.driver.stats()
    counted.clear()
    await pool.put("k", data)
    scheme = pool.record("k").facts.scheme
    stored = sum(scheme.stored_bytes(i, size) for i in range(scheme.n))
    after = pool.driver.stats()
    assert stored <= after["bytes_out"] - before["bytes_out"] <= stored + scheme.n * HEAD_BYTES
    assert after["bytes_in"] - before["bytes_in"] <= scheme.n * HEAD_BYTES
    assert counted.chunk_frames() == segments(scheme, range(scheme.n), size)
    assert counted.frames[Kind.STORED] == scheme.n
    assert counted.frames.total() == counted.chunk_frames() + scheme.n  # nobody is pinged: who is busy has answered
    assert counted.checked_bytes == stored

    counted.clear()
    assert np.array_equal(await pool.get("k"), data)
    read, before = pool.driver.stats(), after
    taken = size if scheme.k > 1 else scheme.stored_bytes(0, size)
    assert taken <= read["bytes_in"] - before["bytes_in"] <= taken + scheme.k * HEAD_BYTES
    assert read["bytes_out"] - before["bytes_out"] <= scheme.k * HEAD_BYTES
    assert counted.frames[Kind.FETCH] == scheme.k
    assert counted.chunk_frames() == segments(scheme, range(scheme.k), size)
    assert counted.frames.total() == counted.chunk_frames() + scheme.k
    assert counted.checked_bytes == taken


class Traffic:
    """Where the bytes lay that sockets sent, and where those went that they received: (address, bytes)."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self.received: list[tuple[int, int]] = []

    def note_sent(self, buffers: Sequence[Any], n_bytes: int) -> None:
        for buffer in buffers:
            taken = min(n_bytes, len(buffer))
            self.sent.append((address(buffer), taken))
            n_bytes -= taken


def address(buffer: Any) -> int:
    return int(np.frombuffer(buffer, np.uint8).ctypes.data) if len(buffer) else 0


def within(spans: Sequence[tuple[int, int]], *places: Any) -> int:
    """How many of the bytes lie in these buffers."""
    ranges = [(address(place), address(place) + len(place)) for place in places]
    return sum(n for at, n in spans if any(start <= at and at + n <= end for start, end in ranges))


@pytest.fixture
def traffic(monkeypatch: pytest.MonkeyPatch) -> Traffic:
    traffic = Traffic()
    sends, receives = socket.socket.sendmsg, socket.socket.recv_into

    def sendmsg(self: socket.socket, buffers: Sequence[Any], *args: Any) -> int:
        n_bytes = sends(self, buffers, *args)
        traffic.note_sent(buffers, n_bytes)
        return n_bytes

    def recv_into(self: socket.socket, buffer: Any, *args: Any) -> int:
        n_bytes = receives(self, buffer, *args)
        traffic.received.append((address(buffer), n_bytes))
        return n_bytes

    monkeypatch.setattr(socket.socket, "sendmsg", sendmsg)
    monkeypatch.setattr(socket.socket, "recv_into", recv_into)
    return traffic


async def test_sockets_take_bytes_from_where_they_lie_and_put_them_where_they_belong(
    grid: MakeGrid, traffic: Traffic
) -> None:
    pool = await grid(scheme="rs:10+2", n_nodes=12, linger_s=5.0)
    await warm(pool, SIZE)
    data = random_bytes(SIZE, seed=1)
    traffic.sent.clear()
    traffic.received.clear()
    await pool.put("k", data)
    scheme = pool.record("k").facts.scheme
    bodies = [chunk.body for node in pool.nodes.values() for chunk in node.chunks()]
    assert within(traffic.sent, data) == SIZE
    # what came in one go with its frame's head went through the reader's scratch
    through_scratch = _SCRATCH_BYTES * segments(scheme, range(scheme.n), SIZE)
    assert within(traffic.received, *bodies) >= sum(map(len, bodies)) - through_scratch

    traffic.sent.clear()
    traffic.received.clear()
    found = await pool.get("k")
    assert within(traffic.sent, *bodies) == SIZE
    assert within(traffic.received, found) >= SIZE - _SCRATCH_BYTES * segments(scheme, range(scheme.k), SIZE)
    assert np.array_equal(found, data)


async def test_a_write_takes_memory_for_parity_alone_and_a_read_for_nothing_once_a_buffer_is_there(
    grid: MakeGrid, on_heap: None
) -> None:
    pool = await grid(scheme="rs:10+2", n_nodes=12, linger_s=5.0)
    await warm(pool, SIZE)
    data = random_bytes(SIZE, seed=1)
    tracemalloc.start()
    try:
        await pool.put("k", data)
        scheme = pool.record("k").facts.scheme
        _, put_peak = tracemalloc.get_traced_memory()
        gc.collect()
        tracemalloc.reset_peak()
        now, _ = tracemalloc.get_traced_memory()
        found = await pool.get("k")
        _, get_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, data)
    # two parity chunks, and the last data chunk once more: it is padded to code it
    assert put_peak <= (scheme.r + 1) * scheme.stored_bytes(0, SIZE) + SMALL_BYTES
    assert get_peak - now <= SMALL_BYTES


async def test_a_read_holds_the_object_once(grid: MakeGrid, on_heap: None) -> None:
    pool = await grid(scheme="rs:10+2", n_nodes=12, linger_s=5.0)
    await warm(pool, 64 << 10)
    data = random_bytes(SIZE, seed=1)
    await pool.put("k", data)
    gc.collect()
    tracemalloc.start()
    try:
        found = await pool.get("k")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, data)
    assert SIZE <= peak <= SIZE + SMALL_BYTES
