"""Facts that the world reports to a shard's decisions.

Every command that starts something is answered by exactly one of the events named at it in
:mod:`infiniray.core.commands`, unless it was cancelled before.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from infiniray.core.ids import InstanceId, LinkId, NodeId, OpId, RequestId, SessionId, Timer
from infiniray.wire.describe import SeqSpans

__all__ = [
    "ByeReceived",
    "ChunkArrived",
    "ChunkDamaged",
    "ChunkMissing",
    "ChunkStored",
    "ChunksDeleted",
    "CodecFailed",
    "Decoded",
    "DeleteRequested",
    "Encoded",
    "Event",
    "FetchCancelled",
    "GetRequested",
    "InvokeOutcome",
    "InvokeReturned",
    "LinkClosed",
    "LinkOpened",
    "OpCancelled",
    "PongReceived",
    "PutRequested",
    "RequestRefused",
    "TimerFired",
    "TouchRequested",
]


class InvokeOutcome(enum.Enum):
    """How an invocation ended."""

    OK = "ok"
    THROTTLED = "throttled"  # 429: the platform accepts no more just now
    FUNCTION_ERROR = "function error"  # raised, timed out, or was killed
    UNREACHABLE = "unreachable"  # 5xx, or no answer from the platform


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TouchRequested:
    """Give the object a new expiry (Unix time, None for never)."""

    op: OpId
    key: str
    expires_s: float | None


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


# ---------------------------------------------------------------- from the platform, the codec and the clock


@dataclass(frozen=True, slots=True, kw_only=True)
class InvokeReturned:
    node: NodeId
    session: SessionId
    outcome: InvokeOutcome
    detail: str = ""
    retry_after_s: float = 0.0


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
    PutRequested | GetRequested | DeleteRequested | TouchRequested | OpCancelled
    | LinkOpened | LinkClosed | PongReceived | ByeReceived
    | ChunkStored | ChunkArrived | ChunkMissing | ChunkDamaged | FetchCancelled | ChunksDeleted | RequestRefused
    | InvokeReturned | Encoded | Decoded | CodecFailed | TimerFired
)  # fmt: skip
