"""The modelled platform: functions with instances that are started, frozen, reclaimed, slow or silent.

An instance behaves as ``lambda_agent`` does: it speaks first in a session, serves what waited in its connection,
dials again if the connection breaks that it kept from an earlier session, lingers, says BYE and returns.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from infiniray.core import events as ev
from infiniray.core.ids import InstanceId, LinkId, NodeId, SessionId
from infiniray.core.policy import footprint_bytes
from infiniray.sim.clock import VirtualClock
from infiniray.wire.describe import ChunkId, SeqSpans

__all__ = ["Instance", "PlatformModel", "SimPlatform", "Token"]

#: What stands for a chunk's bytes: whose they are, and what was written.
Token = tuple[str, int, int, object]


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
    #: Which idle instance serves: the most recently used one, as AWS mostly does, or any, by this seed.
    any_instance_seed: int | None = None


@dataclass(slots=True)
class Instance:
    """One execution environment, with what it remembers."""

    id: InstanceId
    node: NodeId
    limit_bytes: int
    used_bytes: int = 0
    chunks: dict[ChunkId, tuple[Token, int]] = field(default_factory=dict)
    spans: SeqSpans = field(default_factory=SeqSpans)
    link: LinkId | None = None
    session: SessionId | None = None
    dialled_in: SessionId | None = None  # the session that opened the connection
    is_busy: bool = False  # an invocation has it, from the request until the return
    is_gone: bool = False
    is_hung: bool = False
    is_corrupt: bool = False
    slowness: float = 1.0
    free_at_s: float = 0.0  # when what it is sending or receiving is through
    used_s: float = 0.0
    inbox: list[Callable[[], None]] = field(default_factory=list)

    def keep(self, chunk: ChunkId, token: Token, n_bytes: int) -> bool:
        """Store a chunk; False if there is no room. As in the agent, a predecessor goes only after it."""
        if self.used_bytes + footprint_bytes(n_bytes) > self.limit_bytes:
            return False
        self.drop(chunk)
        self.chunks[chunk] = (token, n_bytes)
        self.used_bytes += footprint_bytes(n_bytes)
        return True

    def drop(self, chunk: ChunkId) -> None:
        kept = self.chunks.pop(chunk, None)
        if kept is not None:
            self.used_bytes -= footprint_bytes(kept[1])


class SimPlatform:
    """I run the modelled functions, and tell ``report`` what their shard would notice."""

    def __init__(
        self,
        clock: VirtualClock,
        model: PlatformModel,
        limits_bytes: Mapping[NodeId, int],
        report: Callable[[ev.Event], None],
    ) -> None:
        self.clock = clock
        self.model = model
        self.limits_bytes = limits_bytes
        self.instances: dict[NodeId, list[Instance]] = {}
        self.n_started = 0
        self.throttle_next = 0
        #: when an instance of a node was last taken away
        self.reclaimed_s: dict[NodeId, float] = {}
        #: nodes that have had several instances at once
        self.crowded: set[NodeId] = set()
        #: nodes that had no room for a chunk that they were sent for the first time
        self.full: set[NodeId] = set()
        self._report = report
        self._random = None if model.any_instance_seed is None else random.Random(model.any_instance_seed)
        self._links: dict[LinkId, Instance] = {}
        self._link_ids = itertools.count(1)

    # ------------------------------------------------------------ invocations

    def invoke(self, node: NodeId, session: SessionId) -> None:
        model = self.model
        if self.throttle_next:
            self.throttle_next -= 1
            self._return(node, session, ev.InvokeOutcome.THROTTLED, model.network_s)
            return
        idle = [i for i in self.instances.get(node, ()) if not i.is_busy]
        if idle:
            instance = self._random.choice(idle) if self._random else max(idle, key=lambda i: i.used_s)
            delay_s = model.invoke_s
        else:
            instance = self._start(node)
            delay_s = model.cold_start_s
        instance.is_busy = True
        self.clock.after(delay_s, lambda: self._begin(instance, session))
        self.clock.after(model.function_timeout_s, lambda: self._time_out(instance, session))

    def _start(self, node: NodeId) -> Instance:
        self.n_started += 1
        instance = Instance(InstanceId(f"i{self.n_started}"), node, self.limits_bytes[node])
        fleet = self.instances.setdefault(node, [])
        fleet.append(instance)
        if len(fleet) > 1:
            self.crowded.add(node)
        return instance

    def _begin(self, instance: Instance, session: SessionId) -> None:
        if instance.is_gone:
            self._return(instance.node, session, ev.InvokeOutcome.FUNCTION_ERROR, self.model.return_s)
            return
        instance.session = session
        if instance.is_hung:
            return
        if instance.link is None:
            self._dial(instance, session)
        else:
            self._tell(ev.PongReceived(link=instance.link, session=session))
        inbox, instance.inbox = instance.inbox, []
        for act in inbox:
            act()
        self._linger(instance)

    def _dial(self, instance: Instance, session: SessionId) -> None:
        link = instance.link = LinkId(next(self._link_ids))
        instance.dialled_in = session
        self._links[link] = instance
        hello = ev.LinkOpened(
            link=link, node=instance.node, instance=instance.id, session=session, spans=instance.spans.copy()
        )
        self._tell(hello)

    def _linger(self, instance: Instance) -> None:
        """Look again when it would have been idle for long enough."""
        session = instance.session
        due_s = max(self.clock.now_s, instance.free_at_s) + self.model.linger_s

        def look() -> None:
            if instance.is_gone or instance.is_hung or instance.session != session:
                return
            if max(instance.free_at_s, instance.used_s) + self.model.linger_s > self.clock.now_s + 1e-9:
                self.clock.at(max(instance.free_at_s, instance.used_s) + self.model.linger_s, look)
            else:
                self._leave(instance)

        self.clock.at(due_s, look)

    def _leave(self, instance: Instance) -> None:
        session = instance.session
        assert session is not None
        instance.session = None
        if instance.link is not None:
            self._tell(ev.ByeReceived(link=instance.link, session=session))

        def end() -> None:
            instance.is_busy = False

        self.clock.after(self.model.return_s, end)
        self._return(instance.node, session, ev.InvokeOutcome.OK, self.model.return_s + self.model.network_s)

    def _time_out(self, instance: Instance, session: SessionId) -> None:
        if instance.session == session and not instance.is_gone:
            self.reclaim(instance)

    def _return(self, node: NodeId, session: SessionId, outcome: ev.InvokeOutcome, delay_s: float) -> None:
        event = ev.InvokeReturned(node=node, session=session, outcome=outcome)
        self.clock.after(delay_s, lambda: self._report(event))

    # ------------------------------------------------------------ requests

    def send(self, link: LinkId, n_bytes: int, act: Callable[[Instance], None]) -> None:
        """Let ``act`` happen at the instance when it has received ``n_bytes``, or in its next session."""
        instance = self._links.get(link)
        if instance is None:
            return

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
            if not instance.is_gone and instance.link == link:
                act(instance)

        self.clock.after(self.model.network_s, arrive)

    def _busy_for(self, instance: Instance, n_bytes: int) -> None:
        seconds = n_bytes / self.model.bytes_per_s * instance.slowness
        instance.free_at_s = max(instance.free_at_s, self.clock.now_s) + seconds

    def answer(self, instance: Instance, n_bytes: int, event: Callable[[], ev.Event | None]) -> None:
        """Send ``n_bytes`` back; ``event`` is asked for what to report when they have come."""
        link = instance.link
        self._busy_for(instance, n_bytes)

        def come() -> None:
            if link in self._links and not instance.is_hung:
                told = event()
                if told is not None:
                    self._report(told)

        self.clock.at(instance.free_at_s + self.model.network_s, come)

    def close(self, link: LinkId) -> None:
        """The connection ends, because the shard hangs up or the network broke it."""
        instance = self._links.pop(link, None)
        if instance is None:
            return
        self._tell(ev.LinkClosed(link=link))
        if instance.link != link:
            return
        instance.link = None
        instance.inbox.clear()
        session = instance.session
        if session is None or instance.is_hung or instance.is_gone:
            return
        if instance.dialled_in == session:
            self._leave(instance)  # it takes that for the shard's way of ending a session
        else:
            self._dial(instance, session)

    # ------------------------------------------------------------ bad luck

    def alive(self) -> list[Instance]:
        return [instance for fleet in self.instances.values() for instance in fleet]

    def reclaim(self, instance: Instance, *, is_silent: bool = False) -> None:
        """Take it away, with all that it remembers; silently: its connection just stays unanswered."""
        if instance.is_gone:
            return
        instance.is_gone = True
        self.reclaimed_s[instance.node] = self.clock.now_s
        self.instances[instance.node].remove(instance)
        if instance.link is not None and not is_silent:
            self._links.pop(instance.link, None)
            self._tell(ev.LinkClosed(link=instance.link))
        if instance.session is not None:
            self._return(instance.node, instance.session, ev.InvokeOutcome.FUNCTION_ERROR, self.model.return_s)

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

    def _tell(self, event: ev.Event) -> None:
        self.clock.after(self.model.network_s, lambda: self._report(event))
