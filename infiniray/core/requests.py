"""Requests to nodes, and what becomes of them."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from infiniray.core.commands import ObjectFacts
from infiniray.core.ids import LinkId, NodeId, OpId, RequestId
from infiniray.members import quick_members
from infiniray.wire.describe import ChunkId, ChunkInfo, SeqSpans

#: The operation of requests that no operation made: deletes, and the telling of what to retain.
NO_OPERATION = OpId(0)
#: The operation of requests for inventories.
RECOVERY = OpId(-1)

__all__ = ["NO_OPERATION", "RECOVERY", "Outcome", "Request", "RequestKind", "Settled"]


@quick_members
class RequestKind(enum.Enum):
    STORE = "store"
    FETCH = "fetch"
    DELETE = "delete"
    RETAIN = "retain"
    LIST = "list"


@quick_members
class Outcome(enum.Enum):
    """How a request ended."""

    DONE = "done"
    MISSING = "missing"  # the node's current copy does not have the chunk: asking again will not help
    DAMAGED = "damaged"  # it has something else in its place
    REFUSED = "refused"  # full, or a newer epoch
    UNREACHABLE = "unreachable"  # the node could not be reached, or did not finish in time


@dataclass(slots=True, kw_only=True)
class Request:
    """One request, from when it is decided on until it is settled.

    ``seq`` of a FETCH says which insert it asks for; of a STORE it is given when the request is sent. ``crc`` of a
    FETCH is what is expected; of a STORE it is what was sent, once done.
    """

    id: RequestId
    kind: RequestKind
    node: NodeId
    op: OpId = NO_OPERATION
    index: int = -1
    facts: ObjectFacts | None = None
    seq: int = 0
    crc: int = 0
    chunk_bytes: int = 0
    chunk_ids: tuple[ChunkId, ...] = ()
    #: of a RETAIN: the spans that count as seen once it is done; None if others follow
    seen: SeqSpans | None = None
    #: of a LIST: behind which chunk; and then the page that came, and whether more follow
    after: ChunkId | None = None
    page: tuple[ChunkInfo, ...] = ()
    has_more: bool = False
    #: when it counts as stalled
    due_s: float = 0.0
    #: where it was sent, None while it is queued
    link: LinkId | None = None
    #: times it was put on a link
    n_sent: int = 0

    @property
    def is_awaited(self) -> bool:
        """Whether an operation waits for it: it is settled in any case, and worth an invocation."""
        return self.op != NO_OPERATION


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A request ended: told to the operation that made it."""

    request: Request
    outcome: Outcome
    detail: str = ""
