"""Bugs, planted one at a time: the schedules find each of them within their budget.

To replay one: plant it in a shell, and run the schedule that found it.
"""

from __future__ import annotations

from typing import Any

import pytest

from infiniray.core import storing
from infiniray.core.backup import Backup, Backups
from infiniray.core.commands import ReleaseSlot
from infiniray.core.connection import TRANSITIONS, Action, Activity, Stimulus, Validity
from infiniray.core.copies import Copy, Link
from infiniray.core.custody import Custody, Retention
from infiniray.core.draining import Draining
from infiniray.core.erasing import Eraser
from infiniray.core.ids import InstanceId, LinkId, NodeId
from infiniray.core.moving import Move
from infiniray.core.node import Node
from infiniray.core.operation import Operation, Timing
from infiniray.core.outbox import Outbox
from infiniray.core.policy import footprint_bytes
from infiniray.core.reading import ChunkState, Read
from infiniray.core.recovery import Recovery
from infiniray.core.requests import RequestKind, Settled
from infiniray.core.shard import ShardState
from infiniray.core.storing import Repair, Storing, Write
from infiniray.core.table import NOWHERE, ChunkPlace, ObjectRecord, ObjectTable
from infiniray.sim.driver import Violation
from infiniray.sim.registry import SimRegistry
from infiniray.sim.schedules import run_schedule

BUDGET = 160


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

    def take_over(self: Custody, copy: Copy) -> list[Retention]:
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

    def retentions(self: Custody, copy: Copy) -> list[Retention]:
        return [retention._replace(keep=()) for retention in original(self, copy)]

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


MUTANTS = [
    moves_onto_siblings,
    lets_go_too_early,
    flips_before_it_has_moved,
    skips_the_alignment,
    ignores_the_fence,
    acknowledges_deletes_early,
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


@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert any(breaks(seed) for seed in range(BUDGET)), f"{plant.__name__} was not found in {BUDGET} schedules"


def breaks(seed: int) -> bool:
    """A broken promise, or a broken assumption of the code itself."""
    try:
        run_schedule(seed)
    except Violation as violation:
        return f"replay: infiniray soak --replay {seed}" in str(violation)
    return False
