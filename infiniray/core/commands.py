"""What a shard's decisions ask the world to do.

The driver that executes them holds the payload: for each operation the object's bytes (a write's source, a read's
destination) and its parity chunks, until :class:`Release`.
"""

from __future__ import annotations

from dataclasses import dataclass

from infiniray.codec.schemes import Scheme
from infiniray.core.ids import LinkId, NodeId, OpId, RequestId, SessionId, Timer
from infiniray.errors import InfiniRayError
from infiniray.wire.describe import ChunkId

__all__ = [
    "AbortStore",
    "CancelFetch",
    "CancelTimer",
    "CloseLink",
    "Command",
    "Complete",
    "Decode",
    "DeleteChunks",
    "Encode",
    "Fail",
    "FetchChunk",
    "Invoke",
    "ObjectFacts",
    "Ping",
    "Release",
    "SetTimer",
    "ShareBuffers",
    "StoreChunk",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFacts:
    """One version of an object, as every chunk of it describes it. ``expires_s`` is Unix time, 0 for never."""

    key: str
    version: int
    scheme: Scheme
    size_bytes: int
    head: str
    expires_s: float


# ---------------------------------------------------------------- to the platform


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoke:
    """Start a session. Ends in InvokeReturned; in between come LinkOpened or PongReceived, and ByeReceived."""

    node: NodeId
    session: SessionId
    reason: str


# ---------------------------------------------------------------- to nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    link: LinkId


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreChunk:
    """Send chunk ``index`` of the operation's object. Ends in ChunkStored or RequestRefused, or with the link."""

    link: LinkId
    request: RequestId
    op: OpId
    index: int
    seq: int
    facts: ObjectFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortStore:
    """Stop sending; the node drops what it has of the chunk. No event follows."""

    link: LinkId
    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchChunk:
    """Ask for chunk ``index`` and receive it in its place in the operation's buffer.

    Ends in ChunkArrived, ChunkMissing, ChunkDamaged, RequestRefused, or with the link.
    """

    link: LinkId
    request: RequestId
    op: OpId
    index: int
    crc: int
    facts: ObjectFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelFetch:
    """From now on nothing of this request may be written to the operation's buffer. FetchCancelled may follow."""

    link: LinkId
    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteChunks:
    """Ends in ChunksDeleted or RequestRefused, or with the link."""

    link: LinkId
    request: RequestId
    seq: int
    chunk_ids: tuple[ChunkId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseLink:
    """Ends in LinkClosed."""

    link: LinkId


# ---------------------------------------------------------------- to the codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Encode:
    """Compute the parity chunks of the operation's object. Ends in Encoded or CodecFailed."""

    op: OpId
    facts: ObjectFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """Fill the missing data chunks ``want`` from the chunks ``have``, and compare them with the checksums ``crcs``.

    Ends in Decoded, or in CodecFailed if a checksum differs, too.
    """

    op: OpId
    facts: ObjectFacts
    have: tuple[int, ...]
    want: tuple[int, ...]
    crcs: tuple[int, ...]


# ---------------------------------------------------------------- to clients, buffers and the clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """The operation succeeded. A read: the object is in the operation's buffer, as ``facts`` say; a write:
    ``facts`` are what was stored; a delete or touch: ``found`` says whether there was something under the key."""

    op: OpId
    facts: ObjectFacts | None = None
    found: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    op: OpId
    error: InfiniRayError


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareBuffers:
    """The operation ``op`` works on the buffers of ``source``, and holds them until its own Release."""

    op: OpId
    source: OpId


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Nothing refers to the operation's buffers any more. The last command of every operation but deletes and
    touches."""

    op: OpId


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTimer:
    """Ends in TimerFired at ``at_s``, unless set again or cancelled before."""

    timer: Timer
    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTimer:
    timer: Timer


Command = (
    Invoke | Ping | StoreChunk | AbortStore | FetchChunk | CancelFetch | DeleteChunks | CloseLink
    | Encode | Decode | Complete | Fail | ShareBuffers | Release | SetTimer | CancelTimer
)  # fmt: skip
