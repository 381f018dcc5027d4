"""The shard's side of a node connection, small and blocking, for tests of the agent."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Any

from infiniray.wire import auth
from infiniray.wire.describe import ChunkId, ChunkInfo
from infiniray.wire.frames import SEGMENT_BYTES, Frame, FrameReader, Kind, pack

DEADLINE_S = 10.0


class HungUp(Exception):
    """The node closed the connection."""


@dataclass
class Got:
    """One frame from the node, with its body copied."""

    kind: Kind
    request: int
    epoch: int
    meta: dict[str, Any]
    body: bytes


def chunk_info(key: str, body: bytes, *, seq: int, version: int = 1, index: int = 0, head: str = "") -> ChunkInfo:
    size = len(body)
    return ChunkInfo(key, version, index, seq, "rs:4+2", size, size, 0, 0.0, head)


class ShardPeer:
    """A listener, and the connection that a node made to it last."""

    def __init__(self, secret: bytes, node: str = "n1") -> None:
        self.secret, self.node, self.epoch = secret, node, 1
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(DEADLINE_S)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._conn: socket.socket | None = None
        self._reader = FrameReader(self._place)
        self._frames: list[Frame] = []
        self.n_body_bytes = 0

    def close(self) -> None:
        self.hang_up()
        self._listener.close()

    def hang_up(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def accept(self, *, receive_buffer_bytes: int | None = None) -> None:
        """Take the node's connection, instead of the one before."""
        self.hang_up()
        if receive_buffer_bytes:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._conn, _ = self._listener.accept()
        self._conn.settimeout(DEADLINE_S)
        self._reader, self._frames = FrameReader(self._place), []

    def has_caller(self) -> bool:
        """Whether somebody dialled and waits to be accepted."""
        self._listener.settimeout(0)
        try:
            self._listener.accept()[0].close()
        except BlockingIOError:
            return False
        finally:
            self._listener.settimeout(DEADLINE_S)
        return True

    def shake_hands(self, *, welcome_mac: str | None = None) -> Got:
        """Both sides of the handshake; the node's HELLO, whose proof is checked."""
        nonce = auth.new_nonce()
        self.send(Kind.CHALLENGE, meta={"nonce": nonce})
        hello = self.expect(Kind.HELLO)
        assert self.believes(hello, nonce)
        proof = auth.welcome_proof(
            self.secret, shard_nonce=nonce, node_nonce=hello.meta["nonce"], node=self.node, epoch=self.epoch
        )
        self.send(Kind.WELCOME, meta={"mac": welcome_mac or proof})
        return hello

    def believes(self, hello: Got, nonce: str) -> bool:
        proof = auth.hello_proof(
            self.secret,
            shard_nonce=nonce,
            node_nonce=hello.meta["nonce"],
            node=self.node,
            instance=hello.meta["instance"],
        )
        return auth.matches(proof, hello.meta["mac"])

    def greet(self) -> Got:
        self.accept()
        return self.shake_hands()

    # ------------------------------------------------------------ frames

    def send(
        self,
        kind: Kind,
        request: int = 0,
        meta: dict[str, Any] | None = None,
        body: bytes = b"",
        epoch: int = -1,
    ) -> None:
        self.send_raw(pack(kind, request, self.epoch if epoch < 0 else epoch, meta, len(body)) + body)

    def send_raw(self, data: bytes) -> None:
        assert self._conn is not None
        self._conn.sendall(data)

    def receive(self) -> Got:
        assert self._conn is not None
        while not self._frames:
            n_bytes = self._conn.recv_into(self._reader.buffer())
            if not n_bytes:
                raise HungUp
            self._frames += self._reader.advance(n_bytes)
        frame = self._frames.pop(0)
        self.n_body_bytes += frame.body_bytes
        return Got(frame.kind, frame.request, frame.epoch, frame.meta, bytes(frame.body))

    def expect(self, kind: Kind, request: int | None = None) -> Got:
        got = self.receive()
        assert got.kind is kind, got
        assert request is None or got.request == request
        return got

    def is_hung_up(self) -> bool:
        """Whether the node closes the connection, saying nothing more."""
        try:
            self.receive()
        except (HungUp, ConnectionResetError):
            return True
        return False

    def _place(self, frame: Frame) -> memoryview:
        return memoryview(bytearray(frame.body_bytes))

    # ------------------------------------------------------------ requests

    def send_store(
        self, request: int, info: ChunkInfo, body: bytes, *, n_segments: int | None = None, epoch: int = -1
    ) -> None:
        """Send a chunk, or only its first ``n_segments`` segments."""
        starts = range(0, max(1, len(body)), SEGMENT_BYTES)[:n_segments]
        for start in starts:
            segment = body[start : start + SEGMENT_BYTES]
            if start:
                self.send(Kind.DATA, request, body=segment, epoch=epoch)
            else:
                self.send(Kind.STORE, request, {"chunk": info}, segment, epoch=epoch)

    def store(self, request: int, info: ChunkInfo, body: bytes) -> None:
        self.send_store(request, info, body)
        self.expect(Kind.STORED, request)

    def send_fetch(self, request: int, chunk_id: ChunkId, epoch: int = -1) -> None:
        self.send(Kind.FETCH, request, {"chunk_id": chunk_id}, epoch=epoch)

    def receive_chunk(self, request: int) -> tuple[ChunkInfo, bytes]:
        first = self.expect(Kind.CHUNK, request)
        info = ChunkInfo.from_wire(first.meta["chunk"])
        body = bytearray(first.body)
        while len(body) < info.chunk_bytes:
            body += self.expect(Kind.DATA, request).body
        return info, bytes(body)

    def fetch(self, request: int, chunk_id: ChunkId) -> tuple[ChunkInfo, bytes]:
        self.send_fetch(request, chunk_id)
        return self.receive_chunk(request)

    def ping(self) -> Got:
        """A round trip: all that was sent before has been handled when it returns."""
        self.send(Kind.PING, 999)
        return self.expect(Kind.PONG, 999)
