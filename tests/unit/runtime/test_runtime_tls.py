"""TLS between a real agent and a real port: what others see of it, and who is not taken for whom."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from grid import Grid, random_bytes
from node_peer import SECRET, NodePeer, soon, until

from infiniray.runtime import listener as listener_module
from infiniray.runtime.certificates import ShardCertificate, new_certificate
from infiniray.runtime.listener import Greeting, Listener
from infiniray.runtime.streams import Stream
from infiniray.wire import auth
from infiniray.wire.frames import Kind, pack
from lambda_agent.handler import answer
from lambda_agent.instance import Instance
from lambda_agent.invocation import InvalidInvocation
from lambda_agent.session import HandshakeFailed

EPOCH = 7
SESSION_S = 30.0


class Door:
    """A listener that keeps whom it has let in."""

    def __init__(self, certificate: ShardCertificate | None) -> None:
        self.certificate = certificate
        self.welcomed: list[tuple[Stream, Greeting]] = []
        self.listener = Listener(SECRET, EPOCH, ["n0"], self._welcome, certificate=certificate)
        self.address = ""

    def _welcome(self, stream: Stream, greeting: Greeting) -> None:
        self.welcomed.append((stream, greeting))

    async def start(self) -> Door:
        self.address = f"127.0.0.1:{await self.listener.start('127.0.0.1')}"
        return self

    async def close(self) -> None:
        await self.listener.close()
        for stream, _ in self.welcomed:
            stream.close()

    @property
    def refused(self) -> dict[str, int]:
        return dict(self.listener.refused)

    @property
    def fingerprint(self) -> str:
        return "" if self.certificate is None else self.certificate.fingerprint


@pytest.fixture
async def door(leaks: None) -> AsyncIterator[Door]:
    made = await Door(new_certificate()).start()
    yield made
    await soon(made.close())


@pytest.fixture
async def plain_door(leaks: None) -> AsyncIterator[Door]:
    made = await Door(None).start()
    yield made
    await soon(made.close())


def event(address: str, certificate: str) -> dict[str, Any]:
    names: dict[str, Any] = {"node": "n0", "session": "s0", "address": address, "epoch": EPOCH}
    proof = auth.invoke_proof(SECRET, **names, certificate=certificate)
    told = {"certificate": certificate} if certificate else {}
    return {**names, **told, "reason": "serve", "linger_ms": 0, "proof": proof}


def new_instance() -> Instance:
    return Instance(SECRET, 1 << 20)


async def serve(instance: Instance, said: dict[str, Any]) -> dict[str, object]:
    """One session of the real agent, in a thread."""
    return await soon(asyncio.to_thread(answer, instance, said, time.monotonic() + SESSION_S))


@contextlib.asynccontextmanager
async def between(address: str) -> AsyncIterator[tuple[str, bytearray]]:
    """Where somebody listens who passes everything on to ``address`` and back, and what went over it both ways."""
    heard, talks = bytearray(), set[asyncio.Task[None]]()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                heard.extend(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        host, _, port = address.rpartition(":")
        there_reader, there_writer = await asyncio.open_connection(host, int(port))
        await asyncio.gather(carry(reader, there_writer), carry(there_reader, writer))
        talks.discard(task)

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", heard
    finally:
        server.close()
        await until(lambda: not talks)


# ---------------------------------------------------------------- those who belong together


async def test_node_and_shard_find_each_other_and_nobody_can_read_along(door: Door) -> None:
    instance = new_instance()
    async with between(door.address) as (address, heard):
        work = await serve(instance, event(address, door.fingerprint))
        assert work["instance"] == instance.id
        ((stream, greeting),) = door.welcomed
        assert (greeting.node, greeting.instance, greeting.key) == ("n0", instance.id, auth.key_id(SECRET))
        assert len(heard) > 1000
        for word in (b"nonce", b"n0", b"spans", instance.id.encode(), auth.key_id(SECRET).encode(), SECRET):
            assert word not in heard
        instance.hang_up()
        stream.close()
    assert door.refused == {}


async def test_a_kept_connection_serves_the_next_session(door: Door) -> None:
    instance = new_instance()
    for _ in range(2):
        await serve(instance, event(door.address, door.fingerprint))
    assert len(door.welcomed) == 1
    instance.hang_up()


async def test_chunks_cannot_be_read_on_their_way(leaks: None) -> None:
    """The whole of it, chunk bytes included: they are all alike, and nowhere to be seen."""
    data = np.frombuffer(b"tell-tale" * 40_000, np.uint8)
    for certificate, is_readable in ((None, True), (new_certificate(), False)):
        pool = Grid("stripe:1", n_nodes=1, certificate=certificate)
        await pool.start()
        async with between(pool.driver.address) as (address, heard):
            pool.driver._sessions.address = address
            await pool.put("k", data)
            assert np.array_equal(await pool.get("k"), data)
            assert len(heard) > 2 * len(data)
            assert (b"tell-taletell-tale" in heard) is is_readable
            await pool.close()


async def test_a_new_incarnation_has_a_new_certificate_and_the_old_connection_is_not_used(leaks: None) -> None:
    pool = Grid("mirror:3", n_nodes=3, certificate=new_certificate())
    await pool.start()
    data = random_bytes(100_000)
    await pool.put("k", data)
    kept = {node.name: node.instances[0].channel for node in pool.nodes.values()}
    before, pool.certificate = pool.fingerprint, new_certificate()
    assert pool.fingerprint != before
    former = await pool.restart()
    await until(lambda: not pool.state.is_recovering)
    assert np.array_equal(await pool.get("k"), data)
    await pool.settled()
    changed = [node for node in pool.nodes.values() if node.instances[0].channel is not kept[node.name]]
    assert changed
    for node in changed:
        assert node.instances[0].channel is None or node.instances[0].channel.link.certificate == pool.fingerprint
    await former.close()
    await pool.close()


# ---------------------------------------------------------------- those who do not


async def test_whoever_shows_another_certificate_hears_nothing(door: Door) -> None:
    """Even if he has the secret: the invocation names whom the node is to find."""
    impostor = await Door(new_certificate()).start()
    try:
        with pytest.raises(HandshakeFailed, match="another certificate"):
            await serve(new_instance(), event(impostor.address, door.fingerprint))
        await until(lambda: bool(impostor.refused))
        assert impostor.refused == {"hung up": 1}
        assert not impostor.welcomed
    finally:
        await impostor.close()


async def test_whoever_speaks_no_tls_hears_nothing(plain_door: Door) -> None:
    with pytest.raises(HandshakeFailed, match="is not the shard"):
        await serve(new_instance(), event(plain_door.address, "00" * 32))
    await until(lambda: bool(plain_door.refused))
    assert not plain_door.welcomed


async def test_an_invocation_without_its_certificate_is_none(door: Door) -> None:
    """Who strikes it out, to have the node speak in the clear, or puts in his own, has no proof for that."""
    said = event(door.address, door.fingerprint)
    for forged in ({k: v for k, v in said.items() if k != "certificate"}, {**said, "certificate": "00" * 32}):
        with pytest.raises(InvalidInvocation, match="proof"):
            await serve(new_instance(), forged)
    with pytest.raises(InvalidInvocation, match="certificate is a text"):
        await serve(new_instance(), {**said, "certificate": 7})
    assert not door.welcomed


async def test_a_node_that_speaks_no_tls_gets_no_answer(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = await NodePeer.dial(door.address)
    await peer.send(Kind.HELLO, meta=peer.hello("00" * 16))
    assert await peer.is_hung_up()
    peer.close()
    assert door.refused == {"no TLS": 1}
    monkeypatch.setattr(listener_module, "HANDSHAKE_TIMEOUT_S", 0.05)
    silent = await NodePeer.dial(door.address)  # it waits for a challenge
    assert await silent.is_hung_up()
    silent.close()
    assert door.refused == {"no TLS": 1, "too slow": 1}


async def test_a_proof_for_another_channel_opens_nothing(door: Door) -> None:
    """Somebody in between, with a certificate of his own towards the node, passes on what that proves to him."""
    peer = await NodePeer.dial(door.address, certificate=door.fingerprint)
    nonce = await peer.challenge()
    for elsewhere in ("", "00" * 32):
        peer._certificate = elsewhere
        assert not auth.matches(peer.hello(nonce)["mac"], _honest(peer, nonce, door)["mac"])
    await peer.send(Kind.HELLO, meta=peer.hello(nonce))
    assert await peer.is_hung_up()
    peer.close()
    assert door.refused == {"wrong proof": 1}


def _honest(peer: NodePeer, nonce: str, door: Door) -> dict[str, Any]:
    claimed, peer._certificate = peer._certificate, door.fingerprint
    try:
        return peer.hello(nonce)
    finally:
        peer._certificate = claimed


async def test_a_welcome_for_another_channel_is_not_believed(leaks: None) -> None:
    """The shard's side of the same: right secret, right certificate, a proof that was made for the clear."""
    certificate = new_certificate()

    def talk() -> None:
        with server, server.accept()[0] as connection:
            connection.settimeout(10)
            with certificate.context.wrap_socket(connection, server_side=True) as secured:
                secured.sendall(pack(Kind.CHALLENGE, epoch=EPOCH, meta={"nonce": "aa"}))
                said = secured.recv(1 << 16)
                node_nonce = said.split(b'"nonce":"')[1][:32].decode()
                proof = auth.welcome_proof(SECRET, shard_nonce="aa", node_nonce=node_nonce, node="n0", epoch=EPOCH)
                secured.sendall(pack(Kind.WELCOME, epoch=EPOCH, meta={"mac": proof}))
                with contextlib.suppress(OSError):
                    secured.recv(1)

    server = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{server.getsockname()[1]}"
    talking = asyncio.ensure_future(asyncio.to_thread(talk))
    with pytest.raises(HandshakeFailed, match="not a shard of this pool"):
        await serve(new_instance(), event(address, certificate.fingerprint))
    await soon(talking)


async def test_closing_in_the_middle_of_a_handshake_leaves_nothing(leaks: None) -> None:
    """The ``leaks`` look for sockets and tasks."""
    door = await Door(new_certificate()).start()
    host, _, port = door.address.rpartition(":")
    with socket.create_connection((host, int(port))) as half:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
        secured = context.wrap_bio(inbound, outbound)
        with pytest.raises(ssl.SSLWantReadError):
            secured.do_handshake()
        half.sendall(outbound.read()[:20])  # a part of its first words
        await until(lambda: bool(door.listener._strangers))
        await asyncio.sleep(0.05)
        await soon(door.close())
    assert not door.listener._strangers
