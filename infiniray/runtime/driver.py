"""The driver of a shard: commands out into the world, events back.

``state.handle(event)`` is called here and nowhere else, on one event loop. Each command has one method in the table
at the end.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from infiniray.codec.checksum import checksum
from infiniray.codec.schemes import Scheme, SchemeKind
from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import InstanceId, LinkId, NodeId, OpId, RequestId, SessionId, Timer
from infiniray.core.shard import ShardState
from infiniray.errors import CacheUnavailable, InfiniRayError, SchemeError
from infiniray.runtime.buffers import BufferPool, ByteArray, NearCopy, OperationBuffers, Takes
from infiniray.runtime.clock import Clock, Timers
from infiniray.runtime.coordination import Coordination, Coordinator, LoneCoordinator
from infiniray.runtime.copies import Copies
from infiniray.runtime.keys import KeyRing
from infiniray.runtime.link import NodeLink, Turn
from infiniray.runtime.listener import Greeting, Listener
from infiniray.runtime.pacing import Pacer, Pacing
from infiniray.runtime.reaching import Reaching
from infiniray.runtime.sessions import Invoker, Sessions
from infiniray.runtime.streams import Stream
from infiniray.wire.auth import key_id
from infiniray.wire.describe import ChunkId, ChunkInfo
from infiniray.wire.frames import Frame, Kind, ProtocolError

if TYPE_CHECKING:
    from infiniray.runtime.certificates import ShardCertificate

__all__ = ["ChunkCoder", "ShardDriver"]

_CLOSE_TIMEOUT_S = 3.0
#: Buffers that nobody has used for so long go back to the machine. (Memory that clients map is kept for longer, by the
#: channel: to have it anew costs far more.)
_IDLE_BUFFERS_S = 1.0

T = TypeVar("T")
#: Ends an operation that nobody waits for any more.
_GiveUp = Callable[[], None]


class ChunkCoder(Protocol):
    """Where chunks are computed; both return when it is done, without holding up the event loop.

    ``outputs`` are buffers that parity may be computed into; what has it, these or others, is returned.
    """

    async def encode(self, scheme: Scheme, data: Any, outputs: list[Any]) -> list[Any]: ...

    async def reconstruct(
        self, scheme: Scheme, object_bytes: int, present: Mapping[int, Any], wanted: Mapping[int, Any]
    ) -> None: ...


class ShardDriver:
    """I run one shard: its port, its connections, its timers, the bytes of its operations.

    Args:
        state: what decides.
        invoker: starts functions.
        coder: computes parity and lost chunks.
        secret: the pool's, shared with its functions; two while it is changed.
        advertise_host: what nodes dial to reach this machine.
        linger_s: how long nodes wait for more work.
        invoke_timeout_s: how long an invocation may take; above the functions' own timeout.
        certificate: what the shard shows to nodes, which then dial by TLS; None: they do not.
        pacing: shape what is sent to each node; None: as fast as it goes.
        coordinator: the rest of the cache; None: there is none.
        registered: which instance has the current copy of each node, as an earlier incarnation of this shard left it.
    """

    def __init__(
        self,
        state: ShardState,
        invoker: Invoker,
        coder: ChunkCoder,
        secret: bytes | KeyRing,
        *,
        listen_host: str = "127.0.0.1",
        advertise_host: str | None = None,
        linger_s: float = 0.008,
        invoke_timeout_s: float = 130.0,
        certificate: ShardCertificate | None = None,
        pacing: Pacing | None = None,
        coordinator: Coordinator | None = None,
        registered: Mapping[NodeId, InstanceId] | None = None,
        on_deposed: Callable[[], None] | None = None,
    ) -> None:
        self.state = state
        self.pool = BufferPool()
        self.counters: Counter[str] = Counter()
        self._loop = asyncio.get_running_loop()
        self._clock = Clock(self._loop)
        self._timers = Timers(self._loop, self._clock, self._timer_fired)
        self._epoch = state.context.epoch
        self._coder = coder
        self._listen_host = listen_host
        self._advertise_host = advertise_host or listen_host
        self._pacing = pacing
        self._listener = Listener(secret, self._epoch, state.nodes, self._welcome, certificate=certificate)
        self._sessions = Sessions(
            invoker, secret, self._epoch,
            linger_s=linger_s, timeout_s=invoke_timeout_s, report=self.feed, depose=self._depose,
            certificate="" if certificate is None else certificate.fingerprint,
        )  # fmt: skip
        self._registered = dict(registered or {})
        self._coordination = Coordination(coordinator or LoneCoordinator(), self._registered, self.feed, self._depose)
        self._is_deposed = False
        self._on_deposed = on_deposed
        self._links: dict[LinkId, NodeLink] = {}
        self._turn = Turn()
        self._keys_of: dict[LinkId, str] = {}  # ids of the secrets that they were proven with
        self._copies = Copies(self._links, self.pool, self.feed)
        self._asking = asyncio.Lock()
        self._reaching = Reaching(lambda node: self.feed(ev.NodeWanted(node=node)))
        self._buffers: dict[OpId, OperationBuffers] = {}
        self._near: dict[str, NearCopy] = {}
        #: who is told how an operation ends
        self._waiting: dict[OpId, Callable[[cmd.Complete | InfiniRayError], None]] = {}
        self._coding: set[asyncio.Task[None]] = set()
        self._op_ids = itertools.count(1)
        self._link_ids = itertools.count(1)
        self._events: deque[ev.Event] = deque()
        self._is_feeding = False
        self._is_closed = False
        self._trimming: asyncio.TimerHandle | None = None
        self._execute: dict[type, Callable[[Any], None]] = self._table()

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Listen for nodes, and begin.

        Raises:
            OSError: the host has no such address.
        """
        port = await self._listener.start(self._listen_host)
        host = f"[{self._advertise_host}]" if ":" in self._advertise_host else self._advertise_host
        self._sessions.address = f"{host}:{port}"
        self._trim()
        self.feed(ev.Started(registered=tuple(sorted(self._registered.items()))))

    @property
    def address(self) -> str:
        """``host:port`` that nodes dial."""
        return self._sessions.address

    async def close(self) -> None:
        """Close port and connections and end what is going on; waits for functions to return, within a deadline.

        Calls that wait, and those that come later, raise CacheUnavailable.
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._trimming is not None:
            self._trimming.cancel()
        await self._listener.close()
        for link in list(self._links.values()):
            link.close("the shard closes")
        await self._coordination.close()
        await self._sessions.close(_CLOSE_TIMEOUT_S)
        for task in self._coding:
            task.cancel()
        await asyncio.gather(*self._coding, return_exceptions=True)
        self._timers.clear()
        while self._waiting:
            self._waiting.popitem()[1](CacheUnavailable(detail="the shard closes"))
        self._buffers.clear()
        self._near.clear()

    # ------------------------------------------------------------ what clients ask

    async def put(
        self, key: str, head: str, data: Any, *, expires_s: float | None, timeout_s: float, place: object = None
    ) -> cmd.ObjectFacts:
        """Store the bytes of ``data`` (one contiguous buffer, which must not change meanwhile).

        Args:
            head: what a reader needs to make a value of them; kept with every chunk.
            expires_s: Unix time, None for never.
            place: what keeps the memory of ``data``, which nobody writes to any more: a near copy may stay there. None:
                it is somebody else's.

        Raises:
            ValueTooLarge, PoolFull, WriteFailed, Overloaded, DeadlineExceeded: nothing of it is kept.
        """
        op = self._new_op()
        self._buffers[op] = OperationBuffers(self.pool, data, place=place)
        size_bytes = memoryview(data).nbytes
        deadline_s = self._clock.now_s() + timeout_s
        event = ev.PutRequested(
            op=op, key=key, size_bytes=size_bytes, head=head, expires_s=expires_s, deadline_s=deadline_s
        )
        done = await self._run(op, event)
        assert done.facts is not None
        return done.facts

    async def get(
        self, key: str, *, timeout_s: float, landing: Takes | None = None
    ) -> tuple[cmd.ObjectFacts, ByteArray]:
        """The object's facts and its bytes: uint8, read-only, the caller's for as long as it likes.

        Args:
            landing: where the memory is taken that it is received in; None: from :attr:`pool`.

        Raises:
            KeyNotFound, ObjectLost: a miss.
            Overloaded, DeadlineExceeded: try again.
        """
        return await self._ending(partial(self.begin_get, key, timeout_s=timeout_s, landing=landing))

    def begin_get(
        self,
        key: str,
        done: Callable[[tuple[cmd.ObjectFacts, ByteArray] | InfiniRayError], None],
        *,
        timeout_s: float,
        landing: Takes | None = None,
    ) -> Callable[[], None]:
        """As :meth:`get`, without waiting: ``done`` is called once with what that returns or raises, perhaps before
        this returns; it may begin other reads. What is returned gives the read up: then ``done`` is not called.

        Raises:
            CacheUnavailable: the shard is closed.
        """
        op = self._new_op()
        buffers = self._buffers[op] = OperationBuffers(self.pool, landing=landing)

        def end(ending: cmd.Complete | InfiniRayError) -> None:
            if isinstance(ending, InfiniRayError):
                done(ending)
                return
            assert ending.facts is not None
            data = buffers.object(ending.facts)
            data.flags.writeable = False
            done((ending.facts, data))

        return self._begin(op, ev.GetRequested(op=op, key=key, deadline_s=self._clock.now_s() + timeout_s), end)

    async def delete(self, key: str, *, timeout_s: float = 30.0) -> bool:
        """Whether there was something.

        Raises:
            DeadlineExceeded: it is not certain that it is gone for good; try again.
        """
        op = self._new_op()
        deadline_s = self._clock.now_s() + timeout_s
        return (await self._run(op, ev.DeleteRequested(op=op, key=key, deadline_s=deadline_s))).found

    async def touch(self, key: str, expires_s: float | None) -> bool:
        """Set the expiry; whether there was something."""
        op = self._new_op()
        return (await self._run(op, ev.TouchRequested(op=op, key=key, expires_s=expires_s))).found

    def back_up(self) -> None:
        """Begin to back up every node, as far as slots allow."""
        self.feed(ev.BackupRequested())

    async def require_reachable(self, *, timeout_s: float) -> None:
        """Have a node dial in, unless one has.

        Raises:
            ShardUnreachable: none can, or none did within ``timeout_s``.
        """
        async with self._asking:
            if not self._links:
                await self._reaching.require(self.state.shard, self.address, list(self.state.nodes), timeout_s)

    def change_pool(self, nodes: Mapping[NodeId, int]) -> None:
        """The shard's nodes are to be these, each with the bytes that it may hold. Others are drained; ``leaving`` in
        :meth:`stats` says what is left on them."""
        self._listener.nodes = frozenset(self.state.nodes) | frozenset(nodes)
        self.feed(ev.PoolChanged(nodes=tuple(nodes.items())))

    @property
    def keys(self) -> KeyRing:
        """The secrets that nodes may prove to know."""
        return self._listener.keys

    def change_keys(self, keys: KeyRing) -> None:
        """Accept these secrets from now on. Nodes that proved one which is not among them any more are hung up on, and
        do not get in again."""
        self._listener.keys = self._sessions.keys = keys
        for link in list(self._links.values()):
            if self._keys_of[link.id] not in keys.ids:
                link.close("its secret is not accepted any more")

    def keys_in_use(self) -> Counter[str]:
        """Of the connections that are open: how many were proven with which secret, by its id."""
        return Counter(self._keys_of.values())

    def nodes_behind(self) -> frozenset[NodeId]:
        """Nodes with an open connection that was proven with another secret than the current one."""
        current = key_id(self.keys.current)
        return frozenset(link.node for link in self._links.values() if self._keys_of[link.id] != current)

    def now_s(self) -> float:
        """The shard's time, Unix."""
        return self._clock.now_s()

    def stats(self) -> dict[str, Any]:
        """The state's, and what happened on the wire."""
        links = self._links.values()
        return {
            **self.state.stats(),
            "links": len(links),
            "copies": len(self._copies),
            "bytes_copied": self._copies.bytes_copied,
            "bytes_in": self.counters["bytes_in"] + sum(link.bytes_in for link in links),
            "bytes_out": self.counters["bytes_out"] + sum(link.bytes_out for link in links),
            "frames_discarded": self.counters["frames_discarded"] + sum(link.n_discarded for link in links),
            "connections_refused": dict(self._listener.refused),
            "invoke_failures": {
                outcome.value: self.counters[outcome.value]
                for outcome in ev.InvokeOutcome
                if self.counters[outcome.value] and outcome is not ev.InvokeOutcome.OK
            },
        }

    def _trim(self) -> None:
        """Give back buffers that have been idle. Runs for ever."""
        self.pool.trim(_IDLE_BUFFERS_S)
        self._trimming = self._loop.call_later(_IDLE_BUFFERS_S / 2, self._trim)

    def _new_op(self) -> OpId:
        if self._is_closed:  # nobody would ever answer
            raise CacheUnavailable(detail="the shard is closed")
        return OpId(next(self._op_ids))

    async def _run(self, op: OpId, event: ev.Event) -> cmd.Complete:
        return await self._ending(partial(self._begin, op, event))

    def _begin(self, op: OpId, event: ev.Event, done: Callable[[cmd.Complete | InfiniRayError], None]) -> _GiveUp:
        self._waiting[op] = done
        self.feed(event)
        return partial(self._give_up, op)

    async def _ending(self, begin: Callable[[Callable[[T | InfiniRayError], None]], _GiveUp]) -> T:
        """Begin an operation and wait for what it is told to be done with."""
        future: asyncio.Future[None] = self._loop.create_future()
        found: list[T] = []  # not in the future, which the event loop has for longer
        give_up = begin(partial(_settle, future, found))
        try:
            await future
            return found.pop()
        except asyncio.CancelledError:
            give_up()
            raise
        finally:
            del future  # else its error would hold this frame, and this frame the error: with it, the memory read into

    def _give_up(self, op: OpId) -> None:
        """Nobody waits for it any more."""
        if self._waiting.pop(op, None) is not None and not self._is_closed:
            self.feed(ev.OpCancelled(op=op))

    # ------------------------------------------------------------ events in, commands out

    def feed(self, event: ev.Event) -> None:
        """Hand an event to the state and do what it says. Events that this causes come after."""
        self._events.append(event)
        if self._is_feeding or self._is_closed:
            return
        self._is_feeding = True
        try:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, ev.InvokeReturned):
                    self.counters[event.outcome.value] += 1
                    self._reaching.on_returned(event)
                for command in self.state.handle(event, self._clock.now_s()):
                    self._execute[type(command)](command)
        finally:
            self._is_feeding = False

    def _table(self) -> dict[type, Callable[[Any], None]]:
        """What each command does. A command to a link that is gone does nothing: its LinkClosed is on the way."""
        return {
            cmd.Invoke: self._sessions.begin,
            cmd.Ping: lambda c: self._on_link(c.link, lambda link: link.send(Kind.PING)),
            cmd.StoreChunk: self._store_chunk,
            cmd.AbortStore: lambda c: self._on_link(c.link, lambda link: link.abort_store(c.request)),
            cmd.FetchChunk: self._fetch_chunk,
            cmd.Gauge: self._gauge,
            cmd.CancelFetch: lambda c: self._on_link(c.link, lambda link: link.cancel_fetch(c.request)),
            cmd.DeleteChunks: self._delete_chunks,
            cmd.Hold: lambda c: self._on_link(c.link, lambda link: link.hold(c.for_s)),
            cmd.Retain: self._retain,
            cmd.ListChunks: self._list_chunks,
            cmd.CopyChunk: self._copies.begin,
            cmd.CancelCopy: self._copies.cancel,
            cmd.CloseLink: lambda c: self._on_link(c.link, lambda link: link.close("no longer needed")),
            cmd.Encode: lambda c: self._code(c.op, self._encode, c, ev.Encoded(op=c.op)),
            cmd.Decode: lambda c: self._code(c.op, self._decode, c, ev.Decoded(op=c.op)),
            cmd.Complete: self._complete,
            cmd.Fail: self._fail,
            cmd.OpenBuffers: self._open_buffers,
            cmd.ShareBuffers: self._share_buffers,
            cmd.KeepNear: self._keep_near,
            cmd.DropNear: self._drop_near,
            cmd.ReadNear: self._read_near,
            cmd.Release: self._release,
            cmd.SetTimer: lambda c: self._timers.set(c.timer, c.at_s),
            cmd.CancelTimer: lambda c: self._timers.cancel(c.timer),
            cmd.RegisterCopy: self._coordination.register,
            cmd.AcquireSlot: self._coordination.acquire_slot,
            cmd.ReleaseSlot: self._coordination.release_slot,
            cmd.ConfirmLead: self._coordination.confirm_lead,
        }

    def _timer_fired(self, timer: Timer) -> None:
        self.feed(ev.TimerFired(timer=timer))

    def _depose(self) -> None:
        """A later incarnation was heard of: that is said once."""
        if not self._is_deposed:
            self._is_deposed = True
            self.feed(ev.Deposed())
            if self._on_deposed is not None:
                self._on_deposed()

    # ------------------------------------------------------------ commands to nodes

    def _on_link(self, link_id: LinkId, act: Callable[[NodeLink], None]) -> None:
        link = self._links.get(link_id)
        if link is not None:
            act(link)

    def _store_chunk(self, command: cmd.StoreChunk) -> None:
        facts, index = command.facts, command.index
        chunk = self._buffers[command.op].chunk(facts, index)
        info = ChunkInfo(
            key=facts.key, version=facts.version, index=index, seq=command.seq, scheme=str(facts.scheme),
            object_bytes=facts.size_bytes, chunk_bytes=len(chunk), crc=0, expires_s=facts.expires_s, head=facts.head,
        )  # fmt: skip
        self._on_link(command.link, lambda link: link.store(command.request, info, chunk))

    def _fetch_chunk(self, command: cmd.FetchChunk) -> None:
        facts = command.facts
        target = self._buffers[command.op].chunk(facts, command.index)
        chunk = ChunkId(facts.key, facts.version, command.index)
        self._on_link(command.link, lambda link: link.fetch(command.request, chunk, target, crc=command.crc))

    def _gauge(self, command: cmd.Gauge) -> None:
        asked = ((self._links.get(link), request) for link, request in command.requests)
        shares = tuple(0.0 if link is None else link.share_of(request) for link, request in asked)
        self.feed(ev.Gauged(op=command.op, shares=shares))

    def _delete_chunks(self, command: cmd.DeleteChunks) -> None:
        meta = {"seq": command.seq, "chunk_ids": [list(chunk) for chunk in command.chunk_ids]}
        self._on_link(command.link, lambda link: link.ask(Kind.DELETE, command.request, meta))

    def _retain(self, command: cmd.Retain) -> None:
        distances = [after - before for before, after in pairwise((0, *command.keep))]
        meta = {"first": command.first, "last": command.last, "keep": distances, "seen": [*map(list, command.seen)]}
        self._on_link(command.link, lambda link: link.ask(Kind.RETAIN, command.request, meta))

    def _list_chunks(self, command: cmd.ListChunks) -> None:
        after = None if command.after is None else list(command.after)
        meta: dict[str, object] = {"after": after, "limit": command.limit}
        self._on_link(command.link, lambda link: link.ask(Kind.LIST, command.request, meta))

    # ------------------------------------------------------------ commands to the codec

    def _code(
        self, op: OpId, work: Callable[[Any, OperationBuffers], Coroutine[Any, Any, None]], command: Any, done: ev.Event
    ) -> None:
        buffers = self._buffers[op]  # now: the operation may be over before its work begins

        async def run() -> None:
            try:
                await work(command, buffers)
            except Exception as error:  # whatever it was: the operation waits for an answer
                self.feed(ev.CodecFailed(op=op, detail=str(error) or type(error).__name__))
            else:
                self.feed(done)

        task = self._loop.create_task(run())
        self._coding.add(task)
        task.add_done_callback(self._coding.discard)

    async def _encode(self, command: cmd.Encode, buffers: OperationBuffers) -> None:
        scheme, data = command.facts.scheme, buffers.object(command.facts)
        outputs = [self.pool.take(scheme.chunk_bytes(len(data))) for _ in range(scheme.r)]
        buffers.set_parity(command.facts, await self._coder.encode(scheme, data, outputs))

    async def _decode(self, command: cmd.Decode, buffers: OperationBuffers) -> None:
        facts = command.facts
        if facts.scheme.kind is SchemeKind.MIRROR:  # a replica is the object; its checksum was compared when it came
            buffers.object(facts)[:] = buffers.chunk(facts, command.have[0])
            return
        present = {index: buffers.chunk(facts, index) for index in command.have}
        wanted = {index: buffers.chunk(facts, index) for index in command.want}
        await self._coder.reconstruct(facts.scheme, facts.size_bytes, present, wanted)
        for index, crc in zip(command.want, command.crcs, strict=True):
            if crc is not None and checksum(wanted[index]) != crc:
                raise SchemeError(detail=f"chunk {index} was decoded to other bytes than were stored")

    # ------------------------------------------------------------ commands to clients

    def _complete(self, command: cmd.Complete) -> None:
        end = self._waiting.pop(command.op, None)
        if end is not None:
            end(command)

    def _fail(self, command: cmd.Fail) -> None:
        end = self._waiting.pop(command.op, None)
        if end is not None:
            end(command.error)

    def _keep_near(self, command: cmd.KeepNear) -> None:
        self._near[command.facts.key] = self._buffers[command.op].near_copy(command.facts)

    def _drop_near(self, command: cmd.DropNear) -> None:
        del self._near[command.key]

    def _read_near(self, command: cmd.ReadNear) -> None:
        self._buffers[command.op].take_over(self._near[command.key])

    def _release(self, command: cmd.Release) -> None:
        self._buffers.pop(command.op, None)

    def _open_buffers(self, command: cmd.OpenBuffers) -> None:
        self._buffers[command.op] = OperationBuffers(self.pool, is_for_one_chunk=command.is_for_one_chunk)

    def _share_buffers(self, command: cmd.ShareBuffers) -> None:
        buffers = self._buffers[command.op] = self._buffers[command.source]
        buffers.is_source = True

    # ------------------------------------------------------------ what links report

    def _welcome(self, connection: Stream, greeting: Greeting) -> None:
        link_id = LinkId(next(self._link_ids))
        pacer = Pacer(self._pacing, connection) if self._pacing is not None else None
        self._keys_of[link_id] = greeting.key
        self._links[link_id] = NodeLink(link_id, greeting.node, connection, self._epoch, self, pacer, self._turn)
        self._reaching.on_dialled()
        self.feed(
            ev.LinkOpened(
                link=link_id,
                node=greeting.node,
                instance=greeting.instance,
                session=greeting.session,
                spans=greeting.spans,
            )
        )

    def on_frame(self, link: NodeLink, frame: Frame) -> None:
        request = RequestId(frame.request)
        match frame.kind:
            case Kind.PONG:
                self.feed(ev.PongReceived(link=link.id, session=_session(frame)))
            case Kind.BYE:
                self.feed(ev.ByeReceived(link=link.id, session=_session(frame)))
            case Kind.MISSING if request in self._copies:
                self._copies.on_missing(request)
            case Kind.MISSING:
                self.feed(ev.ChunkMissing(request=request))
            case Kind.CANCELLED:
                self.feed(ev.FetchCancelled(request=request))
            case Kind.DELETED:
                self.feed(ev.ChunksDeleted(request=request))
            case Kind.RETAINED:
                self.feed(ev.Retained(request=request))
            case Kind.INVENTORY:
                self._take_inventory(request, frame)
            case _:
                self.counters["frames_unexpected"] += 1

    def _take_inventory(self, request: RequestId, frame: Frame) -> None:
        chunks, more = ChunkInfo.page_from_wire(frame.meta.get("chunks")), frame.meta.get("more")
        if not isinstance(more, bool) or (more and not chunks):
            raise ProtocolError("an inventory that does not say how it goes on")
        self.feed(ev.InventoryArrived(request=request, chunks=chunks, more=more))

    def on_chunk(self, link: NodeLink, request: RequestId, info: ChunkInfo | None, is_whole: bool) -> None:
        if request in self._copies:
            self._copies.on_chunk(request, info, is_whole)
        else:
            self.feed(ev.ChunkArrived(request=request) if is_whole else ev.ChunkDamaged(request=request))

    def on_stored(self, link: NodeLink, request: RequestId, crc: int) -> None:
        if request in self._copies:
            self._copies.on_stored(request)
        else:
            self.feed(ev.ChunkStored(request=request, crc=crc))

    def on_refused(self, link: NodeLink, request: RequestId, reason: str) -> None:
        if request in self._copies:
            self._copies.on_refused(request, reason)
        else:
            self.feed(ev.RequestRefused(request=request, reason=reason))
        if reason == "epoch":
            self._depose()

    def on_link_closed(self, link: NodeLink, reason: str) -> None:
        self._links.pop(link.id, None)
        self._keys_of.pop(link.id, None)
        self.counters["bytes_in"] += link.bytes_in
        self.counters["bytes_out"] += link.bytes_out
        self.counters["frames_discarded"] += link.n_discarded
        if reason.startswith("protocol error"):
            self.counters["protocol_errors"] += 1
        self._copies.on_link_closed(link.id)
        self.feed(ev.LinkClosed(link=link.id))


def _settle(future: asyncio.Future[None], found: list[T], ending: T | InfiniRayError) -> None:
    if future.done():
        return
    if isinstance(ending, InfiniRayError):
        future.set_exception(ending)
    else:
        found.append(ending)
        future.set_result(None)


def _session(frame: Frame) -> SessionId:
    return SessionId(str(frame.meta.get("session", "")))
