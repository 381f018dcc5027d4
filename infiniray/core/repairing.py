"""Which lost chunks are rebuilt when: the most endangered and most recently used objects first, within a budget."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from infiniray.core.budget import Budget
from infiniray.core.ids import OpId
from infiniray.core.policy import RepairMode
from infiniray.core.rebuilding import Rebuild
from infiniray.core.storing import Repair
from infiniray.core.table import ObjectRecord

if TYPE_CHECKING:
    from infiniray.core.node import Node
    from infiniray.core.shard import ShardState

__all__ = ["Repairs"]

REPAIR_DEADLINE_S = 30.0
#: Objects whose repair failed, for want of room say, are looked at again after this.
RETRY_S = 60.0
Name = tuple[str, int]


class Repairs:
    """I know the objects that have lost chunks, and have these rebuilt.

    A chunk that another instance of its node still has is copied from there instead: that costs one read, not k.
    """

    def __init__(self, shard: ShardState) -> None:
        policy = shard.context.policy
        self.bytes = Budget(policy.repair_bytes_per_s, policy.repair_burst_bytes)
        self.usd = Budget(policy.repair_usd_per_h / 3600, policy.repair_usd_per_h)
        self._shard = shard
        self._context = shard.context
        self._heap: list[tuple[int, float, int, Name]] = []  # (chunks to spare, minus last use, tie, whose)
        #: those in the heap, with the chunks that they had lost when they were last put there
        self._waiting: dict[Name, tuple[int, ...]] = {}
        self._running: set[Name] = set()
        self._n_begun = 0
        self._n_queued = 0
        self._is_paused = False
        self._failed: dict[Name, ObjectRecord] = {}

    # ------------------------------------------------------------ what others tell and ask

    @property
    def n_endangered(self) -> int:
        """Objects that are known to have lost chunks and are not whole again."""
        return len(self._waiting) + len(self._running) + len(self._failed)

    def is_running(self, record: ObjectRecord) -> bool:
        """Whether lost chunks of it are being rebuilt."""
        return record.name in self._running

    def claim(self, record: ObjectRecord) -> None:
        """Its chunks are being moved: let it alone, though it may be waiting for its repair."""
        self._running.add(record.name)
        self._waiting.pop(record.name, None)

    def release(self, record: ObjectRecord) -> None:
        """It may be repaired again; that is due if it has lost chunks meanwhile."""
        self._running.discard(record.name)
        if self._shard.is_current(record) and self._shard.lost_chunks(record):
            self.add(record)
        self.pump()

    def inspect(self, node: Node, *, may_copy: bool) -> None:
        """The node's current copy may lack chunks that it is to hold: have them copied (a backup does that), if that
        has not just been tried, or rebuilt."""
        rebuilds = self._context.policy.repair is RepairMode.ALWAYS
        if node.copy is None or self._shard.is_recovering or not (may_copy or rebuilds):
            return
        for chunk, held in node.custody.lacking(node.copy):
            record = self._shard.table.find(chunk.key)
            if record is None or record.facts.version != chunk.version:
                continue
            if not may_copy and chunk.index in self._waiting.get(record.name, ()):
                continue  # that is no news
            if may_copy and node.elsewhere(held.seq) and self._shard.backups.request(node):
                if not rebuilds:
                    return
                continue  # looked at again when that is over
            self.add(record)

    def add(self, record: ObjectRecord) -> None:
        """It has lost chunks: queue it."""
        if self._context.policy.repair is not RepairMode.ALWAYS or record.name in self._running:
            return
        self._push(record, self._shard.lost_chunks(record))
        self.pump()

    def repair_from(self, record: ObjectRecord, lost: tuple[int, ...], *, source: OpId) -> None:
        """A read has found chunks lost, and holds the object's bytes: rebuild them from these."""
        policy = self._context.policy
        if policy.repair is RepairMode.NONE or record.name in self._running:
            return
        if len(self._running) >= policy.max_repairs or self._wait_s() > 0:
            self.add(record)
            return
        self._spend(record, n_reads=0, n_writes=len(lost))
        self.store(record, lost, source=source)

    def store(self, record: ObjectRecord, lost: tuple[int, ...], *, source: OpId) -> None:
        """Encode what is lost from the bytes that operation ``source`` holds, and bring it to nodes."""
        self._running.add(record.name)
        self._shard.begin(Repair(self.new_op(), source, record, self._shard, self._deadline_s(), lost))

    def ended(self, record: ObjectRecord, *, failed: bool) -> None:
        """A rebuild or its storing is over."""
        self._running.discard(record.name)
        if failed and self._shard.is_current(record) and self._shard.lost_chunks(record):
            if not self._failed:
                self._context.set_timer(("repair-again", 0), RETRY_S)
            self._failed[record.name] = record
        self.pump()

    def on_again(self) -> None:
        """Those that failed may succeed by now."""
        failed, self._failed = self._failed, {}
        for record in failed.values():
            if self._shard.is_current(record) and self._shard.lost_chunks(record):
                self.add(record)

    def on_timer(self) -> None:
        self._is_paused = False
        self.pump()

    # ------------------------------------------------------------ what is next

    def pump(self) -> None:
        """Begin what the budget allows."""
        while self._heap and not self._is_paused and len(self._running) < self._context.policy.max_repairs:
            wait_s = self._wait_s()
            if wait_s > 0:
                self._pause(wait_s)
                return
            record = self._pop()
            if record is not None:
                self._begin(record)

    def _pop(self) -> ObjectRecord | None:
        """The next object; None if the entry is outdated."""
        spare, _, _, name = heapq.heappop(self._heap)
        if name not in self._waiting:
            return None
        record = self._shard.table.find(name[0])
        if record is None or record.facts.version != name[1] or record.is_expired(self._context.now_s):
            del self._waiting[name]
            return None
        lost = self._shard.lost_chunks(record)
        if lost and record.facts.scheme.r - len(lost) != spare:
            self._push(record, lost)  # more was lost meanwhile, or less
            return None
        del self._waiting[name]
        return record

    def _begin(self, record: ObjectRecord) -> None:
        lost = self._shard.lost_chunks(record)
        if not lost or len(lost) > record.facts.scheme.r:
            return  # whole again, or beyond repair: the next read says so
        self._running.add(record.name)
        self._spend(record, n_reads=record.facts.scheme.k, n_writes=len(lost))
        self._shard.begin(Rebuild(self.new_op(), record, self._shard, self._deadline_s()))

    def _push(self, record: ObjectRecord, lost: tuple[int, ...]) -> None:
        self._n_queued += 1
        self._waiting[record.name] = lost
        spare = record.facts.scheme.r - len(lost)
        heapq.heappush(self._heap, (spare, -record.used_s, self._n_queued, record.name))
        if len(self._heap) > 4 * len(self._waiting) + 64:  # mostly outdated
            newest: dict[Name, tuple[int, float, int, Name]] = {}
            for entry in self._heap:
                if entry[3] in self._waiting and (entry[3] not in newest or newest[entry[3]][2] < entry[2]):
                    newest[entry[3]] = entry
            self._heap = list(newest.values())
            heapq.heapify(self._heap)

    # ------------------------------------------------------------ the budget

    def _wait_s(self) -> float:
        return max(self.bytes.wait_s(self._context.now_s), self.usd.wait_s(self._context.now_s))

    def _spend(self, record: ObjectRecord, *, n_reads: int, n_writes: int) -> None:
        policy, chunk_bytes = self._context.policy, record.facts.scheme.chunk_bytes(record.facts.size_bytes)
        in_burst = min(chunk_bytes, policy.backup_burst_bytes)
        move_s = in_burst / policy.node_burst_bytes_per_s + (chunk_bytes - in_burst) / policy.node_bytes_per_s
        session_usd = policy.usd_per_request + policy.usd_per_gb_s * policy.node_gb * (policy.session_s + move_s)
        self.bytes.spend((n_reads + n_writes) * chunk_bytes, self._context.now_s)
        self.usd.spend((n_reads + n_writes) * session_usd, self._context.now_s)

    def _pause(self, for_s: float) -> None:
        if not self._is_paused and for_s != float("inf"):
            self._is_paused = True
            self._context.set_timer(("repair", 0), for_s)

    def new_op(self) -> OpId:
        """A number for an operation that no client asked for."""
        self._n_begun += 1
        return OpId(-1 - self._n_begun)  # -1 is the recovery's

    def _deadline_s(self) -> float:
        return self._context.now_s + REPAIR_DEADLINE_S
