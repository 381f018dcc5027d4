"""One connection at the client's end. What it does are exchanges (:mod:`.waiting`), one at a time."""

from __future__ import annotations

import os
import pickle
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from infiniray.channel.frames import PROTOCOL, Frame, FrameReader, Kind, pack
from infiniray.channel.mapped import Leases, Mappings, received_descriptors
from infiniray.channel.proofs import client_proof, matches, new_nonce, shard_proof
from infiniray.channel.waiting import READABLE, WRITABLE, Exchange
from infiniray.errors import FrameError, InfiniRayError

__all__ = ["ChannelBusy", "ChannelLost", "ChannelUnreachable", "Line", "Outcome", "Received", "Write"]

_MAX_META_BYTES = 1 << 20
#: Of a value that comes in a frame: what a process can address.
_MAX_BODY_BYTES = sys.maxsize
_SCRATCH_BYTES = 128 << 10
_MAX_PARTS = 512
_ANCILLARY_BYTES = socket.CMSG_SPACE(16 * 4)


class ChannelUnreachable(Exception):
    """There is no way to the shard here, and nothing was asked of it: take another."""


class ChannelBusy(ChannelUnreachable):
    """This process has as many requests under way as it may."""


class ChannelLost(Exception):
    """The connection ended. ``may_have_run``: the whole request had been handed over by then."""

    def __init__(self, detail: str, *, may_have_run: bool) -> None:
        super().__init__(detail)
        self.may_have_run = may_have_run


class Received(NamedTuple):
    """A stored value, as :func:`infiniray.values.deserialize` takes it; ``buffer`` is nobody else's."""

    head: str
    buffer: Any


class Write(NamedTuple):
    """One value to store. ``data``: a contiguous buffer of bytes."""

    key: str
    head: str
    data: Any
    request: str
    ttl_s: float | None
    is_again: bool

    def described(self) -> list[Any]:
        return [self.key, self.head, self.request, self.ttl_s, self.is_again, len(self.data)]


#: What became of one key: the value (None for a write), or the error.
Outcome = Received | InfiniRayError | None


