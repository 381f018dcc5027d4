"""The socket to the shard: frames in, frames out, never blocking except in :meth:`Link.wait`."""

from __future__ import annotations

import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from infiniray.wire.frames import Frame, FrameReader

if TYPE_CHECKING:
    from infiniray.wire.tls import TlsStream

__all__ = ["DialFailed", "DialRefused", "DialTimedOut", "Link", "LinkLost", "NameUnknown", "NotTheShard"]

_BUFFER_BYTES = 4 << 20
_UNACKNOWLEDGED_MS = 5_000  # bytes that the shard's host has not acknowledged for so long break the connection
_MAX_GATHER = 64  # buffers in one sendmsg; the system takes at most 1024
_SETTABLE = {socket.SO_SNDBUF: "/proc/sys/net/core/wmem_max", socket.SO_RCVBUF: "/proc/sys/net/core/rmem_max"}


class LinkLost(ConnectionError):
    """The shard hung up, the network did, or the shard takes no bytes any more."""


class DialFailed(LinkLost):
    """The shard's address cannot be reached: no route to it, or whatever the message says.

    The names of this class and of those below are in the function's answer, which the shard reads.
    """


class DialRefused(DialFailed):
    """A machine answers at the shard's address, but nobody listens on that port."""


class DialTimedOut(DialFailed):
    """Nothing answers at the shard's address."""


class NameUnknown(DialFailed):
    """The shard's address is a name that cannot be resolved."""


class NotTheShard(LinkLost):
    """Whoever was dialled does not speak TLS, or not as the shard that the invocation names."""


