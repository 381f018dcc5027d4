"""Executes the commands of one shard on the experiment's functions.

The third driver of :mod:`infiniray.core`, beside :mod:`infiniray.runtime` and the checking :mod:`infiniray.sim.driver`.
A chunk's way is one event each: when it is asked for, its end follows from what its instance's network has still to do.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any, Protocol

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import LinkId, OpId, RequestId, Timer
from infiniray.core.shard import ShardState
from infiniray.cost.ledger import Purpose
from infiniray.errors import InfiniRayError
from infiniray.sim.agenda import Agenda, Timeout
from infiniray.sim.fleet import Fleet, Instance, Pipe
from infiniray.sim.meter import Meter
from infiniray.sim.settings import SimulationSettings
from infiniray.wire.describe import ChunkId

__all__ = ["Answers", "ShardRun", "Slots"]

#: How long a session for a backup lasts that nobody holds.
BACKUP_HOLD_S = 2.0
_OK, _WARMUP = ev.InvokeOutcome.OK, Purpose.WARMUP
_REQUEST_COMMANDS = cmd.StoreChunk | cmd.FetchChunk | cmd.DeleteChunks | cmd.Retain


class Answers(Protocol):
    """Who is told how operations end."""

    def on_complete(self, op: OpId) -> None: ...

    def on_fail(self, op: OpId, error: InfiniRayError) -> None: ...


class Slots:
    """I grant backups, so many at a time."""

    def __init__(self, n: int) -> None:
        self.n_free = n

    def take(self) -> bool:
        if self.n_free <= 0:
            return False
        self.n_free -= 1
        return True


class ShardRun:
    """I run one shard's decisions in virtual time."""

    def __init__(
        self,
        state: ShardState,
        agenda: Agenda,
        model: SimulationSettings,
        *,
        linger_s: float,
        meter: Meter,
        slots: Slots,
        answers: Answers,
        rng: random.Random,
    ) -> None:
        self.state = state
        self.n_events = 0
        self._handle = state.handle
        #: set when there is one
        self.fleet: Fleet
        self._agenda = agenda
        self._model = model
        self._function = model.function
        self._delay_s = model.network.delay_s
        self._linger_s = linger_s
        self._in_cycles = model.function.session_end == "cycle"
        self._meter = meter
        self._slots = slots
        self._answers = answers
        self._rng = rng
        self._links: dict[LinkId, Instance] = {}
        self._link_ids = itertools.count(1)
        self._timers: dict[Timer, Timeout] = {}
        #: {request under way: (instance, the pipe that it goes through, from, until, its number)}
        self._under_way: dict[RequestId, tuple[Instance, Pipe | None, float, float, int]] = {}
        self._execute: dict[type, Callable[[Any], None]] = {
            cmd.Invoke: self._invoke,
            cmd.Ping: self._ping,
            cmd.Hold: self._hold,
            cmd.StoreChunk: self._send,
            cmd.AbortStore: self._cancel,
            cmd.FetchChunk: self._send,
            cmd.Gauge: self._gauge,
            cmd.CancelFetch: self._cancel,
            cmd.DeleteChunks: self._send,
            cmd.Retain: self._send,
            cmd.CopyChunk: self._copy,
            cmd.CancelCopy: self._cancel,
            cmd.CloseLink: self._close,
            cmd.RegisterCopy: self._register,
            cmd.AcquireSlot: self._acquire_slot,
            cmd.ReleaseSlot: self._release_slot,
            cmd.Encode: self._encode,
            cmd.Decode: self._decode,
            cmd.Complete: self._complete,
            cmd.Fail: self._fail,
            cmd.OpenBuffers: _ignore,  # there are no bytes here
            cmd.ShareBuffers: _ignore,
            cmd.Release: _ignore,
            cmd.SetTimer: self._set_timer,
            cmd.CancelTimer: self._cancel_timer,
        }
        self._serve: dict[type, Callable[[Instance, Any], None]] = {
            cmd.StoreChunk: self._store,
            cmd.FetchChunk: self._fetch,
            cmd.DeleteChunks: self._delete,
            cmd.Retain: self._retain,
        }

    def feed(self, event: ev.Event) -> None:
        """Tell the shard a fact, and do what it asks for."""
        self.n_events += 1
        execute = self._execute
        for command in self._handle(event, self._agenda.now_s):
            execute[command.__class__](command)

    # ------------------------------------------------------------ timers and what is not modelled closer

    def _set_timer(self, command: cmd.SetTimer) -> None:
        timer = command.timer
        former = self._timers.get(timer)
        if former is not None:
            former.is_off = True
        self._timers[timer] = self._agenda.unless_called_off(command.at_s, self._fire, timer)

    def _cancel_timer(self, command: cmd.CancelTimer) -> None:
        timeout = self._timers.pop(command.timer, None)
        if timeout is not None:
            timeout.is_off = True

    def _fire(self, timer: Timer) -> None:
        del self._timers[timer]
        self.feed(ev.TimerFired(timer=timer))

    def _register(self, command: cmd.RegisterCopy) -> None:
        written = ev.CopyRegistered(node=command.node, instance=command.instance)
        self._agenda.at(self._agenda.now_s + self._model.registry_s, self.feed, written)

    def _acquire_slot(self, command: cmd.AcquireSlot) -> None:
        answer = ev.SlotAnswered(node=command.node, granted=self._slots.take())
        self._agenda.at(self._agenda.now_s + self._delay_s, self.feed, answer)

    def _release_slot(self, command: cmd.ReleaseSlot) -> None:
        self._slots.n_free += 1

    def _encode(self, command: cmd.Encode) -> None:
        self._code(command.facts.size_bytes, ev.Encoded(op=command.op))

    def _decode(self, command: cmd.Decode) -> None:
        self._code(command.facts.size_bytes, ev.Decoded(op=command.op))

    def _code(self, n_bytes: int, done: ev.Event) -> None:
        self._agenda.at(self._agenda.now_s + n_bytes / self._model.codec_bytes_per_s, self.feed, done)

    def _complete(self, command: cmd.Complete) -> None:
        self._answers.on_complete(command.op)

    def _fail(self, command: cmd.Fail) -> None:
        self._answers.on_fail(command.op, command.error)

    # ------------------------------------------------------------ invocations

    def _invoke(self, command: cmd.Invoke) -> None:
        function, fleet = self._function, self.fleet
        instance = fleet.idle(command.node)
        is_peer = command.reason == "backup" and fleet.has_busy(command.node)
        delay_s = function.invoke_s
        if instance is None:
            instance = fleet.start(command.node)
            instance.init_s = function.init_s
            delay_s += function.init_s
        instance.is_busy = True
        if command.reason == "warm":
            done_s = self._agenda.now_s + delay_s + function.warm_s + self._delay_s
            self._agenda.at(done_s, self._warmed, (instance, command))
            return
        if function.invoke_sigma:
            delay_s *= math.exp(self._rng.gauss(0.0, function.invoke_sigma))
        instance.used_s = instance.began_s = began_s = self._agenda.now_s + delay_s
        heard_s = began_s + self._delay_s * (1 if instance.link is not None else 3)  # it dials, and shakes hands
        instance.stay_until_s = 0.0
        if is_peer:
            heard_s += function.backup_setup_s
            instance.stay_until_s = heard_s + function.backup_tail_s
        instance.purpose = None
        if command.reason == "backup":
            as_warmup = not is_peer and function.backup_source_as == "warmup"
            instance.purpose = Purpose.WARMUP if as_warmup else Purpose.BACKUP
        self._agenda.at(heard_s, self._hear, (instance, command))

    def _warmed(self, what: tuple[Instance, cmd.Invoke]) -> None:
        instance, command = what
        instance.is_busy = False
        instance.used_s = now_s = self._agenda.now_s
        self._meter.charge(_WARMUP, self._function.warm_s, instance.init_s, now_s)
        instance.init_s = 0.0
        self.feed(ev.InvokeReturned(node=command.node, session=command.session, outcome=_OK, copy=instance.report))

    def _hear(self, what: tuple[Instance, cmd.Invoke]) -> None:
        """The shard hears of a session that has begun."""
        instance, command = what
        session = instance.session = command.session
        instance.busy_until_s = now_s = self._agenda.now_s
        instance.held_until_s = now_s + BACKUP_HOLD_S if command.reason == "backup" else 0.0
        instance.is_let_go = False
        instance.n_requests = 0
        link = instance.link
        if link is None:
            link = instance.link = LinkId(next(self._link_ids))
            self._links[link] = instance
            hello = ev.LinkOpened(
                link=link, node=instance.node, instance=instance.id, session=session, spans=instance.spans
            )
            self.feed(hello)
        else:
            if instance.inbox:
                waiting, instance.inbox = instance.inbox, []
                for request in waiting:
                    if self._under_way.pop(request.request, None) is not None:  # else it was cancelled meanwhile
                        self._take(instance, request)
            self.feed(ev.PongReceived(link=link, session=session))
        instance.looks_s = math.inf
        self._plan_look(instance)

    def _plan_look(self, instance: Instance) -> None:
        """See in time whether the session is over. If that is planned already, it is planned anew from there."""
        end_s = self._leaves_at(instance)
        if end_s < instance.looks_s:
            instance.looks_s = end_s
            self._agenda.at(end_s, self._look, (instance, instance.session))

    def _leaves_at(self, instance: Instance) -> float:
        """When the session ends if nothing more comes."""
        if instance.is_let_go:
            end_s = instance.busy_until_s
        elif self._in_cycles:
            cycle_s, guard_s = self._function.cycle_s, self._function.cycle_guard_s
            n_cycles = math.ceil((instance.busy_until_s - instance.began_s + guard_s) / cycle_s)
            n_cycles += instance.n_requests > 1
            end_s = max(instance.began_s + n_cycles * cycle_s - guard_s, instance.held_until_s)
        else:
            end_s = max(instance.busy_until_s + self._linger_s, instance.held_until_s)
        return end_s if end_s > instance.stay_until_s else instance.stay_until_s

    def _look(self, what: tuple[Instance, str]) -> None:
        """See whether the session is over."""
        instance, session = what
        if instance.session != session:
            return
        if self._leaves_at(instance) > self._agenda.now_s + 1e-6:
            instance.looks_s = math.inf
            self._plan_look(instance)
        else:
            self._leave(instance)

    def _leave(self, instance: Instance) -> None:
        session = instance.session
        assert session is not None
        now_s = self._agenda.now_s
        instance.session = None
        instance.used_s = now_s
        purpose = instance.purpose or Purpose.SERVING
        self._meter.charge(purpose, now_s - instance.began_s, instance.init_s, now_s)
        instance.init_s = 0.0
        self._agenda.at(now_s + self._function.return_s, self._returned, (instance, session))
        if instance.link is not None:
            self.feed(ev.ByeReceived(link=instance.link, session=session))

    def _returned(self, what: tuple[Instance, Any]) -> None:
        instance, session = what
        instance.is_busy = False
        self.feed(ev.InvokeReturned(node=instance.node, session=session, outcome=_OK))

    # ------------------------------------------------------------ connections

    def _close(self, command: cmd.CloseLink) -> None:
        instance = self._links.pop(command.link, None)
        if instance is None:
            return
        self._agenda.at(self._agenda.now_s + self._delay_s, self.feed, ev.LinkClosed(link=command.link))
        if instance.link == command.link:
            instance.link = None
            instance.inbox.clear()
            if instance.session is not None:
                self._leave(instance)

    def lose(self, instance: Instance) -> None:
        """An instance was reclaimed; the shard is told only if the model says so."""
        link = instance.link
        if link is not None and self._model.reclaims.are_noticed and self._links.pop(link, None) is not None:
            self.feed(ev.LinkClosed(link=link))

    def _ping(self, command: cmd.Ping) -> None:
        instance = self._links.get(command.link)
        if instance is not None and instance.session is not None:
            now_s = self._agenda.now_s
            instance.busy_until_s = max(instance.busy_until_s, now_s + self._delay_s)
            pong = ev.PongReceived(link=command.link, session=instance.session)
            self._agenda.at(now_s + 2 * self._delay_s, self.feed, pong)

    def _hold(self, command: cmd.Hold) -> None:
        instance = self._links.get(command.link)
        if instance is None or instance.session is None:
            return
        come_s = self._agenda.now_s + self._delay_s
        instance.is_let_go = command.for_s == 0
        instance.held_until_s = come_s + command.for_s
        instance.busy_until_s = max(instance.busy_until_s, come_s)
        self._plan_look(instance)

    # ------------------------------------------------------------ requests

    def _send(self, command: _REQUEST_COMMANDS) -> None:
        """A request is on its way: a session that it reaches lasts until it is through with it, another takes it up
        when it begins."""
        instance = self._links.get(command.link)
        if instance is None or instance.is_gone:
            return  # nobody answers
        if instance.session is not None:
            self._take(instance, command)
        else:
            seq = command.seq if isinstance(command, cmd.StoreChunk) else 0
            self._under_way[command.request] = (instance, None, 0.0, 0.0, seq)
            instance.inbox.append(command)

    def _take(self, instance: Instance, command: _REQUEST_COMMANDS) -> None:
        instance.n_requests += 1
        self._serve[command.__class__](instance, command)

    def _move(self, instance: Instance, pipe: Pipe, request: RequestId, n_bytes: int, seq: int) -> float:
        """Bytes go through a pipe: when they have."""
        start_s = self._agenda.now_s + self._delay_s
        end_s = pipe.move(start_s, n_bytes)
        if end_s > instance.busy_until_s:
            instance.busy_until_s = end_s
        self._under_way[request] = (instance, pipe, start_s, end_s, seq)
        return end_s

    def _cancel(self, command: cmd.CancelFetch | cmd.AbortStore | cmd.CancelCopy) -> None:
        """What is on its way stops there, and a session may end that much earlier."""
        found = self._under_way.pop(command.request, None)
        if found is None:
            return
        instance, pipe, start_s, end_s, seq = found
        if seq:
            instance.spans.add(seq)  # seen, and there is nothing to have of it
        stop_s = self._agenda.now_s + self._delay_s
        if pipe is not None and pipe.free_s == end_s > stop_s:
            pipe.free_s = max(start_s, stop_s)
            instance.busy_until_s = max(stop_s, instance.inward.free_s, instance.outward.free_s)
            if instance.session is not None:
                self._plan_look(instance)

    def _store(self, instance: Instance, command: cmd.StoreChunk) -> None:
        _account(instance, command.op)
        n_bytes = command.facts.scheme.stored_bytes(command.index, command.facts.size_bytes)
        end_s = self._move(instance, instance.inward, command.request, n_bytes, command.seq)
        self._agenda.at(end_s + self._delay_s, self._stored, (instance, command, n_bytes))

    def _stored(self, what: tuple[Instance, cmd.StoreChunk, int]) -> None:
        instance, command, n_bytes = what
        if self._under_way.pop(command.request, None) is None or instance.is_gone:
            return
        facts = command.facts
        chunk = ChunkId(facts.key, facts.version, command.index)
        instance.spans.add(command.seq)
        if instance.keep(chunk, command.seq, n_bytes, self.fleet.limits_bytes[instance.node]):
            self.feed(ev.ChunkStored(request=command.request, crc=0))
        else:
            self.feed(ev.RequestRefused(request=command.request, reason="full"))

    def _fetch(self, instance: Instance, command: cmd.FetchChunk) -> None:
        _account(instance, command.op)
        facts = command.facts
        kept = instance.chunks.get(ChunkId(facts.key, facts.version, command.index))
        if kept is None:
            self._answer(instance, ev.ChunkMissing(request=command.request))
            return
        end_s = self._move(instance, instance.outward, command.request, kept[1], 0)
        self._agenda.at(end_s + self._delay_s, self._fetched, (instance, command.request))

    def _gauge(self, command: cmd.Gauge) -> None:
        shares = tuple(self._share_of(request) for _, request in command.requests)
        self._agenda.at(self._agenda.now_s, self.feed, ev.Gauged(op=command.op, shares=shares))

    def _share_of(self, request: RequestId) -> float:
        _, pipe, start_s, end_s, _ = self._under_way.get(request, (None, None, 0.0, 0.0, 0))
        if pipe is None:
            return 0.0
        return min(1.0, max(0.0, (self._agenda.now_s - start_s) / (end_s - start_s)))

    def _fetched(self, what: tuple[Instance, RequestId]) -> None:
        instance, request = what
        if self._under_way.pop(request, None) is not None and not instance.is_gone:
            self.feed(ev.ChunkArrived(request=request))

    def _delete(self, instance: Instance, command: cmd.DeleteChunks) -> None:
        instance.spans.add(command.seq)
        for chunk in command.chunk_ids:
            instance.drop(chunk)
        self._answer(instance, ev.ChunksDeleted(request=command.request))

    def _retain(self, instance: Instance, command: cmd.Retain) -> None:
        if command.last >= command.first:
            instance.retain(command.first, command.last, command.keep)
        instance.spans.update(command.seen)
        self._answer(instance, ev.Retained(request=command.request))

    def _answer(self, instance: Instance, answer: ev.Event) -> None:
        now_s = self._agenda.now_s
        if now_s + self._delay_s > instance.busy_until_s:
            instance.busy_until_s = now_s + self._delay_s
        self._agenda.at(now_s + 2 * self._delay_s, self.feed, answer)

    # ------------------------------------------------------------ copies

    def _copy(self, command: cmd.CopyChunk) -> None:
        """As runtime/copies.py: the chunk is fetched whole, and then stored."""
        source, target = self._links.get(command.source), self._links.get(command.target)
        kept = None if source is None else source.chunks.get(command.chunk)
        if source is None or target is None or source.session is None or target.session is None:
            self._fail_copy(command, is_missing=False)
        elif kept is None or kept[0] != command.seq:
            self._fail_copy(command, is_missing=True)
        else:
            fetched_s = source.outward.move(self._agenda.now_s + self._delay_s, kept[1])
            start_s = fetched_s + 2 * self._delay_s
            end_s = target.inward.move(start_s, kept[1])
            source.busy_until_s = max(source.busy_until_s, fetched_s)
            target.busy_until_s = max(target.busy_until_s, end_s)
            self._under_way[command.request] = (target, target.inward, start_s, end_s, 0)
            self._agenda.at(end_s + self._delay_s, self._copied, (target, command))

    def _copied(self, what: tuple[Instance, cmd.CopyChunk]) -> None:
        target, command = what
        if self._under_way.pop(command.request, None) is None or target.is_gone:
            return
        if target.keep(command.chunk, command.seq, command.chunk_bytes, self.fleet.limits_bytes[target.node]):
            target.spans.add(command.seq)
            self.feed(ev.ChunkCopied(request=command.request))
        else:
            self.feed(ev.CopyFailed(request=command.request, is_missing=False, detail="full"))

    def _fail_copy(self, command: cmd.CopyChunk, *, is_missing: bool) -> None:
        failed = ev.CopyFailed(request=command.request, is_missing=is_missing, detail="")
        self._under_way[command.request] = (self._links[command.target], None, 0.0, 0.0, 0)
        self._agenda.at(self._agenda.now_s + self._delay_s, self._copy_failed, failed)

    def _copy_failed(self, failed: ev.CopyFailed) -> None:
        if self._under_way.pop(failed.request, None) is not None:
            self.feed(failed)


def _ignore(command: object) -> None:
    pass


def _account(instance: Instance, op: OpId) -> None:
    """A session is for whom it serves: one client's request among repairs makes it serving."""
    if op > 0:
        if instance.purpose is None or instance.purpose is Purpose.REPAIR:
            instance.purpose = Purpose.SERVING
    elif instance.purpose is None:
        instance.purpose = Purpose.REPAIR
