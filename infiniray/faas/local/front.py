"""Where the platform's port leads: invocations the short way, everything else to the web framework.

A cache makes many invocations and few other requests, over connections that do nothing else. So a connection that
begins with a plain Invoke is served here for as long as plain Invokes come; what is anything else, or unusual in any
way, goes to aiohttp, and the connection with it. Both ways lead to
:func:`~infiniray.faas.local.api.answer_invoke`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from urllib.parse import unquote

from infiniray.faas.http import HttpError, Message, MessageReader, answer
from infiniray.faas.local.api import SYNC_BYTES, answer_invoke
from infiniray.faas.local.platform import Platform
from infiniray.faas.local.refusals import Refusal, service_error

__all__ = ["Front"]

_log = logging.getLogger(__name__)
_START = re.compile(rb"POST /2015-03-31/functions/([^/? ]+)/invocations HTTP/1\.1\r\n")
_UNUSUAL = re.compile(rb"\r\n(?:transfer-encoding|expect|upgrade|x-amz-invocation-type):", re.IGNORECASE)
_NEEDED = (
    re.compile(rb"\r\nauthorization:", re.IGNORECASE),
    re.compile(rb"\r\ncontent-length: *\d{1,7}\r\n", re.IGNORECASE),
)


class Front:
    """I make the protocol of each connection to the platform, and own those that I serve.

    Args:
        others: makes the protocol that serves what is no plain Invoke.
    """

    def __init__(self, platform: Platform, others: Callable[[], asyncio.Protocol]) -> None:
        self.platform = platform
        self.others = others
        self.connections: set[_Connection] = set()
        self.running: set[asyncio.Task[None]] = set()

    def __call__(self) -> asyncio.Protocol:
        return _Connection(self)

    async def close(self, timeout_s: float) -> None:
        """Let what is under way be answered, then hang up."""
        if self.running:
            await asyncio.wait(self.running, timeout=timeout_s)
        for task in list(self.running):
            task.cancel()
        for connection in list(self.connections):
            connection.hang_up()


class _Connection(asyncio.Protocol):
    """I am one connection, until something else than a plain Invoke comes."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._reader = MessageReader(reads_answers=False, max_body_bytes=SYNC_BYTES)
        self._transport: asyncio.Transport | None = None
        self._is_busy = False
        self._is_plain = False  # the head of the message to come was looked at

    def hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # ------------------------------------------------------------ asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._front.connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._front.connections.discard(self)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if not self._is_busy:
            self._go_on()

    # ------------------------------------------------------------ one request after the other

    def _go_on(self) -> None:
        try:
            if not self._is_plain:
                head = self._reader.peek_head()
                if head is None:
                    return
                if not _is_plain_invoke(head + b"\r\n"):
                    self._hand_over()
                    return
                self._is_plain = True
            message = self._reader.next()
        except HttpError:
            self._hand_over()  # for it to say what is wrong
            return
        if message is not None:
            self._is_busy = True
            task = asyncio.get_running_loop().create_task(self._serve(message))
            self._front.running.add(task)
            task.add_done_callback(self._front.running.discard)

    def _hand_over(self) -> None:
        transport, self._transport = self._transport, None
        assert transport is not None
        self._front.connections.discard(self)
        other = self._front.others()
        transport.set_protocol(other)
        other.connection_made(transport)
        other.data_received(self._reader.take_all())

    async def _serve(self, message: Message) -> None:
        name = unquote(message.start.split("/")[3])
        try:
            status, headers, body = await answer_invoke(self._front.platform, name, message.headers, message.body)
        except Refusal as refusal:
            status, headers, body = refusal.status, refusal.headers(), refusal.body()
        except Exception:
            _log.exception("%s", message.start)
            error = service_error()
            status, headers, body = error.status, error.headers(), error.body()
        self._is_busy = self._is_plain = False
        if self._transport is None:
            return  # the caller hung up; the function has run all the same
        self._transport.write(answer(status, {"Content-Type": "application/json", **headers}, body))
        if message.keeps:
            self._go_on()
        else:
            self._transport.close()


def _is_plain_invoke(head: bytes) -> bool:
    """Whether a head asks for a synchronous invocation, signed, with a body of a length that may be served."""
    return (
        _START.match(head) is not None
        and _UNUSUAL.search(head) is None
        and all(needed.search(head) is not None for needed in _NEEDED)
    )
