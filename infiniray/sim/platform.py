"""The modelled platform: functions with instances that are started, frozen, reclaimed, slow or silent.

An instance behaves as ``lambda_agent`` does: it speaks first in a session, serves what waited in its connection,
dials again if the connection breaks that it kept from an earlier session, lingers or is held, says BYE and returns. It
obeys the highest epoch that it has heard of.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from infiniray.core import events as ev
from infiniray.core.ids import InstanceId, LinkId, NodeId, SessionId
from infiniray.core.policy import footprint_bytes
from infiniray.sim.clock import VirtualClock
from infiniray.wire.describe import ChunkId, ChunkInfo, SeqSpans

__all__ = ["Instance", "Kept", "PlatformModel", "Port", "SimPlatform", "Token"]

#: What stands for a chunk's bytes: whose they are, and what was written.
Token = tuple[str, int, int, object]
#: How long a session for a backup lasts that nobody holds.
BACKUP_HOLD_S = 2.0


class Port(Protocol):
    """One incarnation of a shard, as functions see it: where they dial, and with which epoch they were invoked."""

    @property
    def epoch(self) -> int: ...

    def report(self, event: ev.Event) -> None:
        """What it would notice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformModel:
    """Times in seconds. The defaults are about those of AWS in 2024."""

    invoke_s: float = 0.013
    cold_start_s: float = 0.25
    network_s: float = 0.0005
    bytes_per_s: float = 75 * (1 << 20)
    linger_s: float = 0.008
    return_s: float = 0.002
    function_timeout_s: float = 120.0
    codec_bytes_per_s: float = 10e9
    #: A connection at whose other end nobody is any more counts as closed after this, as runtime/listener.py has it.
    keepalive_s: float = 60.0
    #: Writing down which copy is current.
    registry_s: float = 0.002
    #: Which idle instance serves: the most recently used one, as AWS mostly does, or any, by this seed.
    any_instance_seed: int | None = None


class Kept(NamedTuple):
    """A chunk on an instance: what it says of itself, and what stands for its bytes."""

    info: ChunkInfo
    token: Token


@dataclass(slots=True)
class Instance:
    """One execution environment, with what it remembers."""

    id: InstanceId
    node: NodeId
    limit_bytes: int
    epoch: int = 0
    used_bytes: int = 0
    chunks: dict[ChunkId, Kept] = field(default_factory=dict)
    spans: SeqSpans = field(default_factory=SeqSpans)
    link: LinkId | None = None
    session: SessionId | None = None
    port: Port | None = None  # who invoked it last
    dialled_in: SessionId | None = None  # the session that opened the connection
    held_until_s: float = 0.0
    is_let_go: bool = False
    is_busy: bool = False  # an invocation has it, from the request until the return
    is_gone: bool = False
    is_hung: bool = False
    is_corrupt: bool = False
    slowness: float = 1.0
    free_at_s: float = 0.0  # when what it is sending or receiving is through
    used_s: float = 0.0
    inbox: list[Callable[[], None]] = field(default_factory=list)

    def keep(self, info: ChunkInfo, token: Token) -> bool:
        """Store a chunk; False if there is no room. As in the agent, a predecessor goes only after it."""
        if self.used_bytes + footprint_bytes(info.chunk_bytes) > self.limit_bytes:
            return False
        self.drop(info.id)
        self.chunks[info.id] = Kept(info, token)
        self.used_bytes += footprint_bytes(info.chunk_bytes)
        return True

    def drop(self, chunk: ChunkId) -> None:
        kept = self.chunks.pop(chunk, None)
        if kept is not None:
            self.used_bytes -= footprint_bytes(kept.info.chunk_bytes)

    def retain(self, first: int, last: int, keep: set[int]) -> None:
        for chunk, kept in list(self.chunks.items()):
            if first <= kept.info.seq <= last and kept.info.seq not in keep:
                self.drop(chunk)


