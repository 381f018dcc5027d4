"""The chunks that this instance holds, in memory and nowhere else."""

from __future__ import annotations

import contextlib
import json
import mmap
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable
from itertools import accumulate, takewhile
from typing import NamedTuple

from infiniray.wire.describe import ChunkId, ChunkInfo, SeqSpans

__all__ = ["Chunk", "ChunkStore", "SpareMemory", "cost_bytes", "new_buffer", "populate"]

_PAGE_BYTES = 4096
#: From here on a chunk has a mapping of its own, so that deleting it really returns its memory to the system;
#: freed heap memory of that size often stays with the process, which the platform's memory limit would count.
_OWN_MAPPING_BYTES = 256 << 10
#: Kept of chunks that were let go, at most.
_SPARE_BYTES = 64 << 20
_MADV_POPULATE_WRITE = 23  # Linux 5.14; Python's mmap does not name it


class Chunk(NamedTuple):
    """A whole chunk: what it says of itself, and its bytes."""

    info: ChunkInfo
    body: memoryview


def cost_bytes(chunk_bytes: int) -> int:
    """What a chunk counts against the limit: whole pages, and one more for its description."""
    return -(-chunk_bytes // _PAGE_BYTES) * _PAGE_BYTES + _PAGE_BYTES


def new_buffer(n_bytes: int) -> memoryview:
    """Writable memory, which is given back once nobody holds a view of it.

    Raises:
        OSError: the system has no such memory.
    """
    if n_bytes < _OWN_MAPPING_BYTES:
        return memoryview(bytearray(n_bytes))
    return memoryview(mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def populate(buffer: memoryview, start: int, stop: int) -> None:
    """Have the system provide the pages of ``buffer[start:stop]`` at once: they are about to be written.

    A page fault for each costs more than receiving into it; this makes a store 1.3 times as fast. Huge pages would
    gain more, but waiting for the system to find some may take as long as a hundred chunks.
    """
    if isinstance(buffer.obj, mmap.mmap):
        first = start // _PAGE_BYTES * _PAGE_BYTES
        with contextlib.suppress(OSError):  # an older kernel: each page comes when it is written to
            buffer.obj.madvise(_MADV_POPULATE_WRITE, first, stop - first)


class SpareMemory:
    """I keep the buffers of chunks that were let go, for chunks of the same length: pages that are there already cost
    nothing, new ones cost more than receiving into them. Only for as long as a session lasts.

    A buffer may still be being sent when its chunk goes, so it is used again only once nothing is being sent at all.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._buffers: dict[int, list[memoryview]] = {}  # by length

    def put(self, buffer: memoryview) -> None:
        """A buffer that nobody will write to any more; small ones are not worth it, and more than some are too much."""
        if _OWN_MAPPING_BYTES <= len(buffer) <= _SPARE_BYTES - self.bytes:
            self._buffers.setdefault(len(buffer), []).append(buffer)
            self.bytes += len(buffer)

    def take(self, n_bytes: int) -> memoryview | None:
        """One of exactly this length, with whatever in it, if there is one. Only while nothing is being sent."""
        buffers = self._buffers.get(n_bytes)
        if not buffers:
            return None
        self.bytes -= n_bytes
        return buffers.pop()

    def clear(self) -> None:
        """Give all of it back to the system."""
        self._buffers.clear()
        self.bytes = 0


class ChunkStore:
    """I keep chunks within ``limit_bytes``, and know which inserts and deletes of this node I have seen.

    Room is reserved before a chunk's bytes arrive (:meth:`reserve`), so chunks under way count too and the
    limit is never exceeded. A chunk becomes visible when it is whole (:meth:`commit`), at once and instead of
    its predecessor.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0  # chunks held, and room reserved
        self.spans = SeqSpans()
        self.spares = SpareMemory()
        self._chunks: OrderedDict[ChunkId, Chunk] = OrderedDict()  # most recently used last
        self._ordered: list[ChunkId] | None = None  # the ids sorted, for LIST; None: not up to date

    @property
    def n_chunks(self) -> int:
        return len(self._chunks)

    def recency(self) -> list[ChunkId]:
        """The chunks from least to most recently used."""
        return list(self._chunks)

    def reserve(self, info: ChunkInfo) -> bool:
        """Set room aside for a chunk; False if there is none."""
        cost = cost_bytes(info.chunk_bytes)
        if self.used_bytes + cost > self.limit_bytes:
            return False
        self.used_bytes += cost
        if self.used_bytes + self.spares.bytes > self.limit_bytes:
            self.spares.clear()
        return True

    def release(self, info: ChunkInfo) -> None:
        """Give reserved room back: the chunk will not come."""
        self.used_bytes -= cost_bytes(info.chunk_bytes)

    def commit(self, info: ChunkInfo, body: memoryview) -> None:
        """Keep a whole chunk, for which room was reserved; it replaces one of the same id."""
        self._remove(info.id)
        self._chunks[info.id] = Chunk(info, body)
        self._ordered = None
        self.spans.add(info.seq)

    def get(self, chunk_id: ChunkId) -> Chunk | None:
        """The chunk, which thereby becomes the most recently used one; None if it is not here."""
        chunk = self._chunks.get(chunk_id)
        if chunk is not None:
            self._chunks.move_to_end(chunk_id)
        return chunk

    def delete(self, seq: int, chunk_ids: list[ChunkId]) -> None:
        """Forget those of the chunks that are here, as the node's change number ``seq``."""
        for chunk_id in chunk_ids:
            self._remove(chunk_id)
        self.spans.add(seq)

    def retain(self, first: int, last: int, keep: Iterable[int]) -> None:
        """Of the chunks that were stored under numbers from ``first`` to ``last``, forget all but those in ``keep``.

        One pass over all chunks. Those under way are not looked at.
        """
        kept = frozenset(keep)
        doomed = [
            chunk_id
            for chunk_id, chunk in self._chunks.items()
            if first <= chunk.info.seq <= last and chunk.info.seq not in kept
        ]
        for chunk_id in doomed:
            self._remove(chunk_id)

    def page(self, after: ChunkId | None, limit: int, max_bytes: int) -> tuple[list[ChunkInfo], bool]:
        """Descriptions in the order of the ids, strictly after ``after``, and whether more follow.

        At most ``limit`` of them, and at most ``max_bytes`` as JSON, but at least one.
        """
        if self._ordered is None:
            self._ordered = sorted(self._chunks)
        start = 0 if after is None else bisect_right(self._ordered, after)
        infos = [self._chunks[chunk_id].info for chunk_id in self._ordered[start : start + limit]]
        if not _fit(infos, max_bytes):
            sizes = accumulate(json_bytes(info) + 1 for info in infos)
            infos = infos[: max(1, sum(1 for _ in takewhile(max_bytes.__gt__, sizes)))]
        return infos, start + len(infos) < len(self._ordered)

    def _remove(self, chunk_id: ChunkId) -> None:
        chunk = self._chunks.pop(chunk_id, None)
        if chunk is not None:
            self.used_bytes -= cost_bytes(chunk.info.chunk_bytes)
            self.spares.put(chunk.body)
            self._ordered = None


def _fit(infos: list[ChunkInfo], max_bytes: int) -> bool:
    """Whether all are at most ``max_bytes`` as JSON: four times as fast as measuring each of them."""
    n_chars = sum(len(info.key) + len(info.head) for info in infos)
    return n_chars <= max_bytes and json_bytes(infos) <= max_bytes


def json_bytes(described: ChunkInfo | list[ChunkInfo]) -> int:
    """How long one description, or a list of them, is in a frame's meta."""
    return len(json.dumps(described, separators=(",", ":")))
