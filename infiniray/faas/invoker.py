"""The lean way to invoke: SigV4 over kept-alive connections, on the event loop.

A session lasts as long as its invocation is open, so a pool of functions has as many requests open as it has nodes
awake: with boto3 that would be a thread for each, and a read of ten sleeping nodes would spend more time in signing and
in HTTP than in moving bytes. Credentials, region and endpoint are the boto3 client's; everything but Invoke stays with
it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlsplit

from infiniray.errors import PlatformError, PlatformThrottled
from infiniray.faas.deploy.explain import clock_skew_s
from infiniray.faas.http import HttpError, Message, MessageReader
from infiniray.faas.sigv4 import Signer

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient

__all__ = ["FunctionInvoker", "InvokeResult"]

#: A kept connection that nobody has used for so long is not used again: whoever is in between may have forgotten it.
_KEEP_S = 300.0
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))
#: AWS refuses what is signed more than five minutes off.
_SKEW_S = 240.0
#: What functions may answer is 6 MB.
_MAX_ANSWER_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class InvokeResult:
    """What came back: ``function_error`` is None, or "Unhandled" with the error in ``payload`` (JSON)."""

    status: int
    function_error: str | None
    payload: bytes


class FunctionInvoker:
    """I invoke functions, each call once: a retry could run the function twice.

    Args:
        client: whose endpoint, region and credentials to use.
        max_connections: invocations open at once; more wait.
    """

    def __init__(self, client: LambdaClient, *, max_connections: int = 64) -> None:
        self._client: Any = client
        url = urlsplit(client.meta.endpoint_url)
        assert url.hostname is not None
        self._host, self._is_secure = url.hostname, url.scheme == "https"
        self._port = url.port or (443 if self._is_secure else 80)
        self._path = url.path.rstrip("/")
        self._signer = Signer("lambda", client.meta.region_name, url.netloc.rpartition("@")[2])
        self._tls: ssl.SSLContext | None = None
        self._places = asyncio.Semaphore(max_connections)
        self._idle: deque[_Connection] = deque()
        self._busy: set[_Connection] = set()
        self._is_closed = False

    async def invoke(self, function: str, payload: bytes, *, timeout_s: float) -> InvokeResult:
        """Invoke a function and wait for its answer.

        Raises:
            PlatformThrottled: 429.
            PlatformError: any other refusal, no answer in time, or the invoker is closed.
        """
        if self._is_closed:
            raise _failed(function, "the invoker is closed")
        path = f"{self._path}/2015-03-31/functions/{quote(function, safe='')}/invocations"
        request = self._request(function, path, payload)
        try:
            answer = await self._exchange(request, timeout_s)
            status = answer.status
        except asyncio.TimeoutError:
            raise _failed(function, f"no answer within {timeout_s:g} s") from None
        except (OSError, HttpError) as error:
            raise _failed(function, f"{type(error).__name__}: {error}") from None
        if status == 429:
            retry_after_s = 0.0
            with contextlib.suppress(ValueError):
                retry_after_s = float(answer.headers.get("retry-after", 0))
            raise PlatformThrottled(
                operation="invoke", function=function, detail="throttled (429)", retry_after_s=retry_after_s
            )
        if status >= 300:
            raise _failed(function, f"HTTP {status}: {answer.body[:300].decode(errors='replace')}{_advice(answer)}")
        return InvokeResult(status, answer.headers.get("x-amz-function-error"), answer.body)

    def _request(self, function: str, path: str, payload: bytes) -> bytes:
        # asked for every time: they may be temporary, and botocore refreshes them
        credentials = self._client._request_signer._credentials
        if credentials is None:
            raise _failed(function, "no AWS credentials were found")
        signed = self._signer.headers(credentials.get_frozen_credentials(), path, payload)
        return f"POST {path} HTTP/1.1\r\n{signed}Content-Length: {len(payload)}\r\n\r\n".encode() + payload

    # ------------------------------------------------------------ connections

    async def _exchange(self, request: bytes, timeout_s: float) -> Message:
        """Send a request over a connection that is free, or a new one.

        Raises:
            asyncio.TimeoutError: no answer in time.
            OSError: the connection failed.
            HttpError: the answer makes no sense.
        """
        until_s = time.monotonic() + timeout_s
        if self._places.locked():
            await asyncio.wait_for(self._places.acquire(), timeout_s)
        else:
            await self._places.acquire()
        try:
            connection = self._kept() or await self._connect(until_s - time.monotonic())
            self._busy.add(connection)
            try:
                answer = await connection.exchange(request, until_s - time.monotonic())
            finally:
                self._busy.discard(connection)
                if connection.is_open and not self._is_closed:
                    self._idle.append(connection)
                else:
                    connection.close()
            return answer
        finally:
            self._places.release()

    def _kept(self) -> _Connection | None:
        """The connection that was used last: of the others, those that nobody needs any more are closed in time."""
        oldest_s = time.monotonic() - _KEEP_S
        while self._idle and (self._idle[0].used_s < oldest_s or not self._idle[0].is_open):
            self._idle.popleft().close()
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        return None

    async def _connect(self, timeout_s: float) -> _Connection:
        if self._is_secure and self._tls is None:
            self._tls = ssl.create_default_context()
        loop = asyncio.get_running_loop()
        opening = loop.create_connection(_Connection, self._host, self._port, ssl=self._tls)
        _, connection = await asyncio.wait_for(opening, timeout_s)
        if self._is_closed:
            connection.close()
            raise ConnectionAbortedError("the invoker was closed")
        return connection

    async def close(self) -> None:
        """Close every connection; invocations that are open end with an error here, and run on over there."""
        self._is_closed = True
        for connection in (*self._busy, *self._idle):
            connection.close()
        self._idle.clear()


class _Connection(asyncio.Protocol):
    """I carry one request at a time, and its answer."""

    def __init__(self) -> None:
        self.is_open = False
        self.used_s = 0.0
        self._transport: asyncio.Transport | None = None
        self._reader = MessageReader(max_body_bytes=_MAX_ANSWER_BYTES, reads_answers=True)
        self._answer: asyncio.Future[Message] | None = None

    async def exchange(self, request: bytes, timeout_s: float) -> Message:
        """Afterwards I may be used again if :attr:`is_open`. Raises: asyncio.TimeoutError, OSError, HttpError."""
        assert self._transport is not None
        if not self.is_open:
            raise ConnectionAbortedError("the connection was closed")
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        timer = loop.call_later(max(0.0, timeout_s), self._fail, asyncio.TimeoutError())
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            timer.cancel()
            if self._answer.cancelled():  # what is still to come belongs to nobody
                self.close()
            self._answer = None
            self.used_s = time.monotonic()

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.abort()
        self._fail(ConnectionAbortedError("the connection was closed"))

    def _fail(self, error: Exception) -> None:
        self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    # ------------------------------------------------------------ asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self.is_open = True
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        with contextlib.suppress(OSError):
            for option, value in _KEEPALIVE:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        try:
            answer = self._reader.next()
        except HttpError as error:
            self._fail(error)
            return
        if answer is not None:
            self._deliver(answer)

    def _deliver(self, answer: Message) -> None:
        if not answer.keeps or len(self._reader):
            self.is_open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)
        else:
            self.is_open = False  # nobody asked

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        answer = self._reader.ended()
        if answer is not None:
            self._deliver(answer)
        self._fail(error if isinstance(error, OSError) else ConnectionResetError("the platform hung up"))


def _advice(answer: Message) -> str:
    """What can be done about a refusal."""
    if answer.status != 403:
        return ""
    skew_s = clock_skew_s({"ResponseMetadata": {"HTTPHeaders": answer.headers}})
    if skew_s is not None and abs(skew_s) > _SKEW_S:
        return f"; set this machine's clock, with NTP (it is off by {skew_s:+.0f} s)"
    return "; this machine's credentials have to be valid, and to allow what `infiniray deploy --host-policy` says"


def _failed(function: str, detail: str) -> PlatformError:
    return PlatformError(operation="invoke", function=function, detail=detail)
