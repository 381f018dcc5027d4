"""A world in which nothing takes time: it answers a shard's commands with events, or holds the answers back.

Instances stay awake until a test puts them to sleep, and answer at once unless a test says otherwise, so a test
scripts only the bad luck that it is about.
"""

from __future__ import annotations

import itertools
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from infiniray.codec.schemes import SchemePolicy
from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import InstanceId, LinkId, NodeId, OpId, RequestId, SessionId, Timer
from infiniray.core.policy import Policy, RepairMode, footprint_bytes
from infiniray.core.shard import ShardState
from infiniray.core.table import ObjectRecord
from infiniray.errors import InfiniRayError
from infiniray.wire.describe import ChunkId, SeqSpans

MIB = 1 << 20
START_S = 1_000_000.0
_Command = TypeVar("_Command")


@dataclass(slots=True)
class Instance:
    """What one execution environment has."""

    id: InstanceId
    chunks: dict[ChunkId, int] = field(default_factory=dict)  # with the number of the insert
    spans: SeqSpans = field(default_factory=SeqSpans)
    link: LinkId | None = None


@dataclass(slots=True)
class ScriptedNode:
    """How one node behaves. ``outcome``: what its invocations end in at once, instead of a session."""

    instance: Instance
    session: SessionId | None = None
    is_silent: bool = False  # invocations are accepted, and nothing more is heard
    holds: bool = False  # requests are taken, answers wait for let_go()
    is_damaged: bool = False
    refuses: bool = False
    outcome: ev.InvokeOutcome | None = None
    held: list[tuple[cmd.Command, Callable[[], ev.Event | None]]] = field(default_factory=list)


