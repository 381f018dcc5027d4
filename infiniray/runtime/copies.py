"""Copying chunks from one instance to another, through a buffer of the shard: fetched whole, compared, then stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from infiniray.core.commands import CancelCopy, CopyChunk
from infiniray.core.events import ChunkCopied, CopyFailed
from infiniray.core.ids import LinkId, RequestId
from infiniray.runtime.buffers import BufferPool, ByteArray
from infiniray.runtime.link import NodeLink
from infiniray.wire.describe import ChunkInfo

__all__ = ["Copies"]


@dataclass(slots=True)
class _Copy:
    """A chunk on its way. ``buffer`` is given back when nobody has a view of it any more."""

    command: CopyChunk
    buffer: ByteArray
    is_fetched: bool = False


class Copies:
    """I hold the copies under way, by their request numbers, which they have on both links.

    Each ends in one event, unless it was cancelled. Nothing here waits: a copy that gets no answer stays until its
    link closes or somebody cancels it.
    """

    def __init__(
        self,
        links: Mapping[LinkId, NodeLink],
        pool: BufferPool,
        report: Callable[[ChunkCopied | CopyFailed], None],
    ) -> None:
        self.bytes_copied = 0
        self._links = links
        self._pool = pool
        self._report = report
        self._copies: dict[RequestId, _Copy] = {}

    def __len__(self) -> int:
        return len(self._copies)

    def __contains__(self, request: RequestId) -> bool:
        return request in self._copies

    # ------------------------------------------------------------ commands

    def begin(self, command: CopyChunk) -> None:
        """Ask the source for the chunk."""
        copy = _Copy(command, self._pool.take(command.chunk_bytes))
        self._copies[command.request] = copy
        source = self._links.get(command.source)
        if source is None or command.target not in self._links:
            self._fail(command.request, "a connection is gone")
        else:
            source.fetch(command.request, command.chunk, copy.buffer, seq=command.seq)

    def cancel(self, command: CancelCopy) -> None:
        """Stop; nothing is reported."""
        copy = self._copies.pop(command.request, None)
        if copy is not None:
            self._stop(copy)

    # ------------------------------------------------------------ what links report

    def on_chunk(self, request: RequestId, info: ChunkInfo | None, is_whole: bool) -> None:
        """The source's chunk came: as it was described, or not."""
        copy = self._copies[request]
        command = copy.command
        if info is not None and (info.id, info.seq) != (command.chunk, command.seq):
            self._fail(request, f"the source has another chunk in its place, of change {info.seq}", is_missing=True)
        elif info is None or not is_whole:
            self._fail(request, "it came damaged")
        else:
            copy.is_fetched = True
            target = self._links[command.target]  # or it would have failed when that closed
            target.store_copy(request, info, copy.buffer)

    def on_missing(self, request: RequestId) -> None:
        self._fail(request, "the source does not have it", is_missing=True)

    def on_refused(self, request: RequestId, reason: str) -> None:
        whose = "target" if self._copies[request].is_fetched else "source"
        self._fail(request, f"the {whose} refused: {reason}")

    def on_stored(self, request: RequestId) -> None:
        copy = self._copies.pop(request)
        self.bytes_copied += copy.command.chunk_bytes
        self._report(ChunkCopied(request=request))

    def on_link_closed(self, link: LinkId) -> None:
        """Copies that need this link fail. One that is fetched does not need its source any more."""
        for request, copy in list(self._copies.items()):
            if link == copy.command.target or (link == copy.command.source and not copy.is_fetched):
                self._stop(copy)
                self._fail(request, "a connection closed")

    # ------------------------------------------------------------ ends

    def _stop(self, copy: _Copy) -> None:
        """Nothing more is sent or received of it."""
        command = copy.command
        link = self._links.get(command.target if copy.is_fetched else command.source)
        if link is None:
            return
        if copy.is_fetched:
            link.abort_store(command.request)
        else:
            link.cancel_fetch(command.request)

    def _fail(self, request: RequestId, detail: str, *, is_missing: bool = False) -> None:
        del self._copies[request]
        self._report(CopyFailed(request=request, is_missing=is_missing, detail=detail))
