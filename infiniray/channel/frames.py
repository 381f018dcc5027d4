"""Frames between client and shard: bytes in, messages out.

A frame is a 16-byte header, ``meta`` (a JSON list, small) and ``body`` (payload bytes)::

    0       2      3   4          8          16
    | magic | kind | 0 | meta_len | body_len | meta ... | body ...

All integers are little endian. On one connection there is one request at a time; its answers come in any order, and
say which part of the request they answer. A descriptor travels beside the first byte of its frame (SCM_RIGHTS).

It resembles :mod:`infiniray.wire.frames`, but is not the same: that one numbers requests and cuts bodies into segments,
so that many share a connection, and it is what deployed functions speak.
"""

from __future__ import annotations

import enum
import json
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from infiniray.errors import FrameError

__all__ = ["HEADER_BYTES", "PROTOCOL", "RELEASE", "Frame", "FrameReader", "Kind", "pack"]

#: Both ends must speak the same; a client that finds another one goes through Ray.
PROTOCOL = 1
_HEADER = struct.Struct("<HBxIQ")
_MAGIC = 0x4943
HEADER_BYTES = _HEADER.size
#: What a client process says on its connection for leases: the number of one that is over.
RELEASE = struct.Struct("<Q")


class Kind(enum.IntEnum):
    """What a frame says. The comment names the sender, then what is in ``meta``."""

    # opening a connection
    CHALLENGE = 1  # shard: protocol, nonce
    HELLO = 2  # client: role ("leases" or "requests"), nonce, mac, tenancy
    WELCOME = 3  # shard: mac, tenancy
    # requests
    GET = 10  # client: epoch, timeout_s, [key, ...]
    RESERVE = 11  # client: bytes; asks for memory for the next PUT
    PUT = 12  # client: epoch, timeout_s, [[key, head, request, ttl_s, is_again, bytes], ...]; body: the values, joined
    PUT_RESERVED = 13  # client: as PUT, of one value, which is in the memory that was asked for
    ASK = 14  # client: epoch, timeout_s, method, key, {details}
    GOODBYE = 15  # client: the last answers have arrived; it hangs up
    # answers
    VALUE = 20  # shard: index, head; body: the value
    SHARED = 21  # shard: index, head, lease, segment, segment_bytes, offset, bytes, [closed segment, ...]; a descriptor
    GRANTED = 22  # shard: segment, segment_bytes, offset, [closed segment, ...]; with a descriptor
    DENIED = 23  # shard: there is no memory to spare
    DONE = 24  # shard: index, what a method returned
    FAILED = 25  # shard: index; body: the error, pickled


class Frame(NamedTuple):
    """One frame, whole; ``body`` is where :data:`Place` had it put."""

    kind: int
    meta: Any
    body: Any


#: Where a body goes: called with kind, meta and the number of bytes before they are received; a writable view of
#: exactly so many bytes. Raises: FrameError: such a body may not come now.
Place = Callable[[int, Any, int], Any]
_NOTHING = memoryview(b"")
#: As ``json.dumps`` and ``json.loads``, which look at their arguments, and make an encoder, for each call.
_encode = json.JSONEncoder(separators=(",", ":")).encode
_decode = json.JSONDecoder().decode


def pack(kind: Kind, meta: Sequence[Any] = (), body_bytes: int = 0) -> bytes:
    """Everything of a frame that stands before its body."""
    text = _encode(meta).encode()
    return _HEADER.pack(_MAGIC, kind, len(text), body_bytes) + text


class FrameReader:
    """I turn received bytes into frames, for one connection.

    Fill :meth:`buffer` with ``recv_into``, then call :meth:`advance` with the count. What a body's first bytes did not
    come with goes straight to its place. After a :class:`FrameError` the stream has no meaning any more.

    Args:
        max_meta_bytes, max_body_bytes: longer ones are refused before anything is kept for them.
    """

    def __init__(self, place: Place, *, max_meta_bytes: int, max_body_bytes: int, scratch_bytes: int) -> None:
        self.max_meta_bytes = max_meta_bytes
        self.max_body_bytes = max_body_bytes
        self._place = place
        self._scratch = memoryview(bytearray(scratch_bytes))
        self._end = 0  # of what is held in the scratch: the start of a head that is not whole yet
        self._head: tuple[int, Any] = (0, None)
        self._target: Any = None
        self._filled = 0

    def buffer(self) -> memoryview:
        """Where the next bytes go: never empty."""
        return self._scratch[self._end :] if self._target is None else self._target[self._filled :]

    @property
    def is_between(self) -> bool:
        """Whether nothing of a frame has come that is not whole yet."""
        return self._target is None and not self._end

    def advance(self, n_bytes: int) -> list[Frame]:
        """Take note of ``n_bytes`` received into :meth:`buffer`; the frames that this completed.

        Raises:
            FrameError: this is not the protocol, or it is longer than may be.
        """
        if self._target is not None:
            self._filled += n_bytes
            if self._filled < len(self._target):
                return []
            target, self._target = self._target, None
            return [Frame(*self._head, target)]
        self._end += n_bytes
        frames: list[Frame] = []
        start = 0
        while self._target is None:
            used = self._take(start, frames)
            if not used:
                break
            start += used
        if start:
            rest = self._end - start
            self._scratch[:rest] = bytes(self._scratch[start : self._end])
            self._end = rest
        return frames

    def _take(self, start: int, frames: list[Frame]) -> int:
        """Read a frame, or the first part of one, at ``start``: the bytes used; 0 if its head is not whole."""
        held = self._end - start
        if held < HEADER_BYTES:
            return 0
        magic, kind, meta_bytes, body_bytes = _HEADER.unpack_from(self._scratch, start)
        if magic != _MAGIC:
            raise FrameError(detail=f"no frame starts with {bytes(self._scratch[start : start + 4]).hex()}")
        if meta_bytes > self.max_meta_bytes or body_bytes > self.max_body_bytes:
            raise FrameError(detail=f"a frame of {meta_bytes} meta and {body_bytes} body bytes is too long")
        head_bytes: int = HEADER_BYTES + meta_bytes
        if held < head_bytes:
            self._make_room(start, head_bytes)
            return 0
        meta = _meta(self._scratch[start + HEADER_BYTES : start + head_bytes])
        if not body_bytes:
            frames.append(Frame(kind, meta, _NOTHING))
            return head_bytes
        here = min(held - head_bytes, body_bytes)
        target = self._place(kind, meta, body_bytes)
        target[:here] = self._scratch[start + head_bytes : start + head_bytes + here]
        if here == body_bytes:
            frames.append(Frame(kind, meta, target))
        else:
            self._head, self._target, self._filled = (kind, meta), target, here
        return int(head_bytes + here)

    def _make_room(self, start: int, head_bytes: int) -> None:
        """Have the scratch hold a head of this length, whose first part begins at ``start``."""
        if start + head_bytes > len(self._scratch) and head_bytes > len(self._scratch):
            larger = memoryview(bytearray(start + head_bytes))
            larger[: self._end] = self._scratch[: self._end]
            self._scratch = larger


def _meta(text: memoryview) -> Any:
    try:
        meta = _decode(str(text, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise FrameError(detail=f"meta is not JSON: {error}") from None
    if not isinstance(meta, list):
        raise FrameError(detail=f"meta is a {type(meta).__name__}, not a list")
    return meta
