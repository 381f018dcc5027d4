"""Bugs, planted one at a time: the schedules find each of them within their budget.

To replay one: plant it in a shell, and run the schedule that found it.
"""

from __future__ import annotations

import heapq
from typing import Any

import pytest

from infiniray.core import storing
from infiniray.core.backup import Backup, Backups
from infiniray.core.commands import ReleaseSlot
from infiniray.core.connection import TRANSITIONS, Action, Activity, Stimulus, Validity
from infiniray.core.copies import Copy, Link
from infiniray.core.custody import Custody, Retention
from infiniray.core.draining import Draining
from infiniray.core.erasing import Eraser, Left, Residue
from infiniray.core.ids import InstanceId, LinkId, NodeId
from infiniray.core.moving import Move
from infiniray.core.node import Node
from infiniray.core.operation import Operation, Timing
from infiniray.core.outbox import Outbox
from infiniray.core.policy import footprint_bytes
from infiniray.core.reading import ChunkState, Read
from infiniray.core.rebuilding import Rebuild
from infiniray.core.recovery import Recovery
from infiniray.core.repairing import Repairs
from infiniray.core.requests import RequestKind, Settled
from infiniray.core.shard import ShardState
from infiniray.core.storing import Repair, Storing, Write
from infiniray.core.table import NOWHERE, ChunkPlace, ObjectRecord, ObjectTable
from infiniray.sim.registry import SimRegistry
from infiniray.sim.schedules import run_schedule
from infiniray.sim.supervisor import SimSupervisor
from infiniray.sim.violation import Violation

BUDGET = 320


def commits_early(patch: pytest.MonkeyPatch) -> None:
    """The table flips before the last chunk is stored."""

    def commit_if_stored(self: Storing) -> None:
        if isinstance(self, Write) and len(self.stored) == len(self.indices) - 1 and not self.is_over:
            last = next(i for i in self.indices if i not in self.stored)
            home = self._homes[last]
            self.stored[last] = ChunkPlace(node=home.id, seq=1, crc=0)
        if len(self.stored) == len(self.indices):
            self.commit()

    patch.setattr(Storing, "_commit_if_stored", commit_if_stored)


def repairs_onto_siblings(patch: pytest.MonkeyPatch) -> None:
    """A rebuilt chunk may join another chunk of its object."""
    patch.setattr(Repair, "siblings", lambda self: ())


def forgets_pins(patch: pytest.MonkeyPatch) -> None:
    """Chunks of a replaced version are deleted under its readers."""
    patch.setattr(ShardState, "pin", lambda self, record: None)
    patch.setattr(ShardState, "unpin", lambda self, record: self.drop(record) if record.is_retired else None)


def counts_damaged_chunks(patch: pytest.MonkeyPatch) -> None:
    """A chunk that is not what was stored is taken all the same."""
    original = Read.on_settled

    def on_settled(self: Read, settled: Settled) -> None:
        if settled.outcome.value == "missing":
            self.states[settled.request.index] = ChunkState.COMPLETE
            self._finish_if_enough()
        else:
            original(self, settled)

    patch.setattr(Read, "on_settled", on_settled)


def leaves_requests_open(patch: pytest.MonkeyPatch) -> None:
    """A read that has enough does not cancel the rest."""
    patch.setattr(Operation, "withdraw", lambda self, index: self.open.pop(index, None))


def leaks_memory(patch: pytest.MonkeyPatch) -> None:
    """A failed write keeps what it had reserved."""
    patch.setattr(Storing, "on_end", lambda self, error: self._homes.clear())


def keeps_the_older_write(patch: pytest.MonkeyPatch) -> None:
    """A key that is there is not replaced."""

    def insert(self: ObjectTable, record: ObjectRecord) -> ObjectRecord | None:
        if record.facts.key in self._records:
            record.is_retired = True
            return record
        self._records[record.facts.key] = record
        return None

    patch.setattr(ObjectTable, "insert", insert)


def ignores_memory_limits(patch: pytest.MonkeyPatch) -> None:
    """Memory limits are not looked at when nodes are chosen."""

    def choose(nodes: Any, footprints: list[int], exclude: Any, context: Any, *salt: object) -> Any:
        able = [node for node in nodes.values() if node.id not in exclude]
        return able[: len(footprints)] if len(able) >= len(footprints) else None

    patch.setattr(storing, "choose_nodes", choose)


