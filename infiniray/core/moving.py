"""Bringing one chunk from a node that is to leave to another one."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from infiniray.core.commands import OpenBuffers
from infiniray.core.ids import NodeId, OpId
from infiniray.core.operation import Timing
from infiniray.core.requests import Outcome, RequestKind, Settled
from infiniray.core.storing import Storing
from infiniray.core.table import ObjectRecord
from infiniray.errors import InfiniRayError, WriteFailed

if TYPE_CHECKING:
    from infiniray.core.shard import ShardState

__all__ = ["Move"]


class Move(Storing):
    """I read one chunk where it is, store it at a node that holds no other of its object, and then flip the table.

    One read, not the k of a rebuild. Reads find the chunk at its old place until the new one has confirmed it. While I
    run, no repair works on the object, so nobody else brings the same chunk anywhere.
    """

    name = "move"

    def __init__(self, op: OpId, record: ObjectRecord, index: int, shard: ShardState, deadline_s: float) -> None:
        super().__init__(op, record.facts, shard, deadline_s, (index,))
        self.record = record
        self._index = index
        self._place = record.places[index]
        self._is_read = False

    def start(self) -> None:
        self.shard.pin(self.record)
        self.shard.repairs.claim(self.record)
        self.context.out.append(OpenBuffers(op=self.id, is_for_one_chunk=True))
        self.set_timer(Timing.DEADLINE, self.deadline_s - self.context.now_s)
        place = self._place
        self.ask(RequestKind.FETCH, self._index, self.shard.nodes[place.node], seq=place.seq, crc=place.crc)

    def on_settled(self, settled: Settled) -> None:
        if self._is_read:
            super().on_settled(settled)
        elif settled.outcome is Outcome.DONE:
            self._is_read = True
            super().start()
        else:
            if self._is_useless(settled.outcome) and self.record.places[self._index] == self._place:
                self.shard.give_up_chunk(self.record, self._index)  # nobody can read it: to be rebuilt elsewhere
            self._fail(f"{self._place.node}: {settled.outcome.value}, {settled.detail}")

    def _is_useless(self, outcome: Outcome) -> bool:
        """Whether the node will never give the chunk, though its copy is not known to lack it."""
        return outcome is Outcome.DAMAGED or (outcome is Outcome.MISSING and not self.shard.is_lost(self._place))

    def strays(self) -> list[tuple[int, NodeId]]:
        return self.record.strays

    def siblings(self) -> Collection[NodeId]:
        return {place.node for _, place in self.record.placed()}

    def commit(self) -> None:
        if self.record.is_retired or self.record.places[self._index] != self._place:
            self._fail("replaced meanwhile")
            return
        self.settle_down()
        self.shard.move_chunk(self.record, self._index, self.stored[self._index])
        self.shard.counters.moves += 1
        self.end(lambda: None)

    def on_end(self, error: InfiniRayError | None) -> None:
        super().on_end(error)
        self.shard.unpin(self.record)
        self.shard.repairs.release(self.record)
        self.shard.draining.on_moved(failed=error is not None)

    def fail(self, error: InfiniRayError) -> None:
        self.end(lambda: None, error)

    def _needs_coding(self) -> bool:
        return False  # the chunk is read, whatever it is

    def _fail(self, detail: str) -> None:
        self.fail(WriteFailed(key=self.facts.key, stored=0, need=1, detail=detail))
