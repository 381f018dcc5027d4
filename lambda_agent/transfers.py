"""Chunks on their way: stores that come in over a link, fetches that go out over it. No I/O of their own."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from infiniray.wire.describe import ChunkInfo
from infiniray.wire.frames import SEGMENT_BYTES, Frame, Kind, ProtocolError
from lambda_agent.store import Chunk, ChunkStore, cost_bytes, new_buffer, populate

__all__ = ["IncomingStores", "OutgoingChunks", "PartialStore", "Segment"]


class PartialStore:
    """A chunk of which not all bytes are here yet."""

    __slots__ = ("body", "info", "is_copy", "is_used", "moved_s", "placed_bytes", "received_bytes", "reserved")

    def __init__(self, info: ChunkInfo, body: memoryview | None, is_copy: bool, is_used: bool) -> None:
        self.info = info
        self.is_used = is_used  # its memory held another chunk before: the pages are there
        self.body = body  # None: no memory for it
        self.is_copy = is_copy  # of a chunk that another instance has, under the same number
        self.placed_bytes = 0  # of which the place has been named
        self.received_bytes = 0  # of which the frames have been handled
        self.reserved = False  # whether it counts against the limit
        self.moved_s = time.monotonic()

    @property
    def is_whole(self) -> bool:
        return self.received_bytes == self.info.chunk_bytes


class IncomingStores:
    """I hold the STOREs under way on one link, and say where their bytes belong.

    A frame's place is asked for while earlier frames of the same read still wait to be handled: a DELETE that
    makes room may be among them. So :meth:`place` only names memory (which costs nothing until it is written
    to); whether the chunk is admitted is decided when its STORE is handled.

    Request numbers are not reused on a connection. DATA of a store that is not open (refused, or dropped) has
    no place.
    """

    def __init__(self, store: ChunkStore, is_sending: Callable[[], bool] = lambda: False) -> None:
        """``is_sending``: whether any chunk, even one that was let go, may be on its way out."""
        self._store = store
        self._is_sending = is_sending
        self._open: dict[int, PartialStore] = {}
        self._receiving: PartialStore | None = None  # the one that the bytes read now belong to

    def __len__(self) -> int:
        return len(self._open)

    def place(self, frame: Frame) -> memoryview | None:
        """Where the body of this frame goes; None to drop it.

        Raises:
            ProtocolError: a STORE that is none, or more bytes than the chunk has.
        """
        self._receiving = None
        if frame.kind is Kind.STORE:
            part: PartialStore | None = self._begin(frame)
        else:
            part = self._open.get(frame.request) if frame.kind is Kind.DATA else None
        if part is None:
            return None
        start, stop = part.placed_bytes, part.placed_bytes + frame.body_bytes
        if stop > part.info.chunk_bytes:
            raise ProtocolError(f"{stop} bytes for a chunk of {part.info.chunk_bytes}")
        part.placed_bytes = stop
        part.moved_s = time.monotonic()
        self._receiving = part
        if part.body is None:
            return None
        if not part.is_used:
            populate(part.body, start, stop)
        return part.body[start:stop]

    def touch(self) -> None:
        """Bytes came in: the store they belong to is not stalled."""
        if self._receiving is not None:
            self._receiving.moved_s = time.monotonic()

    def begun(self, frame: Frame) -> PartialStore:
        """The store that this STORE frame, received whole, begins.

        Raises:
            ProtocolError: it carries no bytes although its chunk has some.
        """
        if frame.body_bytes:
            return self._open[frame.request]
        part = self._begin(frame)
        if part.info.chunk_bytes:
            raise ProtocolError("a STORE without the first segment of its chunk")
        return part

    def get(self, request: int) -> PartialStore | None:
        return self._open.get(request)

    def took(self, part: PartialStore, n_bytes: int) -> None:
        """A segment is whole."""
        part.received_bytes += n_bytes
        if self._receiving is part and part.received_bytes == part.placed_bytes:
            self._receiving = None

    def finish(self, request: int) -> PartialStore:
        """The chunk is whole: keep it."""
        part = self._open.pop(request)
        assert part.reserved
        assert part.is_whole
        assert part.body is not None
        self._store.commit(part.info, part.body)
        return part

    def drop(self, request: int) -> bool:
        """Forget a partial chunk and free its room; whether bytes are just being received for it."""
        part = self._open.pop(request)
        if part.reserved:
            self._store.release(part.info)
        part.body = None  # not a spare: bytes may be being received into it
        was_receiving = self._receiving is part
        if was_receiving:
            self._receiving = None
        return was_receiving

    def requests(self) -> list[int]:
        return list(self._open)

    def oldest_move_s(self) -> float:
        """When the store that has waited longest last got bytes. There must be one."""
        return min(part.moved_s for part in self._open.values())

    def stalled(self, before_s: float) -> list[int]:
        """Requests whose store got no bytes since ``before_s``."""
        return [request for request, part in self._open.items() if part.moved_s <= before_s]

    def _begin(self, frame: Frame) -> PartialStore:
        info = ChunkInfo.from_wire(frame.meta.get("chunk"))
        if info.seq < 1:
            raise ProtocolError(f"changes are numbered from 1, not {info.seq}")
        if frame.request in self._open:
            raise ProtocolError(f"request {frame.request} is already a STORE under way")
        spare = None if self._is_sending() else self._store.spares.take(info.chunk_bytes)
        body = self._memory(info.chunk_bytes) if spare is None else spare
        part = PartialStore(info, body, frame.meta.get("copy") is True, spare is not None)
        self._open[frame.request] = part
        return part

    def _memory(self, n_bytes: int) -> memoryview | None:
        if cost_bytes(n_bytes) > self._store.limit_bytes:
            return None
        try:
            return new_buffer(n_bytes)
        except (OSError, MemoryError):
            return None


class Segment(NamedTuple):
    """What to send next of a chunk: ``meta`` with the first segment only."""

    kind: Kind
    request: int
    meta: dict[str, object] | None
    body: memoryview


class OutgoingChunks:
    """I hold the FETCHes to be answered on one link, in order, and cut their chunks into segments."""

    def __init__(self) -> None:
        self._queue: OrderedDict[int, Chunk] = OrderedDict()
        self._sent_bytes = 0  # of the first in the queue

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, request: int, chunk: Chunk) -> None:
        """Raises: ProtocolError: the request is already queued."""
        if request in self._queue:
            raise ProtocolError(f"request {request} is already a FETCH under way")
        self._queue[request] = chunk

    def cancel(self, request: int) -> bool:
        """Send no more of this chunk; False if its last segment has gone (or it never was here)."""
        if request not in self._queue:
            return False
        if next(iter(self._queue)) == request:
            self._sent_bytes = 0
        del self._queue[request]
        return True

    def next_segment(self) -> Segment | None:
        """Take the segment to send now; None if nothing is asked for."""
        if not self._queue:
            return None
        request, chunk = next(iter(self._queue.items()))
        start = self._sent_bytes
        body = chunk.body[start : start + SEGMENT_BYTES]
        self._sent_bytes += len(body)
        if self._sent_bytes == chunk.info.chunk_bytes:
            self.cancel(request)
        if start:
            return Segment(Kind.DATA, request, None, body)
        return Segment(Kind.CHUNK, request, {"chunk": chunk.info}, body)

    def take_all(self) -> list[int]:
        """Forget all; the requests that stay unanswered."""
        requests = list(self._queue)
        self._queue.clear()
        self._sent_bytes = 0
        return requests
