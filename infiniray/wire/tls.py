"""TLS between node and shard: over a connected socket, a stream that is used like that socket.

Nobody needs an authority here. A shard makes a certificate of its own, and tells each function that it invokes the
certificate's fingerprint, under the proof of the invocation: whoever the node dials must show that one. What it says of
names and dates is not looked at, so no two clocks have to agree. Which node it is, HELLO's proof says.
"""

from __future__ import annotations

import hashlib
import select
import socket
import ssl
import time
from collections.abc import Sequence

__all__ = ["TlsStream", "WrongCertificate", "fingerprint_of", "secure"]

#: Handed to the library at once: progress is seen after each of these, though the socket may be slow.
_PIECE_BYTES = 64 << 10


class WrongCertificate(ConnectionError):
    """Whoever was dialled is not whom the invocation names."""


def fingerprint_of(certificate: bytes) -> str:
    """SHA-256 of a certificate (DER), in hex."""
    return hashlib.sha256(certificate).hexdigest()


def secure(connection: socket.socket, fingerprint: str, deadline_s: float) -> TlsStream:
    """Begin TLS as the one who has dialled, and make sure that the other side has the certificate of ``fingerprint``.

    The connection is the stream's from here on; it is closed if this fails.

    Args:
        deadline_s: on the monotonic clock.

    Raises:
        WrongCertificate: it shows another one.
        OSError: it does not speak TLS, hangs up, or takes too long.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # by an authority: TLS makes sure that its key is there, we that it is the one
    try:
        connection.setblocking(False)
        connection = secured = context.wrap_socket(connection, do_handshake_on_connect=False)
        _shake_hands(secured, deadline_s)
        shown = secured.getpeercert(binary_form=True)
        if shown is None or fingerprint_of(shown) != fingerprint:
            raise WrongCertificate("it shows another certificate than the invocation names")
    except BaseException:
        connection.close()
        raise
    return TlsStream(secured)


def _shake_hands(secured: ssl.SSLSocket, deadline_s: float) -> None:
    poll = select.poll()
    poll.register(secured, 0)
    while True:
        try:
            secured.do_handshake()
            return
        except ssl.SSLWantReadError:
            poll.modify(secured, select.POLLIN)
        except ssl.SSLWantWriteError:
            poll.modify(secured, select.POLLOUT)
        if not poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
            raise TimeoutError("no TLS in time")


class TlsStream:
    """I am an encrypted connection that never blocks: what links use of a socket's interface, with the same meaning.

    So less than what fits was received only if there is no more now, and what would block raises BlockingIOError. One
    thing is different: bytes that were received may wait in here, and no poll of the socket tells of them.
    """

    def __init__(self, secured: ssl.SSLSocket) -> None:
        """``secured`` is mine, after its handshake."""
        self._secured = secured
        self._end: OSError | None = None  # what came behind the bytes that were handed out last

    def __repr__(self) -> str:
        return f"<TlsStream {self._secured.version()} fd={self.fileno()}>"

    @property
    def has_buffered(self) -> bool:
        """Whether :meth:`recv_into` has something to say at once, whatever the socket says."""
        return self._end is not None or self._secured.pending() > 0

    def fileno(self) -> int:
        return self._secured.fileno()

    def recv_into(self, buffer: memoryview) -> int:
        """Bytes received; 0: the other side hung up.

        Raises:
            BlockingIOError: there is nothing now.
            OSError: the connection broke, or what came is not from the other side.
        """
        if self._end is not None:
            raise self._end
        n_bytes = 0
        while n_bytes < len(buffer):
            try:
                n_received = self._secured.recv_into(buffer[n_bytes:])
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                if not n_bytes:
                    raise BlockingIOError from None
                return n_bytes
            except OSError as error:
                if not n_bytes:
                    raise
                self._end = error
                return n_bytes
            if not n_received:
                if n_bytes:
                    self._end = ConnectionResetError("the other side hung up")
                return n_bytes
            n_bytes += n_received
        return n_bytes

    def peek(self) -> bool:
        """Whether the other side has not hung up yet, as far as the socket knows. Reads nothing.

        Raises:
            OSError: the connection is broken.
        """
        try:
            return self.has_buffered or bool(socket.socket.recv(self._secured, 1, socket.MSG_PEEK))
        except BlockingIOError:
            return True

    def sendmsg(self, buffers: Sequence[memoryview]) -> int:
        """Bytes taken, which may be fewer than there are. What was not taken has to be given again, and first.

        Raises:
            BlockingIOError: nothing is taken now.
            OSError: the connection broke.
        """
        n_bytes = 0
        try:
            for buffer in buffers:
                for start in range(0, len(buffer), _PIECE_BYTES):
                    piece = buffer[start : start + _PIECE_BYTES]
                    n_sent = self._secured.send(piece)
                    n_bytes += n_sent
                    if n_sent < len(piece):
                        return n_bytes
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if not n_bytes:
                raise BlockingIOError from None
        return n_bytes

    def setsockopt(self, level: int, option: int, value: bytes | int) -> None:
        self._secured.setsockopt(level, option, value)

    def shutdown(self, how: int) -> None:
        """The socket's, without a word to the other side."""
        socket.socket.shutdown(self._secured, how)

    def close(self) -> None:
        """Hang up. Closing twice is fine."""
        self._secured.close()
