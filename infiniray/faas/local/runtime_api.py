"""The Runtime API of one instance: its connections, and what it says over them.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html. Every invocation of the platform passes here twice, so
this is a protocol of its own and not a web framework.
"""

from __future__ import annotations

import asyncio
import json
from typing import Protocol

from infiniray.faas.http import HttpError, Message, MessageReader, answer

__all__ = ["RuntimeConnection", "RuntimeOwner"]

_JSON = {"Content-Type": "application/json"}


class RuntimeOwner(Protocol):
    """The instance. Each but ``asked_next`` gives the status of the answer."""

    def asked_next(self, connection: RuntimeConnection) -> None:
        """It is to be answered with the next invocation, whenever there is one."""

    def responded(self, request_id: str, body: bytes) -> int: ...

    def failed(self, request_id: str, body: bytes) -> int: ...

    def init_failed(self, body: bytes) -> int: ...


class RuntimeConnection(asyncio.Protocol):
    """I am one connection of the runtime client; it asks one thing at a time.

    Args:
        max_body_bytes: of longer responses only so much is read.
    """

    def __init__(self, owner: RuntimeOwner, max_body_bytes: int, open_ones: set[RuntimeConnection]) -> None:
        self._owner = owner
        self._reader = MessageReader(reads_answers=False, max_body_bytes=max_body_bytes, is_cut=True)
        self._open_ones = open_ones
        self._transport: asyncio.Transport | None = None

    def invoke(self, headers: dict[str, str], payload: bytes) -> None:
        """Answer the open ``next``: the bytes are with the kernel when this returns, or the connection is gone."""
        self._write(answer(200, {**headers, **_JSON}, payload))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------ asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._open_ones.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._open_ones.discard(self)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            while (message := self._reader.next()) is not None:
                self._serve(message)
        except HttpError:
            self.close()

    def _serve(self, message: Message) -> None:
        method, _, rest = message.start.partition(" ")
        match method, rest.partition(" ")[0].split("/"):
            case "GET", ["", "2018-06-01", "runtime", "invocation", "next"]:
                self._owner.asked_next(self)
            case "POST", ["", "2018-06-01", "runtime", "invocation", request_id, "response"]:
                self._confirm(self._owner.responded(request_id, message.body))
            case "POST", ["", "2018-06-01", "runtime", "invocation", request_id, "error"]:
                self._confirm(self._owner.failed(request_id, message.body))
            case "POST", ["", "2018-06-01", "runtime", "init", "error"]:
                self._confirm(self._owner.init_failed(message.body))
            case _:
                self._confirm(404)

    def _confirm(self, status: int) -> None:
        said = {"status": "OK"} if status == 202 else {"errorType": "InvalidRequestID" if status == 400 else "NotFound"}
        self._write(answer(status, _JSON, json.dumps(said).encode()))

    def _write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
