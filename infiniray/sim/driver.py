"""The driver: executes the commands of one incarnation of a shard on the modelled platform."""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import InstanceId, NodeId, OpId, RequestId, Timer
from infiniray.core.shard import ShardState
from infiniray.errors import InfiniRayError
from infiniray.sim.buffers import Buffers
from infiniray.sim.clock import VirtualClock
from infiniray.sim.errands import Errands
from infiniray.sim.platform import PlatformModel, SimPlatform
from infiniray.sim.registry import SimRegistry
from infiniray.sim.supervisor import SimSupervisor
from infiniray.sim.violation import Violation

__all__ = ["Ending", "SimDriver"]

#: From a shard's learning that it is deposed to its end.
EXIT_S = 0.05
#: As runtime/coordination.py: no answer within this time is a no.
SLOT_TIMEOUT_S = 2.0
REGISTRY_PAUSE_S = 0.05
START_S = 1_600_000_000.0  # expiry is Unix time; any will do


@dataclass(slots=True)
class Ending:
    """How an operation ended: ``value`` of a read, ``error`` of a failed one; ``found`` of a delete or touch."""

    at_s: float
    value: object = None
    found: bool = False
    error: InfiniRayError | None = None


class SimDriver:
    """I run one incarnation of a shard in virtual time. Every command is checked against what may be asked then.

    ``log`` has (time, event or command) of everything that happened, if it is kept.

    Args:
        log_limit: keep only so much of the log's end.
        before: the incarnation before this one, on whose platform and clock this one goes on.
    """

    def __init__(
        self,
        state: ShardState,
        model: PlatformModel | None = None,
        *,
        keeps_log: bool = False,
        log_limit: int | None = None,
        before: SimDriver | None = None,
    ) -> None:
        self.state = state
        self.epoch = state.context.epoch
        self.is_dead = False
        if before is None:
            self.clock = VirtualClock(START_S)
            limits_bytes = {node.id: node.capacity_bytes for node in state.nodes.values()}
            self.platform = SimPlatform(self.clock, model or PlatformModel(), limits_bytes)
            self.registry = SimRegistry()
            self.supervisor = SimSupervisor(self.epoch)
            self.log: deque[tuple[float, Any]] | None = deque(maxlen=log_limit) if keeps_log else None
            self._op_ids = itertools.count(1)
        else:
            self.clock, self.platform, self.registry = before.clock, before.platform, before.registry
            self.supervisor = before.supervisor
            self.log, self._op_ids = before.log, before._op_ids
        #: of operations that ended and that nobody has asked for since
        self.endings: dict[OpId, Ending] = {}
        self.n_events = 0
        #: so many of the next codec runs fail
        self.codec_failures = 0
        #: so many of the next backups get no slot
        self.slots_denied = 0
        #: called when the shard has its table back
        self.on_recovered: Callable[[], None] | None = None
        #: nodes that have a slot for a backup
        self.slots: set[NodeId] = set()
        #: invocations that were asked for, by reason
        self.n_invoked: Counter[str] = Counter()
        self._unregistered: dict[NodeId, InstanceId] = {}
        self._is_registering = False
        self._buffers = buffers = Buffers()
        self._errands = errands = Errands(self.clock, self.platform, buffers, self.feed)
        self._running: set[OpId] = set()
        self._timers: dict[Timer, int] = {}
        self._timer_ids = itertools.count(1)
        self._events: deque[ev.Event] = deque()
        self._is_feeding = False
        self._execute: dict[type, Callable[[Any], None]] = {
            cmd.Invoke: self._invoke,
            cmd.Ping: errands.ping,
            cmd.Hold: errands.hold,
            cmd.StoreChunk: errands.store,
            cmd.AbortStore: errands.give_up,
            cmd.FetchChunk: errands.fetch,
            cmd.Gauge: errands.gauge,
            cmd.CancelFetch: errands.give_up,
            cmd.DeleteChunks: errands.delete,
            cmd.Retain: errands.retain,
            cmd.ListChunks: errands.list_chunks,
            cmd.CopyChunk: errands.copy,
            cmd.CancelCopy: errands.give_up,
            cmd.CloseLink: errands.close,
            cmd.RegisterCopy: self._register,
            cmd.AcquireSlot: self._acquire_slot,
            cmd.ReleaseSlot: self._release_slot,
            cmd.ConfirmLead: self._confirm_lead,
            cmd.KeepNear: buffers.keep_near,
            cmd.DropNear: buffers.drop_near,
            cmd.ReadNear: buffers.read_near,
            cmd.Encode: self._encode,
            cmd.Decode: self._decode,
            cmd.Complete: self._complete,
            cmd.Fail: lambda c: self._end(c.op, Ending(self.clock.now_s, error=c.error)),
            cmd.OpenBuffers: buffers.open,
            cmd.ShareBuffers: buffers.share,
            cmd.Release: buffers.release,
            cmd.SetTimer: self._set_timer,
            cmd.CancelTimer: self._cancel_timer,
        }

    # ------------------------------------------------------------ life

    def start(self) -> None:
        """Begin, with what is on record."""
        self.registry.raise_epoch(self.epoch)
        self.feed(ev.Started(registered=tuple(sorted(self.registry.copies.items()))))

    def crash(self) -> list[OpId]:
        """Die: connections break, timers and operations are no more. The operations that nobody will answer."""
        self.is_dead = True
        self.platform.drop_port(self)
        lost = list(self._running)
        self._running.clear()
        return lost

    def _exit(self) -> None:
        self.crash()

    def report(self, event: ev.Event) -> None:
        """What the platform has to tell."""
        self.feed(event)

    def change_pool(self, nodes: Mapping[NodeId, int]) -> None:
        """These are to be the shard's nodes, each of so many bytes. There are functions for all of them."""
        self.platform.limits_bytes.update(nodes)
        self.feed(ev.PoolChanged(nodes=tuple(nodes.items())))

    # ------------------------------------------------------------ clients

    def put(
        self, key: str, size_bytes: int, value: object, *, ttl_s: float | None = None, timeout_s: float = 30.0
    ) -> OpId:
        """Begin a PUT; ``value`` stands for the bytes."""
        op = self._new_op()
        self._buffers.begin(op, value)
        now_s = self.clock.now_s
        expires_s = None if ttl_s is None else now_s + ttl_s
        self.feed(
            ev.PutRequested(
                op=op, key=key, size_bytes=size_bytes, head="", expires_s=expires_s, deadline_s=now_s + timeout_s
            )
        )
        return op

    def get(self, key: str, *, timeout_s: float = 30.0) -> OpId:
        op = self._new_op()
        self._buffers.begin(op)
        self.feed(ev.GetRequested(op=op, key=key, deadline_s=self.clock.now_s + timeout_s))
        return op

    def delete(self, key: str, *, timeout_s: float = 30.0) -> OpId:
        op = self._new_op()
        self.feed(ev.DeleteRequested(op=op, key=key, deadline_s=self.clock.now_s + timeout_s))
        return op

    def touch(self, key: str, ttl_s: float | None) -> OpId:
        op = self._new_op()
        expires_s = None if ttl_s is None else self.clock.now_s + ttl_s
        self.feed(ev.TouchRequested(op=op, key=key, expires_s=expires_s))
        return op

    def cancel(self, op: OpId) -> None:
        """Its caller is gone: it ends, and nobody is told."""
        if op in self._running:
            self._running.remove(op)
            self.feed(ev.OpCancelled(op=op))

    def finish(self, op: OpId, limit_s: float = 120.0) -> Ending:
        """Let time pass until an operation has ended, and forget it.

        Raises:
            Violation: it does not end.
        """
        deadline_s = self.clock.now_s + limit_s
        while op not in self.endings:
            if self.clock.now_s >= deadline_s:
                raise Violation(f"operation {op} has not ended within {limit_s:g} s: {self.state.operations.get(op)}")
            self.clock.run(min(deadline_s, self.clock.now_s + 0.01))
        return self.endings.pop(op)

    def _new_op(self) -> OpId:
        op = OpId(next(self._op_ids))
        self._running.add(op)
        return op

    @property
    def open_operations(self) -> list[OpId]:
        """Those whose buffers are not released."""
        return self._buffers.open_operations

    @property
    def near_keys(self) -> list[str]:
        return self._buffers.near_keys

    @property
    def open_requests(self) -> list[RequestId]:
        """STOREs and FETCHes that were neither answered nor cancelled."""
        return self._errands.open_requests

    @property
    def timers(self) -> list[Timer]:
        return list(self._timers)

    # ------------------------------------------------------------ events and commands

    def feed(self, event: ev.Event) -> None:
        if self.is_dead:
            return
        self._events.append(event)
        if self._is_feeding:
            return
        self._is_feeding = True
        try:
            while self._events:
                event = self._events.popleft()
                self.n_events += 1
                self._note(event)
                self._errands.note(event)
                was_recovering, was_deposed = self.state.is_recovering, self.state.is_deposed
                commands = self.state.handle(event, self.clock.now_s)
                if was_recovering and not self.state.is_recovering and self.on_recovered is not None:
                    self.on_recovered()
                for command in commands:
                    self._note(command)
                    self._execute[type(command)](command)
                if self.state.is_deposed and not was_deposed:
                    self.clock.after(EXIT_S, self._exit)  # a shard that is told so ends
        finally:
            self._is_feeding = False

    def _note(self, what: object) -> None:
        if self.log is not None:
            self.log.append((self.clock.now_s, what))

    def _set_timer(self, command: cmd.SetTimer) -> None:
        number = self._timers[command.timer] = next(self._timer_ids)

        def fire() -> None:
            if self._timers.get(command.timer) == number:
                del self._timers[command.timer]
                self.feed(ev.TimerFired(timer=command.timer))

        self.clock.at(command.at_s, fire)

    def _cancel_timer(self, command: cmd.CancelTimer) -> None:
        self._timers.pop(command.timer, None)

    # ------------------------------------------------------------ nodes

    def _invoke(self, command: cmd.Invoke) -> None:
        self.n_invoked[command.reason] += 1
        self.platform.invoke(command.node, command.session, command.reason, self)

    # ------------------------------------------------------------ the rest of the cache

    def _register(self, command: cmd.RegisterCopy) -> None:
        """As runtime/coordination.py: one call at a time, with the newest instance of each node; again if it fails."""
        self._unregistered[command.node] = command.instance
        if not self._is_registering:
            self._is_registering = True
            self._register_all()

    def _register_all(self) -> None:
        covered, self._unregistered = self._unregistered, {}

        def end() -> None:
            if self.is_dead:
                return
            if self.registry.is_away:
                self._unregistered = {**covered, **self._unregistered}
                self.clock.after(REGISTRY_PAUSE_S, self._register_all)
                return
            for node, instance in covered.items():
                if not self.registry.register(self.epoch, node, instance):
                    self.feed(ev.Deposed())
                    return
                self.feed(ev.CopyRegistered(node=node, instance=instance))
            self._is_registering = bool(self._unregistered)
            if self._unregistered:
                self._register_all()

        self.clock.after(self.platform.model.registry_s, end)

    def _acquire_slot(self, command: cmd.AcquireSlot) -> None:
        node, supervisor = command.node, self.supervisor
        granted = self.slots_denied == 0 and supervisor.acquire_slot(node)
        self.slots_denied -= self.slots_denied > 0

        def answer() -> None:
            if granted:
                self.slots.add(node)
            self.feed(ev.SlotAnswered(node=node, granted=granted))

        self.clock.after(SLOT_TIMEOUT_S if supervisor.is_away else self.platform.model.network_s, answer)

    def _release_slot(self, command: cmd.ReleaseSlot) -> None:
        if command.node not in self.slots:
            raise Violation(f"a slot was given back that nobody had: {command}")
        self.slots.discard(command.node)
        self.supervisor.release_slot(command.node)

    def _confirm_lead(self, command: cmd.ConfirmLead) -> None:
        """The fence is looked at on the way there: whoever has raised it since is not seen."""
        registry = self.registry
        event: ev.Event = ev.LeadConfirmed(is_sure=not registry.is_away)
        if not registry.is_away and not registry.is_current(self.epoch):
            event = ev.Deposed()
        self.clock.after(self.platform.model.registry_s, lambda: self.feed(event))

    # ------------------------------------------------------------ codec and clients

    def _encode(self, command: cmd.Encode) -> None:
        buffer = self._buffers.held(command)

        def done() -> ev.Event:
            buffer.is_coded = True
            return ev.Encoded(op=command.op)

        self._code(command, done)

    def _decode(self, command: cmd.Decode) -> None:
        buffer = self._buffers.held(command)
        if set(command.have) != set(buffer.received):
            raise Violation(f"chunks {sorted(buffer.received)} have come: {command}")
        buffer.is_sealed = True
        self._code(command, lambda: ev.Decoded(op=command.op))

    def _code(self, command: cmd.Encode | cmd.Decode, done: Callable[[], ev.Event]) -> None:
        fails = self.codec_failures > 0
        self.codec_failures -= fails

        def end() -> None:
            self.feed(ev.CodecFailed(op=command.op, detail="no luck") if fails else done())

        self.clock.after(command.facts.size_bytes / self.platform.model.codec_bytes_per_s, end)

    def _complete(self, command: cmd.Complete) -> None:
        value = self._buffers.delivered(command)
        self._end(command.op, Ending(self.clock.now_s, value=value, found=command.found))

    def _end(self, op: OpId, ending: Ending) -> None:
        if op not in self._running:
            raise Violation(f"operation {op} ended though it had ended or was cancelled before: {ending}")
        self._running.remove(op)
        self.endings[op] = ending
