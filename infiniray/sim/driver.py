"""The driver: executes the commands of one incarnation of a shard on the modelled platform."""

from __future__ import annotations

import itertools
import zlib
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from infiniray.codec.schemes import SchemeKind
from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import InstanceId, LinkId, NodeId, OpId, RequestId, Timer
from infiniray.core.shard import ShardState
from infiniray.errors import InfiniRayError
from infiniray.sim.clock import VirtualClock
from infiniray.sim.platform import Instance, PlatformModel, SimPlatform, Token
from infiniray.sim.registry import SimRegistry
from infiniray.sim.supervisor import SimSupervisor
from infiniray.wire.describe import ChunkId, ChunkInfo

__all__ = ["Ending", "SimDriver", "Violation"]

#: From a shard's learning that it is deposed to its end.
EXIT_S = 0.05
#: As runtime/coordination.py: no answer within this time is a no.
SLOT_TIMEOUT_S = 2.0
REGISTRY_PAUSE_S = 0.05
START_S = 1_600_000_000.0  # expiry is Unix time; any will do


class Violation(AssertionError):
    """The shard broke a promise. ``story`` has what led to it, if it was kept.

    ``seed`` and ``n_steps`` say in which schedule, and how far that had come.
    """

    story: list[str] = []  # noqa: RUF012 - never changed in place
    seed = 0
    n_steps = 0


@dataclass(slots=True)
class Ending:
    """How an operation ended: ``value`` of a read, ``error`` of a failed one; ``found`` of a delete or touch."""

    at_s: float
    value: object = None
    found: bool = False
    error: InfiniRayError | None = None


