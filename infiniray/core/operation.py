"""What reads, writes and repairs have in common: requests with due times, a deadline, an end."""

from __future__ import annotations

import enum
from collections.abc import Callable, Set
from typing import TYPE_CHECKING

from infiniray.core.commands import Fail, ObjectFacts, Release
from infiniray.core.ids import NodeId, OpId
from infiniray.core.node import Node
from infiniray.core.requests import Outcome, Request, RequestKind, Settled
from infiniray.errors import DeadlineExceeded, InfiniRayError
from infiniray.members import quick_members

if TYPE_CHECKING:
    from infiniray.core.shard import ShardState

__all__ = ["Operation", "Timing"]


#: For so many times the time after which a chunk's transfer has stalled, one waits behind others that get on.
MAX_QUEUED_STALLS = 5


@quick_members
class Timing(enum.Enum):
    """What an operation's timers are for; the first half of their names."""

    DEADLINE = "deadline"
    HEDGE = "hedge"
    GAUGE = "gauge"
    STALL = "stall"
    AGAIN = "again"


class Operation:
    """I am one operation on the chunks of one object. I own its open requests and its timers, and end exactly once."""

    name = "operation"
    #: whether the driver keeps bytes for it
    has_buffers = True

    def __init__(self, op: OpId, facts: ObjectFacts, shard: ShardState, deadline_s: float) -> None:
        self.id = op
        self.facts = facts
        self.shard = shard
        self.context = shard.context
        self.started_s = shard.context.now_s
        self.deadline_s = deadline_s
        self.is_over = False
        self.open: dict[int, Request] = {}  # by chunk index
        self.timers: set[Timing] = set()
        self._stall_at_s = float("inf")
        self._n_retries = 0

    # ------------------------------------------------------------ for the kinds of operation to fill in

    def start(self) -> None:
        raise NotImplementedError

    def on_settled(self, settled: Settled) -> None:
        raise NotImplementedError

    def on_coded(self, error: str | None) -> None:
        """The codec is done, or failed."""
        raise NotImplementedError

    def on_gauged(self, shares: tuple[float, ...]) -> None:
        """How far those chunks have come that I had asked about."""
        raise NotImplementedError

    def on_timer(self, timing: Timing) -> None:
        """A timer other than the stall timer fired."""
        raise NotImplementedError

    def waits_for(self, progressed: Set[str]) -> bool:
        """Whether I may have waited for what has happened to these nodes, or to what was under these keys."""
        return False

    def look(self) -> None:
        """Something has happened that I may wait for: a copy is on record, or a deletion was confirmed."""

    def may_ask(self, node: NodeId) -> bool:
        """Whether a chunk on that node may still be asked for."""
        return False

    def on_end(self, error: InfiniRayError | None) -> None:
        """Let go of what the operation holds at the shard."""

    # ------------------------------------------------------------ requests

    def ask(self, kind: RequestKind, index: int, node: Node, *, seq: int = 0, crc: int = 0) -> None:
        chunk_bytes = self.facts.scheme.stored_bytes(index, self.facts.size_bytes)
        policy = self.context.policy
        patience_s = policy.transfer_limit_s(chunk_bytes) + (0 if node.is_awake else policy.connect_timeout_s)
        request = Request(
            id=self.context.new_request_id(), kind=kind, node=node.id, op=self.id, index=index, facts=self.facts,
            seq=seq,
            crc=crc, chunk_bytes=chunk_bytes, due_s=self.context.now_s + patience_s,
        )  # fmt: skip
        self.open[index] = request
        if request.due_s < self._stall_at_s:
            self._stall_at_s = request.due_s
            self.set_timer(Timing.STALL, patience_s)
        node.submit(request)

    def withdraw(self, index: int) -> None:
        request = self.open.pop(index, None)
        if request is not None:
            self.shard.nodes[request.node].cancel(request)

    def settle(self, settled: Settled) -> None:
        """Told by the shard. A request that this operation no longer waits for is not its business."""
        if self.open.get(settled.request.index) is settled.request:
            del self.open[settled.request.index]
            self.on_settled(settled)

    def fail_stalled(self) -> None:
        """Give up on requests that take too long, one by one: not on those that wait behind others, at a node which has
        just answered some. To ask for them elsewhere would make all queues longer."""
        now_s, stall_s = self.context.now_s, self.context.policy.stall_s
        for index, request in list(self.open.items()):
            if request.due_s <= now_s and not self.is_over:
                is_queued = self.shard.nodes[request.node].answered_s > now_s - stall_s
                if is_queued and now_s - self.started_s < MAX_QUEUED_STALLS * stall_s:
                    request.due_s = now_s + stall_s
                    continue
                self.withdraw(index)
                self.shard.nodes[request.node].note_stall()
                detail = f"{request.node} did not finish chunk {index} in time"
                self.on_settled(Settled(request=request, outcome=Outcome.UNREACHABLE, detail=detail))
        self._stall_at_s = min((r.due_s for r in self.open.values()), default=float("inf"))
        if self.open and not self.is_over:
            self.set_timer(Timing.STALL, self._stall_at_s - now_s)

    # ------------------------------------------------------------ timers

    def set_timer(self, timing: Timing, after_s: float) -> None:
        self.timers.add(timing)
        self.context.set_timer((timing.value, self.id), after_s)

    def fire(self, timing: Timing) -> None:
        self.timers.discard(timing)
        if timing is Timing.STALL:
            self.fail_stalled()
        else:
            self.on_timer(timing)

    def retry_later(self) -> None:
        """Ask again after a pause that grows: everything asked so far failed for reasons that may pass."""
        if Timing.AGAIN not in self.timers:
            self._n_retries += 1
            self.set_timer(Timing.AGAIN, self.context.backoff_s(min(self._n_retries, 16), self.id))

    # ------------------------------------------------------------ the end

    def too_late(self, detail: str) -> DeadlineExceeded:
        limit_s = round(self.deadline_s - self.started_s, 3)
        return DeadlineExceeded(operation=self.name, key=self.facts.key, deadline_s=limit_s, detail=detail)

    def fail(self, error: InfiniRayError) -> None:
        self.end(lambda: self.context.out.append(Fail(op=self.id, error=error)), error)

    def end(self, announce: Callable[[], None], error: InfiniRayError | None = None) -> None:
        """Stop everything that is still going on, tell the client, let go."""
        assert not self.is_over
        self.is_over = True
        for index in list(self.open):
            self.withdraw(index)
        for timing in sorted(self.timers, key=lambda t: t.value):
            self.context.cancel_timer((timing.value, self.id))
        self.timers.clear()
        announce()
        self.on_end(error)
        self.shard.forget(self)
        if self.has_buffers:
            self.context.out.append(Release(op=self.id))
