"""Connections as links use them: a plain socket, or TLS over one; and waiting for either on the event loop."""

from __future__ import annotations

import asyncio
import functools
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from infiniray.wire.tls import TlsStream

__all__ = ["Stream", "accept_tls", "receive", "send_all"]

#: Neither ever blocks.
Stream = socket.socket | TlsStream
T = TypeVar("T")


async def accept_tls(connection: socket.socket, context: ssl.SSLContext) -> TlsStream:
    """Begin TLS as the one who was dialled. The connection is the stream's from here on; it is closed if this fails.

    Raises:
        OSError: the other side does not speak TLS, or hangs up.
    """
    secured = context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
    try:
        while True:
            try:
                secured.do_handshake()
                return TlsStream(secured)
            except ssl.SSLWantReadError:
                await _ready(secured, is_to_write=False)
            except ssl.SSLWantWriteError:
                await _ready(secured, is_to_write=True)
    except BaseException:
        secured.close()
        raise


async def receive(stream: Stream, buffer: memoryview) -> int:
    """Wait for bytes, and receive them; 0: the other side hung up."""
    return await _patiently(stream, lambda: stream.recv_into(buffer), is_to_write=False)


async def send_all(stream: Stream, data: bytes) -> None:
    """Send all of it."""
    left = memoryview(data)
    while left:
        n_sent = await _patiently(stream, functools.partial(stream.sendmsg, [left]), is_to_write=True)
        left = left[n_sent:]


async def _patiently(stream: Stream, call: Callable[[], T], *, is_to_write: bool) -> T:
    while True:
        try:
            return call()
        except BlockingIOError:
            await _ready(stream, is_to_write=is_to_write)


async def _ready(stream: Any, *, is_to_write: bool) -> None:
    loop = asyncio.get_running_loop()
    is_ready = loop.create_future()

    def tell() -> None:
        if not is_ready.done():
            is_ready.set_result(None)

    add, remove = (loop.add_writer, loop.remove_writer) if is_to_write else (loop.add_reader, loop.remove_reader)
    descriptor = stream.fileno()
    add(descriptor, tell)
    try:
        await is_ready
    finally:
        remove(descriptor)