class Link:
    """I carry frames between this node and one shard over one TCP connection.

    Bodies are received where ``sink`` says and sent from where they lie. Every method raises
    :class:`LinkLost` once the connection is gone; whoever owns me closes me then.
    """

    def __init__(
        self,
        sock: socket.socket | TlsStream,
        address: str,
        sink: Callable[[Frame], memoryview | None],
        certificate: str = "",
    ) -> None:
        """``sock`` never blocks."""
        self.address = address
        self.certificate = certificate  # that the shard has shown; "": it speaks no TLS
        self.inbox: deque[Frame] = deque()  # received, not yet handled
        self.bytes_in = 0
        self.bytes_out = 0
        self.sent_s = time.monotonic()  # when bytes last left, or began to wait
        self._sock = sock
        self._tls = None if isinstance(sock, socket.socket) else sock
        self._reader = FrameReader(sink)
        self._outbox: deque[memoryview] = deque()
        self.waiting_bytes = 0  # queued, and not yet with the system
        self._poll = select.poll()
        self._poll.register(sock, 0)

    def __repr__(self) -> str:
        return f"Link({self.address}, in={self.bytes_in}, out={self.bytes_out}, waiting={len(self._outbox)})"

    @classmethod
    def dial(
        cls, address: str, sink: Callable[[Frame], memoryview | None], timeout_s: float, certificate: str = ""
    ) -> Link:
        """Connect to ``host:port``, by TLS if the shard there has a ``certificate`` (its fingerprint).

        Raises:
            DialFailed: nobody answers there within ``timeout_s``.
            NotTheShard: it shows another one, or speaks no TLS.
        """
        host, _, port = address.rpartition(":")
        deadline_s = time.monotonic() + timeout_s
        try:
            sock = socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s)
        except (OSError, UnicodeError) as error:  # the latter: no name could be like that
            raise _dial_failure(error)(f"cannot reach the shard at {address}: {error}") from error
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # A shard may vanish without a word while this node is frozen: the next session must find the link dead.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        _widen(sock)
        sock.setblocking(False)
        if certificate:
            return cls(_secured(sock, address, certificate, deadline_s), address, sink, certificate)
        return cls(sock, address, sink)

    @property
    def sending(self) -> bool:
        """Whether bytes wait to be sent."""
        return bool(self._outbox)

    def is_open(self) -> bool:
        """Whether the shard has not hung up yet, as far as this end knows. Reads nothing."""
        try:
            if not isinstance(self._sock, socket.socket):
                return self._sock.peek()
            return bool(self._sock.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    def receive(self) -> bool:
        """One read: frames that it completed go to ``inbox``. False if there is nothing to read now.

        Raises:
            LinkLost: the shard hung up.
            ProtocolError: what it sent is not a frame.
        """
        try:
            n_bytes = self._sock.recv_into(self._reader.buffer())
        except BlockingIOError:
            return False
        except OSError as error:
            raise LinkLost(f"the connection to {self.address} broke: {error}") from error
        if not n_bytes:
            raise LinkLost(f"the shard at {self.address} hung up")
        self.bytes_in += n_bytes
        self.inbox.extend(self._reader.advance(n_bytes))
        return True

    def discard_body(self) -> None:
        """The rest of the body being received is no longer wanted: read it and drop it."""
        self._reader.discard_body()

    def queue(self, head: bytes, body: memoryview | None = None) -> None:
        """Send a frame after those queued before it; the body is sent from where it lies."""
        if not self._outbox:
            self.sent_s = time.monotonic()
        self._outbox.append(memoryview(head))
        self.waiting_bytes += len(head)
        if body:
            self._outbox.append(body)
            self.waiting_bytes += len(body)

    def send_some(self) -> bool:
        """One gathering write. False if nothing waits, or the system takes nothing now."""
        if not self._outbox:
            return False
        buffers = [self._outbox[i] for i in range(min(len(self._outbox), _MAX_GATHER))]
        try:
            n_bytes = self._sock.sendmsg(buffers)
        except BlockingIOError:
            return False
        except OSError as error:
            raise LinkLost(f"the connection to {self.address} broke: {error}") from error
        self.bytes_out += n_bytes
        self.waiting_bytes -= n_bytes
        self.sent_s = time.monotonic()
        while n_bytes:
            first = self._outbox.popleft()
            if n_bytes < len(first):
                self._outbox.appendleft(first[n_bytes:])
                break
            n_bytes -= len(first)
        return True

    def wait(self, timeout_s: float, *, reading: bool = True) -> bool:
        """Wait until there is bytes to read, or room for what waits to be sent; False if neither in time."""
        if reading and self._tls is not None and self._tls.has_buffered:
            return True
        interest = select.POLLIN if reading else 0
        if self._outbox:
            interest |= select.POLLOUT
        self._poll.modify(self._sock, interest)
        return bool(self._poll.poll(max(0.0, timeout_s * 1000)))

    def flush(self, deadline_s: float) -> bool:
        """Send all that is queued, reading nothing; False if not done by ``deadline_s`` (monotonic clock)."""
        while self._outbox:
            if not self.send_some() and not self.wait(deadline_s - time.monotonic(), reading=False):
                return False
        return True

    def close(self) -> None:
        """Hang up. What was queued is lost. Closing twice is fine."""
        self._outbox.clear()
        self.waiting_bytes = 0
        self.inbox.clear()
        self._sock.close()


def _dial_failure(error: Exception) -> type[DialFailed]:
    match error:
        case ConnectionRefusedError():
            return DialRefused
        case TimeoutError():
            return DialTimedOut
        case socket.gaierror() | UnicodeError():
            return NameUnknown
        case _:
            return DialFailed


def _secured(sock: socket.socket, address: str, certificate: str, deadline_s: float) -> TlsStream:
    from infiniray.wire.tls import secure  # here, for what it takes of a node's memory

    try:
        return secure(sock, certificate, deadline_s)
    except OSError as error:
        raise NotTheShard(f"whoever answers at {address} is not the shard: {error}") from error


def _widen(sock: socket.socket) -> None:
    """Ask for large socket buffers, where asking helps.

    A size set by hand is capped by the system's maximum and turns its own tuning off; where that maximum is
    small, the tuned sizes (up to 4 and 6 MiB on Linux) are the larger ones.
    """
    for option, maximum in _SETTABLE.items():
        try:
            with open(maximum) as file:
                allowed = int(file.read())
        except (OSError, ValueError):
            continue
        if allowed >= _BUFFER_BYTES:
            sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