def forgets_lost_connections(patch: pytest.MonkeyPatch) -> None:
    """What was sent over a lost connection is not sent again."""

    def requeue(self: Outbox, link_id: LinkId) -> bool:
        for request in [r for r in self if r.link == link_id]:
            self.cancel(request)
        return False

    patch.setattr(Outbox, "requeue", requeue)


def sends_parity_uncomputed(patch: pytest.MonkeyPatch) -> None:
    """Parity chunks are sent with the data chunks."""
    patch.setattr(Storing, "_needs_coding", lambda self: False)


def keeps_moved_chunks(patch: pytest.MonkeyPatch) -> None:
    """A rebuilt chunk stays at its former home, too."""

    def move_chunk(self: ShardState, record: ObjectRecord, index: int, place: ChunkPlace) -> None:
        former, record.places[index] = record.places[index], place
        if former is not NOWHERE:
            self.nodes[former.node].used_bytes -= footprint_bytes(record.chunk_bytes(index))

    patch.setattr(ShardState, "move_chunk", move_chunk)


def stores_before_it_deletes(patch: pytest.MonkeyPatch) -> None:
    """New chunks come before the memory for them is free."""

    def flush(self: Outbox, link: Link) -> None:
        queued, self._queued = self._queued, {}
        for request in queued.values():
            if request.kind is RequestKind.LIST:
                self._queued[request.id] = request
            else:
                (self._send_fetch if request.kind is RequestKind.FETCH else self._send_store)(link, request)
        if self._queued:
            original(self, link)
        self._send_deletes(link)

    original = Outbox.flush
    patch.setattr(Outbox, "flush", flush)


def invokes_the_leaving(patch: pytest.MonkeyPatch) -> None:
    """A function that said BYE is invoked before it has returned."""
    pair = ((Activity.LEAVING, Validity.UNVALIDATED), Stimulus.REQUEST)
    patch.setitem(TRANSITIONS, pair, ((Activity.SLEEPING, Validity.VALIDATING), (Action.INVOKE,)))


def sends_over_dead_connections(patch: pytest.MonkeyPatch) -> None:
    """A connection that closed is used on."""

    def on_closed(self: Node, link_id: LinkId) -> None:
        if self._links.pop(link_id, None) is not None:
            self._requeue(link_id)

    patch.setattr(Node, "on_closed", on_closed)


def never_asks_again(patch: pytest.MonkeyPatch) -> None:
    """What failed for reasons that pass is given up."""
    patch.setattr(Operation, "retry_later", lambda self: None)


def skips_the_alignment(patch: pytest.MonkeyPatch) -> None:
    """A stale replica that takes over is accepted as it is."""

    def take_over(self: Custody, copy: Copy, new_number: object) -> list[Retention]:
        self._aligned = copy
        return []

    patch.setattr(Custody, "take_over", take_over)


def ignores_the_fence(patch: pytest.MonkeyPatch) -> None:
    """A former incarnation may go on writing down which copies are current."""

    def register(self: SimRegistry, epoch: int, node: NodeId, instance: InstanceId) -> bool:
        self.copies[node] = instance
        return True

    patch.setattr(SimRegistry, "register", register)


def acknowledges_deletes_early(patch: pytest.MonkeyPatch) -> None:
    """Nobody waits until what was deleted or replaced cannot come back."""
    patch.setattr(Eraser, "look", lambda self: True)


def forgets_what_was_evicted(patch: pytest.MonkeyPatch) -> None:
    """A delete does not care for what was there before, and may still be on nodes."""
    patch.setattr(ShardState, "_residues_of", lambda self, key: [])


def takes_other_nodes_for_the_same(patch: pytest.MonkeyPatch) -> None:
    """What was replaced counts as harmless, wherever the later version is."""
    left = Residue.left

    def all_shadowed(self: Residue, shard: ShardState) -> Left:
        bare, shadowed = left(self, shard)
        return Left([], [*bare, *shadowed])

    patch.setattr(Residue, "left", all_shadowed)