class Line:
    """I am a connected socket that speaks the protocol, one exchange at a time.

    Args:
        is_local: descriptors can be passed over it.
    """

    def __init__(self, connection: socket.socket, mappings: Mappings, *, is_local: bool) -> None:
        self.leases: Leases | None = None
        self.tenancy = ""
        self._socket = connection
        self._fd = connection.fileno()
        self._is_local = is_local
        self._mappings = mappings
        self._frames: deque[Frame] = deque()
        self._descriptors: deque[int] = deque()
        self._reader = FrameReader(
            _fresh, max_meta_bytes=_MAX_META_BYTES, max_body_bytes=_MAX_BODY_BYTES, scratch_bytes=_SCRATCH_BYTES
        )

    def close(self) -> None:
        self._socket.close()
        while self._descriptors:
            os.close(self._descriptors.popleft())

    def detach(self) -> socket.socket:
        """The socket, which speaks another language from now on."""
        return self._socket

    def say_goodbye(self) -> None:
        """All answers have arrived, for what that is worth: nobody waits for this to be."""
        with suppress(OSError):
            self._socket.send(pack(Kind.GOODBYE))

    def is_quiet(self) -> bool:
        """Whether the shard is still there, and has nothing more to say."""
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return not self._frames and self._reader.is_between
        except OSError:
            return False
        return False

    # ------------------------------------------------------------ exchanges

    def greet(self, secret: bytes, role: str, tenancy: str) -> Exchange[str]:
        """Prove to each other who we are: the name of the tenancy."""
        challenge = yield from self._next()
        match challenge:
            case (Kind.CHALLENGE, [protocol, str(shard_nonce)], _) if protocol == PROTOCOL:
                pass
            case _:
                raise ChannelUnreachable("it speaks another protocol")
        nonce = new_nonce()
        proof = client_proof(secret, shard_nonce=shard_nonce, client_nonce=nonce, role=role, tenancy=tenancy)
        yield from self._hand_over([pack(Kind.HELLO, [role, nonce, proof, tenancy])])
        match (yield from self._next()):
            case (Kind.WELCOME, [mac, str(name)], _):
                expected = shard_proof(secret, shard_nonce=shard_nonce, client_nonce=nonce, tenancy=name)
                if matches(expected, mac):
                    return name
        raise ChannelUnreachable("whoever listens there is not the shard")

    def get(self, epoch: int, timeout_s: float, keys: Sequence[str]) -> Exchange[list[Outcome]]:
        yield from self._hand_over([pack(Kind.GET, [epoch, timeout_s, keys])])
        return (yield from self._outcomes(len(keys)))

    def put(self, epoch: int, timeout_s: float, writes: Sequence[Write]) -> Exchange[list[Outcome]]:
        n_bytes = sum(len(write.data) for write in writes)
        head = pack(Kind.PUT, [epoch, timeout_s, [write.described() for write in writes]], n_bytes)
        yield from self._hand_over([head, *(write.data for write in writes if len(write.data))])
        return (yield from self._outcomes(len(writes)))

    def put_shared(self, epoch: int, left_s: Callable[[], float], write: Write) -> Exchange[list[Outcome] | None]:
        """Store a value by way of the shard's memory; None: it has none to spare."""
        try:
            yield from self._hand_over([pack(Kind.RESERVE, [len(write.data)])])
            answer = yield from self._next()
        except ChannelLost as lost:
            raise ChannelLost(str(lost), may_have_run=False) from None  # nothing has been asked but for memory
        match answer:
            case (Kind.DENIED, _, _):
                return None
            case (Kind.GRANTED, [int(segment), int(segment_bytes), int(offset), list(closed)], _) if self._descriptors:
                descriptor = self._descriptors.popleft()
                self._mappings.forget(closed)
                place = self._mappings.place(descriptor, segment, segment_bytes, offset, len(write.data))
            case _:
                raise FrameError(detail=f"frame {answer.kind} is no answer to a request for memory")
        yield partial(np.copyto, place, np.frombuffer(write.data, np.uint8))
        yield from self._hand_over([pack(Kind.PUT_RESERVED, [epoch, left_s(), [write.described()]])])
        return (yield from self._outcomes(1))

    def ask(self, epoch: int, timeout_s: float, method: str, key: str, details: dict[str, Any]) -> Exchange[Any]:
        """What a method of the shard's returns, or the error that it raises, as a value."""
        yield from self._hand_over([pack(Kind.ASK, [epoch, timeout_s, method, key, details])])
        return (yield from self._outcomes(1))[0]

    def _outcomes(self, n: int) -> Exchange[list[Any]]:
        outcomes: list[Any] = [None] * n
        for _ in range(n):
            frame = yield from self._next()
            match frame.kind, frame.meta:
                case Kind.VALUE, [int(index), str(head)]:
                    outcomes[index] = Received(head, frame.body)
                case Kind.SHARED, [int(index), str(head), int(lease), *where] if self._descriptors and self.leases:
                    segment, segment_bytes, offset, n_bytes, closed = where
                    self._mappings.forget(closed)
                    view = self._mappings.view(
                        self._descriptors.popleft(), segment, segment_bytes, offset, n_bytes, lease, self.leases
                    )
                    outcomes[index] = Received(head, view)
                case Kind.DONE, [int(index), answer]:
                    outcomes[index] = answer
                case Kind.FAILED, [int(index)]:
                    outcomes[index] = pickle.loads(frame.body)
                case _:
                    raise FrameError(detail=f"frame {frame.kind} is no answer to a request")
        return outcomes

    # ------------------------------------------------------------ bytes

    def _next(self) -> Exchange[Frame]:
        """The next frame from the shard."""
        while not self._frames:
            yield self._fd, READABLE
            try:
                n_bytes = self._receive(self._reader.buffer())
            except BlockingIOError:
                continue
            except OSError as error:
                raise ChannelLost(f"{type(error).__name__}: {error}", may_have_run=True) from None
            if not n_bytes:
                raise ChannelLost("the shard hung up", may_have_run=True)
            self._frames.extend(self._reader.advance(n_bytes))
        return self._frames.popleft()

    def _receive(self, buffer: memoryview) -> int:
        if not self._is_local:
            return self._socket.recv_into(buffer)
        n_bytes, ancillary, _, _ = self._socket.recvmsg_into([buffer], _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        if ancillary:
            self._descriptors.extend(received_descriptors(ancillary))
        return n_bytes

    def _hand_over(self, parts: list[Any]) -> Exchange[None]:
        """Give all of it to the kernel."""
        left = deque(memoryview(part).cast("B") for part in parts)
        while left:
            try:
                n_bytes = self._socket.sendmsg([part for part, _ in zip(left, range(_MAX_PARTS), strict=False)])
            except BlockingIOError:
                yield self._fd, WRITABLE
                continue
            except OSError as error:
                raise ChannelLost(f"{type(error).__name__}: {error}", may_have_run=False) from None
            while left and n_bytes >= len(left[0]):
                n_bytes -= len(left.popleft())
            if n_bytes:
                left[0] = left[0][n_bytes:]


def _fresh(kind: int, meta: Any, n_bytes: int) -> memoryview:
    return np.empty(n_bytes, np.uint8).data
