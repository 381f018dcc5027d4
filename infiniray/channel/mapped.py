"""The shard's memory in a client process: what is mapped, and how the shard learns that a view is over."""

from __future__ import annotations

import mmap
import os
import socket
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from infiniray.channel.frames import RELEASE

__all__ = ["Leases", "Mappings", "received_descriptors"]

ByteArray = npt.NDArray[np.uint8]

#: Kept mapped though nothing is viewed, for the next value that comes in it. The memory is the shard's.
_MAX_MAPPINGS = 64
_UNUSED_S = 60.0
#: Of madvise: map what is there at once, instead of with a fault for every few pages (Linux 5.14).
_POPULATE_READ, _POPULATE_WRITE = 22, 23


class Leases:
    """This process's connection for leases to one shard. The end of a view is said there: from wherever the garbage
    collector finds out, in any thread, in the middle of anything. So nothing here waits or takes a lock.

    When it is closed while there are views, the shard never uses their memory again.

    Args:
        owner: gives what closes this connection when it goes, which stays as long as there are views.
    """

    def __init__(self, connection: socket.socket, name: str, owner: Callable[[], object]) -> None:
        self.name = name
        self.is_over = False
        self.live: set[int] = set()
        self._owner = owner
        #: kept while there are views: without its user's handle the connection would be closed
        self._kept: object = None
        self._socket = connection
        self._unsaid: deque[int] = deque()

    def begin(self, number: int) -> None:
        self.live.add(number)
        self._kept = self._owner()

    def end(self, number: int) -> None:
        """Nothing in this process looks at what was leased under ``number`` any more."""
        self.live.discard(number)
        if not self.is_over:
            self._unsaid.append(number)
            self.say()
        if not self.live:
            self._kept = None

    def say(self) -> None:
        """Tell the shard what has ended; what the socket does not take now is said the next time."""
        with suppress(IndexError):
            while True:
                number = self._unsaid.popleft()
                try:
                    self._socket.send(RELEASE.pack(number))
                except BlockingIOError:
                    self._unsaid.append(number)
                    return
                except OSError:  # the shard is gone
                    self.close()
                    return

    def close(self) -> None:
        self.is_over = True
        self._socket.close()


class _Mapping:
    """A segment as this process has it mapped."""

    __slots__ = ("address", "map", "populated", "used_s")

    def __init__(self, descriptor: int, n_bytes: int, protection: int) -> None:
        self.map = mmap.mmap(descriptor, n_bytes, flags=mmap.MAP_SHARED, prot=protection)
        # of a mapping that is not writable ctypes gives no address
        self.address = int(np.frombuffer(self.map, np.uint8).ctypes.data)
        self.populated: set[tuple[int, int]] = set()
        self.used_s = 0.0


class _Exporter:
    """What every view of a leased value keeps alive, and with it the mapping."""

    __slots__ = ("__array_interface__", "__weakref__", "_mapping")

    def __init__(self, mapping: _Mapping, offset: int, n_bytes: int, *, is_readonly: bool) -> None:
        self._mapping = mapping
        self.__array_interface__ = {
            "data": (mapping.address + offset, is_readonly), "shape": (n_bytes,), "typestr": "|u1", "version": 3,
        }  # fmt: skip


class Mappings:
    """What this process has mapped of one shard's segments. A segment's number is never used for another."""

    def __init__(self) -> None:
        self._mapped: OrderedDict[tuple[int, int], _Mapping] = OrderedDict()

    def view(
        self, descriptor: int, segment: int, segment_bytes: int, offset: int, n_bytes: int, lease: int, leases: Leases
    ) -> ByteArray:
        """A read-only view of a leased value. When the last view is gone, the lease ends. Takes ``descriptor``."""
        mapping = self._mapping(descriptor, segment, segment_bytes, mmap.PROT_READ)
        _populate(mapping, offset, n_bytes, _POPULATE_READ)
        exporter = _Exporter(mapping, offset, n_bytes, is_readonly=True)
        leases.begin(lease)
        weakref.finalize(exporter, leases.end, lease).atexit = False
        return np.asarray(exporter)

    def place(self, descriptor: int, segment: int, segment_bytes: int, offset: int, n_bytes: int) -> ByteArray:
        """Memory that was granted, to be written. Takes the descriptor."""
        mapping = self._mapping(descriptor, segment, segment_bytes, mmap.PROT_READ | mmap.PROT_WRITE)
        _populate(mapping, offset, n_bytes, _POPULATE_WRITE)
        return np.asarray(_Exporter(mapping, offset, n_bytes, is_readonly=False))

    def forget(self, segments: list[int]) -> None:
        """Nothing new comes in these: they go with their last views."""
        for segment in segments:
            for protection in (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE):
                self._mapped.pop((segment, protection), None)

    def __len__(self) -> int:
        return len(self._mapped)

    def _mapping(self, descriptor: int, segment: int, n_bytes: int, protection: int) -> _Mapping:
        key, now_s = (segment, protection), time.monotonic()
        try:
            mapping = self._mapped.get(key)
            if mapping is None:
                mapping = self._mapped[key] = _Mapping(descriptor, n_bytes, protection)
        finally:
            os.close(descriptor)
        mapping.used_s = now_s
        with suppress(KeyError, StopIteration):  # another thread may have been faster
            self._mapped.move_to_end(key)
            while len(self._mapped) > _MAX_MAPPINGS or self._oldest().used_s < now_s - _UNUSED_S:
                self._mapped.popitem(last=False)
        return mapping

    def _oldest(self) -> _Mapping:
        return next(iter(self._mapped.values()))


def _populate(mapping: _Mapping, offset: int, n_bytes: int, advice: int) -> None:
    """Once for each slot: it is quicker than what faults take, and changes nothing else."""
    part: tuple[int, int] = (offset, n_bytes)
    if part not in mapping.populated:
        mapping.populated.add(part)
        with suppress(OSError, ValueError):
            mapping.map.madvise(advice, offset, n_bytes)


def received_descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a message."""
    found: list[int] = []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            n_whole = len(data) // 4 * 4
            found.extend(int.from_bytes(data[i : i + 4], "little") for i in range(0, n_whole, 4))
    return found
