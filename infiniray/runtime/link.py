"""One authenticated connection to an instance: chunks out and in without a copy on the way.

The hot path, so it works on the socket itself: ``recv_into`` the place where a chunk belongs, ``sendmsg`` of header
and slice together. asyncio's transports would copy what they cannot send at once.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from infiniray.codec.checksum import checksum
from infiniray.core.ids import LinkId, NodeId, RequestId
from infiniray.runtime.buffers import ByteArray
from infiniray.runtime.pacing import Pacer
from infiniray.runtime.streams import Stream
from infiniray.wire.describe import ChunkId, ChunkInfo
from infiniray.wire.frames import SEGMENT_BYTES, Frame, FrameReader, Kind, ProtocolError, new_scratch, pack
from infiniray.wire.tls import TlsStream

__all__ = ["LinkOwner", "NodeLink", "Turn"]

#: Bytes moved in one turn of the event loop before other connections get theirs.
_TURN_BYTES = 4 << 20
#: Sent with one call: this much, and the rest of a segment; of short pieces so many (the system takes 1024).
_BATCH_BYTES = 256 << 10
_MAX_PIECES = 128
#: Frames that a node may send once it is connected.
_FROM_NODES = {
    Kind.PONG, Kind.BYE, Kind.STORED, Kind.REFUSED, Kind.CHUNK, Kind.DATA, Kind.ABORT, Kind.MISSING, Kind.CANCELLED,
    Kind.DELETED, Kind.INVENTORY, Kind.RETAINED,
}  # fmt: skip
#: How requests are answered that are about no chunk's bytes.
_ANSWERS = {Kind.DELETE: Kind.DELETED, Kind.LIST: Kind.INVENTORY, Kind.RETAIN: Kind.RETAINED}


class LinkOwner(Protocol):
    """Who is told what comes in."""

    def on_frame(self, link: NodeLink, frame: Frame) -> None: ...

    def on_chunk(self, link: NodeLink, request: RequestId, info: ChunkInfo | None, is_whole: bool) -> None: ...

    def on_stored(self, link: NodeLink, request: RequestId, crc: int) -> None: ...

    def on_refused(self, link: NodeLink, request: RequestId, reason: str) -> None: ...

    def on_link_closed(self, link: NodeLink, reason: str) -> None: ...


class Turn:
    """The turn of the event loop that is on, for the connections of one shard: what is sent over a connection goes out
    at once, and what follows in the same turn goes out together, at its end."""

    def __init__(self) -> None:
        self.scratch = new_scratch()  # for all that is read in turn
        self._links: list[NodeLink] = []

    def note(self, link: NodeLink) -> None:
        """It has sent something in this turn: it is told when that is over."""
        if not self._links:
            asyncio.get_running_loop().call_soon(self._end)
        self._links.append(link)

    def _end(self) -> None:
        links, self._links = self._links, []
        for link in links:
            link.turn_ended()


@dataclass(slots=True)
class _Outgoing:
    """A chunk being sent."""

    request: RequestId
    info: ChunkInfo
    view: memoryview
    is_copy: bool = False
    sent_bytes: int = 0
    has_begun: bool = False


@dataclass(slots=True)
class _Incoming:
    """A chunk that was asked for. Bytes are promised a place when their frame begins, and counted when it is whole.

    ``crc`` and ``seq`` are what it must have, None if only what it says of itself counts.
    """

    chunk: ChunkId
    target: ByteArray
    crc: int | None
    seq: int | None
    promised_bytes: int = 0
    received_bytes: int = 0
    received_crc: int = 0
    info: ChunkInfo | None = None  # what it said of itself
    is_damaged: bool = False


class NodeLink:
    """I carry frames between a shard and one instance. I own the socket: when I close, it is gone, once."""

    def __init__(
        self,
        link: LinkId,
        node: NodeId,
        connection: Stream,
        epoch: int,
        owner: LinkOwner,
        pacer: Pacer | None = None,
        turn: Turn | None = None,
    ) -> None:
        self.id = link
        self.node = node
        self.n_discarded = 0  # frames that nobody waited for any more
        self.bytes_in = 0
        self.bytes_out = 0
        self._socket = connection
        self._tls = connection if isinstance(connection, TlsStream) else None
        self._epoch = epoch
        self._owner = owner
        self._pacer = pacer
        self._loop = asyncio.get_running_loop()
        self._turn = turn or Turn()
        self._has_sent = False  # in this turn: what comes now waits for its end
        self._reader = FrameReader(self._place, scratch=self._turn.scratch)
        self._last_placed: int | None = None
        self._incoming: dict[int, _Incoming] = {}
        self._control: deque[bytes] = deque()
        self._stores: deque[_Outgoing] = deque()
        self._leave: bytes | None = None  # a HOLD that ends the session, behind the chunks that wait
        self._asked: dict[RequestId, Kind] = {}  # the answers to requests that are about no chunk's bytes
        self._unanswered: dict[RequestId, int] = {}  # CRC of chunks that are sent, or being sent
        self._pending: list[memoryview] = []  # of what is being sent, what the kernel has not taken
        self._is_writing = False
        self._is_closed = False
        self._loop.add_reader(connection, self._readable)
        self._read_on()

    def __repr__(self) -> str:
        return f"<NodeLink {self.id} {self.node} stores={len(self._stores)} fetches={len(self._incoming)}>"

    # ------------------------------------------------------------ what the driver asks

    def send(self, kind: Kind, request: int = 0, meta: dict[str, object] | None = None) -> None:
        """A frame without a body; goes ahead of chunks that wait."""
        self._control.append(pack(kind, request, self._epoch, meta))
        self._send_soon()

    def store(self, request: RequestId, info: ChunkInfo, chunk: ByteArray) -> None:
        """Send a chunk, after those before it. ``info.crc`` is computed here, when its turn comes."""
        self._stores.append(_Outgoing(request, info, chunk.data))
        self._unanswered[request] = 0
        self._send_soon()

    def store_copy(self, request: RequestId, info: ChunkInfo, chunk: ByteArray) -> None:
        """Send a chunk that another instance has, described as it is there."""
        self._stores.append(_Outgoing(request, info, chunk.data, is_copy=True))
        self._unanswered[request] = info.crc
        self._send_soon()

    def abort_store(self, request: RequestId) -> None:
        """Stop sending a chunk; nothing is heard of it any more."""
        self._unanswered.pop(request, None)
        self._stop_sending(request)

    def ask(self, kind: Kind, request: RequestId, meta: dict[str, object]) -> None:
        """A DELETE, LIST or RETAIN."""
        self._asked[request] = _ANSWERS[kind]
        self.send(kind, request, meta)

    def hold(self, for_s: float) -> None:
        """Have the instance stay for so long; 0: leave, once it has the chunks that wait here to be sent."""
        self._leave = None
        if for_s or not self._stores:
            self.send(Kind.HOLD, meta=_hold_meta(for_s))
        else:
            self._leave = pack(Kind.HOLD, epoch=self._epoch, meta=_hold_meta(for_s))

    def fetch(
        self,
        request: RequestId,
        chunk: ChunkId,
        target: ByteArray,
        *,
        crc: int | None = None,
        seq: int | None = None,
    ) -> None:
        """Ask for a chunk, to be received into ``target``.

        It must have the checksum and the number; where they are None, whatever it says of itself will do.
        """
        self._incoming[request] = _Incoming(chunk, target, crc, seq)
        self.send(Kind.FETCH, request, {"chunk_id": list(chunk)})

    def share_of(self, request: RequestId) -> float:
        """How much has come of a chunk that was asked for, from 0 to 1; 0 if it is not waited for any more."""
        incoming = self._incoming.get(request)
        if incoming is None:
            return 0.0
        n_bytes = incoming.received_bytes + (self._reader.filled_bytes if self._last_placed == request else 0)
        return n_bytes / max(1, len(incoming.target))

    def cancel_fetch(self, request: RequestId) -> None:
        """From now on nothing of this chunk is written to its target."""
        if self._incoming.pop(request, None) is None:
            return
        if self._last_placed == request:
            self._reader.discard_body()
        self.send(Kind.CANCEL, request)

    def close(self, reason: str) -> None:
        """Close the socket and say so; doing it again does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._loop.remove_reader(self._socket)
        if self._is_writing:
            self._loop.remove_writer(self._socket)
        self._socket.close()
        self._incoming.clear()
        self._stores.clear()
        self._pending.clear()
        self._asked.clear()
        self._unanswered.clear()
        self._reader.discard_body()
        self._owner.on_link_closed(self, reason)

    # ------------------------------------------------------------ in

    def _readable(self) -> None:
        taken = 0
        try:
            while taken < _TURN_BYTES and not self._is_closed:
                buffer = self._reader.buffer()
                n_bytes = self._socket.recv_into(buffer)
                if n_bytes == 0:
                    self.close("the node closed the connection")
                    return
                taken += n_bytes
                self.bytes_in += n_bytes
                for frame in self._reader.advance(n_bytes):
                    self._handle(frame)
                    if self._is_closed:
                        return
                if n_bytes < len(buffer):
                    break  # that was all there is
            self._read_on()
        except BlockingIOError:
            return
        except ProtocolError as error:
            self.close(f"protocol error: {error}")
        except OSError as error:
            self.close(f"{type(error).__name__}: {error}")

    def _read_on(self) -> None:
        """In the next turn, if bytes wait of which the event loop does not tell."""
        if self._tls is not None and not self._is_closed and self._tls.has_buffered:
            self._loop.call_soon(self._readable)

    def _place(self, frame: Frame) -> memoryview | None:
        """Where the body of a frame that begins goes."""
        incoming = self._incoming.get(frame.request)
        if incoming is None or frame.kind not in (Kind.CHUNK, Kind.DATA):
            return None
        self._check_description(incoming, frame)
        start = incoming.promised_bytes
        incoming.promised_bytes += frame.body_bytes
        if incoming.promised_bytes > len(incoming.target):
            incoming.is_damaged = True
        if incoming.is_damaged:
            return None
        self._last_placed = frame.request
        return incoming.target.data[start : incoming.promised_bytes]

    def _handle(self, frame: Frame) -> None:
        if frame.kind not in _FROM_NODES:
            raise ProtocolError(f"a node must not send {frame.kind.name}")
        match frame.kind:
            case Kind.CHUNK | Kind.DATA:
                self._take(frame)
            case Kind.MISSING | Kind.ABORT | Kind.CANCELLED | Kind.REFUSED:
                self._end(frame)
            case Kind.DELETED | Kind.INVENTORY | Kind.RETAINED:
                self._answered(frame)
            case Kind.STORED:
                crc = self._unanswered.pop(RequestId(frame.request), None)
                if crc is not None:
                    self._owner.on_stored(self, RequestId(frame.request), crc)
            case _:
                self._owner.on_frame(self, frame)

    def _end(self, frame: Frame) -> None:
        """A request ended without a chunk. Only this link's own: a node has no say in what others were asked."""
        request = RequestId(frame.request)
        was_fetch = self._incoming.pop(request, None) is not None
        was_store = self._unanswered.pop(request, None) is not None
        was_asked = self._asked.pop(request, None) is not None
        if was_store:
            self._stop_sending(request)
        if not (was_fetch or was_store or was_asked):
            self.n_discarded += frame.kind is not Kind.CANCELLED  # the end of one that was cancelled is expected
        elif frame.kind is Kind.REFUSED:
            self._owner.on_refused(self, request, str(frame.meta.get("reason", "")))
        elif frame.kind is Kind.ABORT:
            self._owner.on_refused(self, request, "the node's time ran out")
        elif was_fetch:
            self._owner.on_frame(self, frame)
        else:
            raise ProtocolError(f"{frame.kind.name} is no answer to what was asked")

    def _answered(self, frame: Frame) -> None:
        expected = self._asked.pop(RequestId(frame.request), None)
        if expected is None:
            self.n_discarded += 1
        elif frame.kind is not expected:
            raise ProtocolError(f"{frame.kind.name} where {expected.name} was to come")
        else:
            self._owner.on_frame(self, frame)

    def _take(self, frame: Frame) -> None:
        incoming = self._incoming.get(frame.request)
        if incoming is None:
            self.n_discarded += 1
            return
        if frame.body_bytes == 0:
            self._check_description(incoming, frame)
        incoming.received_bytes += frame.body_bytes
        incoming.received_crc = checksum(frame.body, incoming.received_crc)  # while it is in the processor's cache
        if incoming.received_bytes < len(incoming.target) and not incoming.is_damaged:
            return
        del self._incoming[frame.request]
        info = incoming.info
        is_whole = not incoming.is_damaged and info is not None and incoming.received_crc == incoming.crc
        if not is_whole:
            self.send(Kind.CANCEL, frame.request)
        self._owner.on_chunk(self, RequestId(frame.request), info, is_whole)

    @staticmethod
    def _check_description(incoming: _Incoming, frame: Frame) -> None:
        """A chunk says which it is before its bytes come."""
        if (frame.kind is Kind.CHUNK) == (incoming.info is not None):
            incoming.is_damaged = True  # a second description, or bytes without one
        elif frame.kind is Kind.CHUNK:
            try:
                incoming.info = info = ChunkInfo.from_wire(frame.meta.get("chunk"))
            except ProtocolError:
                incoming.is_damaged = True
                return
            if incoming.crc is None:
                incoming.crc = info.crc
            is_asked_for = (info.id, info.chunk_bytes) == (incoming.chunk, len(incoming.target))
            incoming.is_damaged = not is_asked_for or incoming.seq not in (None, info.seq)

    # ------------------------------------------------------------ out

    def _send_soon(self) -> None:
        if not self._has_sent and not self._is_writing and not self._is_closed:
            self._has_sent = True
            self._turn.note(self)
            self._pump()

    def turn_ended(self) -> None:
        """Send what was held back for others to join it."""
        self._has_sent = False
        if not self._is_writing:
            self._pump()

    def _pump(self) -> None:
        """Hand the kernel what it takes."""
        if self._is_closed:
            return
        taken = 0
        try:
            while taken < _TURN_BYTES:
                if not self._pending and not self._load():
                    self._want_writable(False)
                    return
                n_bytes = self._socket.sendmsg(self._pending)
                taken += n_bytes
                self.bytes_out += n_bytes
                if self._pacer is not None:
                    self._pacer.spend(n_bytes, self._loop.time())
                self._drop_sent(n_bytes)
            self._want_writable(True)
        except BlockingIOError:
            self._want_writable(True)
        except OSError as error:
            # not from here: who called may be in the middle of something
            self._loop.call_soon(self.close, f"{type(error).__name__}: {error}")

    def _load(self) -> bool:
        """The next things to send: all control frames, then a segment of a long chunk, or many short chunks."""
        pending = self._pending
        if self._control:
            pending.append(memoryview(b"".join(self._control)))
            self._control.clear()
        n_bytes = 0
        while self._stores and n_bytes < _BATCH_BYTES and len(pending) < _MAX_PIECES:
            outgoing = self._stores[0]
            head, segment = self._next_segment(outgoing)
            pending.append(memoryview(head))
            if segment:
                pending.append(segment)
                n_bytes += len(segment)
            if outgoing.sent_bytes >= len(outgoing.view):
                self._stores.popleft()
        if self._leave is not None and not self._stores:
            pending.append(memoryview(self._leave))
            self._leave = None
        return bool(pending)

    def _next_segment(self, outgoing: _Outgoing) -> tuple[bytes, memoryview]:
        segment = outgoing.view[outgoing.sent_bytes : outgoing.sent_bytes + SEGMENT_BYTES]
        outgoing.sent_bytes += len(segment)
        if outgoing.has_begun:
            return pack(Kind.DATA, outgoing.request, self._epoch, body_bytes=len(segment)), segment
        outgoing.has_begun = True
        info = outgoing.info
        if not outgoing.is_copy:
            info = info._replace(crc=checksum(outgoing.view))
            self._unanswered[outgoing.request] = info.crc
        meta: dict[str, object] = {"chunk": list(info), "copy": True} if outgoing.is_copy else {"chunk": list(info)}
        return pack(Kind.STORE, outgoing.request, self._epoch, meta, len(segment)), segment

    def _drop_sent(self, n_bytes: int) -> None:
        pending, n_sent = self._pending, 0
        for piece in pending:
            if n_bytes < len(piece):
                break
            n_bytes -= len(piece)
            n_sent += 1
        del pending[:n_sent]
        if n_bytes:
            pending[0] = pending[0][n_bytes:]

    def _stop_sending(self, request: int) -> None:
        """Nobody wants this chunk any more: the rest of it need not cross the network."""
        for outgoing in self._stores:
            if outgoing.request == request:
                self._stores.remove(outgoing)
                # also if it has not begun: its number would be a gap in what the instance knows of
                if outgoing.has_begun or not outgoing.is_copy:
                    self.send(Kind.ABORT, request, {"seq": outgoing.info.seq})
                self._pump()  # a HOLD may have waited for it
                return

    def _want_writable(self, is_wanted: bool) -> None:
        if is_wanted == self._is_writing:
            return
        self._is_writing = is_wanted
        if is_wanted:
            self._loop.add_writer(self._socket, self._pump)
        else:
            self._loop.remove_writer(self._socket)


def _hold_meta(for_s: float) -> dict[str, object]:
    return {"for_ms": math.ceil(for_s * 1000)}  # 0 means something else than a little
