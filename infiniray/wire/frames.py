"""Frames between shard and node: bytes in, messages out.

A frame is a 20-byte header, ``meta`` (JSON, small) and ``body`` (payload bytes)::

    0       1       2       4        8          12          16          20
    | kind  | flags | magic | epoch  | request  | meta_len  | body_len  | meta ... | body ...

All integers are little endian. A chunk longer than ``SEGMENT_BYTES`` travels as one ``STORE`` or ``CHUNK``
frame with its first segment as body, followed by ``DATA`` frames with the same request number; whoever sends
it may stop between two segments with ``ABORT``, which is how a cancelled transfer ends without its bytes
crossing the network.

The receiving side never joins segments: :class:`FrameReader` asks its owner where a body belongs and has the
bytes put there (``recv_into``), so a chunk lands in its place in the object without an intermediate copy.
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = [
    "HEADER_BYTES",
    "MAX_META_BYTES",
    "SEGMENT_BYTES",
    "Frame",
    "FrameReader",
    "Kind",
    "ProtocolError",
    "new_scratch",
    "pack",
]

_HEADER = struct.Struct("<BBHIIII")
_MAGIC = 0x4952  # "RI", little endian on the wire
HEADER_BYTES = _HEADER.size
#: Longest body of one frame: short enough that a cancellation takes effect within about a ms at 1 GB/s.
SEGMENT_BYTES = 1 << 20
#: Longest meta of one frame: a page of an inventory fits, a runaway peer does not.
MAX_META_BYTES = 1 << 18
#: Read at once where small frames come: four chunks of 64 KiB, or thousands of frames without a body.
_SCRATCH_BYTES = 1 << 18
#: After a body longer than this, another is likely: all but its header is better received where it belongs.
_LONG_BODY_BYTES = 1 << 17
_HEADROOM_BYTES = 1 << 10


class ProtocolError(ValueError):
    """Bytes that cannot be a frame, or a frame that may not stand where it stands."""


class Kind(enum.IntEnum):
    """What a frame says. The comment names the sender, then the keys of ``meta``."""

    # opening a connection
    CHALLENGE = 1  # shard: nonce
    HELLO = 2  # node: node, instance, session, reason, key, nonce, mac, spans, n_chunks, used_bytes, limit_bytes
    WELCOME = 3  # shard: mac
    # sessions
    PING = 10  # shard
    PONG = 11  # node: session; also sent unasked when a session starts on a kept connection
    BYE = 12  # node: session; nothing more is read until the next session
    HOLD = 13  # shard: for_ms; stay in the session so long, work or no work; 0: leave when all before this is done
    # requests, each numbered by the shard
    STORE = 20  # shard: chunk, copy (true: its number counts as seen only if it is stored); body: first segment
    FETCH = 21  # shard: chunk_id
    CANCEL = 22  # shard: the FETCH of this number is no longer wanted
    DELETE = 23  # shard: seq, chunk_ids
    LIST = 24  # shard: after (a chunk_id or null), limit
    RETAIN = 25  # shard: first, last, keep (numbers, each as the distance from the one before), seen (spans)
    # answers
    STORED = 30  # node
    REFUSED = 31  # node: reason, limit_bytes, used_bytes
    CHUNK = 32  # node: chunk; body: first segment
    MISSING = 33  # node
    CANCELLED = 34  # node: ends a FETCH that was cancelled before its last segment
    DELETED = 35  # node
    INVENTORY = 36  # node: chunks, more
    RETAINED = 37  # node
    # both ways
    DATA = 40  # body: the next segment of the STORE or CHUNK of this number
    ABORT = 41  # seq, from a shard; the STORE or CHUNK of this number ends here, incomplete, or does not begin


class Frame(NamedTuple):
    """One frame, whole. ``body`` is where the owner asked for it to be put; empty if it was discarded."""

    kind: Kind
    request: int
    epoch: int
    meta: dict[str, Any]
    body: memoryview
    body_bytes: int


#: To call an enumeration takes ten times as long.
_KINDS = {int(kind): kind for kind in Kind}
#: Where a body goes: called with the frame before its body is read; a writable view of exactly
#: ``body_bytes``, or None to read and drop it.
BodySink = Callable[[Frame], "memoryview | None"]
_EMPTY = memoryview(b"")
#: As ``json.dumps`` and ``json.loads``, which look at their arguments, and make an encoder, for each call.
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


def pack(
    kind: Kind, request: int = 0, epoch: int = 0, meta: dict[str, Any] | None = None, body_bytes: int = 0
) -> bytes:
    """Everything of a frame that stands before its body.

    Raises:
        ProtocolError: meta or body longer than a frame may carry.
    """
    text = _encode(meta).encode() if meta else b""
    if len(text) > MAX_META_BYTES or not 0 <= body_bytes <= SEGMENT_BYTES:
        raise ProtocolError(f"{kind.name} of {len(text)} meta and {body_bytes} body bytes is too long for a frame")
    return _HEADER.pack(kind, 0, _MAGIC, epoch, request, len(text), body_bytes) + text


def new_scratch() -> memoryview:
    """A buffer for :class:`FrameReader`."""
    return memoryview(bytearray(_SCRATCH_BYTES))


class FrameReader:
    """I turn received bytes into frames, for one connection.

    Use as the receiving half of a socket: fill :meth:`buffer` with ``recv_into``, then call :meth:`advance`
    with the count. Headers and small frames are read through a scratch buffer, many at a time; the rest of a
    body is received straight into the view that ``sink`` named. Nothing stays in the scratch buffer after
    :meth:`advance`: connections that are read in turn may share one.

    After a :class:`ProtocolError` the stream has no meaning any more: close the connection.
    """

    def __init__(
        self, sink: BodySink, *, max_body_bytes: int = SEGMENT_BYTES, scratch: memoryview | None = None
    ) -> None:
        self._sink = sink
        self._max_body_bytes = max_body_bytes
        self._scratch = new_scratch() if scratch is None else scratch
        self._headroom = self._scratch[:_HEADROOM_BYTES]
        self._window = self._scratch  # of the scratch buffer, what the next read may fill
        self._carry = b""  # the start of a header or meta that is not whole yet
        self._frame: Frame | None = None  # the frame whose body is being received
        self._target: memoryview | None = None
        self._filled = 0

    def buffer(self) -> memoryview:
        """Where the next bytes go: never empty."""
        if self._frame is None:
            return self._window
        return self._scratch if self._target is None else self._target[self._filled :]

    def advance(self, n_bytes: int) -> list[Frame]:
        """Take note of ``n_bytes`` received into :meth:`buffer`; the frames that this completed."""
        if self._frame is not None and self._target is not None:
            self._filled += n_bytes
            return [self._finish()] if self._filled == self._frame.body_bytes else []
        received = self._scratch[:n_bytes]
        frames: list[Frame] = []
        if self._carry:
            received = memoryview(self._carry + bytes(received))
            self._carry = b""
        offset = 0
        while True:
            if self._frame is None:
                parsed = self._parse_head(received, offset)
                if parsed is None:
                    self._carry = bytes(received[offset:])
                    return frames
                offset = parsed
            taken = self._take_body(received[offset:])
            offset += taken
            assert self._frame is not None
            if self._filled < self._frame.body_bytes:
                return frames  # what was received is used up; the rest goes straight to the target
            frames.append(self._finish())

    @property
    def filled_bytes(self) -> int:
        """What is here of the body that is being received."""
        return self._filled

    def discard_body(self) -> None:
        """Drop what is still to come of the body being received: its frame will arrive without it."""
        self._target = None

    def _parse_head(self, received: memoryview, offset: int) -> int | None:
        """Read header and meta at ``offset``: the offset behind them, or None if they are not whole yet."""
        if len(received) - offset < HEADER_BYTES:
            return None
        kind, _flags, magic, epoch, request, meta_bytes, body_bytes = _HEADER.unpack_from(received, offset)
        if magic != _MAGIC:
            raise ProtocolError(f"no frame starts with {bytes(received[offset : offset + 4]).hex()}")
        if meta_bytes > MAX_META_BYTES or body_bytes > self._max_body_bytes:
            raise ProtocolError(f"a frame of {meta_bytes} meta and {body_bytes} body bytes is too long")
        meta_end: int = offset + HEADER_BYTES + meta_bytes
        if len(received) < meta_end:
            return None
        frame = Frame(
            _kind(kind), request, epoch, _meta(received[meta_end - meta_bytes : meta_end]), _EMPTY, body_bytes
        )
        target = self._sink(frame) if body_bytes else None
        if target is not None and len(target) != body_bytes:
            raise ProtocolError(f"a place of {len(target)} bytes for a body of {body_bytes}")
        self._frame, self._target, self._filled = frame, target, 0
        return meta_end

    def _take_body(self, received: memoryview) -> int:
        frame = self._frame
        assert frame is not None
        n_bytes = min(frame.body_bytes - self._filled, len(received))
        if self._target is not None:
            self._target[self._filled : self._filled + n_bytes] = received[:n_bytes]
        self._filled += n_bytes
        return n_bytes

    def _finish(self) -> Frame:
        frame, target = self._frame, self._target
        assert frame is not None
        self._frame = self._target = None
        self._filled = 0
        self._window = self._scratch if frame.body_bytes < _LONG_BODY_BYTES else self._headroom
        return frame if target is None else Frame(*frame[:4], target, frame.body_bytes)


def _kind(code: int) -> Kind:
    kind = _KINDS.get(code)
    if kind is None:
        raise ProtocolError(f"no frame is of kind {code}")
    return kind


def _meta(text: memoryview) -> dict[str, Any]:
    if not text:
        return {}
    try:
        meta = _decode(str(text, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"meta is not JSON: {error}") from None
    if not isinstance(meta, dict):
        raise ProtocolError(f"meta is a {type(meta).__name__}, not an object")
    return meta
