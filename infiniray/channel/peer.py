"""One connection at the shard's end.

A connection has one request at a time: what is under way for it, and what is kept for it, has a bound.
"""

from __future__ import annotations

import array
import asyncio
import itertools
import pickle
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from infiniray.channel.frames import RELEASE, Frame, FrameReader, Kind, pack
from infiniray.channel.proofs import client_proof, matches, new_nonce, shard_proof
from infiniray.channel.shared import Landing, SharedPool, Slot
from infiniray.errors import FrameError, InfiniRayError

__all__ = ["MAX_BODY_BYTES", "MAX_KEYS", "MAX_META_BYTES", "Handler", "Hub", "Peer", "Tenancy"]

#: Of one request: keys, their heads and settings; and values that travel in the frame.
MAX_META_BYTES = 2 << 20
MAX_BODY_BYTES = 16 << 20
MAX_KEYS = 256
#: Before a client has proven who it is.
_GREETING_BYTES = 1024
_GREETING_S = 2.0
#: A client that takes nothing of its answers for so long is hung up on.
_STUCK_S = 30.0
#: Keys of one request that are worked on at once: so many while nobody knows how large they are; then as many as are
#: this many bytes, if all are as large as the largest so far. And bytes of answers that wait for the client.
_AT_FIRST = 8
_AT_ONCE = 32
_READING_BYTES = 256 << 20
_QUEUE_BYTES = 16 << 20
#: Handed to the kernel at once: as much as a socket takes, by and large, and not so many pieces that they are refused.
_HAND_OVER_BYTES = 256 << 10
_MAX_PARTS = 128
_SCRATCH_BYTES = 32 << 10


class Handler(Protocol):
    """What the shard does. Each gets the caller's epoch and the seconds it has left, and raises InfiniRayErrors."""

    async def read(self, epoch: int, key: str, timeout_s: float, landing: Landing) -> tuple[str, Any]:
        """(head, bytes) of an object, received in memory from ``landing``."""

    def begin_read(
        self, epoch: int, key: str, timeout_s: float, landing: Landing, done: Callable[[Any], None]
    ) -> Callable[[], None] | None:
        """As :meth:`read`, without a task: ``done`` is called once with what that returns or raises, perhaps before
        this returns. What is returned gives the read up. None: nothing has begun, :meth:`read` is to be awaited."""

    async def write(
        self, epoch: int, key: str, head: str, payload: Any, *, request: str, ttl_s: float | None, timeout_s: float,
        is_again: bool, place: Slot | None,
    ) -> None:  # fmt: skip
        """Store a serialized value; ``place`` is the slot that it lies in, which is for nothing else from now on."""

    async def ask(self, epoch: int, method: str, key: str, timeout_s: float, details: dict[str, Any]) -> Any:
        """Call a method that takes a key, and returns what JSON can carry."""


class Tenancy:
    """One client process, and the slots that it may be looking at.

    Args:
        hear: reads what the process has said of them by now.
    """

    def __init__(self, pool: SharedPool, hear: Callable[[], None]) -> None:
        self.name = new_nonce()
        self._hear = hear
        self.is_over = False
        self._pool = pool
        self._leases: dict[int, Slot] = {}
        #: it may have them or not: who should have told it hung up
        self._doubtful: set[int] = set()
        self._n_closed_known = 0
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._leases)

    def grant(self, slot: Slot) -> int:
        number = next(self._numbers)
        self._leases[number] = slot
        return number

    def catch_up(self) -> None:
        """The process is about to get more: what it had let go of before it asked is free by then. It said so on
        another connection, which the event loop may not have come to."""
        if self._leases:
            self._hear()

    def news(self) -> list[int]:
        """Segments that the process need not keep mapped any more, and has not been told of."""
        self._n_closed_known, numbers = self._pool.closed_since(self._n_closed_known)
        return numbers

    def release(self, number: int) -> None:
        """Raises: FrameError: there is no such lease."""
        if self._leases.pop(number, None) is not None:
            return
        if number not in self._doubtful:
            raise FrameError(detail=f"there is no lease {number}")
        self._doubtful.discard(number)

    def doubt(self, numbers: list[int]) -> None:
        """Nobody knows whether the process has heard of these: what they are of is never used again."""
        for number in numbers:
            slot = self._leases.pop(number, None)
            if slot is not None:
                self._pool.give_up(slot.segment)
                self._doubtful.add(number)

    def end(self) -> None:
        """The process is gone, or does not want to say when it has finished: what it had is never used again."""
        self.is_over = True
        for slot in self._leases.values():
            self._pool.give_up(slot.segment)
        self._leases.clear()


