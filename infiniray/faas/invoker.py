"""The lean way to invoke: SigV4 over kept-alive connections, on the event loop.

A session lasts as long as its invocation is open, so a pool of functions has as many requests open as it has nodes
awake: with boto3 that would be a thread for each. Credentials, region and endpoint are the boto3 client's;
everything but Invoke stays with it.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from yarl import URL

from infiniray.errors import PlatformError, PlatformThrottled

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient

__all__ = ["FunctionInvoker", "InvokeResult"]


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
        self._endpoint = client.meta.endpoint_url.rstrip("/")
        self._max_connections = max_connections
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    async def invoke(self, function: str, payload: bytes, *, timeout_s: float) -> InvokeResult:
        """Invoke a function and wait for its answer.

        Raises:
            PlatformThrottled: 429.
            PlatformError: any other refusal, no answer in time, or the invoker is closed.
        """
        if self._is_closed:
            raise _failed(function, "the invoker is closed")
        url = f"{self._endpoint}/2015-03-31/functions/{quote(function, safe='')}/invocations"
        try:
            async with self._open().post(
                URL(url, encoded=True),
                data=payload,
                headers=self._signed(function, url, payload),
                timeout=aiohttp.ClientTimeout(total=timeout_s),
            ) as answer:
                body = await answer.read()
        except asyncio.TimeoutError:
            raise _failed(function, f"no answer within {timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _failed(function, f"{type(error).__name__}: {error}") from None
        if answer.status == 429:
            retry_after_s = 0.0
            with contextlib.suppress(ValueError):
                retry_after_s = float(answer.headers.get("Retry-After", 0))
            raise PlatformThrottled(
                operation="invoke", function=function, detail="throttled (429)", retry_after_s=retry_after_s
            )
        if answer.status >= 300:
            raise _failed(function, f"HTTP {answer.status}: {body[:300].decode(errors='replace')}")
        return InvokeResult(answer.status, answer.headers.get("X-Amz-Function-Error"), body)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:  # here, because it belongs to the running loop
            connector = aiohttp.TCPConnector(limit=self._max_connections, keepalive_timeout=300)
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, headers={"Accept-Encoding": "identity"}
            )
        return self._session

    def _signed(self, function: str, url: str, payload: bytes) -> dict[str, str]:
        request = AWSRequest(method="POST", url=url, data=payload, headers={"Content-Type": "application/json"})
        # asked for every time: they may be temporary, and botocore refreshes them
        credentials = self._client._request_signer._credentials
        if credentials is None:
            raise _failed(function, "no AWS credentials were found")
        SigV4Auth(credentials.get_frozen_credentials(), "lambda", self._client.meta.region_name).add_auth(request)
        return dict(request.headers.items())

    async def close(self) -> None:
        """Close every connection; invocations that are open end with an error here, and run on over there."""
        self._is_closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None


def _failed(function: str, detail: str) -> PlatformError:
    return PlatformError(operation="invoke", function=function, detail=detail)
