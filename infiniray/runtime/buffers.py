"""The bytes of operations: where chunks are sent from, and where they land.

First-touch page faults cost more than the copy on many machines, so buffers that reads land in are used again. One
comes back when the last view of it is gone, wherever that view went.
"""

from __future__ import annotations

import mmap
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from infiniray.codec.schemes import SchemeKind
from infiniray.core.commands import ObjectFacts

__all__ = ["BufferPool", "NearCopy", "OperationBuffers", "Takes"]

ByteArray = npt.NDArray[np.uint8]


class NearCopy:
    """A small value that is kept; nobody writes to it. ``place`` is what :attr:`Takes.place` was of who took it."""

    __slots__ = ("data", "place")

    def __init__(self, data: ByteArray, place: object) -> None:
        self.data = data
        self.place = place


class Takes(Protocol):
    """Where memory comes from."""

    def take(self, n_bytes: int) -> ByteArray:
        """An array of ``n_bytes`` with whatever in it, the taker's until all views of it are gone."""

    @property
    def place(self) -> object:
        """What stands here for the memory that was taken last; None if nothing has to."""

    def reuse(self, copy: NearCopy) -> ByteArray:
        """The bytes of a near copy, where they are of use; the copy may be there from now on."""


#: Smaller ones come from the heap, which reuses them by itself.
_MIN_POOLED_BYTES = 256 << 10
#: Larger ones are of pages of their own, of 2 MiB where the kernel has them: new ones cost hardly more than old ones.
_MIN_PAGES_BYTES = 4 << 20


class BufferPool:
    """I keep up to ``limit_bytes`` of buffers that nobody uses, for the next who needs one of about that size."""

    def __init__(self, limit_bytes: int = 512 << 20, now_s: Callable[[], float] = time.monotonic) -> None:
        self.free_bytes = 0
        self._limit_bytes = limit_bytes
        self._now_s = now_s
        #: {capacity: [(since when it is free, memory)]}, the longest free first
        self._free: dict[int, list[tuple[float, ByteArray]]] = {}

    #: views keep it alive by themselves
    place: object = None

    def reuse(self, copy: NearCopy) -> ByteArray:
        """A near copy is of use wherever it is."""
        return copy.data

    def take(self, n_bytes: int) -> ByteArray:
        """An array of ``n_bytes`` with whatever in it. Its memory comes back by itself when all views are gone."""
        if n_bytes < _MIN_POOLED_BYTES:
            return np.empty(n_bytes, np.uint8)
        capacity = _size_class(n_bytes)
        shelf = self._free.get(capacity)
        if shelf:
            _, base = shelf.pop()
            self.free_bytes -= capacity
        else:
            base = np.empty(capacity, np.uint8) if capacity < _MIN_PAGES_BYTES else _pages(capacity)
        lease = _Lease(base, n_bytes)
        weakref.finalize(lease, self._give_back, base).atexit = False
        return np.asarray(lease)

    def trim(self, idle_s: float) -> None:
        """Let go of what nobody has used for so long."""
        until_s = self._now_s() - idle_s
        for capacity, shelf in list(self._free.items()):  # one may come back in another thread meanwhile
            n_idle = sum(since_s <= until_s for since_s, _ in shelf)
            del shelf[:n_idle]  # the longest free stand first
            self.free_bytes -= n_idle * capacity

    def _give_back(self, base: ByteArray) -> None:
        if self.free_bytes + len(base) <= self._limit_bytes:
            self.free_bytes += len(base)
            self._free.setdefault(len(base), []).append((self._now_s(), base))


def _pages(n_bytes: int) -> ByteArray:
    """Memory of its own, which the machine has back as soon as it is let go of; the heap may keep what it is given."""
    pages = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without huge ones
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


class _Lease:
    """What numpy keeps alive as long as any view of the memory lives: its end says that nobody uses it any more.

    A memoryview would not do: numpy makes one of its own from it, and lets go of ours.
    """

    __slots__ = ("__array_interface__", "__weakref__")

    def __init__(self, base: ByteArray, n_bytes: int) -> None:
        self.__array_interface__ = {**base[:n_bytes].__array_interface__}


def _size_class(n_bytes: int) -> int:
    """Rounded up to one of four sizes per power of two: at most a quarter is wasted, and sizes meet again."""
    step = 1 << max(12, n_bytes.bit_length() - 3)
    return -(-n_bytes // step) * step


class OperationBuffers:
    """The bytes of one object while operations work on it: the object, contiguous, and chunks that are not part of it.

    A write begins with the object; a read takes memory when its first chunk is about to arrive.

    Args:
        is_for_one_chunk: chunks are on their own: there is no object that they would be part of.
        landing: where memory for the object is taken; None: where all is.
        place: what keeps the memory of ``data``, if that may stay where it is when the write is over.
    """

    def __init__(
        self,
        pool: BufferPool,
        data: Any = None,
        *,
        is_for_one_chunk: bool = False,
        landing: Takes | None = None,
        place: object = None,
    ) -> None:
        self._pool = pool
        self._landing = pool if landing is None else landing
        self._place = place
        self._is_for_one_chunk = is_for_one_chunk
        self._object: ByteArray | None = None if data is None else _as_array(data)
        #: the object is whole: chunks are sent from here, not received
        self.is_source = data is not None
        #: parity, and replicas of a mirror but the first, which is the object
        self._others: dict[int, ByteArray] = {}

    def object(self, facts: ObjectFacts) -> ByteArray:
        """The object's bytes, without padding."""
        return self._whole(facts)[: facts.size_bytes]

    def chunk(self, facts: ObjectFacts, index: int) -> ByteArray:
        """Chunk ``index``: to send from, or to receive into."""
        if facts.scheme.kind is SchemeKind.MIRROR and self.is_source:
            return self.object(facts)
        if index < facts.scheme.k and not self._is_for_one_chunk:
            start, stop = facts.scheme.chunk_range(index, facts.size_bytes)
            return self._whole(facts)[start:stop]
        if index not in self._others:
            self._others[index] = self._pool.take(facts.scheme.stored_bytes(index, facts.size_bytes))
        return self._others[index]

    def near_copy(self, facts: ObjectFacts) -> NearCopy:
        """The object, to be kept: where it is, or copied if that memory is somebody else's."""
        data = self.object(facts)
        if self._place is not None:
            return NearCopy(data, self._place)
        if not self.is_source:
            return NearCopy(data, self._landing.place)
        kept = self._pool.take(len(data))
        kept[:] = data
        return NearCopy(kept, None)

    def take_over(self, copy: NearCopy) -> None:
        """The object is what was kept of it."""
        self._object = self._landing.reuse(copy)

    def set_parity(self, facts: ObjectFacts, parity: list[Any]) -> None:
        for i, chunk in enumerate(parity):
            self._others[facts.scheme.k + i] = chunk

    def _whole(self, facts: ObjectFacts) -> ByteArray:
        if self._object is None:
            self._object = self._landing.take(facts.size_bytes)
        return self._object


def _as_array(data: Any) -> ByteArray:
    view = memoryview(data)
    return np.frombuffer(view, np.uint8) if view.nbytes else np.empty(0, np.uint8)
