"""A shard's end of a channel over a dict of objects, and what speaks to it by hand."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import numpy as np

from infiniray.channel.frames import Frame, FrameReader, Kind, pack
from infiniray.channel.proofs import client_proof, new_nonce
from infiniray.channel.server import ChannelServer, Endpoint
from infiniray.channel.shared import Landing
from infiniray.errors import KeyNotFound
from infiniray.runtime.buffers import BufferPool

MIB = 1 << 20
SHARED_MIN = 100_000


class Objects:
    """What a shard does, with a dict. ``gate`` holds everything up; ``begun`` and ``cancelled`` count."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[str, np.ndarray]] = {}
        self.writes: list[tuple[str, str, bool]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.begins = False
        self.waiting: dict[str, Any] = {}
        self.pauses_after_landing = False
        self.landed = self.most_landed = 0
        self.begun = self.cancelled = self.at_once = self.most_at_once = 0

    async def read(self, epoch: int, key: str, timeout_s: float, landing: Landing) -> tuple[str, Any]:
        await self._pass()
        if key not in self.stored:
            raise KeyNotFound(key=key)
        head, data = self.stored[key]
        place = landing.take(len(data))
        place[:] = data
        if self.pauses_after_landing:
            self.landed += 1
            self.most_landed = max(self.most_landed, self.landed)
            for _ in range(5):
                await asyncio.sleep(0)
            self.landed -= 1
        return head, place

    def begin_read(self, epoch: int, key: str, timeout_s: float, landing: Landing, done: Any) -> Any:
        """Only if ``begins``: then answered at once, or by :meth:`answer` while the gate is closed."""
        if not self.begins:
            return None
        self.begun += 1

        def answer() -> None:
            if key not in self.stored:
                done(KeyNotFound(key=key))
                return
            head, data = self.stored[key]
            place = landing.take(len(data))
            place[:] = data
            done((head, place))

        if self.gate.is_set():
            answer()
        else:
            self.waiting[key] = answer

        def give_up() -> None:
            self.cancelled += self.waiting.pop(key, None) is not None

        return give_up

    def answer(self, *keys: str) -> None:
        for key in keys:
            self.waiting.pop(key)()

    async def write(
        self, epoch: int, key: str, head: str, payload: Any, *,
        request: str, ttl_s: float | None, timeout_s: float, is_again: bool, place: Any,
    ) -> None:  # fmt: skip
        assert place is None or np.shares_memory(place.array, payload)
        await self._pass()
        self.writes.append((key, request, is_again))
        self.stored[key] = (head, np.array(payload, np.uint8))

    async def ask(self, epoch: int, method: str, key: str, timeout_s: float, details: dict[str, Any]) -> Any:
        await self._pass()
        if method == "fail":
            raise ZeroDivisionError("a mistake")
        return [method, key, details]

    async def _pass(self) -> None:
        self.begun += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.at_once -= 1


class Shard:
    """A server over :class:`Objects`."""

    def __init__(self, shared_bytes: int = 64 * MIB, idle_s: float = 60.0, listen_host: str | None = None) -> None:
        self.objects = Objects()
        self.server = ChannelServer(
            self.objects, BufferPool(),
            shared_bytes=shared_bytes, shared_min_bytes=SHARED_MIN, idle_s=idle_s, listen_host=listen_host,
        )  # fmt: skip
        self.endpoint: Endpoint = self.server.start()

    def store(self, key: str, n_bytes: int) -> np.ndarray:
        data = np.random.default_rng(n_bytes).integers(0, 256, n_bytes, dtype=np.uint8)
        self.objects.stored[key] = ("head", data)
        return data

    def stats(self) -> dict[str, Any]:
        return self.server.stats()


class Speaker:
    """A client that says what it is told to, over a socket of its own."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        try:
            self.socket.connect(f"\0{endpoint.name}")
        except OSError:
            self.socket.close()
            raise
        self._endpoint = endpoint
        self._frames: list[Frame] = []
        self._reader = FrameReader(
            lambda kind, meta, n_bytes: memoryview(bytearray(n_bytes)),
            max_meta_bytes=1 << 20, max_body_bytes=1 << 30, scratch_bytes=1 << 16,
        )  # fmt: skip

    async def greet(self, role: str = "requests", tenancy: str = "", secret: bytes | None = None) -> Frame | None:
        challenge = await self.hear()
        assert challenge is not None
        ours, theirs = new_nonce(), challenge.meta[1]
        proof = client_proof(
            secret or self._endpoint.secret, shard_nonce=theirs, client_nonce=ours, role=role, tenancy=tenancy
        )
        await self.say(pack(Kind.HELLO, [role, ours, proof, tenancy]))
        return await self.hear()

    async def say(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def hear(self) -> Frame | None:
        """The next frame; None when the shard has hung up. Descriptors are not kept."""
        loop = asyncio.get_running_loop()
        while not self._frames:
            try:
                n_bytes = await asyncio.wait_for(loop.sock_recv_into(self.socket, self._reader.buffer()), 10)
            except ConnectionError:
                return None
            if not n_bytes:
                return None
            self._frames += self._reader.advance(n_bytes)
        return self._frames.pop(0)

    def close(self) -> None:
        self.socket.close()


async def until(condition: Any, what: str = "it") -> None:
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"{what} did not happen")
