"""Invocations that AWS refuses: what is said of it."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate
from typing import Any

import boto3
import pytest

from infiniray.errors import PlatformError
from infiniray.faas import invoker
from infiniray.faas.invoker import FunctionInvoker

PATIENCE_S = 60.0


async def refused(status: str, body: str, ahead_s: float) -> str:
    """What the invoker raises when a server whose clock is ``ahead_s`` of ours answers so."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        date = formatdate(time.time() + ahead_s, usegmt=True)
        head = f"HTTP/1.1 {status}\r\nDate: {date}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    client = boto3.client(
        "lambda", endpoint_url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", region_name="us-east-1",
        aws_access_key_id="x", aws_secret_access_key="x",
    )  # fmt: skip
    lean = FunctionInvoker(client)
    try:
        with pytest.raises(PlatformError) as caught:
            await lean.invoke("f", b"{}", timeout_s=PATIENCE_S)
    finally:
        await lean.close()
        server.close()
        await server.wait_closed()
    return str(caught.value)


@pytest.mark.parametrize(("ahead_s", "off"), [(900, "-"), (-900, "+")])
async def test_a_clock_that_is_off_is_named(ahead_s: float, off: str) -> None:
    said = await refused("403 Forbidden", '{"message": "Signature expired: ..."}', ahead_s)
    assert "Signature expired" in said
    assert f"clock, with NTP (it is off by {off}" in said


async def test_a_permission_that_is_missing_is_named() -> None:
    said = await refused("403 Forbidden", '{"Message": "not authorized to perform: lambda:InvokeFunction"}', 0)
    assert "lambda:InvokeFunction" in said
    assert "infiniray deploy --host-policy" in said
    assert "NTP" not in said


async def test_other_refusals_have_no_advice() -> None:
    said = await refused("404 Not Found", '{"Message": "Function not found"}', 900)
    assert "Function not found" in said
    assert "NTP" not in said
    assert "host-policy" not in said


class Foreign:
    """A transport as another event loop has it: of no class of asyncio's."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def test_the_event_loop_may_be_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray runs actors on uvloop where that is installed."""
    made = invoker._Connection.connection_made
    monkeypatch.setattr(invoker._Connection, "connection_made", lambda self, t: made(self, Foreign(t)))
    assert "HTTP 404" in await refused("404 Not Found", "{}", 0)


def test_it_works_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")
    loop = uvloop.new_event_loop()
    try:
        said = loop.run_until_complete(asyncio.wait_for(refused("404 Not Found", "{}", 0), PATIENCE_S))
    finally:
        loop.close()
    assert "HTTP 404" in said
