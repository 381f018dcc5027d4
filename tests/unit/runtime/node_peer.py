"""A node on a raw socket, which says exactly what a test has it say."""

from __future__ import annotations

import asyncio
import socket
import time
import zlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from infiniray.core.commands import ObjectFacts
from infiniray.runtime.streams import Stream, receive, send_all
from infiniray.wire import auth
from infiniray.wire.describe import ChunkInfo
from infiniray.wire.frames import SEGMENT_BYTES, Frame, FrameReader, Kind, pack
from infiniray.wire.tls import secure

SECRET = bytes(range(32))
DEADLINE_S = 10.0

T = TypeVar("T")


async def soon(work: Awaitable[T]) -> T:
    """Every wait of a test has this deadline."""
    return await asyncio.wait_for(work, DEADLINE_S)


async def until(is_true: Callable[[], bool], why_not: Callable[[], object] = str) -> None:
    """For what brings no event to wait for; ``why_not`` is asked if it never comes true."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_true():
        assert time.monotonic() < deadline_s, f"never came true: {why_not()}"
        await asyncio.sleep(0.001)


@dataclass
class Got:
    """One frame from the shard, with its body copied."""

    kind: Kind
    request: int
    epoch: int
    meta: dict[str, Any]
    body: bytes


class HungUp(Exception):
    """The shard closed the connection."""


class NodePeer:
    """One connection to a shard. ``unread`` are the frames received and not asked for yet."""

    def __init__(self, connection: Stream, node: str = "n0", certificate: str = "") -> None:
        self.node = node
        self._certificate = certificate
        self.n_body_bytes = 0
        self.unread: deque[Got] = deque()
        self._socket = connection
        self._reader = FrameReader(lambda frame: memoryview(bytearray(frame.body_bytes)))

    @classmethod
    async def dial(
        cls, address: str, node: str = "n0", *, receive_buffer_bytes: int = 0, certificate: str = ""
    ) -> NodePeer:
        """By TLS, if the shard has a ``certificate``."""
        host, _, port = address.rpartition(":")
        connection = socket.socket()
        connection.setblocking(False)
        if receive_buffer_bytes:  # before connecting, or the window is larger already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        try:
            await soon(asyncio.get_running_loop().sock_connect(connection, (host, int(port))))
        except OSError:
            connection.close()
            raise
        if not certificate:
            return cls(connection, node)
        stream = await asyncio.to_thread(secure, connection, certificate, time.monotonic() + DEADLINE_S)
        return cls(stream, node, certificate)

    def close(self) -> None:
        self._socket.close()

    # ------------------------------------------------------------ the handshake

    async def challenge(self) -> str:
        return str((await self.expect(Kind.CHALLENGE)).meta["nonce"])

    def hello(self, shard_nonce: str, *, secret: bytes = SECRET, **changes: Any) -> dict[str, Any]:
        """The meta of an honest HELLO, but for ``changes``."""
        names = {
            "node": self.node,
            "instance": "i0",
            "session": "s0",
            "nonce": auth.new_nonce(),
            "spans": [],
            **changes,
        }
        mac = auth.hello_proof(
            secret,
            shard_nonce=shard_nonce,
            node_nonce=names["nonce"],
            node=names["node"],
            instance=names["instance"],
            certificate=self._certificate,
        )
        return {"mac": mac, **names}

    async def greet(self, **changes: Any) -> Got:
        """The whole handshake: WELCOME, whose proof is right."""
        shard_nonce = await self.challenge()
        hello = self.hello(shard_nonce, **changes)
        await self.send(Kind.HELLO, meta=hello)
        welcome = await self.expect(Kind.WELCOME)
        proof = auth.welcome_proof(
            SECRET, shard_nonce=shard_nonce, node_nonce=hello["nonce"], node=hello["node"], epoch=welcome.epoch,
            certificate=self._certificate,
        )  # fmt: skip
        assert auth.matches(proof, welcome.meta["mac"])
        return welcome

    # ------------------------------------------------------------ frames

    async def send(self, kind: Kind, request: int = 0, meta: Any = None, body: Any = b"") -> None:
        await self.send_raw(pack(kind, request, 0, meta, len(body)) + bytes(body))

    async def send_raw(self, data: Any) -> None:
        await soon(send_all(self._socket, bytes(data)))

    async def send_chunk(self, request: int, info: ChunkInfo, body: bytes) -> None:
        """A whole chunk, in segments."""
        for start in range(0, max(1, len(body)), SEGMENT_BYTES):
            segment = body[start : start + SEGMENT_BYTES]
            if start:
                await self.send(Kind.DATA, request, body=segment)
            else:
                await self.send(Kind.CHUNK, request, {"chunk": list(info)}, segment)

    async def receive(self) -> Got:
        """Raises: HungUp."""
        while not self.unread:
            try:
                n_bytes = await soon(receive(self._socket, self._reader.buffer()))
            except ConnectionResetError:
                raise HungUp from None
            if n_bytes == 0:
                raise HungUp
            self.unread.extend(map(self._copy, self._reader.advance(n_bytes)))
        return self.unread.popleft()

    async def expect(self, kind: Kind, request: int | None = None) -> Got:
        got = await self.receive()
        assert got.kind is kind, got
        assert request is None or got.request == request, got
        return got

    async def is_hung_up(self) -> bool:
        """Whether the shard closes the connection without another word."""
        try:
            await self.receive()
        except HungUp:
            return True
        return False

    def _copy(self, frame: Frame) -> Got:
        self.n_body_bytes += frame.body_bytes
        return Got(frame.kind, frame.request, frame.epoch, frame.meta, bytes(frame.body))


def describe(facts: ObjectFacts, index: int, body: bytes, /, **changes: Any) -> ChunkInfo:
    """What a node says of a chunk that it holds, but for ``changes``."""
    info = ChunkInfo(
        facts.key, facts.version, index, 1, str(facts.scheme), facts.size_bytes, len(body), zlib.crc32(body),
        facts.expires_s, facts.head,
    )  # fmt: skip
    return info._replace(**changes)