@dataclass(slots=True)
class _Operation:
    """What stands for an operation's buffers: the value written, or the tokens received, by chunk.

    ``is_coded``: the parity chunks are there. ``is_sealed``: the object is put together of what was received, or is
    being: a chunk that came now would be written over it.
    """

    value: object = None
    received: dict[int, Token] = field(default_factory=dict)
    is_coded: bool = False
    is_sealed: bool = False
    is_for_one_chunk: bool = False
    #: what a read was given without asking a node
    near: tuple[object] | None = None


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
        self._links: set[LinkId] = set()  # as far as the shard knows
        self._operations: dict[OpId, _Operation] = {}
        self._running: set[OpId] = set()
        self._requests: set[RequestId] = set()  # STOREs, FETCHes and copies, until they are answered or cancelled
        #: of chunks on their way: when they left, and when they will be here
        self._coming: dict[RequestId, tuple[float, float]] = {}
        #: {key: (version, value)} of the near copies
        self._near: dict[str, tuple[int, object]] = {}
        self._timers: dict[Timer, int] = {}
        self._timer_ids = itertools.count(1)
        self._events: deque[ev.Event] = deque()
        self._is_feeding = False
        self._execute: dict[type, Callable[[Any], None]] = {
            cmd.Invoke: self._invoke,
            cmd.Ping: self._ping,
            cmd.Hold: self._hold,
            cmd.StoreChunk: self._store,
            cmd.AbortStore: lambda c: self._requests.discard(c.request),
            cmd.FetchChunk: self._fetch,
            cmd.Gauge: self._gauge,
            cmd.CancelFetch: self._cancel_fetch,
            cmd.DeleteChunks: self._delete,
            cmd.Retain: self._retain,
            cmd.ListChunks: self._list,
            cmd.CopyChunk: self._copy,
            cmd.CancelCopy: lambda c: self._requests.discard(c.request),
            cmd.CloseLink: self._close,
            cmd.RegisterCopy: self._register,
            cmd.AcquireSlot: self._acquire_slot,
            cmd.ReleaseSlot: self._release_slot,
            cmd.ConfirmLead: self._confirm_lead,
            cmd.KeepNear: self._keep_near,
            cmd.DropNear: self._drop_near,
            cmd.ReadNear: self._read_near,
            cmd.Encode: self._encode,
            cmd.Decode: self._decode,
            cmd.Complete: self._complete,
            cmd.Fail: lambda c: self._end(c.op, Ending(self.clock.now_s, error=c.error)),
            cmd.OpenBuffers: self._open,
            cmd.ShareBuffers: self._share,
            cmd.Release: self._release,
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
        self._operations[op] = _Operation(value=value)
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
        self._operations[op] = _Operation()
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
        return list(self._operations)

    @property
    def open_requests(self) -> list[RequestId]:
        """STOREs and FETCHes that were neither answered nor cancelled."""
        return sorted(self._requests)

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
                if isinstance(event, ev.LinkOpened):
                    self._links.add(event.link)
                elif isinstance(event, ev.LinkClosed):
                    self._links.discard(event.link)
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

    def _check_link(
        self,
        command: cmd.Ping | cmd.Hold | cmd.StoreChunk | cmd.FetchChunk | cmd.DeleteChunks | cmd.Retain | cmd.ListChunks,
    ) -> None:
        if command.link not in self._links:
            raise Violation(f"sent over a connection that is closed: {command}")

    def _close(self, command: cmd.CloseLink) -> None:
        self._links.discard(command.link)
        self.platform.close(command.link)

    def _ping(self, command: cmd.Ping) -> None:
        self._check_link(command)

        def pong(instance: Instance) -> None:
            session = instance.session
            if session is not None and instance.link == command.link:
                self.platform.answer(instance, 0, lambda: ev.PongReceived(link=command.link, session=session))

        self.platform.send(command.link, 0, pong)

    def _hold(self, command: cmd.Hold) -> None:
        self._check_link(command)

        def hold(instance: Instance) -> None:
            instance.held_until_s = self.clock.now_s + command.for_s
            instance.is_let_go = command.for_s == 0

        self.platform.send(command.link, 0, hold)

    def _store(self, command: cmd.StoreChunk) -> None:
        self._check_link(command)
        facts, request, operation = command.facts, command.request, self._held(command)
        is_parity = facts.scheme.kind is not SchemeKind.MIRROR and command.index >= facts.scheme.k
        if is_parity and not operation.is_coded:
            raise Violation(f"parity is sent before it is computed: {command}")
        token: Token = (facts.key, facts.version, command.index, operation.value)
        n_bytes = facts.scheme.stored_bytes(command.index, facts.size_bytes)
        self._requests.add(request)

        def store(instance: Instance) -> None:
            if request not in self._requests:
                instance.spans.add(command.seq)  # seen, and there is nothing to have of it
                return
            done: ev.Event
            info = ChunkInfo(
                key=facts.key, version=facts.version, index=command.index, seq=command.seq, scheme=str(facts.scheme),
                object_bytes=facts.size_bytes, chunk_bytes=n_bytes, crc=_crc(token), expires_s=facts.expires_s,
                head=facts.head,
            )  # fmt: skip
            if instance.keep(info, token):
                instance.spans.add(command.seq)
                done = ev.ChunkStored(request=request, crc=info.crc)
            else:
                done = ev.RequestRefused(request=request, reason="full")
                if info.id not in instance.chunks:  # else it is sent again, its STORED was lost with a connection
                    self.platform.full.add(instance.node)
            self.platform.answer(instance, 0, lambda: self._answered(request, done))

        self.platform.send(command.link, n_bytes, store)

    def _fetch(self, command: cmd.FetchChunk) -> None:
        facts, request, index = command.facts, command.request, command.index
        self._check_link(command)
        operation = self._held(command)
        self._requests.add(request)

        def arrive(token: Token) -> ev.Event | None:
            if request not in self._requests:
                return None
            if _crc(token) != command.crc:
                return self._answered(request, ev.ChunkDamaged(request=request))
            if operation.is_sealed:
                raise Violation(f"chunk {index} came into an object that is put together: {command}")
            operation.received[index] = token
            if operation.is_for_one_chunk:
                operation.value, operation.is_coded = token[3], True
            return self._answered(request, ev.ChunkArrived(request=request))

        def fetch(instance: Instance) -> None:
            if request not in self._requests:
                return
            kept = instance.chunks.get(ChunkId(facts.key, facts.version, index))
            if kept is None:
                self.platform.answer(instance, 0, lambda: self._answered(request, ev.ChunkMissing(request=request)))
                return
            token, n_bytes = kept.token, kept.info.chunk_bytes
            if instance.is_corrupt:
                token = (*token[:3], "damaged")
            self.platform.answer(instance, n_bytes, lambda: arrive(token))
            self._coming[request] = (self.clock.now_s, instance.free_at_s + self.platform.model.network_s)

        self.platform.send(command.link, 0, fetch)

    def _cancel_fetch(self, command: cmd.CancelFetch) -> None:
        self._requests.discard(command.request)
        self._coming.pop(command.request, None)

    def _gauge(self, command: cmd.Gauge) -> None:
        shares = tuple(self._share_of(request) for _, request in command.requests)
        self.clock.after(0.0, lambda: self.feed(ev.Gauged(op=command.op, shares=shares)))

    def _share_of(self, request: RequestId) -> float:
        """How much has come by now of a chunk that is on its way."""
        start_s, end_s = self._coming.get(request, (0.0, 0.0))
        return min(1.0, (self.clock.now_s - start_s) / (end_s - start_s)) if end_s > start_s else 0.0

    def _delete(self, command: cmd.DeleteChunks) -> None:
        self._check_link(command)

        def delete(instance: Instance) -> None:
            instance.spans.add(command.seq)
            for chunk in command.chunk_ids:
                instance.drop(chunk)
            self.platform.answer(instance, 0, lambda: ev.ChunksDeleted(request=command.request))

        self.platform.send(command.link, 0, delete)

    def _retain(self, command: cmd.Retain) -> None:
        self._check_link(command)

        def retain(instance: Instance) -> None:
            instance.retain(command.first, command.last, set(command.keep))
            instance.spans.update(command.seen)
            self.platform.answer(instance, 0, lambda: ev.Retained(request=command.request))

        self.platform.send(command.link, 0, retain)

    def _list(self, command: cmd.ListChunks) -> None:
        self._check_link(command)

        def tell(instance: Instance) -> None:
            infos = sorted(kept.info for chunk, kept in instance.chunks.items() if _is_after(chunk, command.after))
            page = tuple(infos[: command.limit])
            inventory = ev.InventoryArrived(request=command.request, chunks=page, more=len(infos) > command.limit)
            self.platform.answer(instance, 0, lambda: inventory)

        self.platform.send(command.link, 0, tell)

    def _copy(self, command: cmd.CopyChunk) -> None:
        """As runtime/copies.py: the chunk is fetched whole, and then stored. Ends even if a connection does."""
        request, chunk = command.request, command.chunk
        self._requests.add(request)

        def watch() -> None:
            if request in self._requests:
                if self.platform.is_open(command.source) and self.platform.is_open(command.target):
                    self.clock.after(0.05, watch)
                else:
                    fail("a connection closed", is_missing=False)

        def fail(detail: str, *, is_missing: bool) -> None:
            answer = self._answered(request, ev.CopyFailed(request=request, is_missing=is_missing, detail=detail))
            if answer is not None:
                self.feed(answer)

        def fetch(instance: Instance) -> None:
            kept = instance.chunks.get(chunk)
            if kept is None or kept.info.seq != command.seq or instance.is_corrupt:
                self.platform.answer(instance, 0, lambda: fail("it is not there", is_missing=True))
                return

            def bring(info: ChunkInfo = kept.info, token: Token = kept.token) -> None:
                if request in self._requests:
                    self.platform.send(command.target, info.chunk_bytes, lambda target: store(target, info, token))

            self.platform.answer(instance, kept.info.chunk_bytes, bring)

        def store(target: Instance, info: ChunkInfo, token: Token) -> None:
            if request not in self._requests:
                return
            if target.keep(info, token):
                target.spans.add(info.seq)
                self.platform.answer(target, 0, lambda: self._answered(request, ev.ChunkCopied(request=request)))
            else:
                self.platform.answer(target, 0, lambda: fail("full", is_missing=False))

        self.platform.send(command.source, 0, fetch)
        watch()

    def _answered(self, request: RequestId, answer: ev.Event) -> ev.Event | None:
        """The answer, unless the request was cancelled while it was on its way."""
        if request not in self._requests:
            return None
        self._requests.remove(request)
        self._coming.pop(request, None)
        return answer

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

    # ------------------------------------------------------------ near copies

    def _keep_near(self, command: cmd.KeepNear) -> None:
        operation, facts = self._held(command), command.facts
        if facts.key in self._near:
            raise Violation(f"there is a near copy of {facts.key!r} already: {command}")
        value = self._put_together(facts, operation) if operation.received else operation.value
        self._near[facts.key] = facts.version, value

    def _drop_near(self, command: cmd.DropNear) -> None:
        if self._near.pop(command.key, None) is None:
            raise Violation(f"there is no near copy: {command}")

    def _read_near(self, command: cmd.ReadNear) -> None:
        if command.key not in self._near:
            raise Violation(f"there is no near copy: {command}")
        self._held(command).near = (self._near[command.key][1],)

    @property
    def near_keys(self) -> list[str]:
        return sorted(self._near)

    # ------------------------------------------------------------ codec and clients

    def _held(
        self, command: cmd.StoreChunk | cmd.FetchChunk | cmd.Encode | cmd.Decode | cmd.KeepNear | cmd.ReadNear
    ) -> _Operation:
        """Raises: Violation: the operation's buffers are released."""
        operation = self._operations.get(command.op)
        if operation is None:
            raise Violation(f"the buffers of operation {command.op} are gone: {command}")
        return operation

    def _encode(self, command: cmd.Encode) -> None:
        operation = self._held(command)

        def done() -> ev.Event:
            operation.is_coded = True
            return ev.Encoded(op=command.op)

        self._code(command, done)

    def _decode(self, command: cmd.Decode) -> None:
        operation = self._held(command)
        if set(command.have) != set(operation.received):
            raise Violation(f"chunks {sorted(operation.received)} have come: {command}")
        operation.is_sealed = True
        self._code(command, lambda: ev.Decoded(op=command.op))

    def _code(self, command: cmd.Encode | cmd.Decode, done: Callable[[], ev.Event]) -> None:
        fails = self.codec_failures > 0
        self.codec_failures -= fails

        def end() -> None:
            self.feed(ev.CodecFailed(op=command.op, detail="no luck") if fails else done())

        self.clock.after(command.facts.size_bytes / self.platform.model.codec_bytes_per_s, end)

    def _complete(self, command: cmd.Complete) -> None:
        ending = Ending(self.clock.now_s, found=command.found)
        operation = self._operations.get(command.op)
        if operation is not None and command.facts is not None and operation.received:
            operation.is_sealed = True
            ending.value = self._put_together(command.facts, operation)
        elif operation is not None and operation.near is not None:
            (ending.value,) = operation.near
        self._end(command.op, ending)

    @staticmethod
    def _put_together(facts: cmd.ObjectFacts, operation: _Operation) -> object:
        """The value that the chunks make.

        Raises:
            Violation: they do not make one.
        """
        tokens = operation.received.values()
        if len(tokens) < facts.scheme.k:
            raise Violation(f"{facts.key!r} was delivered from {len(tokens)} chunks of {facts.scheme}")
        if any(token[:2] != (facts.key, facts.version) for token in tokens) or len({t[3] for t in tokens}) != 1:
            raise Violation(f"{facts.key!r} v{facts.version} was put together from {sorted(map(str, tokens))}")
        return next(iter(tokens))[3]

    def _end(self, op: OpId, ending: Ending) -> None:
        if op not in self._running:
            raise Violation(f"operation {op} ended though it had ended or was cancelled before: {ending}")
        self._running.remove(op)
        self.endings[op] = ending

    def _open(self, command: cmd.OpenBuffers) -> None:
        if command.op in self._operations:
            raise Violation(f"operation {command.op} has buffers already")
        self._operations[command.op] = _Operation(is_for_one_chunk=command.is_for_one_chunk)

    def _share(self, command: cmd.ShareBuffers) -> None:
        source = self._operations[command.source]
        if source.value is None:
            received = list(source.received.values())
            source.value = received[0][3]
        self._operations[command.op] = _Operation(value=source.value)

    def _release(self, command: cmd.Release) -> None:
        if self._operations.pop(command.op, None) is None:
            raise Violation(f"operation {command.op} was released twice")


def _crc(token: Token) -> int:
    return zlib.crc32(repr(token).encode())


def _is_after(chunk: ChunkId, after: ChunkId | None) -> bool:
    return after is None or chunk > after
