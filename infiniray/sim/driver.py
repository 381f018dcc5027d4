"""The driver: executes the commands of one shard on the modelled platform."""

from __future__ import annotations

import itertools
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from infiniray.codec.schemes import SchemeKind
from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import LinkId, OpId, RequestId, Timer
from infiniray.core.shard import ShardState
from infiniray.errors import InfiniRayError
from infiniray.sim.clock import VirtualClock
from infiniray.sim.platform import Instance, PlatformModel, SimPlatform, Token
from infiniray.wire.describe import ChunkId

__all__ = ["Ending", "SimDriver", "Violation"]

START_S = 1_600_000_000.0  # expiry is Unix time; any will do


class Violation(AssertionError):
    """The shard broke a promise. ``story`` has what led to it, if it was kept."""

    story: list[str] = []  # noqa: RUF012 - never changed in place


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


class SimDriver:
    """I run one shard in virtual time. Every command is checked against what may be asked at that moment.

    ``log`` has (time, event or command) of everything that happened, if it is kept.
    """

    def __init__(self, state: ShardState, model: PlatformModel | None = None, *, keeps_log: bool = False) -> None:
        self.state = state
        self.clock = VirtualClock(START_S)
        limits_bytes = {node.id: node.capacity_bytes for node in state.nodes.values()}
        self.platform = SimPlatform(self.clock, model or PlatformModel(), limits_bytes, self.feed)
        #: of operations that ended and that nobody has asked for since
        self.endings: dict[OpId, Ending] = {}
        self.n_events = 0
        self.log: list[tuple[float, Any]] | None = [] if keeps_log else None
        #: so many of the next codec runs fail
        self.codec_failures = 0
        self._links: set[LinkId] = set()  # as far as the shard knows
        self._operations: dict[OpId, _Operation] = {}
        self._running: set[OpId] = set()
        self._requests: set[RequestId] = set()  # STOREs and FETCHes, until they are answered or cancelled
        self._timers: dict[Timer, int] = {}
        self._timer_ids = itertools.count(1)
        self._op_ids = itertools.count(1)
        self._events: deque[ev.Event] = deque()
        self._is_feeding = False
        self._execute: dict[type, Callable[[Any], None]] = {
            cmd.Invoke: lambda c: self.platform.invoke(c.node, c.session),
            cmd.Ping: self._ping,
            cmd.StoreChunk: self._store,
            cmd.AbortStore: lambda c: self._requests.discard(c.request),
            cmd.FetchChunk: self._fetch,
            cmd.CancelFetch: lambda c: self._requests.discard(c.request),
            cmd.DeleteChunks: self._delete,
            cmd.CloseLink: self._close,
            cmd.Encode: self._encode,
            cmd.Decode: self._decode,
            cmd.Complete: self._complete,
            cmd.Fail: lambda c: self._end(c.op, Ending(self.clock.now_s, error=c.error)),
            cmd.ShareBuffers: self._share,
            cmd.Release: self._release,
            cmd.SetTimer: self._set_timer,
            cmd.CancelTimer: self._cancel_timer,
        }

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

    def delete(self, key: str) -> OpId:
        op = self._new_op()
        self.feed(ev.DeleteRequested(op=op, key=key))
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
                for command in self.state.handle(event, self.clock.now_s):
                    self._note(command)
                    self._execute[type(command)](command)
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

    def _check_link(self, command: cmd.Ping | cmd.StoreChunk | cmd.FetchChunk | cmd.DeleteChunks) -> None:
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
            chunk = ChunkId(facts.key, facts.version, command.index)
            if instance.keep(chunk, token, n_bytes):
                instance.spans.add(command.seq)
                done = ev.ChunkStored(request=request, crc=_crc(token))
            else:
                done = ev.RequestRefused(request=request, reason="full")
                if chunk not in instance.chunks:  # else it is sent again, its STORED was lost with a connection
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
            return self._answered(request, ev.ChunkArrived(request=request))

        def fetch(instance: Instance) -> None:
            if request not in self._requests:
                return
            kept = instance.chunks.get(ChunkId(facts.key, facts.version, index))
            if kept is None:
                self.platform.answer(instance, 0, lambda: self._answered(request, ev.ChunkMissing(request=request)))
                return
            token, n_bytes = kept
            if instance.is_corrupt:
                token = (*token[:3], "damaged")
            self.platform.answer(instance, n_bytes, lambda: arrive(token))

        self.platform.send(command.link, 0, fetch)

    def _delete(self, command: cmd.DeleteChunks) -> None:
        self._check_link(command)

        def delete(instance: Instance) -> None:
            instance.spans.add(command.seq)
            for chunk in command.chunk_ids:
                instance.drop(chunk)
            self.platform.answer(instance, 0, lambda: ev.ChunksDeleted(request=command.request))

        self.platform.send(command.link, 0, delete)

    def _answered(self, request: RequestId, answer: ev.Event) -> ev.Event | None:
        """The answer, unless the request was cancelled while it was on its way."""
        if request not in self._requests:
            return None
        self._requests.remove(request)
        return answer

    # ------------------------------------------------------------ codec and clients

    def _held(self, command: cmd.StoreChunk | cmd.FetchChunk | cmd.Encode | cmd.Decode) -> _Operation:
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