class SimPlatform:
    """I run the modelled functions, and tell the shards that invoke them what these would notice."""

    def __init__(self, clock: VirtualClock, model: PlatformModel, limits_bytes: Mapping[NodeId, int]) -> None:
        self.clock = clock
        self.model = model
        self.limits_bytes = dict(limits_bytes)
        self.instances: dict[NodeId, list[Instance]] = {}
        self.n_started = 0
        self.throttle_next = 0
        #: most invocations of one node within a second
        self.n_invoked_most = 0
        self._n_invoked: dict[NodeId, tuple[int, int]] = {}  # in which second, how often
        #: when an instance of a node was last taken away
        self.reclaimed_s: dict[NodeId, float] = {}
        #: nodes that have had several instances at once
        self.crowded: set[NodeId] = set()
        #: nodes that had no room for a chunk that they were sent for the first time
        self.full: set[NodeId] = set()
        self._random = None if model.any_instance_seed is None else random.Random(model.any_instance_seed)
        self._links: dict[LinkId, tuple[Instance, Port]] = {}
        self._link_ids = itertools.count(1)
        self._gone: list[Port] = []  # nobody listens there any more

    # ------------------------------------------------------------ invocations

    def invoke(self, node: NodeId, session: SessionId, reason: str, port: Port) -> None:
        self._count_invocation(node)
        model = self.model
        if self.throttle_next:
            self.throttle_next -= 1
            self._return(node, session, port, ev.InvokeOutcome.THROTTLED, model.network_s)
            return
        idle = [i for i in self.instances.get(node, ()) if not i.is_busy]
        if idle:
            instance = self._random.choice(idle) if self._random else max(idle, key=lambda i: i.used_s)
            delay_s = model.invoke_s
        else:
            instance = self._start(node)
            delay_s = model.cold_start_s
        instance.is_busy = True
        self.clock.after(delay_s, lambda: self._begin(instance, session, reason, port))
        if reason != "warm":
            self.clock.after(model.function_timeout_s, lambda: self._time_out(instance, session))

    def _count_invocation(self, node: NodeId) -> None:
        now_s = int(self.clock.now_s)
        second, n = self._n_invoked.get(node, (now_s, 0))
        n = n + 1 if second == now_s else 1
        self._n_invoked[node] = now_s, n
        self.n_invoked_most = max(self.n_invoked_most, n)

    def _start(self, node: NodeId) -> Instance:
        self.n_started += 1
        instance = Instance(InstanceId(f"i{self.n_started}"), node, self.limits_bytes[node])
        fleet = self.instances.setdefault(node, [])
        fleet.append(instance)
        if len(fleet) > 1:
            self.crowded.add(node)
        return instance

    def _begin(self, instance: Instance, session: SessionId, reason: str, port: Port) -> None:
        model = self.model
        if instance.is_gone:
            self._return(instance.node, session, port, ev.InvokeOutcome.FUNCTION_ERROR, model.return_s)
            return
        if port.epoch < instance.epoch:
            instance.is_busy = False
            self._return(instance.node, session, port, ev.InvokeOutcome.FUNCTION_ERROR, model.return_s)
            self._tell(port, ev.Deposed())
            return
        instance.epoch = port.epoch
        instance.port = port
        instance.used_s = self.clock.now_s
        if instance.is_hung:
            instance.session = session
            return
        if reason == "warm":
            self._report_copy(instance, session, port)
            return
        instance.session = session
        instance.held_until_s = self.clock.now_s + BACKUP_HOLD_S if reason == "backup" else 0.0
        instance.is_let_go = False
        if instance.link is not None and self._links[instance.link][1] is not port:
            self._hang_up(instance)  # of another incarnation
        if instance.link is None and port in self._gone:
            self._end_session(instance)  # it finds nobody to talk to
            return
        if instance.link is None:
            self._dial(instance, session, port)
        else:
            self._tell(port, ev.PongReceived(link=instance.link, session=session))
        inbox, instance.inbox = instance.inbox, []
        for act in inbox:
            act()
        self._linger(instance, port)

    def _report_copy(self, instance: Instance, session: SessionId, port: Port) -> None:
        instance.is_busy = False
        report = ev.CopyReport(instance=instance.id, spans=instance.spans.copy())
        returned = ev.InvokeReturned(node=instance.node, session=session, outcome=ev.InvokeOutcome.OK, copy=report)
        self._tell(port, returned)

    def _dial(self, instance: Instance, session: SessionId, port: Port) -> None:
        link = instance.link = LinkId(next(self._link_ids))
        instance.dialled_in = session
        self._links[link] = (instance, port)
        hello = ev.LinkOpened(
            link=link, node=instance.node, instance=instance.id, session=session, spans=instance.spans.copy()
        )
        self._tell(port, hello)

    def _linger(self, instance: Instance, port: Port) -> None:
        """Look again when it would have been idle for long enough."""
        session = instance.session

        def look() -> None:
            if instance.is_gone or instance.is_hung or instance.session != session:
                return
            until_s = max(instance.free_at_s, instance.used_s)
            if not instance.is_let_go:
                until_s = max(until_s + self.model.linger_s, instance.held_until_s)
            if until_s > self.clock.now_s + 1e-9:
                self.clock.at(min(until_s, self.clock.now_s + 0.1), look)
            else:
                self._leave(instance, port)

        self.clock.at(max(self.clock.now_s, instance.free_at_s) + self.model.linger_s, look)

    def _leave(self, instance: Instance, port: Port) -> None:
        session = instance.session
        assert session is not None
        instance.session = None
        if instance.link is not None:
            self._tell(port, ev.ByeReceived(link=instance.link, session=session))

        def end() -> None:
            instance.is_busy = False

        self.clock.after(self.model.return_s, end)
        delay_s = self.model.return_s + self.model.network_s
        self._return(instance.node, session, port, ev.InvokeOutcome.OK, delay_s)

    def _time_out(self, instance: Instance, session: SessionId) -> None:
        if instance.session == session and not instance.is_gone:
            self.reclaim(instance)

    def _return(self, node: NodeId, session: SessionId, port: Port, outcome: ev.InvokeOutcome, delay_s: float) -> None:
        event = ev.InvokeReturned(node=node, session=session, outcome=outcome)
        self.clock.after(delay_s, lambda: port.report(event))

    # ------------------------------------------------------------ requests

    def send(self, link: LinkId, n_bytes: int, act: Callable[[Instance], None]) -> None:
        """Let ``act`` happen at the instance when it has received ``n_bytes``, or in its next session."""
        if link not in self._links:
            return
        instance, port = self._links[link]

        def arrive() -> None:
            if instance.is_gone or instance.link != link:
                return
            if instance.session is None or instance.is_hung:
                instance.inbox.append(arrive)
                return
            instance.used_s = self.clock.now_s
            self._busy_for(instance, n_bytes)
            self.clock.at(instance.free_at_s, finish)

        def finish() -> None:
            if instance.is_gone or instance.link != link:
                return
            if port.epoch < instance.epoch:
                self._tell(port, ev.Deposed())
            else:
                act(instance)

        self.clock.after(self.model.network_s, arrive)

    def _busy_for(self, instance: Instance, n_bytes: int) -> None:
        seconds = n_bytes / self.model.bytes_per_s * instance.slowness
        instance.free_at_s = max(instance.free_at_s, self.clock.now_s) + seconds

    def answer(self, instance: Instance, n_bytes: int, event: Callable[[], ev.Event | None]) -> None:
        """Send ``n_bytes`` back; ``event`` is asked for what to report when they have come."""
        link = instance.link
        if link is None or link not in self._links:
            return
        port = self._links[link][1]
        self._busy_for(instance, n_bytes)

        def come() -> None:
            if link in self._links and not instance.is_hung:
                told = event()
                if told is not None:
                    port.report(told)

        self.clock.at(instance.free_at_s + self.model.network_s, come)

    def is_open(self, link: LinkId) -> bool:
        return link in self._links

    def close(self, link: LinkId) -> None:
        """The connection ends, because the shard hangs up or the network broke it."""
        if link not in self._links:
            return
        instance, port = self._links.pop(link)
        self._tell(port, ev.LinkClosed(link=link))
        if instance.link != link:
            return
        instance.link = None
        instance.inbox.clear()
        session = instance.session
        if session is None or instance.is_hung or instance.is_gone:
            return
        if instance.dialled_in == session:
            self._leave(instance, port)  # it takes that for the shard's way of ending a session
        else:
            self._dial(instance, session, port)

    def _hang_up(self, instance: Instance) -> None:
        link = instance.link
        assert link is not None
        instance.link = None
        instance.inbox.clear()
        _, port = self._links.pop(link)
        self._tell(port, ev.LinkClosed(link=link))

    def drop_port(self, port: Port) -> None:
        """That incarnation is dead: its connections are closed, and sessions over them end, as do those that begin."""
        self._gone.append(port)
        for link, (instance, owner) in list(self._links.items()):
            if owner is not port:
                continue
            del self._links[link]
            if instance.link == link:
                instance.link = None
                instance.inbox.clear()
                if instance.session is not None and not instance.is_hung:
                    self._end_session(instance)

    def _end_session(self, instance: Instance) -> None:
        """Nobody is told."""
        instance.session = None
        self.clock.after(self.model.return_s, functools.partial(setattr, instance, "is_busy", False))

    # ------------------------------------------------------------ bad luck

    def alive(self) -> list[Instance]:
        return [instance for fleet in self.instances.values() for instance in fleet]

    def reclaim(self, instance: Instance, *, is_silent: bool = False) -> None:
        """Take it away, with all that it remembers; silently: its connection just stays unanswered for long."""
        if instance.is_gone:
            return
        instance.is_gone = True
        self.reclaimed_s[instance.node] = self.clock.now_s
        self.instances[instance.node].remove(instance)
        link = instance.link
        if link is not None and is_silent:
            self.clock.after(self.model.keepalive_s, lambda: self.close(link))
        elif link is not None:
            self.close(link)
        if instance.session is not None and instance.port is not None:
            outcome = ev.InvokeOutcome.FUNCTION_ERROR
            self._return(instance.node, instance.session, instance.port, outcome, self.model.return_s)

    def delete(self, node: NodeId) -> None:
        """Delete the function, with its instances."""
        for instance in list(self.instances[node]):
            self.reclaim(instance)
        del self.instances[node]

    def cut(self, instance: Instance) -> None:
        """Break its connection; it keeps its chunks."""
        if instance.link is not None:
            self.close(instance.link)

    def hang(self, instance: Instance) -> None:
        """Let nothing be heard of it any more; the platform ends its session when its time is up."""
        instance.is_hung = True

    def heal(self) -> None:
        """From now on everything is as it should be; instances that hang are taken away. What queued up at slow ones
        still takes its time, because connections keep the order."""
        self.throttle_next = 0
        for instance in self.alive():
            instance.slowness = 1.0
            instance.is_corrupt = False
            if instance.is_hung:
                self.reclaim(instance)

    def _tell(self, port: Port, event: ev.Event) -> None:
        self.clock.after(self.model.network_s, lambda: port.report(event))