def deletes_the_later_version_first(patch: pytest.MonkeyPatch) -> None:
    """A node is told to delete what is to be deleted last, and of the rest when it is told something else."""
    send_deletes = Outbox._send_deletes

    def send_the_last(self: Outbox, link: Link) -> None:
        garbage = self._custody.garbage
        self._custody.garbage = dict([garbage.popitem()]) if garbage else {}
        send_deletes(self, link)
        self._custody.garbage = garbage | self._custody.garbage

    patch.setattr(Outbox, "_send_deletes", send_the_last)


def forgets_writes_during_a_backup(patch: pytest.MonkeyPatch) -> None:
    """A peer is told that it has seen everything, whatever it lacks."""
    patch.setattr(Custody, "seen_by", lambda self, copy: self.seen.copy())


def counts_a_late_chunk_twice(patch: pytest.MonkeyPatch) -> None:
    """One chunk too few is enough, once parity was asked for."""
    original = Read._finish_if_enough

    def finish(self: Read) -> None:
        scheme = self.facts.scheme
        if scheme.r and self._count(ChunkState.COMPLETE) == scheme.k - 1 and Timing.HEDGE not in self.timers:
            self._complete()
        else:
            original(self)

    patch.setattr(Read, "_finish_if_enough", finish)


def drops_too_much(patch: pytest.MonkeyPatch) -> None:
    """A copy that takes over is told to keep nothing."""
    original = Custody.retentions

    def retentions(self: Custody, copy: Copy, number: int | None = None) -> list[Retention]:
        return [retention._replace(keep=()) for retention in original(self, copy, number)]

    patch.setattr(Custody, "retentions", retentions)


def aligns_before_it_knows(patch: pytest.MonkeyPatch) -> None:
    """A shard that restarts tells its nodes what to keep before it knows what they hold."""
    original = Recovery.__init__

    def init(self: Recovery, shard: ShardState, registered: dict[NodeId, InstanceId]) -> None:
        original(self, shard, registered)
        for node in shard.nodes.values():
            node.custody.is_paused = False

    patch.setattr(Recovery, "__init__", init)


def keeps_slots(patch: pytest.MonkeyPatch) -> None:
    """The end of a backup is announced twice."""
    original = Backups.ended

    def ended(self: Backups, backup: Backup, *, is_done: bool) -> None:
        original(self, backup, is_done=is_done)
        self._context.out.append(ReleaseSlot(node=backup.node.id))

    patch.setattr(Backups, "ended", ended)


def moves_onto_siblings(patch: pytest.MonkeyPatch) -> None:
    """A chunk that has to move may join another chunk of its object."""
    patch.setattr(Move, "siblings", lambda self: ())


def lets_go_too_early(patch: pytest.MonkeyPatch) -> None:
    """A node leaves the pool when its chunks have been asked for."""
    patch.setattr(Draining, "_is_done_with", lambda self, node: not node.n_unsettled)


def flips_before_it_has_moved(patch: pytest.MonkeyPatch) -> None:
    """A chunk counts as moved when it is sent."""

    def settle_at(self: Move, index: int, node: Node) -> None:
        Storing._settle_at(self, index, node)
        if not self.is_over:
            self.stored[index] = ChunkPlace(node=node.id, seq=1, crc=0)
            self.commit()

    patch.setattr(Move, "_settle_at", settle_at)


def serves_what_has_expired(patch: pytest.MonkeyPatch) -> None:
    """An object is served until it is swept."""
    patch.setattr(ObjectTable, "lookup", lambda self, key, now_s: self._records.get(key))


def sweeps_what_was_touched(patch: pytest.MonkeyPatch) -> None:
    """An object goes when it was to expire at first, whatever was said since."""

    def pop_over(self: ObjectTable, now_s: float, limit: int) -> list[ObjectRecord]:
        over = []
        while self._ends and self._ends[0][0] <= now_s and len(over) < limit:
            _, key, version = heapq.heappop(self._ends)
            record = self._records.get(key)
            if record is not None and record.facts.version == version:
                self.remove(key)
                over.append(record)
        return over

    patch.setattr(ObjectTable, "pop_over", pop_over)


def gives_up_what_is_used(patch: pytest.MonkeyPatch) -> None:
    """How long an object has been idle is counted from when it was written."""
    original = ObjectTable._end_s

    def end_s(self: ObjectTable, record: ObjectRecord) -> float | None:
        used_s = record.used_s
        record.used_s = min(used_s, self.written_s.setdefault(id(record), used_s))  # type: ignore[attr-defined]
        try:
            return original(self, record)
        finally:
            record.used_s = used_s

    patch.setattr(ObjectTable, "written_s", {}, raising=False)
    patch.setattr(ObjectTable, "_end_s", end_s)


