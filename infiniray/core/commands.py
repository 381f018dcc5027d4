"""What a shard's decisions ask the world to do.

The driver that executes them holds the payload: for each operation the object's bytes (a write's source, a read's
destination) and its parity chunks, until :class:`Release`.
"""

from __future__ import annotations

from dataclasses import dataclass

from infiniray.codec.schemes import Scheme
from infiniray.core.ids import InstanceId, LinkId, NodeId, OpId, RequestId, SessionId, Timer
from infiniray.core.quick import quicken
from infiniray.errors import InfiniRayError
from infiniray.wire.describe import ChunkId, SeqSpans

__all__ = [
    "AbortStore",
    "AcquireSlot",
    "CancelCopy",
    "CancelFetch",
    "CancelTimer",
    "CloseLink",
    "Command",
    "Complete",
    "ConfirmLead",
    "CopyChunk",
    "Decode",
    "DeleteChunks",
    "DropNear",
    "Encode",
    "Fail",
    "FetchChunk",
    "Gauge",
    "Hold",
    "Invoke",
    "KeepNear",
    "ListChunks",
    "ObjectFacts",
    "OpenBuffers",
    "Ping",
    "ReadNear",
    "RegisterCopy",
    "Release",
    "ReleaseSlot",
    "Retain",
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
    """Start a session. Ends in InvokeReturned; in between come LinkOpened or PongReceived, and ByeReceived.

    ``reason``: "serve"; "warm": the instance returns at once, and InvokeReturned says what it has; "backup": it stays
    until a Hold says how long.
    """

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
class Gauge:
    """Say how far these FetchChunks of an operation have come. Ends in Gauged."""

    op: OpId
    requests: tuple[tuple[LinkId, RequestId], ...]


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
class Hold:
    """The instance stays in its session for so long, work or no work; 0: it leaves when it is through with what came
    before. No event follows."""

    link: LinkId
    for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retain:
    """Of the chunks that were stored under numbers from ``first`` to ``last``, the instance keeps those in ``keep``
    (ascending) and drops the others; then it counts the spans ``seen`` as seen.

    Ends in Retained or RequestRefused, or with the link.
    """

    link: LinkId
    request: RequestId
    first: int
    last: int
    keep: tuple[int, ...]
    seen: SeqSpans | tuple[tuple[int, int], ...] = ()  #: not changed any more


@dataclass(frozen=True, slots=True, kw_only=True)
class ListChunks:
    """Ask for descriptions of up to ``limit`` chunks, in the order of their ids, behind ``after`` (None: from the
    first).

    Ends in InventoryArrived or RequestRefused, or with the link.
    """

    link: LinkId
    request: RequestId
    after: ChunkId | None
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyChunk:
    """Fetch a chunk from the instance at ``source`` and store it, with its description as it is (its number ``seq``
    included), on the instance at ``target``. Its bytes pass through the shard.

    Ends in ChunkCopied or CopyFailed, also if a link closes; or with CancelCopy.
    """

    source: LinkId
    target: LinkId
    request: RequestId
    chunk: ChunkId
    seq: int
    chunk_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelCopy:
    """Stop copying; the target drops what it has of the chunk. No event follows."""

    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseLink:
    """Ends in LinkClosed."""

    link: LinkId


# ---------------------------------------------------------------- to the rest of the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterCopy:
    """Write down, where the shard's next incarnation finds it, that ``instance`` has the node's current copy.

    Ends in CopyRegistered, or in Deposed if there is a next incarnation already.
    """

    node: NodeId
    instance: InstanceId


@dataclass(frozen=True, slots=True, kw_only=True)
class AcquireSlot:
    """Ask whether a backup of ``node`` may begin now. Ends in SlotAnswered."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSlot:
    """The backup for which a slot was granted is over. No event follows."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfirmLead:
    """Look whether a later incarnation of the shard has begun. Ends in LeadConfirmed, or in Deposed if one has."""


# ---------------------------------------------------------------- to the codec


@dataclass(frozen=True, slots=True, kw_only=True)
class Encode:
    """Compute the parity chunks of the operation's object. Ends in Encoded or CodecFailed."""

    op: OpId
    facts: ObjectFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """Fill the missing data chunks ``want`` from the chunks ``have``, and compare them with the checksums ``crcs``
    (None: not known).

    Ends in Decoded, or in CodecFailed if a checksum differs, too.
    """

    op: OpId
    facts: ObjectFacts
    have: tuple[int, ...]
    want: tuple[int, ...]
    crcs: tuple[int | None, ...]


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
class OpenBuffers:
    """The shard reads an object for itself, as operation ``op``: give it buffers, as a client's read has; or buffers
    for single chunks, which need no room for the others."""

    op: OpId
    is_for_one_chunk: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareBuffers:
    """The operation ``op`` works on the buffers of ``source``, and holds them until its own Release."""

    op: OpId
    source: OpId


@dataclass(frozen=True, slots=True, kw_only=True)
class KeepNear:
    """Keep the object that is in the operation's buffer as the near copy of its key, until DropNear: beyond Release.
    There is none of that key."""

    op: OpId
    facts: ObjectFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class DropNear:
    """Let go of the near copy of ``key``. Reads that were given it go on."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadNear:
    """The object in the operation's buffer is the near copy of ``key``."""

    op: OpId
    key: str


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
    Invoke | Ping | StoreChunk | AbortStore | FetchChunk | Gauge | CancelFetch | DeleteChunks | CloseLink
    | Hold | Retain | ListChunks | CopyChunk | CancelCopy | RegisterCopy | AcquireSlot | ReleaseSlot | ConfirmLead
    | Encode | Decode | Complete | Fail | OpenBuffers | ShareBuffers | KeepNear | DropNear | ReadNear | Release
    | SetTimer | CancelTimer
)  # fmt: skip
quicken(Command.__args__)
