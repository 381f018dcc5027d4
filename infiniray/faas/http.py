"""HTTP/1.1 messages out of bytes (RFC 9112): as much of it as invoking functions takes, on either side.

The invoke path has its own because it is short: a request and an answer, each a few hundred bytes, over a connection
that is kept. General libraries spend several times as long on each as the kernel does.
"""

from __future__ import annotations

import http
from typing import NamedTuple

__all__ = ["HttpError", "Message", "MessageReader", "answer"]

_MAX_HEAD_BYTES = 64 << 10
_REASONS = {status.value: status.phrase for status in http.HTTPStatus}
_BODILESS = frozenset({"204", "304"})


class HttpError(ValueError):
    """Bytes that are no HTTP message, or one longer than is accepted."""


class Message(NamedTuple):
    """One message, whole. Header names are in lower case; of a name that comes twice the last counts."""

    start: str
    headers: dict[str, str]
    body: bytes

    @property
    def status(self) -> int:
        """Of an answer. Raises: HttpError: it is none."""
        version, _, rest = self.start.partition(" ")
        if not version.startswith("HTTP/1.") or not (len(rest[:3]) == 3 and rest[:3].isdigit()):
            raise HttpError(f"not an answer: {self.start[:80]!r}")
        return int(rest[:3])

    @property
    def keeps(self) -> bool:
        """Whether the connection may be used again."""
        return self.headers.get("connection", "").lower() != "close" and "HTTP/1.0" not in self.start


class MessageReader:
    """I cut what comes in over one connection into messages; bodies by their length, or in chunks.

    An answer with neither ends with its connection: :meth:`ended` says whether that was it.

    Args:
        max_body_bytes: longer ones are an error ...
        is_cut: ... or are cut there, and the rest is read and dropped.
    """

    def __init__(self, *, reads_answers: bool, max_body_bytes: int, is_cut: bool = False) -> None:
        self._reads_answers = reads_answers
        self._max_body_bytes = max_body_bytes
        self._is_cut = is_cut
        self._buffer = bytearray()
        self._start: str | None = None  # of the message whose body is being read
        self._headers: dict[str, str] = {}
        self._body = bytearray()
        self._left_bytes: int | None = None  # of the body, or of its chunk, with the line end; None: not known
        self._is_chunked = False
        self._is_in_trailer = False

    def __len__(self) -> int:
        """Bytes that belong to no message yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take bytes in."""
        self._buffer += data

    def take_all(self) -> bytes:
        """All that is left, for somebody else to read."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def peek_head(self) -> bytes | None:
        """Start line and headers of the message to come, None if they are not whole.

        Raises:
            HttpError: they are too long.
        """
        end = self._buffer.find(b"\r\n\r\n")
        if 0 <= end <= _MAX_HEAD_BYTES:
            return bytes(self._buffer[:end])
        if len(self._buffer) > _MAX_HEAD_BYTES:
            raise HttpError(f"a head of more than {_MAX_HEAD_BYTES} bytes")
        return None

    def next(self) -> Message | None:
        """The next message, None if it is not whole yet.

        Raises:
            HttpError: it never will be; close the connection.
        """
        if self._start is None and not self._take_head():
            return None
        is_whole = self._take_chunks() if self._is_chunked else self._take_body()
        return self._finish() if is_whole else None

    def ended(self) -> Message | None:
        """The connection has ended: the message whose body this completes, if there is one."""
        return self._finish() if self._start is not None and self._left_bytes is None and not self._is_chunked else None

    def _finish(self) -> Message:
        assert self._start is not None
        message = Message(self._start, self._headers, bytes(self._body))
        self._start, self._left_bytes, self._is_chunked, self._is_in_trailer = None, None, False, False
        self._body.clear()
        return message

    def _take_head(self) -> bool:
        while (head := self.peek_head()) is not None:
            del self._buffer[: len(head) + 4]
            start, *lines = head.decode("latin-1").split("\r\n")
            if not (self._reads_answers and start[9:10] == "1"):  # an interim answer: another follows
                self._start, self._headers = start, dict(map(_header, lines))
                self._expect_body(start)
                return True
        return False

    def _expect_body(self, start: str) -> None:
        encoding = self._headers.get("transfer-encoding", "identity").lower()
        length = self._headers.get("content-length")
        if encoding == "chunked":
            self._is_chunked = True
        elif encoding != "identity":
            raise HttpError(f"a body as {encoding[:80]!r}")
        elif length is not None:
            if not (length.isascii() and length.isdigit()):
                raise HttpError(f"a body of {length[:80]!r} bytes")
            self._left_bytes = int(length)
            self._check(self._left_bytes)
        elif not self._reads_answers or start[9:12] in _BODILESS:
            self._left_bytes = 0

    def _take_body(self) -> bool:
        if self._left_bytes is None:
            self._keep(len(self._buffer))
            return False
        n_bytes = min(self._left_bytes, len(self._buffer))
        self._keep(n_bytes)
        self._left_bytes -= n_bytes
        return self._left_bytes == 0

    def _take_chunks(self) -> bool:
        while not self._is_in_trailer:
            if self._left_bytes is None:  # between two chunks
                line = self._take_line()
                if line is None:
                    return False
                self._left_bytes = _chunk_bytes(line)
                self._check(len(self._body) + self._left_bytes)
                self._is_in_trailer = self._left_bytes == 0
            elif self._left_bytes:
                if not self._buffer:
                    return False
                n_bytes = min(self._left_bytes, len(self._buffer))
                self._keep(n_bytes)
                self._left_bytes -= n_bytes
            else:
                line = self._take_line()
                if line is None:
                    return False
                if line:
                    raise HttpError("a chunk longer than it says")
                self._left_bytes = None
        while (line := self._take_line()) is not None:
            if not line:
                return True
        return False

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > _MAX_HEAD_BYTES:
                raise HttpError("a line without an end")
            return None
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return line

    def _keep(self, n_bytes: int) -> None:
        """Move so much from what was received to the body."""
        self._check(len(self._body) + n_bytes)
        self._body += self._buffer[: min(n_bytes, self._max_body_bytes - len(self._body))]
        del self._buffer[:n_bytes]

    def _check(self, n_bytes: int) -> None:
        if n_bytes > self._max_body_bytes and not self._is_cut:
            raise HttpError(f"a body of more than {self._max_body_bytes} bytes")


def _chunk_bytes(line: bytes) -> int:
    text = line.partition(b";")[0].strip()
    if not text or text.strip(b"0123456789abcdefABCDEF") or len(text) > 15:
        raise HttpError("a chunk without a length")
    return int(text, 16)


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name or name != name.strip():
        raise HttpError(f"not a header: {line[:80]!r}")
    return name.lower(), value.strip()


def answer(status: int, headers: dict[str, str], body: bytes) -> bytes:
    """An answer, to be sent in one write: in two, delayed acknowledgements make it 40 ms longer."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Other')}\r\n{lines}Content-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
