"""Facts that the world reports to a shard's decisions.

Every command that starts something is answered by exactly one of the events named at it in
:mod:`infiniray.core.commands`, unless it was cancelled before.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from infiniray.core.ids import InstanceId, LinkId, NodeId, OpId, RequestId, SessionId, Timer
from infiniray.core.quick import quicken
from infiniray.members import quick_members
from infiniray.wire.describe import ChunkInfo, SeqSpans

__all__ = [
    "BackupRequested",
    "ByeReceived",
    "ChunkArrived",
    "ChunkCopied",
    "ChunkDamaged",
    "ChunkMissing",
    "ChunkStored",
    "ChunksDeleted",
    "CodecFailed",
    "CopyFailed",
    "CopyRegistered",
    "CopyReport",
    "Decoded",
    "DeleteRequested",
    "Deposed",
    "Encoded",
    "Event",
    "FetchCancelled",
    "Gauged",
    "GetRequested",
    "InventoryArrived",
    "InvokeOutcome",
    "InvokeReturned",
    "LeadConfirmed",
    "LinkClosed",
    "LinkOpened",
    "NodeWanted",
    "OpCancelled",
    "PongReceived",
    "PoolChanged",
    "PutRequested",
    "RequestRefused",
    "Retained",
    "SlotAnswered",
    "Started",
    "TimerFired",
    "TouchRequested",
]


@quick_members
class InvokeOutcome(enum.Enum):
    """How an invocation ended."""

    OK = "ok"
    THROTTLED = "throttled"  # 429: the platform accepts no more just now
    FUNCTION_ERROR = "function error"  # raised, timed out, or was killed
    UNREACHABLE = "unreachable"  # 5xx, or no answer from the platform


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What an instance has: which of the node's inserts and deletes."""

    instance: InstanceId
    spans: SeqSpans


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The first event of all. ``registered`` says which instance has the current copy of each node, as earlier
    incarnations of this shard have written it down; empty for a shard that is new."""

    registered: tuple[tuple[NodeId, InstanceId], ...] = ()


# ---------------------------------------------------------------- from clients


@dataclass(frozen=True, slots=True, kw_only=True)
class PutRequested:
    """Store ``size_bytes`` under ``key``. ``expires_s`` is Unix time, None for never; ``deadline_s`` a point in
    time."""

    op: OpId
    key: str
    size_bytes: int
    head: str
    expires_s: float | None
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GetRequested:
    op: OpId
    key: str
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteRequested:
    op: OpId
    key: str
    deadline_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchRequested:
    """Give the object a new expiry (Unix time, None for never)."""

    op: OpId
    key: str
    expires_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRequested:
    """An operator wants every node backed up now, as far as slots allow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeWanted:
    """Somebody wants to hear from this node, whatever there is for it to do."""

    node: NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolChanged:
    """The shard's nodes are to be these, each with the bytes of chunks that it may hold. Those that are not among them
    are drained, and let go when they are empty."""

    nodes: tuple[tuple[NodeId, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCancelled:
    """Nobody waits for this operation any more."""

    op: OpId


# ---------------------------------------------------------------- from nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOpened:
    """An instance dialled, proved who it is, and told what it has (HELLO)."""

    link: LinkId
    node: NodeId
    instance: InstanceId
    session: SessionId
    spans: SeqSpans


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkClosed:
    link: LinkId


@dataclass(frozen=True, slots=True, kw_only=True)
class PongReceived:
    """An answer to PING, or the first word of a session on a kept connection."""

    link: LinkId
    session: SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class ByeReceived:
    link: LinkId
    session: SessionId


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkStored:
    """``crc`` is the CRC-32 that the driver computed over the bytes it sent."""

    request: RequestId
    crc: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkArrived:
    """Whole, in its place, and its checksum is right."""

    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkMissing:
    """The node says that it does not have the chunk."""

    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkDamaged:
    """The chunk came, but is not what was stored: wrong checksum, length or description."""

    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauged:
    """How much has come of each chunk that was asked about, in that order, from 0 to 1; 0 if that is not known."""

    op: OpId
    shares: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchCancelled:
    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunksDeleted:
    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRefused:
    """The node did not do it: it is full, or knows a newer epoch."""

    request: RequestId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retained:
    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryArrived:
    """A page of what an instance holds; ``more`` follow."""

    request: RequestId
    chunks: tuple[ChunkInfo, ...]
    more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkCopied:
    """The target has the chunk, whole."""

    request: RequestId


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyFailed:
    """The target does not have the chunk. ``is_missing``: because the source does not have it either."""

    request: RequestId
    is_missing: bool
    detail: str


# ---------------------------------------------------------------- from the rest of the cache


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyRegistered:
    node: NodeId
    instance: InstanceId


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotAnswered:
    node: NodeId
    granted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LeadConfirmed:
    """There was no later incarnation of this shard when that was asked; ``is_sure`` is False if nobody answered."""

    is_sure: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Deposed:
    """Another incarnation of this shard, of a later epoch, has taken over."""


# ---------------------------------------------------------------- from the platform, the codec and the clock


@dataclass(frozen=True, slots=True, kw_only=True)
class InvokeReturned:
    node: NodeId
    session: SessionId
    outcome: InvokeOutcome
    detail: str = ""
    retry_after_s: float = 0.0
    #: what the instance has: told at the end of a warm-up
    copy: CopyReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    op: OpId


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    op: OpId


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecFailed:
    op: OpId
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerFired:
    timer: Timer


Event = (
    Started | BackupRequested | PoolChanged | NodeWanted
    | PutRequested | GetRequested | DeleteRequested | TouchRequested | OpCancelled
    | LinkOpened | LinkClosed | PongReceived | ByeReceived
    | ChunkStored | ChunkArrived | ChunkMissing | ChunkDamaged | Gauged | FetchCancelled | ChunksDeleted
    | RequestRefused
    | Retained | InventoryArrived | ChunkCopied | CopyFailed | CopyRegistered | SlotAnswered | LeadConfirmed
    | Deposed
    | InvokeReturned | Encoded | Decoded | CodecFailed | TimerFired
)  # fmt: skip
quicken(Event.__args__)