class World:
    """I drive one ShardState. ``commands`` has all of its commands in order."""

    def __init__(
        self, *, n_nodes: int = 8, capacity_bytes: int = 64 * MIB, scheme: str | SchemePolicy = "rs:4+2", **policy: Any
    ):
        schemes = scheme if isinstance(scheme, SchemePolicy) else SchemePolicy.of([(None, scheme)])
        policy = {"repair": RepairMode.READS, **policy}
        capacities = {NodeId(f"n{i}"): capacity_bytes for i in range(n_nodes)}
        self.state = ShardState(shard="s", epoch=1, nodes=capacities, policy=Policy(schemes=schemes, **policy))
        self.now_s = START_S
        self.commands: list[cmd.Command] = []
        self.endings: dict[OpId, cmd.ObjectFacts | InfiniRayError | bool | None] = {}
        self.released: list[OpId] = []
        self.timers: dict[Timer, float] = {}
        self.holds_codec = False
        self.holds_registry = False
        self.near: dict[str, cmd.ObjectFacts] = {}
        self._instance_ids = itertools.count()
        self.nodes = {node: ScriptedNode(self._new_instance()) for node in capacities}
        self._op_ids = itertools.count(1)
        self._link_ids = itertools.count(1)
        self._cancelled: set[RequestId] = set()
        self._events: deque[ev.Event] = deque()
        self._is_running = False

    # ------------------------------------------------------------ clients

    def put(self, key: str, size_bytes: int = MIB, *, ttl_s: float | None = None, timeout_s: float = 30.0) -> OpId:
        op = OpId(next(self._op_ids))
        expires_s = None if ttl_s is None else self.now_s + ttl_s
        self.tell(
            ev.PutRequested(
                op=op, key=key, size_bytes=size_bytes, head="h", expires_s=expires_s, deadline_s=self.now_s + timeout_s
            )
        )
        return op

    def get(self, key: str, *, timeout_s: float = 30.0) -> OpId:
        op = OpId(next(self._op_ids))
        self.tell(ev.GetRequested(op=op, key=key, deadline_s=self.now_s + timeout_s))
        return op

    def delete(self, key: str, *, timeout_s: float = 30.0) -> bool:
        op = OpId(next(self._op_ids))
        self.tell(ev.DeleteRequested(op=op, key=key, deadline_s=self.now_s + timeout_s))
        return self.endings.get(op) is True

    def touch(self, key: str, ttl_s: float | None) -> bool:
        op = OpId(next(self._op_ids))
        expires_s = None if ttl_s is None else self.now_s + ttl_s
        self.tell(ev.TouchRequested(op=op, key=key, expires_s=expires_s))
        return self.endings[op] is True

    def facts(self, op: OpId) -> cmd.ObjectFacts:
        """Of an operation that succeeded."""
        ending = self.endings[op]
        assert isinstance(ending, cmd.ObjectFacts), ending
        return ending

    def error(self, op: OpId) -> InfiniRayError:
        """Of an operation that failed."""
        ending = self.endings[op]
        assert isinstance(ending, InfiniRayError), ending
        return ending

    def is_open(self, op: OpId) -> bool:
        return op not in self.endings

    # ------------------------------------------------------------ what a test sees

    def record(self, key: str) -> ObjectRecord:
        record = self.state.table.find(key)
        assert record is not None
        return record

    def node_of(self, key: str, index: int) -> NodeId:
        return self.record(key).places[index].node

    def said(self, kind: type[_Command], since: int = 0) -> list[_Command]:
        """Commands of one kind, from the ``since``-th command on."""
        return [command for command in self.commands[since:] if isinstance(command, kind)]

    def asleep(self) -> None:
        """Every session ends, as it should: BYE, then the return."""
        for node in self.nodes:
            self.end_session(node)

    def accounted_bytes(self) -> dict[NodeId, int]:
        """What the records in the table take on each node."""
        used = dict.fromkeys(self.nodes, 0)
        for record in self.state.table:
            for index, place in record.placed():
                used[place.node] += footprint_bytes(record.chunk_bytes(index))
        return used

    def used_bytes(self) -> dict[NodeId, int]:
        """What the shard counts on each node."""
        return {node.id: node.used_bytes for node in self.state.nodes.values()}

    # ------------------------------------------------------------ bad luck

    def lose(self, node: NodeId) -> None:
        """The platform reclaims the node's instance: its connection closes and its invocation fails."""
        scripted = self.nodes[node]
        gone, scripted.instance, scripted.held = scripted.instance, self._new_instance(), []
        session, scripted.session = scripted.session, None
        if gone.link is not None:
            self.tell(ev.LinkClosed(link=gone.link))
        if session is not None:
            self.tell(ev.InvokeReturned(node=node, session=session, outcome=ev.InvokeOutcome.FUNCTION_ERROR))

    def end_session(self, node: NodeId) -> None:
        scripted = self.nodes[node]
        session, scripted.session = scripted.session, None
        if session is not None and scripted.instance.link is not None:
            self.tell(ev.ByeReceived(link=scripted.instance.link, session=session))
            self.tell(ev.InvokeReturned(node=node, session=session, outcome=ev.InvokeOutcome.OK))

    def second_instance(self, node: NodeId, session: str) -> None:
        """Another, empty instance of the node says HELLO."""
        scripted = self.nodes[node]
        scripted.instance, scripted.held = self._new_instance(), []
        self._open(node, SessionId(session))

    def let_go(self, node: NodeId) -> None:
        """Give the answers that were held back, and those to come."""
        self.nodes[node].holds = False
        self.let_some_go(node, lambda command: True)

    def let_some_go(self, node: NodeId, which: Callable[[cmd.Command], bool]) -> None:
        scripted = self.nodes[node]
        chosen = [entry for entry in scripted.held if which(entry[0])]
        scripted.held = [entry for entry in scripted.held if entry not in chosen]
        for _, answer in chosen:
            self._answer(answer())

    def advance(self, seconds: float) -> None:
        """Let time pass and timers fire."""
        until_s = self.now_s + seconds
        while self.timers:
            timer, at_s = min(self.timers.items(), key=lambda item: (item[1], str(item[0])))
            if at_s > until_s:
                break
            del self.timers[timer]
            self.now_s = max(self.now_s, at_s)
            self.tell(ev.TimerFired(timer=timer))
        self.now_s = until_s

    # ------------------------------------------------------------ events and commands

    def tell(self, *events: ev.Event) -> None:
        self._events += events
        if self._is_running:
            return
        self._is_running = True
        while self._events:
            for command in self.state.handle(self._events.popleft(), self.now_s):
                self.commands.append(command)
                self._execute(command)
        self._is_running = False

    def _execute(self, command: cmd.Command) -> None:
        match command:
            case cmd.Invoke(node=node, session=session):
                self._invoke(node, session)
            case cmd.Ping(link=link):
                self._at(link, command, lambda s: ev.PongReceived(link=link, session=s.session) if s.session else None)
            case cmd.StoreChunk():
                self._at(command.link, command, lambda s: self._store(s, command))
            case cmd.FetchChunk():
                self._at(command.link, command, lambda s: self._fetch(s, command))
            case cmd.DeleteChunks():
                self._at(command.link, command, lambda s: self._delete(s, command))
            case cmd.Retain():
                self._at(command.link, command, lambda s: self._retain(s, command))
            case cmd.RegisterCopy(node=node, instance=instance):
                if not self.holds_registry:
                    self.tell(ev.CopyRegistered(node=node, instance=instance))
            case cmd.ConfirmLead():
                if not self.holds_registry:
                    self.tell(ev.LeadConfirmed(is_sure=True))
            case cmd.KeepNear(facts=facts):
                assert facts.key not in self.near
                self.near[facts.key] = facts
            case cmd.DropNear(key=key):
                del self.near[key]
            case cmd.ReadNear(key=key):
                assert key in self.near
            case cmd.AcquireSlot(node=node):
                self.tell(ev.SlotAnswered(node=node, granted=False))
            case cmd.AbortStore(request=request) | cmd.CancelFetch(request=request):
                self._cancelled.add(request)
            case cmd.CloseLink(link=link):
                self.tell(ev.LinkClosed(link=link))
            case cmd.Encode(op=op) | cmd.Decode(op=op):
                if not self.holds_codec:
                    self.tell(ev.Encoded(op=op) if isinstance(command, cmd.Encode) else ev.Decoded(op=op))
            case cmd.Complete(op=op, facts=facts, found=found):
                assert op not in self.endings
                self.endings[op] = facts or found
            case cmd.Fail(op=op, error=error):
                assert op not in self.endings
                self.endings[op] = error
            case cmd.Release(op=op):
                self.released.append(op)
            case cmd.SetTimer(timer=timer, at_s=at_s):
                self.timers[timer] = at_s
            case cmd.CancelTimer(timer=timer):
                self.timers.pop(timer, None)

    # ------------------------------------------------------------ nodes

    def _new_instance(self) -> Instance:
        return Instance(InstanceId(f"i{next(self._instance_ids)}"))

    def _invoke(self, node: NodeId, session: SessionId) -> None:
        scripted = self.nodes[node]
        if scripted.outcome is not None:
            self.tell(ev.InvokeReturned(node=node, session=session, outcome=scripted.outcome))
        elif not scripted.is_silent:
            self._open(node, session)

    def _open(self, node: NodeId, session: SessionId) -> None:
        scripted = self.nodes[node]
        instance = scripted.instance
        scripted.session = session
        if instance.link is None:
            link = instance.link = LinkId(next(self._link_ids))
            spans = instance.spans.copy()
            self.tell(ev.LinkOpened(link=link, node=node, instance=instance.id, session=session, spans=spans))
        else:
            self.tell(ev.PongReceived(link=instance.link, session=session))
        if not scripted.holds:
            self.let_go(node)  # what waited in its connection while it was frozen

    def _at(self, link: LinkId, command: cmd.Command, answer: Callable[[ScriptedNode], ev.Event | None]) -> None:
        scripted = next((s for s in self.nodes.values() if s.instance.link == link), None)
        if scripted is None:
            return  # the instance is gone
        if scripted.holds or scripted.session is None:
            scripted.held.append((command, lambda: answer(scripted)))
        else:
            self._answer(answer(scripted))

    def _answer(self, event: ev.Event | None) -> None:
        if event is not None and getattr(event, "request", None) not in self._cancelled:
            self.tell(event)

    def _store(self, scripted: ScriptedNode, command: cmd.StoreChunk) -> ev.Event | None:
        if command.request in self._cancelled:
            return None
        if scripted.refuses:
            return ev.RequestRefused(request=command.request, reason="full")
        chunk = ChunkId(command.facts.key, command.facts.version, command.index)
        scripted.instance.chunks[chunk] = command.seq
        scripted.instance.spans.add(command.seq)
        return ev.ChunkStored(request=command.request, crc=crc_of(chunk))

    def _fetch(self, scripted: ScriptedNode, command: cmd.FetchChunk) -> ev.Event:
        chunk = ChunkId(command.facts.key, command.facts.version, command.index)
        if chunk not in scripted.instance.chunks:
            return ev.ChunkMissing(request=command.request)
        assert command.crc == crc_of(chunk)
        if scripted.is_damaged:
            return ev.ChunkDamaged(request=command.request)
        return ev.ChunkArrived(request=command.request)

    def _delete(self, scripted: ScriptedNode, command: cmd.DeleteChunks) -> ev.Event:
        if scripted.refuses:
            return ev.RequestRefused(request=command.request, reason="epoch")
        for chunk in command.chunk_ids:
            scripted.instance.chunks.pop(chunk, None)
        scripted.instance.spans.add(command.seq)
        return ev.ChunksDeleted(request=command.request)

    def _retain(self, scripted: ScriptedNode, command: cmd.Retain) -> ev.Event:
        instance = scripted.instance
        for chunk, seq in list(instance.chunks.items()):
            if command.first <= seq <= command.last and seq not in command.keep:
                del instance.chunks[chunk]
        for first, last in command.seen:
            instance.spans.add(first, last)
        return ev.Retained(request=command.request)


def crc_of(chunk: ChunkId) -> int:
    return zlib.crc32(repr(chunk).encode())
