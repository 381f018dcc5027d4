"""The shard's memory that clients map: segments without names, cut into slots that are used again.

First-touch page faults cost more than the copy, and mapping costs again in every process: so a segment is kept, with
all that have mapped it, and slots of a size lie together in it. A segment is memory of a descriptor (``memfd_create``),
which travels over a socket: nothing has a name that could be left behind, and the kernel frees it when the last process
that maps it has let go or died.

A slot is used again only after the shard's last view of it is gone, *and* the client that had it has said that its
own is. Of a client that went without saying so, nobody knows who may still look (it may have forked): such a slot's
segment is given up. Its memory lives on as long as anybody has it mapped, and is never written again.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Landing", "Segment", "SharedPool", "Slot"]

ByteArray = npt.NDArray[np.uint8]

#: Slots of up to this size share segments of about that size; larger ones have a segment each.
_LARGEST_IN_SLAB_BYTES = 4 << 20
_SLAB_BYTES = 32 << 20
#: Of segments that have been closed, the numbers that are remembered for those who may still have them mapped.
_CLOSED_KNOWN = 256
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class Segment:
    """One piece of memory, and which slots of it are free."""

    __slots__ = (
        "_map",
        "address",
        "fd",
        "free",
        "idle_since_s",
        "is_retired",
        "n_bytes",
        "n_slots",
        "number",
        "slot_bytes",
    )

    def __init__(self, number: int, slot_bytes: int, n_slots: int) -> None:
        self.number = number
        self.slot_bytes = slot_bytes
        self.n_slots = n_slots
        self.n_bytes = slot_bytes * n_slots
        self.is_retired = False
        self.idle_since_s = 0.0
        self.free = list(range(n_slots - 1, -1, -1))
        self.fd = os.memfd_create("infiniray", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, self.n_bytes)
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)  # a client that cut it would have this process killed
            self._map: mmap.mmap | None = mmap.mmap(self.fd, self.n_bytes)
        except BaseException:
            os.close(self.fd)
            raise
        self.address = int(np.frombuffer(self._map, np.uint8).ctypes.data)

    @property
    def is_idle(self) -> bool:
        return len(self.free) == self.n_slots

    def close(self) -> None:
        """Let go of it. What nobody uses any more is freed at once, also where clients still have it mapped."""
        mapped, self._map = self._map, None
        if mapped is None:
            return
        if self.is_idle and not self.is_retired:
            with suppress(OSError):
                mapped.madvise(mmap.MADV_REMOVE)
        mapped.close()
        os.close(self.fd)
        self.fd = -1


class _Exporter:
    """What numpy keeps alive as long as any view of a slot lives in this process."""

    __slots__ = ("__array_interface__", "__weakref__", "segment")

    def __init__(self, segment: Segment, offset: int, n_bytes: int) -> None:
        self.segment = segment
        self.__array_interface__ = {
            "data": (segment.address + offset, False), "shape": (n_bytes,), "typestr": "|u1", "version": 3,
        }  # fmt: skip


class Slot:
    """A part of a segment that somebody uses: from taking it until this object and all views of ``array`` are gone."""

    __slots__ = ("array", "n_bytes", "offset", "segment")

    def __init__(self, segment: Segment, offset: int, n_bytes: int, array: ByteArray) -> None:
        self.segment = segment
        self.offset = offset
        self.n_bytes = n_bytes
        self.array = array


class SharedPool:
    """I own the segments of one shard, at most ``limit_bytes`` of them.

    Args:
        now_s: the time, for :meth:`trim`.
    """

    def __init__(self, limit_bytes: int, now_s: Callable[[], float]) -> None:
        self.bytes_mapped = 0
        self.n_denied = 0
        self.n_given_up = 0
        self._limit_bytes = limit_bytes
        self._now_s = now_s
        self._segments: dict[int, Segment] = {}
        #: {slot size: segments with free slots, the one to take from last}
        self._open: dict[int, list[Segment]] = {}
        self._n_segments = 0
        self._n_closed = 0
        self._last_closed: deque[int] = deque(maxlen=_CLOSED_KNOWN)
        self._is_closed = False
        #: filled wherever a last view ends: in any thread, in the middle of anything
        self._returned: deque[tuple[Segment, int]] = deque()

    def take(self, n_bytes: int) -> Slot | None:
        """A slot for ``n_bytes``, with whatever in it; None if there is no room for it now."""
        self._collect()
        size = _size_class(n_bytes)
        segment = self._with_room(size)
        if segment is None:
            self.n_denied += 1
            return None
        index = segment.free.pop()
        if not segment.free:
            self._open[size].remove(segment)
        exporter = _Exporter(segment, index * size, n_bytes)
        weakref.finalize(exporter, self._returned.append, (segment, index)).atexit = False
        return Slot(segment, index * size, n_bytes, np.asarray(exporter))

    def give_up(self, segment: Segment) -> None:
        """Somebody may look at a part of it for ever: none of it is used again. Slots in use are finished with."""
        if not segment.is_retired:
            segment.is_retired = True
            self.n_given_up += 1
            shelf = self._open.get(segment.slot_bytes, [])
            if segment in shelf:
                shelf.remove(segment)
            if segment.is_idle:
                self._close(segment)

    def trim(self, idle_s: float) -> None:
        """Free the segments of which nothing has been used for so long."""
        self._collect()
        until_s = self._now_s() - idle_s
        for segment in [s for s in self._segments.values() if s.is_idle and s.idle_since_s <= until_s]:
            self._close(segment)

    def close(self) -> None:
        """Let go of everything: what is not in use at once, the rest when it comes back."""
        self._is_closed = True
        self._collect()
        for segment in [s for s in self._segments.values() if s.is_idle]:
            self._close(segment)

    def closed_since(self, n_known: int) -> tuple[int, list[int]]:
        """How many segments have been closed so far, and the numbers of those that are not among the first ``n_known``:
        the last of them, if they are many."""
        n_new = min(self._n_closed - n_known, len(self._last_closed))
        return self._n_closed, list(self._last_closed)[len(self._last_closed) - n_new :] if n_new else []

    def stats(self) -> dict[str, int]:
        self._collect()
        free = sum(len(s.free) * s.slot_bytes for s in self._segments.values())
        return {
            "segments": len(self._segments), "bytes_mapped": self.bytes_mapped,
            "bytes_in_use": self.bytes_mapped - free, "denied": self.n_denied, "segments_given_up": self.n_given_up,
        }  # fmt: skip

    def _with_room(self, size: int) -> Segment | None:
        shelf = self._open.setdefault(size, [])
        if shelf and not self._is_closed:
            return shelf[-1]
        n_slots = max(1, _SLAB_BYTES // size) if size <= _LARGEST_IN_SLAB_BYTES else 1
        while n_slots > 1 and size * n_slots > self._limit_bytes // 4:
            n_slots //= 2  # a small budget is not spent on the first size that comes
        if self._is_closed or not self._make_room(size * n_slots):
            return None
        try:
            segment = Segment(self._n_segments, size, n_slots)
        except OSError:  # no memory, or no descriptor
            return None
        self._n_segments += 1
        self._segments[segment.number] = segment
        self.bytes_mapped += segment.n_bytes
        shelf.append(segment)
        return segment

    def _make_room(self, n_bytes: int) -> bool:
        """Within the limit, at the expense of what has been idle for longest."""
        idle = sorted((s for s in self._segments.values() if s.is_idle), key=lambda s: -s.idle_since_s)
        if self.bytes_mapped + n_bytes - sum(s.n_bytes for s in idle) > self._limit_bytes:
            return False
        while self.bytes_mapped + n_bytes > self._limit_bytes:
            self._close(idle.pop())
        return True

    def _collect(self) -> None:
        """Take note of what has come back."""
        while self._returned:
            segment, index = self._returned.popleft()
            segment.free.append(index)
            if segment.is_idle:
                segment.idle_since_s = self._now_s()
                if segment.is_retired or self._is_closed:
                    self._close(segment)
                    continue
            shelf = self._open.setdefault(segment.slot_bytes, [])
            if not segment.is_retired and segment not in shelf:
                shelf.append(segment)

    def _close(self, segment: Segment) -> None:
        if self._segments.pop(segment.number, None) is None:
            return
        shelf = self._open.get(segment.slot_bytes, [])
        if segment in shelf:
            shelf.remove(segment)
        self.bytes_mapped -= segment.n_bytes
        segment.close()
        self._n_closed += 1
        self._last_closed.append(segment.number)


def _size_class(n_bytes: int) -> int:
    """Rounded up to one of four sizes per power of two: at most a quarter is wasted, and sizes meet again."""
    step = max(mmap.PAGESIZE, 1 << max(0, n_bytes.bit_length() - 3))
    return max(step, -(-n_bytes // step) * step)


class Landing:
    """Where one read's object is received: in a slot that its client can map, or else on the heap.

    Args:
        pool: None where the client cannot map anything.
        min_bytes: smaller ones are not worth a mapping.
        heap: where others are taken from.
        on_taken: is told how many bytes there will be.
    """

    __slots__ = ("_heap", "_min_bytes", "_on_taken", "_pool", "slot")

    def __init__(
        self, pool: SharedPool | None, min_bytes: int, heap: Any, on_taken: Callable[[int], None] | None = None
    ) -> None:
        self._pool = pool
        self._min_bytes = min_bytes
        self._heap = heap
        self._on_taken = on_taken
        self.slot: Slot | None = None

    def take(self, n_bytes: int) -> ByteArray:
        """An array of ``n_bytes`` with whatever in it."""
        if self._on_taken is not None:
            self._on_taken(n_bytes)
        if self._pool is not None and n_bytes >= self._min_bytes:
            self.slot = self._pool.take(n_bytes)
        taken: ByteArray = self._heap.take(n_bytes) if self.slot is None else self.slot.array
        return taken

    @property
    def place(self) -> Slot | None:
        """The slot, if there is one."""
        return self.slot

    def reuse(self, copy: Any) -> ByteArray:
        """The bytes ``copy.data``, which nobody writes to; ``copy.place`` is what :attr:`place` was of where they are.

        If the client can map memory they are in a slot, from now on if they were not before: many clients may look at
        one, and none gets a copy of its own.
        """
        data: ByteArray = copy.data
        if self._pool is None or len(data) < self._min_bytes:
            return data
        slot = copy.place
        if not isinstance(slot, Slot) or slot.segment.is_retired:
            slot = self._pool.take(len(data))
            if slot is None:
                return data
            slot.array[:] = data
            copy.data, copy.place = slot.array, slot
        self.slot = slot
        return slot.array[: len(data)]