def drops_what_it_cannot_repair(patch: pytest.MonkeyPatch) -> None:
    """An object whose repair failed is given up, and nobody is told."""
    original = Repairs.ended

    def ended(self: Repairs, record: ObjectRecord, *, failed: bool) -> None:
        original(self, record, failed=failed)
        if failed and self._shard.is_current(record):
            self._shard.table.remove(record.facts.key)
            self._shard.retire(record)

    patch.setattr(Repairs, "ended", ended)


def forgets_what_it_brought(patch: pytest.MonkeyPatch) -> None:
    """What a write that failed had stored stays where it is."""

    def leave(self: Storing, index: int) -> None:
        node = self._homes.pop(index)
        self.stored.pop(index, None)
        node.used_bytes -= self._footprint(index)
        node.in_flight_bytes -= self._footprint(index)

    patch.setattr(Storing, "_leave", leave)


def reserves_too_late(patch: pytest.MonkeyPatch) -> None:
    """Memory is taken when a chunk has arrived, not when it is sent."""
    settle_at, settle_down, leave = Storing._settle_at, Storing.settle_down, Storing._leave

    def move(self: Storing, index: int, sign: int) -> None:
        self._homes[index].used_bytes += sign * self._footprint(index)
        self._homes[index].in_flight_bytes += sign * self._footprint(index)

    def settle_at_late(self: Storing, index: int, node: Node) -> None:
        settle_at(self, index, node)
        move(self, index, -1)

    def settle_down_at_last(self: Storing) -> None:
        for index in self._homes:
            move(self, index, +1)
        settle_down(self)

    def leave_at_last(self: Storing, index: int) -> None:
        move(self, index, +1)
        leave(self, index)

    patch.setattr(Storing, "_settle_at", settle_at_late)
    patch.setattr(Storing, "settle_down", settle_down_at_last)
    patch.setattr(Storing, "_leave", leave_at_last)


def forgets_the_size_of_what_goes(patch: pytest.MonkeyPatch) -> None:
    """The bytes of all objects never become fewer."""
    original = ObjectTable.remove

    def remove(self: ObjectTable, key: str) -> ObjectRecord | None:
        record = original(self, key)
        self.object_bytes += record.facts.size_bytes if record is not None else 0
        return record

    patch.setattr(ObjectTable, "remove", remove)


def bills_warmups_twice(patch: pytest.MonkeyPatch) -> None:
    """More invocations are counted than there were."""
    original = Node.warm

    def warm(self: Node) -> None:
        original(self)
        self.n_invoked["warm"] = self.n_invoked.get("warm", 0) + 1

    patch.setattr(Node, "warm", warm)


def counts_repairs_as_hits(patch: pytest.MonkeyPatch) -> None:
    """A read for a repair is counted as a client's."""
    original = Rebuild.deliver

    def deliver(self: Rebuild, lost: tuple[int, ...]) -> None:
        self.shard.counters.hits += 1
        original(self, lost)

    patch.setattr(Rebuild, "deliver", deliver)


def repairs_without_end(patch: pytest.MonkeyPatch) -> None:
    """A rebuild for which too few chunks are left waits for more, whatever its deadline."""
    original = Rebuild.on_timer

    def on_timer(self: Rebuild, timing: Timing) -> None:
        if timing is not Timing.DEADLINE:
            original(self, timing)

    patch.setattr(Rebuild, "on_timer", on_timer)
    patch.setattr(Rebuild, "give_up", lambda self, have: None)


