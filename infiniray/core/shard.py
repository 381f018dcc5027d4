"""The shard's brain: ``ShardState.handle(event, now_s) -> commands``.

The file to start at. It knows the objects (:mod:`~infiniray.core.table`), the nodes (:mod:`~infiniray.core.node`)
and the operations that are going on (:mod:`~infiniray.core.reading`, :mod:`~infiniray.core.storing`), admits new
ones and leads each event to whom it concerns. It never sees a byte of payload.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from infiniray.core import events as ev
from infiniray.core.commands import CloseLink, Command, Complete, Fail, ObjectFacts, Release
from infiniray.core.context import Context
from infiniray.core.ids import LinkId, NodeId, OpId, RequestId
from infiniray.core.node import Link, Node
from infiniray.core.operation import Operation, Timing
from infiniray.core.policy import Policy, footprint_bytes
from infiniray.core.reading import Read
from infiniray.core.requests import Outcome
from infiniray.core.storing import Repair, Write
from infiniray.core.table import ChunkPlace, ObjectRecord, ObjectTable
from infiniray.errors import DeadlineExceeded, InfiniRayError, KeyNotFound, Overloaded, ValueTooLarge

__all__ = ["Counters", "ShardState"]

#: Objects that one sweep takes out at most, so that it never holds up requests for long.
SWEEP_LIMIT = 256
REPAIR_DEADLINE_S = 30.0


@dataclass(slots=True)
class Counters:
    """What has happened since the shard started."""

    gets: int = 0
    hits: int = 0
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
    repairs: int = 0
    repairs_failed: int = 0
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
        self.table = ObjectTable()
        self.counters = Counters()
        self.operations: dict[OpId, Operation] = {}
        self._links: dict[LinkId, Node] = {}
        self._repairing: set[tuple[str, int]] = set()
        self._bytes_in_flight = 0
        self._n_repairs = 0
        self._is_sweeping = False
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.PutRequested: self._put,
            ev.GetRequested: self._get,
            ev.DeleteRequested: self._delete,
            ev.TouchRequested: self._touch,
            ev.OpCancelled: self._cancel,
            ev.LinkOpened: self._link_opened,
            ev.LinkClosed: self._link_closed,
            ev.PongReceived: lambda e: self._at_link(e.link, lambda node: node.on_pong(e.link, e.session)),
            ev.ByeReceived: lambda e: self._at_link(e.link, lambda node: node.on_bye(e.link, e.session)),
            ev.InvokeReturned: self._invoke_returned,
            ev.ChunkStored: lambda e: self._answer(e.request, Outcome.DONE, crc=e.crc),
            ev.ChunkArrived: lambda e: self._answer(e.request, Outcome.DONE),
            ev.ChunkMissing: lambda e: self._answer(e.request, Outcome.MISSING, detail="the node does not have it"),
            ev.ChunkDamaged: lambda e: self._answer(e.request, Outcome.DAMAGED, detail="not what was stored"),
            ev.ChunksDeleted: lambda e: self._answer(e.request, Outcome.DONE),
            ev.RequestRefused: lambda e: self._answer(e.request, Outcome.REFUSED, detail=e.reason),
            ev.FetchCancelled: lambda e: None,
            ev.Encoded: lambda e: self._coded(e.op, None),
            ev.Decoded: lambda e: self._coded(e.op, None),
            ev.CodecFailed: lambda e: self._coded(e.op, e.detail),
            ev.TimerFired: self._timer_fired,
        }

    def handle(self, event: ev.Event, now_s: float) -> list[Command]:
        """Take note of a fact; what is to be done about it, in order. ``now_s`` is Unix time and never goes back."""
        context = self.context
        context.now_s = max(now_s, context.now_s)
        self._handlers[type(event)](event)
        while context.settled:
            settled = context.settled.popleft()
            operation = self.operations.get(settled.request.op)
            if operation is not None:
                operation.settle(settled)
        commands, context.out = context.out, []
        return commands

    # ------------------------------------------------------------ what anybody may ask, any time

    @property
    def capacity_bytes(self) -> int:
        return sum(node.capacity_bytes for node in self.nodes.values())

    @property
    def stored_bytes(self) -> int:
        """Memory that chunks take on nodes, those on their way included."""
        return sum(node.used_bytes for node in self.nodes.values())

    def stats(self) -> dict[str, Any]:
        """Counters and sizes, as JSON-able values."""
        invocations: dict[str, int] = {}
        for node in self.nodes.values():
            for reason, n in node.n_invoked.items():
                invocations[reason] = invocations.get(reason, 0) + n
        return {
            **asdict(self.counters),
            "shard": self.shard,
            "epoch": self.context.epoch,
            "nodes": len(self.nodes),
            "nodes_connected": sum(node.link is not None for node in self.nodes.values()),
            "objects": len(self.table),
            "object_bytes": self.table.object_bytes,
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
        error = self._too_large(facts) or self._overload(facts.size_bytes)
        if error is not None:
            self._refuse(event.op, error)
            return
        self.counters.puts += 1
        self._begin(Write(event.op, facts, self, event.deadline_s, event.expires_s))

    def _get(self, event: ev.GetRequested) -> None:
        record = self.table.lookup(event.key, self.context.now_s)
        error: InfiniRayError | None
        if record is None:
            self.counters.gets += 1
            self.counters.misses += 1
            error = KeyNotFound(key=event.key)
        else:
            error = self._overload(record.facts.size_bytes)
        if error is not None or record is None:
            assert error is not None
            self._refuse(event.op, error)
            return
        self.counters.gets += 1
        self._begin(Read(event.op, record, self, event.deadline_s))

    def _delete(self, event: ev.DeleteRequested) -> None:
        found = self.table.lookup(event.key, self.context.now_s) is not None
        record = self.table.remove(event.key)
        if record is not None:
            self._drop_if_free(record)
        self.counters.deletes += found
        self.context.out.append(Complete(op=event.op, found=found))

    def _touch(self, event: ev.TouchRequested) -> None:
        record = self.table.lookup(event.key, self.context.now_s)
        if record is not None:
            record.is_referenced = True
            self.table.set_expiry(record, event.expires_s)
            self._sweep_later(event.expires_s)
        self.context.out.append(Complete(op=event.op, found=record is not None))

    def _cancel(self, event: ev.OpCancelled) -> None:
        operation = self.operations.get(event.op)
        if operation is not None:
            gone = DeadlineExceeded(
                operation=operation.name, key=operation.facts.key, deadline_s=0.0, detail="the caller is gone"
            )
            operation.end(lambda: None, gone)

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
        footprints = [footprint_bytes(scheme.stored_bytes(i, facts.size_bytes)) for i in range(scheme.n)]
        able = sum(node.capacity_bytes >= max(footprints) for node in self.nodes.values())
        if able >= scheme.n:
            return None
        largest = sorted((node.capacity_bytes for node in self.nodes.values()), reverse=True)[: scheme.n]
        limit = largest[-1] * scheme.n if len(largest) == scheme.n else 0
        return ValueTooLarge(size_bytes=max(footprints) * scheme.n, limit_bytes=limit)

    def _refuse(self, op: OpId, error: InfiniRayError) -> None:
        self.counters.refused += isinstance(error, (Overloaded, ValueTooLarge))
        self.context.out += [Fail(op=op, error=error), Release(op=op)]

    # ------------------------------------------------------------ operations

    def _begin(self, operation: Operation) -> None:
        self.operations[operation.id] = operation
        self._bytes_in_flight += operation.facts.size_bytes
        operation.start()

    def forget(self, operation: Operation) -> None:
        """An operation ended."""
        del self.operations[operation.id]
        self._bytes_in_flight -= operation.facts.size_bytes
        if isinstance(operation, Repair):
            self._repairing.discard((operation.facts.key, operation.facts.version))

    def repair(self, record: ObjectRecord, lost: tuple[int, ...], *, source: OpId) -> None:
        """Rebuild lost chunks from the bytes that the read ``source`` holds, unless enough of that is going on."""
        name = (record.facts.key, record.facts.version)
        policy = self.context.policy
        if not policy.repair or name in self._repairing or len(self._repairing) >= policy.max_repairs:
            return
        self._repairing.add(name)
        self._n_repairs += 1
        deadline_s = self.context.now_s + REPAIR_DEADLINE_S
        self._begin(Repair(OpId(-self._n_repairs), source, record, self, deadline_s, lost))

    def is_repairing(self, record: ObjectRecord) -> bool:
        """Whether lost chunks of it are being rebuilt."""
        return (record.facts.key, record.facts.version) in self._repairing

    def _coded(self, op: OpId, error: str | None) -> None:
        operation = self.operations.get(op)
        if operation is not None:
            operation.on_coded(error)

    def _timer_fired(self, event: ev.TimerFired) -> None:
        kind, whose = event.timer
        if kind == "silence":
            self.nodes[NodeId(str(whose))].on_silence()
        elif kind == "retry":
            self.nodes[NodeId(str(whose))].on_retry()
        elif kind == "sweep":
            self._sweep()
        else:
            operation = self.operations.get(OpId(int(whose)))
            if operation is not None:
                operation.fire(Timing(kind))

    # ------------------------------------------------------------ the table

    def commit(self, record: ObjectRecord) -> None:
        """Make a written version the current one, unless a later one is."""
        current = self.table.find(record.facts.key)
        if current is not None and current.facts.version > record.facts.version:
            record.is_retired = True
            self._drop_if_free(record)
            return
        former = self.table.insert(record)
        if former is not None:
            self._drop_if_free(former)
        self._sweep_later(record.expires_s)

    def move_chunk(self, record: ObjectRecord, index: int, place: ChunkPlace) -> None:
        """Chunk ``index`` is at ``place`` now, where its memory is already reserved."""
        former = record.places[index]
        record.places[index] = place
        node = self.nodes[former.node]
        node.used_bytes -= footprint_bytes(record.chunk_bytes(index))
        if former.node != place.node:
            node.discard(record.chunk_id(index))

    def lose(self, record: ObjectRecord) -> None:
        """Too few of its chunks are left: a reset."""
        self.counters.resets += 1
        if self.table.find(record.facts.key) is record:
            self.table.remove(record.facts.key)
        # its chunks go with its last pin: the read that found out holds one

    def evict(self) -> bool:
        """Make room by giving up one object; False if none can be."""
        record = self.table.pop_victim(self.context.now_s)
        if record is None:
            return False
        self.counters.evictions += 1
        self._drop_if_free(record)
        return True

    def pin(self, record: ObjectRecord) -> None:
        record.n_pins += 1

    def unpin(self, record: ObjectRecord) -> None:
        record.n_pins -= 1
        self._drop_if_free(record)

    def _drop_if_free(self, record: ObjectRecord) -> None:
        """Delete the chunks of a retired record that nobody works on."""
        if not record.is_retired or record.n_pins:
            return
        for index, place in enumerate(record.places):
            node = self.nodes[place.node]
            node.used_bytes -= footprint_bytes(record.chunk_bytes(index))
            node.discard(record.chunk_id(index))
        record.places = []

    def _sweep_later(self, expires_s: float | None) -> None:
        if expires_s is not None and not self._is_sweeping:
            self._is_sweeping = True
            self.context.set_timer(("sweep", 0), self.context.policy.sweep_interval_s)

    def _sweep(self) -> None:
        expired = self.table.pop_expired(self.context.now_s, SWEEP_LIMIT)
        self.counters.expired += len(expired)
        for record in expired:
            self._drop_if_free(record)
        self._is_sweeping = self.table.awaits_expiry
        if self._is_sweeping:
            pause_s = self.context.policy.sweep_interval_s if len(expired) < SWEEP_LIMIT else 0.01
            self.context.set_timer(("sweep", 0), pause_s)

    # ------------------------------------------------------------ nodes

    def _link_opened(self, event: ev.LinkOpened) -> None:
        node = self.nodes.get(event.node)
        if node is None:
            self.context.out.append(CloseLink(link=event.link))
            return
        self._links[event.link] = node
        node.on_opened(Link(event.link, event.instance, event.spans.copy()), event.session)

    def _link_closed(self, event: ev.LinkClosed) -> None:
        node = self._links.pop(event.link, None)
        if node is not None:
            node.on_closed(event.link)

    def _invoke_returned(self, event: ev.InvokeReturned) -> None:
        self.nodes[event.node].on_returned(event.session, event.outcome, event.retry_after_s)

    def _at_link(self, link: LinkId, act: Callable[[Node], None]) -> None:
        node = self._links.get(link)
        if node is not None:
            act(node)

    def _answer(self, request: RequestId, outcome: Outcome, *, crc: int = 0, detail: str = "") -> None:
        node = self.context.homes.get(request)
        if node is not None:
            node.on_answer(request, outcome, crc=crc, detail=detail)
