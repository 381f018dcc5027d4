"""The shard's brain: ``ShardState.handle(event, now_s) -> commands``.

The file to start at. It knows the objects (:mod:`~infiniray.core.table`), the nodes (:mod:`~infiniray.core.node`)
and the operations that are going on (:mod:`~infiniray.core.reading`, :mod:`~infiniray.core.storing`,
:mod:`~infiniray.core.erasing`), admits new ones and leads each event to whom it concerns. Beside them go what keeps the
data while functions vanish: :mod:`~infiniray.core.warming`, :mod:`~infiniray.core.backup`,
:mod:`~infiniray.core.repairing`, and :mod:`~infiniray.core.recovery` after a crash; :mod:`~infiniray.core.draining`
changes the pool. It never sees a byte of payload.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import inf
from typing import Any

from infiniray.core import events as ev
from infiniray.core.backup import Backups
from infiniray.core.budget import Allowance
from infiniray.core.commands import CloseLink, Command, Complete, Fail, ObjectFacts, Release
from infiniray.core.context import Context
from infiniray.core.copies import Copy
from infiniray.core.draining import Draining
from infiniray.core.erasing import Delete, Eraser, Residue
from infiniray.core.ids import LinkId, NodeId, OpId, RequestId
from infiniray.core.near import NearCopies
from infiniray.core.node import Link, Node
from infiniray.core.operation import Operation, Timing
from infiniray.core.policy import Policy, footprint_bytes
from infiniray.core.reading import Read
from infiniray.core.recovery import Recovery
from infiniray.core.repairing import Repairs
from infiniray.core.requests import RECOVERY, Outcome
from infiniray.core.storing import Write
from infiniray.core.table import NOWHERE, ChunkPlace, ObjectRecord, ObjectTable
from infiniray.core.warming import Warming
from infiniray.errors import (
    DeadlineExceeded,
    InfiniRayError,
    KeyNotFound,
    Overloaded,
    ShardRecovering,
    StaleEpoch,
    ValueTooLarge,
)

__all__ = ["Counters", "ShardState"]

#: Objects that one sweep takes out at most, so that it never holds up requests for long.
SWEEP_LIMIT = 256
#: Of the bytes that reads deliver, the share that hedges may ask for while many reads wait for the same nodes.
HEDGED_SHARE = 0.1
HEDGED_BURST_BYTES = 16 << 20


@dataclass(slots=True)
class Counters:
    """What has happened since the shard started."""

    gets: int = 0
    hits: int = 0
    near_hits: int = 0  #: of these, the ones that asked no node
    misses: int = 0
    resets: int = 0
    degraded_reads: int = 0
    reads_decoded: int = 0
    reads_hedged: int = 0
    fetches_cancelled: int = 0
    chunks_damaged: int = 0
    puts: int = 0
    puts_failed: int = 0
    deletes: int = 0
    evictions: int = 0
    expired: int = 0
    given_up: int = 0  #: idle for longer than a hit is worth
    repairs: int = 0
    repairs_failed: int = 0
    moves: int = 0
    refused: int = 0


class ShardState:
    """I am responsible for the objects of one segment of the key ring and for the nodes that hold them.

    Args:
        shard: my name.
        epoch: the membership that I was made for; versions of a later epoch are higher.
        nodes: bytes of chunks that each of my nodes may hold.
        policy: see :class:`~infiniray.core.policy.Policy`.
    """

    def __init__(self, *, shard: str, epoch: int, nodes: Mapping[NodeId, int], policy: Policy) -> None:
        self.shard = shard
        self.context = Context(policy, epoch)
        self.nodes = {node: Node(node, capacity, self.context) for node, capacity in nodes.items()}
        self.table = ObjectTable(idle_byte_s=policy.idle_byte_s)
        self.counters = Counters()
        self.operations: dict[OpId, Operation] = {}
        self.near = NearCopies(self.context)
        #: bytes that reads among others may ask for beyond what they need
        self.hedging = Allowance(HEDGED_SHARE, HEDGED_BURST_BYTES)
        self.backups = Backups(self)
        self.repairs = Repairs(self)
        self.warming = Warming(self)
        self.draining = Draining(self)
        #: what is not in the table any more and may still be on nodes, by key
        self.residues: dict[str, list[Residue]] = {}
        #: another incarnation of this shard has taken over: nothing is done any more
        self.is_deposed = False
        self._recovery: Recovery | None = None
        self._links: dict[LinkId, Node] = {}
        self._bytes_in_flight = 0
        self._n_invoked_before: dict[str, int] = {}  # nodes that have left
        self._sweep_s = inf  # when the next sweep is due
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.Started: self._start,
            ev.PutRequested: self._put,
            ev.GetRequested: self._get,
            ev.DeleteRequested: self._delete,
            ev.TouchRequested: self._touch,
            ev.OpCancelled: self._cancel,
            ev.BackupRequested: lambda e: self.backups.request_all(),
            ev.PoolChanged: lambda e: self.draining.change(dict(e.nodes)),
            ev.NodeWanted: lambda e: self._at_node(e.node, Node.wake),
            ev.LinkOpened: self._link_opened,
            ev.LinkClosed: self._link_closed,
            ev.PongReceived: self._pong_received,
            ev.ByeReceived: self._bye_received,
            ev.InvokeReturned: self._invoke_returned,
            ev.Retained: lambda e: self._answer(e.request, Outcome.DONE),
            ev.InventoryArrived: self._inventory_arrived,
            ev.ChunkCopied: self._chunk_copied,
            ev.CopyFailed: self._copy_failed,
            ev.CopyRegistered: self._copy_registered,
            ev.SlotAnswered: lambda e: self._at_node(
                e.node, lambda node: self.backups.on_slot(node, granted=e.granted)
            ),
            ev.LeadConfirmed: lambda e: self.near.lead.on_confirmed(e.is_sure),
            ev.Deposed: self._depose,
            ev.ChunkStored: lambda e: self._answer(e.request, Outcome.DONE, crc=e.crc),
            ev.ChunkArrived: lambda e: self._answer(e.request, Outcome.DONE),
            ev.ChunkMissing: lambda e: self._answer(e.request, Outcome.MISSING, detail="the node does not have it"),
            ev.ChunkDamaged: lambda e: self._answer(e.request, Outcome.DAMAGED, detail="not what was stored"),
            ev.ChunksDeleted: lambda e: self._answer(e.request, Outcome.DONE),
            ev.RequestRefused: lambda e: self._answer(e.request, Outcome.REFUSED, detail=e.reason),
            ev.Gauged: self._gauged,
            ev.FetchCancelled: lambda e: None,
            ev.Encoded: lambda e: self._coded(e.op, None),
            ev.Decoded: lambda e: self._coded(e.op, None),
            ev.CodecFailed: lambda e: self._coded(e.op, e.detail),
            ev.TimerFired: self._timer_fired,
        }
        self._own_timers: dict[str, Callable[[], None]] = {
            "silence": self.context.silence.ring,
            "warm": self.warming.on_timer,
            "backup": self.backups.on_next,
            "backup-limit": self.backups.on_limits,
            "sweep": self._sweep,
            "repair": self.repairs.on_timer,
            "repair-again": self.repairs.on_again,
            "drain": self.draining.on_timer,
            "recovery": lambda: self._recovery.on_timeout() if self._recovery else None,
            "recover-again": lambda: self._recovery.on_again() if self._recovery else None,
            "recovery-lead": lambda: self._recovery.on_lead_over() if self._recovery else None,
        }

    def handle(self, event: ev.Event, now_s: float) -> list[Command]:
        """Take note of a fact; what is to be done about it, in order. ``now_s`` is Unix time and never goes back."""
        context = self.context
        if now_s > context.now_s:
            context.now_s = now_s
        if self.is_deposed:
            return self._decline(event)
        self._handlers[event.__class__](event)
        if context.is_unsettled:
            self._settle_down()
        commands, context.out = context.out, []
        return commands

    def _settle_down(self) -> None:
        """What the event led to, until nothing more follows from it."""
        context, backups = self.context, self.backups
        while context.is_unsettled:
            context.is_unsettled = False
            while context.settled:
                settled = context.settled.popleft()
                operation = self.operations.get(settled.request.op)
                if operation is not None:
                    operation.settle(settled)
                elif settled.request.op == RECOVERY and self._recovery is not None:
                    self._recovery.settle(settled)
            while context.turned:
                node = context.turned.popleft()
                if self._recovery is not None:
                    self._recovery.on_turned(node)
                else:
                    # a backup that has just handed over has copied what there was: no other at once
                    self.repairs.inspect(node, may_copy=node not in backups.over)
            while context.paired:
                backups.on_paired(context.paired.popleft())
            while backups.stirred:
                backups.stirred.pop().go_on()
            while backups.over:
                self.repairs.inspect(backups.over.pop(), may_copy=False)
            if context.progressed:
                progressed, context.progressed = context.progressed, set()
                for operation in list(self.operations.values()):
                    if operation.waits_for(progressed) and not operation.is_over:
                        operation.look()

    # ------------------------------------------------------------ beginning, and being replaced

    def _start(self, event: ev.Started) -> None:
        for node in self.nodes.values():
            self._watch(node)
        registered = {node: instance for node, instance in event.registered if instance}
        if registered:
            self._recovery = Recovery(self, registered)
            self._recovery.start()

    def _watch(self, node: Node) -> None:
        self.warming.watch(node)
        self.backups.watch(node)

    @property
    def is_recovering(self) -> bool:
        """Whether the table is being rebuilt: clients have to wait."""
        return self._recovery is not None

    def recovered(self) -> None:
        """The table is what it was."""
        self._recovery = None
        self.table.uses_known_since_s = self.context.now_s
        for node in self.nodes.values():
            node.resume_custody()
            self.repairs.inspect(node, may_copy=True)
        for record in list(self.table):
            if self.lost_chunks(record):
                self.repairs.add(record)
        self.draining.resume()

    def _depose(self, event: ev.Deposed) -> None:
        """Nodes obey another incarnation now: nothing that was begun here can be finished."""
        for operation in list(self.operations.values()):
            if not operation.is_over:
                operation.fail(self._stale())
        self.is_deposed = True

    def _decline(self, event: ev.Event) -> list[Command]:
        if isinstance(event, (ev.PutRequested, ev.GetRequested)):
            return [Fail(op=event.op, error=self._stale()), Release(op=event.op)]
        if isinstance(event, (ev.DeleteRequested, ev.TouchRequested)):
            return [Fail(op=event.op, error=self._stale())]
        return []

    def _stale(self) -> StaleEpoch:
        return StaleEpoch(seen=self.context.epoch, current=self.context.epoch + 1)

    # ------------------------------------------------------------ what anybody may ask, any time

    @property
    def capacity_bytes(self) -> int:
        return sum(node.capacity_bytes for node in self.nodes.values())

    @property
    def stored_bytes(self) -> int:
        """Memory that chunks take on nodes, those on their way included."""
        return sum(node.used_bytes for node in self.nodes.values())

    def stats(self) -> dict[str, Any]:
        """Counters and sizes, as JSON-able values. Backups are those that this incarnation of the shard knows of."""
        invocations = dict(self._n_invoked_before)
        for node in self.nodes.values():
            for reason, n in node.n_invoked.items():
                invocations[reason] = invocations.get(reason, 0) + n
        ages_s = self.backups.ages_s()
        return {
            **asdict(self.counters),
            **asdict(self.backups.counters),
            "backups_running": sum(self.backups.is_expected(node) for node in self.nodes.values()),
            "backup_ages_s": [age_s for age_s in ages_s if age_s is not None],
            "nodes_never_backed_up": ages_s.count(None),
            "endangered": self.repairs.n_endangered,
            "repair_bytes": round(self.repairs.bytes.spent),
            "repair_usd": self.repairs.usd.spent,
            "is_recovering": self.is_recovering,
            "shard": self.shard,
            "epoch": self.context.epoch,
            "nodes": len(self.nodes),
            "leaving": self.draining.left(),
            "nodes_connected": sum(node.link is not None for node in self.nodes.values()),
            "objects": len(self.table),
            "object_bytes": self.table.object_bytes,
            "near_objects": len(self.near),
            "near_bytes": self.near.n_bytes,
            "stored_bytes": self.stored_bytes,
            "capacity_bytes": self.capacity_bytes,
            "in_flight": len(self.operations),
            "invocations": invocations,
        }

    # ------------------------------------------------------------ clients

    def _put(self, event: ev.PutRequested) -> None:
        facts = ObjectFacts(
            key=event.key, version=self.context.new_stamp(), size_bytes=event.size_bytes,
            scheme=self.context.policy.schemes.choose(event.size_bytes), head=event.head, expires_s=event.expires_s
            or 0.0,
        )  # fmt: skip
        error = self._not_ready() or self._too_large(facts) or self._overload(facts.size_bytes)
        if error is not None:
            self._refuse(event.op, error)
            return
        self.counters.puts += 1
        self.begin(Write(event.op, facts, self, event.deadline_s, event.expires_s))

    def _get(self, event: ev.GetRequested) -> None:
        error: InfiniRayError | None = self._not_ready()
        if error is not None:
            self._refuse(event.op, error)
            return
        record = self.table.lookup(event.key, self.context.now_s)
        if record is None:
            self.counters.gets += 1
            self.counters.misses += 1
            error = KeyNotFound(key=event.key)
        elif self.near.answer(event.op, record):
            self._count_near(record)
            return
        else:
            error = self._overload(record.facts.size_bytes)
        if error is not None or record is None:
            assert error is not None
            self._refuse(event.op, error)
            return
        self.counters.gets += 1
        self.begin(Read(event.op, record, self, event.deadline_s))

    def _count_near(self, record: ObjectRecord) -> None:
        """A read was answered without asking a node."""
        record.is_referenced = True
        record.used_s = self.context.now_s
        self.counters.gets += 1
        self.counters.hits += 1
        self.counters.near_hits += 1

    def _delete(self, event: ev.DeleteRequested) -> None:
        error = self._not_ready()
        if error is not None:
            self.context.out.append(Fail(op=event.op, error=error))
            return
        found = self.table.lookup(event.key, self.context.now_s) is not None
        record = self.table.remove(event.key)
        if record is not None:
            self.retire(record)
        self.counters.deletes += found
        residues = self._residues_of(event.key)
        if residues:
            last = residues[-1].record
            eraser = Eraser(self, residues)
            self.begin(Delete(event.op, last, self, event.deadline_s, found=found, eraser=eraser))
        else:
            self.context.out.append(Complete(op=event.op, found=found))

    def _touch(self, event: ev.TouchRequested) -> None:
        error = self._not_ready()
        if error is not None:
            self.context.out.append(Fail(op=event.op, error=error))
            return
        record = self.table.lookup(event.key, self.context.now_s)
        if record is not None:
            record.is_referenced = True
            record.used_s = self.context.now_s
            self.table.set_expiry(record, event.expires_s)
            self._sweep_later()
        self.context.out.append(Complete(op=event.op, found=record is not None))

    def _cancel(self, event: ev.OpCancelled) -> None:
        operation = self.operations.get(event.op)
        if operation is not None:
            gone = DeadlineExceeded(
                operation=operation.name, key=operation.facts.key, deadline_s=0.0, detail="the caller is gone"
            )
            operation.end(lambda: None, gone)

    def _not_ready(self) -> ShardRecovering | None:
        return ShardRecovering(shard=self.shard, retry_after_s=0.1) if self.is_recovering else None

    def _overload(self, size_bytes: int) -> Overloaded | None:
        policy = self.context.policy
        if len(self.operations) >= policy.max_in_flight:
            in_flight, limit = len(self.operations), policy.max_in_flight
        elif self._bytes_in_flight and self._bytes_in_flight + size_bytes > policy.max_in_flight_bytes:
            in_flight, limit = len(self.operations), len(self.operations)
        else:
            return None
        return Overloaded(in_flight=in_flight, limit=limit, retry_after_s=0.1)

    def _too_large(self, facts: ObjectFacts) -> ValueTooLarge | None:
        scheme = facts.scheme
        footprint = footprint_bytes(scheme.chunk_bytes(facts.size_bytes))
        able = (n for n in self.nodes.values() if n.capacity_bytes >= footprint and not n.is_draining)
        if len(list(itertools.islice(able, scheme.n))) == scheme.n:
            return None
        capacities = sorted((node.capacity_bytes for node in self.nodes.values() if not node.is_draining), reverse=True)
        largest = capacities[: scheme.n]
        limit = largest[-1] * scheme.n if len(largest) == scheme.n else 0
        return ValueTooLarge(size_bytes=footprint * scheme.n, limit_bytes=limit)

    def _refuse(self, op: OpId, error: InfiniRayError) -> None:
        self.counters.refused += isinstance(error, (Overloaded, ValueTooLarge))
        self.context.out += [Fail(op=op, error=error), Release(op=op)]

    # ------------------------------------------------------------ operations

    def begin(self, operation: Operation) -> None:
        self.operations[operation.id] = operation
        self._bytes_in_flight += operation.facts.size_bytes
        operation.start()

    def forget(self, operation: Operation) -> None:
        """An operation ended."""
        del self.operations[operation.id]
        self._bytes_in_flight -= operation.facts.size_bytes

    def _coded(self, op: OpId, error: str | None) -> None:
        operation = self.operations.get(op)
        if operation is not None:
            operation.on_coded(error)

    def _gauged(self, event: ev.Gauged) -> None:
        operation = self.operations.get(event.op)
        if operation is not None:
            operation.on_gauged(event.shares)

    def _timer_fired(self, event: ev.TimerFired) -> None:
        kind, whose = event.timer
        if kind in self._own_timers:
            self._own_timers[kind]()
        elif kind == "retry":
            self._at_node(NodeId(str(whose)), Node.on_retry)
        else:
            operation = self.operations.get(OpId(int(whose)))
            if operation is not None:
                operation.fire(Timing(kind))

    # ------------------------------------------------------------ the table

    def commit(self, record: ObjectRecord) -> list[Residue]:
        """Make a written version the current one, unless a later one is. What may be left of others of that key."""
        current = self.table.find(record.facts.key)
        if current is not None and current.facts.version > record.facts.version:
            record.is_retired = True
            self.retire(record)
            return []
        former = self.table.insert(record)
        if former is not None:
            self.retire(former)
        for residue in self.residues.get(record.facts.key, ()):
            residue.replaced_by(record)
        self._sweep_later()
        return self._residues_of(record.facts.key)

    def former_nodes(self, key: str) -> set[NodeId]:
        """Nodes that hold what is under ``key``, or may still hold what was."""
        nodes = {node for residue in self.residues.get(key, ()) for node in residue.nodes}
        current = self.table.find(key)
        if current is not None:
            nodes.update(place.node for _, place in current.placed())
        return nodes

    def move_chunk(self, record: ObjectRecord, index: int, place: ChunkPlace) -> None:
        """Chunk ``index`` is at ``place`` now, where its memory is already reserved."""
        former = record.places[index]
        if former.node != place.node:
            self.give_up_chunk(record, index)
        elif former is not NOWHERE:
            self.nodes[former.node].used_bytes -= footprint_bytes(record.chunk_bytes(index))
        record.places[index] = place

    def give_up_chunk(self, record: ObjectRecord, index: int) -> None:
        """Chunk ``index`` is not wanted any more where it is."""
        former, record.places[index] = record.places[index], NOWHERE
        if former is NOWHERE:
            return
        node = self.nodes[former.node]
        node.used_bytes -= footprint_bytes(record.chunk_bytes(index))
        node.discard(record.chunk_id(index))
        record.strays = [(i, n) for i, n in record.strays if n in self.nodes and (i, n) != (index, former.node)]
        record.strays.append((index, former.node))

    def lose(self, record: ObjectRecord) -> None:
        """Too few of its chunks are left: a reset."""
        self.counters.resets += 1
        if self.table.find(record.facts.key) is record:
            self.table.remove(record.facts.key)
            self.retire(record)

    def evict(self) -> bool:
        """Make room by giving up one object; False if none can be."""
        record = self.table.pop_victim(self.context.now_s)
        if record is None:
            return False
        self.counters.evictions += 1
        self.retire(record)
        return True

    def is_current(self, record: ObjectRecord) -> bool:
        return self.table.find(record.facts.key) is record

    def is_lost(self, place: ChunkPlace) -> bool:
        """Whether a chunk is not where it should be, as far as is known."""
        return place is NOWHERE or self.nodes[place.node].lacks(place.seq)

    def lost_chunks(self, record: ObjectRecord) -> tuple[int, ...]:
        lost: list[int] = []
        nodes = self.nodes
        for index, place in enumerate(record.places):  # is_lost(), without a call for each
            if place is NOWHERE or ((copy := nodes[place.node].copy) is not None and place.seq not in copy.spans):
                lost.append(index)
        return tuple(lost)

    def is_being_copied(self, record: ObjectRecord) -> bool:
        """Whether lost chunks of it are being copied from another instance of their node."""
        return any(
            self.is_lost(place)
            and self.backups.is_expected(node := self.nodes[place.node])
            and node.elsewhere(place.seq)
            for _, place in record.placed()
        )

    def may_return(self, record: ObjectRecord) -> bool:
        """Whether lost chunks of it are on instances that may only be late."""
        return any(self.nodes[place.node].may_return(place.seq) for _, place in record.placed())

    def pin(self, record: ObjectRecord) -> None:
        record.n_pins += 1

    def unpin(self, record: ObjectRecord) -> None:
        record.n_pins -= 1
        if record.is_retired and not record.n_pins:
            self.drop(record)

    def retire(self, record: ObjectRecord) -> None:
        """It is not in the table any more: its chunks go when nobody reads them."""
        self.near.drop(record.facts)
        self.residues.setdefault(record.facts.key, []).append(Residue(record))
        self._sweep_later()
        if not record.n_pins:
            self.drop(record)

    def drop(self, record: ObjectRecord) -> None:
        """Have the chunks of a retired record deleted."""
        if record.is_dropped:
            return
        record.is_dropped = True
        for index, place in record.placed():
            node = self.nodes[place.node]
            node.used_bytes -= footprint_bytes(record.chunk_bytes(index))
            node.discard(record.chunk_id(index), at_leisure=True)
        self.context.note_progress(record.facts.key)

    def _residues_of(self, key: str) -> list[Residue]:
        """What may still be on nodes of the objects that were under ``key``; those that are harmless are forgotten."""
        left = [residue for residue in self.residues.get(key, ()) if not residue.is_harmless(residue.left(self))]
        if left:
            self.residues[key] = left
        else:
            self.residues.pop(key, None)
        return list(left)

    def _sweep_later(self) -> None:
        """See that what is over, and what may be forgotten, is looked at in time."""
        now_s = self.context.now_s
        end_s = now_s if self.residues else self.table.next_end_s()
        if end_s is not None:
            self._sweep_at(max(end_s, now_s + self.context.policy.sweep_interval_s))

    def _sweep_at(self, at_s: float) -> None:
        if at_s < self._sweep_s:
            self._sweep_s = at_s
            self.context.set_timer(("sweep", 0), at_s - self.context.now_s)

    def _sweep(self) -> None:
        self._sweep_s = inf
        now_s = self.context.now_s
        if self.is_recovering:  # nobody can use anything meanwhile, so nothing is idle
            self._sweep_at(now_s + self.context.policy.sweep_interval_s)
            return
        over = self.table.pop_over(now_s, SWEEP_LIMIT)
        n_expired = sum(record.is_expired(now_s) for record in over)
        self.counters.expired += n_expired
        self.counters.given_up += len(over) - n_expired
        for record in over:
            self.retire(record)
        for key in list(itertools.islice(self.residues, SWEEP_LIMIT)):
            if self._residues_of(key):
                self.residues[key] = self.residues.pop(key)  # behind those that were not looked at
        if len(over) == SWEEP_LIMIT:
            self._sweep_at(now_s + 0.01)
        self._sweep_later()

    # ------------------------------------------------------------ nodes

    def join(self, node: Node) -> None:
        """A node has come to the pool."""
        self.nodes[node.id] = node
        self._watch(node)

    def leave(self, node: Node) -> None:
        """A node has left the pool: nothing refers to it any more."""
        del self.nodes[node.id]
        self.backups.forget(node)
        self.warming.forget(node)
        node.close()
        for link in [link for link, owner in self._links.items() if owner is node]:
            del self._links[link]  # that it closes is no news: the node may be in the pool again by then
        for reason, n in node.n_invoked.items():
            self._n_invoked_before[reason] = self._n_invoked_before.get(reason, 0) + n
        self.context.note_progress(node.id)  # what may still have been left on it is out of reach

    def _link_opened(self, event: ev.LinkOpened) -> None:
        node = self.nodes.get(event.node)
        if node is None:
            self.context.out.append(CloseLink(link=event.link))
            return
        self._links[event.link] = node
        node.on_opened(Link(event.link, Copy(event.instance, event.spans.copy())), event.session)

    def _link_closed(self, event: ev.LinkClosed) -> None:
        node = self._links.pop(event.link, None)
        if node is not None:
            node.on_closed(event.link)

    def _pong_received(self, event: ev.PongReceived) -> None:
        node = self._links.get(event.link)
        if node is not None:
            node.on_pong(event.link, event.session)

    def _bye_received(self, event: ev.ByeReceived) -> None:
        node = self._links.get(event.link)
        if node is not None:
            node.on_bye(event.link, event.session)

    def _invoke_returned(self, event: ev.InvokeReturned) -> None:
        node = self.nodes.get(event.node)
        if node is not None:
            node.on_returned(event.session, event.outcome, event.retry_after_s, event.copy)

    def _inventory_arrived(self, event: ev.InventoryArrived) -> None:
        node = self.context.homes.get(event.request)
        request = node.on_answer(event.request, Outcome.DONE) if node is not None else None
        if request is not None:
            request.page, request.has_more = event.chunks, event.more

    def _chunk_copied(self, event: ev.ChunkCopied) -> None:
        backup = self.backups.copying.get(event.request)
        if backup is not None:
            backup.on_copied(event.request)

    def _copy_failed(self, event: ev.CopyFailed) -> None:
        backup = self.backups.copying.get(event.request)
        if backup is not None:
            backup.on_copy_failed(event.request, is_missing=event.is_missing, detail=event.detail)

    def _copy_registered(self, event: ev.CopyRegistered) -> None:
        self._at_node(event.node, lambda node: node.on_registered(event.instance))
        if self._recovery is not None:
            self._recovery.on_registered(event.node)

    def _at_node(self, name: NodeId, act: Callable[[Node], None]) -> None:
        node = self.nodes.get(name)
        if node is not None:
            act(node)

    def _answer(self, request: RequestId, outcome: Outcome, *, crc: int = 0, detail: str = "") -> None:
        node = self.context.homes.get(request)
        if node is not None:
            node.on_answer(request, outcome, crc=crc, detail=detail)