def backs_up_without_end(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks whether a backup takes too long."""
    original = Backups.on_slot

    def on_slot(self: Backups, node: Node, *, granted: bool) -> None:
        original(self, node, granted=granted)
        if granted:
            self._limits.call_off(node)

    patch.setattr(Backups, "on_slot", on_slot)


def backs_up_without_a_slot(patch: pytest.MonkeyPatch) -> None:
    """A no is taken for a yes."""
    original = Backups.on_slot
    patch.setattr(Backups, "on_slot", lambda self, node, *, granted: original(self, node, granted=True))


def takes_what_is_being_written_down_for_written(patch: pytest.MonkeyPatch) -> None:
    """An instance counts as on record until another one is confirmed, though that is being written down already."""

    def entered(self: Custody, instance: InstanceId) -> None:
        self.registered = instance

    patch.setattr(Custody, "enter", lambda self, instance: instance != self.registered)
    patch.setattr(Custody, "entered", entered)


def gives_epochs_again(patch: pytest.MonkeyPatch) -> None:
    """A supervisor that crashed does not know which epochs it gave."""
    original = SimSupervisor.enroll

    def enroll(self: SimSupervisor) -> int:
        written, epoch = self._written_epoch, original(self)
        self._written_epoch = written
        return epoch

    patch.setattr(SimSupervisor, "enroll", enroll)


#: Bugs that one check is for, and what it says. Most of them nothing else finds; the others nothing finds so soon.
CHECKS = {
    deletes_the_later_version_first: "was read as",
    serves_what_has_expired: "which had expired",
    sweeps_what_was_touched: "is a miss without a reason",
    gives_up_what_is_used: "is a miss without a reason",
    drops_what_it_cannot_repair: "is a miss without a reason",
    reserves_too_late: "memory in use",
    forgets_what_it_brought: "nobody wants these chunks",
    forgets_the_size_of_what_goes: "bytes of objects are counted",
    bills_warmups_twice: "invocations are counted as",
    counts_repairs_as_hits: "counted {'hits'",
    repairs_without_end: "have not ended by their deadline",
    backs_up_without_end: "backups without an end",
    backs_up_without_a_slot: "are under way, with slots for",
}


def invokes_for_nothing(patch: pytest.MonkeyPatch) -> None:
    """A node that somebody waits for is invoked again and again, though it has nothing left to do."""
    patch.setattr(Node, "_has_to_hear", lambda self: True)


MUTANTS = [
    invokes_for_nothing,
    takes_what_is_being_written_down_for_written,
    gives_epochs_again,
    moves_onto_siblings,
    lets_go_too_early,
    flips_before_it_has_moved,
    skips_the_alignment,
    ignores_the_fence,
    acknowledges_deletes_early,
    takes_other_nodes_for_the_same,
    forgets_what_was_evicted,
    forgets_writes_during_a_backup,
    counts_a_late_chunk_twice,
    drops_too_much,
    aligns_before_it_knows,
    keeps_slots,
    sends_parity_uncomputed,
    keeps_moved_chunks,
    stores_before_it_deletes,
    invokes_the_leaving,
    sends_over_dead_connections,
    never_asks_again,
    forgets_lost_connections,
    commits_early,
    repairs_onto_siblings,
    forgets_pins,
    counts_damaged_chunks,
    leaves_requests_open,
    leaks_memory,
    keeps_the_older_write,
    ignores_memory_limits,
]


#: Rare bugs, found in schedules that have more of what brings them out.
EMPHASIS: dict[Any, dict[str, int]] = {
    takes_what_is_being_written_down_for_written: {"lose_registry": 10, "recover": 4, "reclaim_one": 4, "crash": 3},
    ignores_the_fence: {"succeed": 8},
    lets_go_too_early: {"change_pool": 8},
    drops_what_it_cannot_repair: {"reclaim_some": 4},
    deletes_the_later_version_first: {"crash": 6, "delete": 8},
    forgets_pins: {"delete": 8},
    sends_over_dead_connections: {"cut": 8},
    forgets_writes_during_a_backup: {"cut_all": 10, "reclaim_one": 4},
}


@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert any(breaks(plant, seed) for seed in range(BUDGET)), f"{plant.__name__} was not found in {BUDGET} schedules"


@pytest.mark.parametrize(("plant", "says"), CHECKS.items(), ids=lambda part: getattr(part, "__name__", ""))
def test_each_check_finds_what_it_is_for(plant: Any, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert any(breaks(plant, seed, says) for seed in range(BUDGET)), (
        f"{plant.__name__} was not found in {BUDGET} schedules"
    )


def breaks(plant: Any, seed: int, says: str = "") -> bool:
    """Whether a promise is broken, or an assumption of the code itself."""
    try:
        run_schedule(seed, emphasis=EMPHASIS.get(plant))
    except Violation as violation:
        return says in str(violation) and violation.seed == seed
    return False