class Hub(Protocol):
    """What connections share."""

    handler: Handler
    pool: SharedPool
    heap: Any
    secret: bytes
    protocol: int
    shared_min_bytes: int
    tenancies: dict[str, Tenancy]

    def on_closed(self, peer: Peer, reason: str) -> None: ...


class Peer:
    """I serve one connection, from its first word on.

    Args:
        is_local: descriptors can be passed over it.
    """

    def __init__(self, connection: socket.socket, hub: Hub, *, is_local: bool) -> None:
        self.bytes_in = self.bytes_out = self.n_requests = 0
        self.is_proven = False
        self._hub = hub
        self._loop = asyncio.get_running_loop()
        self._socket = connection
        self._is_local = is_local
        self._is_closed = self._is_writing = False
        self._reader = FrameReader(
            self._place, max_meta_bytes=_GREETING_BYTES, max_body_bytes=0, scratch_bytes=_SCRATCH_BYTES
        )
        self._nonce = new_nonce()
        self._tenancy: Tenancy | None = None
        self._is_for_leases = False
        self._lease_bytes = b""
        self._reserved: Slot | None = None
        #: leases that the last answers told of; the next request says that they have arrived
        self._unconfirmed: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()
        #: what has not begun of the request: each part begins when it is called, and returns what is to be awaited
        self._todo: deque[Callable[[], Coroutine[Any, Any, None] | None]] = deque()
        #: reads that are under way without a task, by index: what gives them up
        self._reads: dict[int, Callable[[], None]] = {}
        self._is_starting = self._is_to_flush = False
        self._largest_bytes = 0  # of the values of this request
        #: frames, or parts of them; with each the slot whose segment's descriptor goes with its first byte
        self._out: deque[tuple[memoryview, Slot | None]] = deque()
        self._queued_bytes = 0
        self._timer = self._loop.call_later(_GREETING_S, self.close, "no proof in time")
        self._loop.add_reader(connection, self._readable)
        self._send(pack(Kind.CHALLENGE, [hub.protocol, self._nonce]))
        self._flush()

    def close(self, reason: str) -> None:
        """Close the socket, and end what is under way; doing it again does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._timer.cancel()
        self._loop.remove_reader(self._socket)
        if self._is_writing:
            self._loop.remove_writer(self._socket)
        self._socket.close()
        for task in self._tasks:
            task.cancel()
        self._todo.clear()
        while self._reads:
            self._reads.popitem()[1]()
        self._out.clear()
        self._queued_bytes = 0
        if self._reserved is not None:  # its client may still be writing into it
            self._hub.pool.give_up(self._reserved.segment)
            self._reserved = None
        if self._tenancy is not None and not self._is_for_leases:
            self._tenancy.doubt(self._unconfirmed)
        if self._is_for_leases and self._tenancy is not None:
            self._hub.tenancies.pop(self._tenancy.name, None)
            self._tenancy.end()
        self._hub.on_closed(self, reason)

    # ------------------------------------------------------------ in

    def _readable(self) -> None:
        if self._is_closed:
            return
        try:
            if self._is_for_leases:
                self._read_leases()
            else:
                self._read_frames()
        except BlockingIOError:
            return
        except FrameError as error:
            self.close(f"garbage: {error}")
        except OSError as error:
            self.close(f"{type(error).__name__}: {error}")

    def _read_frames(self) -> None:
        n_bytes = self._socket.recv_into(self._reader.buffer())
        if not n_bytes:
            self.close("the client hung up")
            return
        self.bytes_in += n_bytes
        if self._is_busy:
            raise FrameError(detail="a request before the last one was answered")
        for frame in self._reader.advance(n_bytes):
            if self._is_busy:
                raise FrameError(detail="two requests at once")
            self._take(frame)
            if self._is_closed:
                return

    @property
    def _is_busy(self) -> bool:
        return bool(self._tasks or self._todo or self._reads)

    def _read_leases(self) -> None:
        received = self._socket.recv(1 << 16)
        if not received:
            self.close("the client hung up")
            return
        assert self._tenancy is not None
        held = self._lease_bytes + received
        n_whole = len(held) // RELEASE.size * RELEASE.size
        for (number,) in RELEASE.iter_unpack(held[:n_whole]):
            self._tenancy.release(number)
        self._lease_bytes = held[n_whole:]

    def _place(self, kind: int, meta: Any, n_bytes: int) -> Any:
        if kind != Kind.PUT:
            raise FrameError(detail=f"frame {kind} has no body")
        return memoryview(self._hub.heap.take(n_bytes))

    def _take(self, frame: Frame) -> None:
        if not self.is_proven:
            self._greet(frame)
            return
        self.n_requests += 1
        self._unconfirmed.clear()
        self._largest_bytes = 0
        try:
            self._begin(frame)
        except (TypeError, ValueError, LookupError) as error:  # not what the kind of frame has
            raise FrameError(detail=f"frame {frame.kind}: {error}") from None

    def _greet(self, frame: Frame) -> None:
        """HELLO: who knows the secret gets in, with a tenancy of its own, or the one that it has."""
        match frame:
            case (Kind.HELLO, ["leases" | "requests" as role, str(nonce), mac, str(name)], _) if (
                self._is_local or role == "requests"
            ):
                pass
            case _:
                raise FrameError(detail="no HELLO")
        hub = self._hub
        expected = client_proof(hub.secret, shard_nonce=self._nonce, client_nonce=nonce, role=role, tenancy=name)
        if not matches(expected, mac):
            self.close("no proof")
            return
        if not self._is_local:
            self._tenancy = None  # another machine maps nothing of this one's
        elif role == "leases":
            self._is_for_leases = True
            self._tenancy = Tenancy(hub.pool, self._readable)
            hub.tenancies[self._tenancy.name] = self._tenancy
        else:
            self._tenancy = hub.tenancies.get(name)
        self.is_proven = True
        self._timer.cancel()
        self._reader.max_meta_bytes, self._reader.max_body_bytes = MAX_META_BYTES, MAX_BODY_BYTES
        name = "" if self._tenancy is None else self._tenancy.name
        proof = shard_proof(hub.secret, shard_nonce=self._nonce, client_nonce=nonce, tenancy=name)
        self._send(pack(Kind.WELCOME, [proof, name]))
        self._flush()

    # ------------------------------------------------------------ requests

    def _begin(self, frame: Frame) -> None:
        if self._tenancy is not None and frame.kind in (Kind.GET, Kind.RESERVE):
            self._tenancy.catch_up()
        match frame.kind, frame.meta:
            case Kind.GET, [int(epoch), int() | float() as timeout_s, list(keys)]:
                self._check_count(keys)
                for index, key in enumerate(keys):
                    self._todo.append(partial(self._begin_get, index, epoch, _text(key), timeout_s))
            case Kind.PUT, [int(epoch), int() | float() as timeout_s, list(items)]:
                self._check_count(items)
                sizes = [_size(item[5]) for item in items]
                if sum(sizes) != len(frame.body):
                    raise FrameError(detail=f"values of {sum(sizes)} bytes in a body of {len(frame.body)}")
                starts = itertools.accumulate(sizes, initial=0)
                for index, (item, start) in enumerate(zip(items, starts, strict=False)):
                    payload = frame.body[start : start + item[5]]
                    self._todo.append(partial(self._put, index, epoch, timeout_s, item, payload))
            case Kind.PUT_RESERVED, [int(epoch), int() | float() as timeout_s, [list(item)]]:
                slot, self._reserved = self._reserved, None
                if slot is None or not 0 <= _size(item[5]) <= slot.n_bytes:
                    raise FrameError(detail="no memory was granted for this value")
                self._todo.append(partial(self._put, 0, epoch, timeout_s, item, slot.array[: item[5]], slot))
            case Kind.RESERVE, [int(n_bytes)]:
                self._reserve(n_bytes)
            case Kind.ASK, [int(epoch), int() | float() as timeout_s, str(method), str(key), dict(details)]:
                self._todo.append(partial(self._ask, epoch, method, key, timeout_s, details))
            case Kind.GOODBYE, []:
                self.close("the client hung up")
            case _:
                raise FrameError(detail=f"no request: frame {frame.kind}")
        self._start_more()

    @staticmethod
    def _check_count(parts: list[Any]) -> None:
        if not 0 < len(parts) <= MAX_KEYS:
            raise FrameError(detail=f"a request for {len(parts)} keys")

    def _reserve(self, n_bytes: int) -> None:
        slot, tenancy = None, self._tenancy
        if tenancy is not None and not tenancy.is_over and self._reserved is None and n_bytes > 0:
            slot = self._hub.pool.take(n_bytes)
        if slot is None or tenancy is None:
            self._send(pack(Kind.DENIED))
        else:
            self._reserved = slot
            segment = slot.segment
            self._send(pack(Kind.GRANTED, [segment.number, segment.n_bytes, slot.offset, tenancy.news()]), slot=slot)
        self._flush()

    def _begin_get(self, index: int, epoch: int, key: str, timeout_s: float) -> Coroutine[Any, Any, None] | None:
        hub, tenancy = self._hub, self._tenancy
        landing = Landing(None if tenancy is None else hub.pool, hub.shared_min_bytes, hub.heap, self._begun_to_read)
        ended = False

        def done(ending: Any) -> None:
            nonlocal ended
            ended = True
            self._reads.pop(index, None)
            if isinstance(ending, Exception):
                self._fail(index, "GET", ending)
            else:
                head, data = ending
                self._deliver(index, head, data, landing)
            self._go_on()

        try:
            give_up = hub.handler.begin_read(epoch, key, timeout_s, landing, done)
        except InfiniRayError as error:
            done(error)
            return None
        if give_up is None:
            return self._get(index, epoch, key, timeout_s, landing)
        if not ended:
            self._reads[index] = give_up
        return None

    async def _get(self, index: int, epoch: int, key: str, timeout_s: float, landing: Landing) -> None:
        try:
            head, data = await self._hub.handler.read(epoch, key, timeout_s, landing)
        except Exception as error:
            self._fail(index, "GET", error)
            return
        self._deliver(index, head, data, landing)

    def _deliver(self, index: int, head: str, data: Any, landing: Landing) -> None:
        slot, tenancy = landing.slot, self._tenancy
        if slot is not None and tenancy is not None and not tenancy.is_over:
            lease, segment = tenancy.grant(slot), slot.segment
            self._unconfirmed.append(lease)
            meta = [index, head, lease, segment.number, segment.n_bytes, slot.offset, len(data), tenancy.news()]
            self._send(pack(Kind.SHARED, meta), slot=slot)
        else:
            self._send(pack(Kind.VALUE, [index, head], len(data)), data)

    def _begun_to_read(self, n_bytes: int) -> None:
        self._largest_bytes = max(self._largest_bytes, n_bytes)

    async def _put(
        self, index: int, epoch: int, timeout_s: float, item: list[Any], payload: Any, place: Slot | None = None
    ) -> None:
        try:
            key, head, request, ttl_s, is_again, _ = item
            await self._hub.handler.write(
                epoch, key, head, payload,
                request=request, ttl_s=ttl_s, timeout_s=timeout_s, is_again=is_again, place=place,
            )  # fmt: skip
        except Exception as error:
            self._fail(index, "PUT", error)
        else:
            self._send(pack(Kind.DONE, [index, None]))

    async def _ask(self, epoch: int, method: str, key: str, timeout_s: float, details: dict[str, Any]) -> None:
        try:
            answer = await self._hub.handler.ask(epoch, method, key, timeout_s, details)
        except Exception as error:
            self._fail(0, method.upper(), error)
        else:
            self._send(pack(Kind.DONE, [0, answer]))

    def _fail(self, index: int, operation: str, error: Exception) -> None:
        if not isinstance(error, InfiniRayError):
            error = InfiniRayError(detail=f"{operation} failed inside the cache: {type(error).__name__}: {error}")
        text = pickle.dumps(error)
        self._send(pack(Kind.FAILED, [index], len(text)), text)

    def _start_more(self) -> None:
        """Begin with as many keys as may be under way, and send what is answered."""
        if self._is_starting:
            return
        self._is_starting = True
        try:
            while self._may_start():
                rest = self._todo.popleft()()
                if rest is not None:
                    task = self._loop.create_task(rest)
                    self._tasks.add(task)
                    task.add_done_callback(self._ended)
                if not self._may_start():
                    self._flush()  # which makes room for more answers
        finally:
            self._is_starting = False

    def _may_start(self) -> bool:
        largest = self._largest_bytes
        n_at_once = max(1, min(_AT_ONCE, _READING_BYTES // largest)) if largest else _AT_FIRST
        n_under_way = len(self._tasks) + len(self._reads)
        return (
            bool(self._todo) and n_under_way < n_at_once and self._queued_bytes < _QUEUE_BYTES and not self._is_closed
        )

    def _go_on(self) -> None:
        """A read without a task has ended, perhaps in the middle of anything."""
        if self._is_starting or self._is_closed:
            return
        if self._is_busy:  # others may end in this turn of the event loop: their answers go together
            if not self._is_to_flush:
                self._is_to_flush = True
                self._loop.call_soon(self._flush_all)
        else:
            self._flush()

    def _flush_all(self) -> None:
        self._is_to_flush = False
        self._flush()
        self._start_more()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._is_closed:
            return
        if not task.cancelled() and task.exception() is not None:  # a mistake of ours: the client must not wait
            self.close(f"failed: {task.exception()!r}")
            return
        self._flush()
        self._start_more()

    # ------------------------------------------------------------ out

    def _send(self, head: bytes, body: Any = None, *, slot: Slot | None = None) -> None:
        if self._is_closed:
            return
        self._out.append((memoryview(head), slot))
        self._queued_bytes += len(head)
        if body is not None and len(body):
            self._out.append((memoryview(body).cast("B"), None))
            self._queued_bytes += len(body)

    def _flush(self) -> None:
        """Hand the kernel what it takes."""
        if self._is_closed or self._is_writing:
            return
        try:
            while self._out:
                self._sent(self._hand_over())
        except BlockingIOError:
            self._want_writable(True)
        except OSError as error:
            # not from here: who called may be in the middle of something
            self._loop.call_soon(self.close, f"{type(error).__name__}: {error}")
        else:
            self._want_writable(False)

    def _hand_over(self) -> int:
        part, slot = self._out[0]
        if slot is not None:
            right = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [slot.segment.fd]))
            n_bytes = self._socket.sendmsg([part], [right])
            self._out[0] = (part, None)
            return n_bytes
        parts: list[memoryview] = []
        n_bytes = 0
        for part, slot in self._out:
            if slot is not None or n_bytes > _HAND_OVER_BYTES or len(parts) == _MAX_PARTS:
                break
            parts.append(part)
            n_bytes += len(part)
        return self._socket.sendmsg(parts)

    def _sent(self, n_bytes: int) -> None:
        self.bytes_out += n_bytes
        self._queued_bytes -= n_bytes
        out = self._out
        while out and n_bytes >= len(out[0][0]):
            n_bytes -= len(out.popleft()[0])
        if n_bytes:
            part, slot = out[0]
            out[0] = (part[n_bytes:], slot)

    def _writable(self) -> None:
        self._want_writable(False)
        self._flush()
        if not self._is_closed:
            self._start_more()

    def _want_writable(self, is_wanted: bool) -> None:
        if is_wanted == self._is_writing:
            return
        self._is_writing = is_wanted
        if is_wanted:
            self._loop.add_writer(self._socket, self._writable)
            if self.is_proven:
                self._timer = self._loop.call_later(_STUCK_S, self.close, "it takes no answers")
        else:
            self._loop.remove_writer(self._socket)
            if self.is_proven:
                self._timer.cancel()


def _text(key: Any) -> str:
    if not isinstance(key, str):
        raise FrameError(detail=f"a key that is a {type(key).__name__}")
    return key


def _size(n_bytes: Any) -> int:
    if not isinstance(n_bytes, int) or n_bytes < 0:
        raise FrameError(detail=f"a value of {n_bytes!r} bytes")
    return n_bytes
