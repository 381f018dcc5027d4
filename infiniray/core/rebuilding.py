"""Reading an object for nobody but its own repair."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infiniray.core.commands import OpenBuffers
from infiniray.core.ids import OpId
from infiniray.core.reading import Read
from infiniray.core.table import ObjectRecord
from infiniray.errors import InfiniRayError

if TYPE_CHECKING:
    from infiniray.core.shard import ShardState

__all__ = ["Rebuild"]


class Rebuild(Read):
    """I read k surviving chunks of an object that has lost others, and hand the bytes to their storing."""

    name = "rebuild"

    def __init__(self, op: OpId, record: ObjectRecord, shard: ShardState, deadline_s: float) -> None:
        super().__init__(op, record, shard, deadline_s)
        self._is_handed_on = False

    def start(self) -> None:
        self.context.out.append(OpenBuffers(op=self.id))
        super().start()

    def deliver(self, lost: tuple[int, ...]) -> None:
        if lost and not self.record.is_retired:
            self._is_handed_on = True
            self.shard.repairs.store(self.record, lost, source=self.id)
        self.end(lambda: None)

    def may_hope(self) -> bool:
        return self.may_come_back()  # who would rebuild it is me

    def give_up(self, have: int) -> None:
        """Too few chunks are left: the next read says so to somebody who wants to know."""
        self.end(lambda: None)

    def fail(self, error: InfiniRayError) -> None:
        self.end(lambda: None, error)

    def on_end(self, error: InfiniRayError | None) -> None:
        super().on_end(error)
        if not self._is_handed_on:
            self.shard.counters.repairs_failed += error is not None
            self.shard.repairs.ended(self.record, failed=error is not None)
