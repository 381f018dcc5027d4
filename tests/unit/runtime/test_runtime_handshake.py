"""A handshake between a real agent and a real port, recorded on its way: worth nothing to whoever has the recording."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from node_peer import SECRET, NodePeer, soon, until

from infiniray.runtime.keys import KeyRing
from infiniray.runtime.listener import Greeting, Listener
from infiniray.wire import auth
from infiniray.wire.frames import HEADER_BYTES, Frame, FrameReader, Kind
from lambda_agent.handler import answer
from lambda_agent.instance import Instance
from lambda_agent.session import HandshakeFailed

EPOCH = 7
SESSION_S = 30.0
ANOTHER = bytes(range(32, 64))


@dataclass
class Recording:
    """What went each way over one connection, in the order in which it came."""

    from_shard: bytearray = field(default_factory=bytearray)
    from_node: bytearray = field(default_factory=bytearray)


class Door:
    """A listener that hangs up on whom it has let in, and a place beside it where others can listen."""

    def __init__(self, secret: bytes = SECRET) -> None:
        self.welcomed: list[Greeting] = []
        self.listener = Listener(secret, EPOCH, ["n0"], self._welcome)
        self.port = 0
        self._servers: list[asyncio.Server] = []
        self._talks: set[asyncio.Task[None]] = set()

    def _welcome(self, connection: socket.socket, greeting: Greeting) -> None:
        self.welcomed.append(greeting)
        connection.close()

    async def listen(self, talk: Any) -> str:
        """Where ``talk(reader, writer)`` answers."""

        async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._talks.add(task)
            try:
                with contextlib.suppress(ConnectionError):
                    await talk(reader, writer)
            finally:
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
                self._talks.discard(task)

        server = await asyncio.start_server(meet, "127.0.0.1", 0)
        self._servers.append(server)
        return f"127.0.0.1:{server.sockets[0].getsockname()[1]}"

    async def recorder(self, recording: Recording) -> str:
        """Where an eavesdropper listens, and passes everything on to the listener and back."""

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            shard_reader, shard_writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                await asyncio.gather(
                    _pass_on(shard_reader, writer, recording.from_shard),
                    _pass_on(reader, shard_writer, recording.from_node),
                )
            finally:
                shard_writer.close()
                with contextlib.suppress(ConnectionError):
                    await shard_writer.wait_closed()

        return await self.listen(talk)

    async def close(self) -> None:
        for server in self._servers:
            server.close()
            await server.wait_closed()
        await until(lambda: not self._talks, lambda: self._talks)
        await self.listener.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            record += data
            writer.write(data)
            await writer.drain()
    writer.close()  # one end has hung up: so does this


@pytest.fixture
async def door(leaks: None) -> AsyncIterator[Door]:
    made = Door()
    made.port = await made.listener.start("127.0.0.1")
    yield made
    await soon(made.close())


def event(address: str, secret: bytes = SECRET) -> dict[str, Any]:
    names = {"node": "n0", "session": "s0", "address": address, "epoch": EPOCH}
    proof = auth.invoke_proof(secret, **names)  # type: ignore[arg-type]
    return {**names, "reason": "serve", "linger_ms": 0, "proof": proof}


async def serve(instance: Instance, said: dict[str, Any]) -> dict[str, object]:
    """One session of the real agent, in a thread, as the platform would run it."""
    try:
        return await soon(asyncio.to_thread(answer, instance, said, time.monotonic() + SESSION_S))
    finally:
        instance.hang_up()


async def recorded(door: Door, instance: Instance) -> Recording:
    """A whole handshake that ended well."""
    recording = Recording()
    await serve(instance, event(await door.recorder(recording)))
    assert [greeting.instance for greeting in door.welcomed] == [instance.id]
    assert kinds(recording.from_shard) == [Kind.CHALLENGE, Kind.WELCOME]
    recording.from_node = recording.from_node[: first_bytes(recording.from_node)]  # and perhaps a BYE behind it
    assert kinds(recording.from_node) == [Kind.HELLO]
    return recording


def frames(data: bytes | bytearray) -> list[Frame]:
    reader = FrameReader(lambda frame: None)
    reader.buffer()[: len(data)] = data
    return reader.advance(len(data))


def kinds(data: bytes | bytearray) -> list[Kind]:
    return [frame.kind for frame in frames(data)]


def new_instance(secret: bytes = SECRET) -> Instance:
    return Instance(secret, 1 << 20)


def refusals(door: Door) -> dict[str, int]:
    return dict(door.listener.refused)


async def test_a_recorded_handshake_does_not_let_an_impostor_in(door: Door) -> None:
    """All that a node said, once more, at the same port, for the same epoch."""
    recording = await recorded(door, new_instance())
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    try:
        writer.write(recording.from_node)
        heard = await soon(reader.read())
    finally:
        writer.close()
        await writer.wait_closed()
    assert kinds(heard) == [Kind.CHALLENGE]  # and nothing after it
    assert refusals(door) == {"wrong proof": 1}
    assert len(door.welcomed) == 1


async def test_a_recorded_handshake_does_not_pass_for_a_shard(door: Door) -> None:
    """All that a shard said, once more, to the same instance, invoked with the very same claims."""
    instance = new_instance()
    recording = await recorded(door, instance)

    async def replay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(recording.from_shard)
        await reader.read()

    with pytest.raises(HandshakeFailed, match="not a shard of this pool"):
        await serve(instance, event(await door.listen(replay)))


async def test_each_recorded_word_at_its_time_does_not_pass_either(door: Door) -> None:
    """An impostor that waits for the HELLO, as a shard would."""
    instance = new_instance()
    recording = await recorded(door, instance)
    end = first_bytes(recording.from_shard)
    challenge, welcome = bytes(recording.from_shard[:end]), bytes(recording.from_shard[end:])
    hellos: list[bytes] = []

    async def replay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(challenge)
        hellos.append(await reader.read(65536))
        writer.write(welcome)
        await reader.read()

    with pytest.raises(HandshakeFailed, match="not a shard of this pool"):
        await serve(instance, event(await door.listen(replay)))
    (again,), (before,) = frames(hellos[0]), frames(recording.from_node)
    assert again.meta["nonce"] != before.meta["nonce"]  # which is why
    assert again.meta["mac"] != before.meta["mac"]


async def test_no_two_clocks_have_to_agree(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    """Invoked in one year, dialled in another, let in in a third: no proof says when it was made."""
    years = itertools.cycle([0.0, 1e9, 4e9, 2e9])
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: next(years))
        patch.setattr(time, "time_ns", lambda: int(next(years) * 1e9))
        said, instance = event(f"127.0.0.1:{door.port}"), new_instance()
        for _ in range(4):
            await serve(instance, said)
    assert [greeting.instance for greeting in door.welcomed] == [instance.id] * 4
    assert refusals(door) == {}


async def test_a_node_cannot_be_made_to_answer_a_challenge_for_another_name(door: Door) -> None:
    """What a node proves to a real challenge is for its own name: passed on under another, it opens nothing."""
    recording = await recorded(door, new_instance())
    (hello,) = frames(recording.from_node)
    (challenge, _) = frames(recording.from_shard)
    claims = {"node_nonce": hello.meta["nonce"], "shard_nonce": challenge.meta["nonce"]}
    own = auth.hello_proof(SECRET, node="n0", instance=hello.meta["instance"], **claims)
    assert auth.matches(own, hello.meta["mac"])
    for node, instance in (("n1", hello.meta["instance"]), ("n0", "another")):
        assert not auth.matches(auth.hello_proof(SECRET, node=node, instance=instance, **claims), hello.meta["mac"])


async def test_a_node_with_another_secret_stays_outside_and_learns_nothing(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    recording = Recording()
    address = await door.recorder(recording)
    with pytest.raises(HandshakeFailed) as caught:
        await serve(new_instance(ANOTHER), event(address, ANOTHER))
    assert refusals(door) == {"wrong proof": 1}
    assert not door.welcomed
    assert kinds(recording.from_shard) == [Kind.CHALLENGE]
    said = "\n".join([str(caught.value), repr(refusals(door)), repr(door.listener), caplog.text])
    assert_tells_nothing(said.encode() + recording.from_shard + recording.from_node)


async def test_a_shard_with_another_secret_is_left_and_learns_nothing(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    """The invocation is right, what answers at its address is not: an address that somebody else has now."""
    caplog.set_level(logging.DEBUG)
    impostor = Listener(ANOTHER, EPOCH, ["n0"], lambda connection, greeting: connection.close())
    door.port, port = await impostor.start("127.0.0.1"), door.port
    recording = Recording()
    try:
        with pytest.raises(HandshakeFailed) as caught:
            await serve(new_instance(), event(await door.recorder(recording)))
    finally:
        door.port = port
        await impostor.close()
    assert dict(impostor.refused) == {"wrong proof": 1}
    assert_tells_nothing(str(caught.value).encode() + caplog.text.encode() + recording.from_node)


async def test_while_it_is_changed_the_former_secret_opens_too(door: Door) -> None:
    door.listener.keys = KeyRing.of(SECRET).rotated(ANOTHER)
    for secret in (SECRET, ANOTHER):
        await serve(new_instance(secret), event(f"127.0.0.1:{door.port}", secret))
    assert [greeting.key for greeting in door.welcomed] == [auth.key_id(SECRET), auth.key_id(ANOTHER)]
    assert refusals(door) == {}


async def test_a_retired_secret_opens_nothing(door: Door) -> None:
    door.listener.keys = KeyRing.of(SECRET).rotated(ANOTHER).retired()
    with pytest.raises(HandshakeFailed):
        await serve(new_instance(SECRET), event(f"127.0.0.1:{door.port}", SECRET))
    assert refusals(door) == {"wrong proof": 1}
    assert not door.welcomed


async def test_naming_another_key_than_the_one_proved_opens_nothing(door: Door) -> None:
    door.listener.keys = KeyRing.of(SECRET).rotated(ANOTHER)
    for key in (auth.key_id(SECRET), "0" * 16, "", None, 7, [], "\ud800"):
        peer = await NodePeer.dial(f"127.0.0.1:{door.port}")
        try:
            hello = peer.hello(await peer.challenge(), secret=ANOTHER)
            await peer.send(Kind.HELLO, meta={**hello, "key": key})
            assert await peer.is_hung_up()
        finally:
            peer.close()
    assert refusals(door) == {"wrong proof": 7}


async def test_a_right_handshake_shows_no_secret_on_the_wire(door: Door) -> None:
    recording = await recorded(door, new_instance())
    assert_tells_nothing(recording.from_shard + recording.from_node)


def assert_tells_nothing(data: bytes | bytearray) -> None:
    for secret in (SECRET, ANOTHER):
        assert secret not in data
        assert secret.hex().encode() not in data.lower()
        assert secret[:16].hex().encode() not in data.lower()


def first_bytes(data: bytes | bytearray) -> int:
    """How long the first frame is."""
    return next(end for end in range(HEADER_BYTES, len(data) + 1) if frames(data[:end]))
