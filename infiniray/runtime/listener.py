"""Where nodes dial in: a port that lets nobody past who does not know the pool's secret."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infiniray.core.ids import InstanceId, NodeId, SessionId
from infiniray.runtime.keys import KeyRing
from infiniray.runtime.streams import Stream, accept_tls, receive, send_all
from infiniray.wire import auth
from infiniray.wire.describe import SeqSpans
from infiniray.wire.frames import Frame, FrameReader, Kind, ProtocolError, pack

if TYPE_CHECKING:
    from infiniray.runtime.certificates import ShardCertificate

__all__ = ["Greeting", "Listener"]

#: From dialling to a proven HELLO.
HANDSHAKE_TIMEOUT_S = 2.0
#: Connections that have not proved anything yet; beyond that new ones are closed at once.
MAX_STRANGERS = 256
_HELLO_BYTES = 64 << 10
#: Before accepting again, when the system would not let us.
_PAUSE_S = 0.01
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeting:
    """What a node proved and told at HELLO."""

    node: NodeId
    instance: InstanceId
    session: SessionId
    spans: SeqSpans
    #: of the secret by which it did so
    key: str


class Listener:
    """I accept connections, make sure who speaks, and hand them on.

    What is garbage, too long, too late or not proven is closed and counted; nothing else happens. With a certificate I
    speak TLS, and with nobody who does not.
    """

    def __init__(
        self,
        keys: bytes | KeyRing,
        epoch: int,
        nodes: Collection[str],
        welcome: Callable[[Stream, Greeting], None],
        *,
        certificate: ShardCertificate | None = None,
    ) -> None:
        self.refused: Counter[str] = Counter()
        #: what may be proved to be known
        self.keys = KeyRing.of(keys)
        self._epoch = epoch
        #: who may dial in
        self.nodes = frozenset(nodes)
        self._welcome = welcome
        self._certificate = certificate
        self._socket: socket.socket | None = None
        self._pause: asyncio.TimerHandle | None = None
        self._strangers: set[asyncio.Task[None]] = set()

    async def start(self, host: str) -> int:
        """Listen on any free port: its number."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family, backlog=1024)
        self._socket.setblocking(False)
        self._resume(self._socket)
        return int(self._socket.getsockname()[1])

    async def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        strangers = list(self._strangers)
        for stranger in strangers:
            stranger.cancel()
        await asyncio.gather(*strangers, return_exceptions=True)

    def _resume(self, listening: socket.socket) -> None:
        # not loop.sock_accept: cancelled at the wrong moment, it loses the connection that it just took
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            connection, _ = listening.accept()
        except BlockingIOError:  # the caller hung up again
            return
        except OSError:  # we are out of descriptors, most likely
            self.refused["accept"] += 1
            loop.remove_reader(listening)
            self._pause = loop.call_later(_PAUSE_S, self._resume, listening)
            return
        if len(self._strangers) >= MAX_STRANGERS:
            self.refused["too many"] += 1
            connection.close()
            return
        stranger = loop.create_task(self._meet(connection))
        self._strangers.add(stranger)
        stranger.add_done_callback(functools.partial(self._met, connection))

    def _met(self, connection: socket.socket, stranger: asyncio.Task[None]) -> None:
        self._strangers.discard(stranger)
        if stranger.cancelled():  # perhaps before its first step, so not there
            connection.close()

    async def _meet(self, connection: socket.socket) -> None:
        """The handshake; closes the connection unless it ends well."""
        try:
            connection.setblocking(False)
            _tune(connection)
            stream, greeting = await asyncio.wait_for(self._greet(connection), HANDSHAKE_TIMEOUT_S)
        except ProtocolError as error:
            self.refused[str(error) if str(error) in ("unknown node", "wrong proof") else "not a frame"] += 1
        except asyncio.TimeoutError:
            self.refused["too slow"] += 1
        except ssl.SSLError:
            self.refused["no TLS"] += 1
        except OSError:
            self.refused["hung up"] += 1
        else:
            self._welcome(stream, greeting)
            return
        connection.close()

    async def _greet(self, connection: socket.socket) -> tuple[Stream, Greeting]:
        """What the connection has become, and who is at its other end; closes it if this fails."""
        stream: Stream = connection
        try:
            if self._certificate is not None:
                stream = await accept_tls(connection, self._certificate.context)
            return stream, await self._shake_hands(stream)
        except BaseException:
            stream.close()
            raise

    async def _shake_hands(self, stream: Stream) -> Greeting:
        nonce = auth.new_nonce()
        await send_all(stream, pack(Kind.CHALLENGE, epoch=self._epoch, meta={"nonce": nonce}))
        hello = await _read_frame(stream)
        if hello.kind is not Kind.HELLO:
            raise ProtocolError(f"{hello.kind.name} before HELLO")
        meta = hello.meta
        fields = [meta.get(name) for name in ("node", "instance", "session", "nonce")]
        if not all(isinstance(field, str) and 0 < len(field) <= 256 for field in fields):
            raise ProtocolError("HELLO without names")
        node, instance, session, node_nonce = map(str, fields)
        # who names no key has the one that all had when it was built
        secret = self.keys.find(meta["key"]) if "key" in meta else self.keys.current
        if secret is None:
            raise ProtocolError("wrong proof")
        certificate = "" if self._certificate is None else self._certificate.fingerprint
        bound = {"shard_nonce": nonce, "node_nonce": node_nonce, "node": node, "certificate": certificate}
        expected = auth.hello_proof(secret, **bound, instance=instance)
        if not auth.matches(expected, meta.get("mac")):
            raise ProtocolError("wrong proof")
        if node not in self.nodes:
            raise ProtocolError("unknown node")
        spans = SeqSpans.from_wire(meta.get("spans"))
        proof = auth.welcome_proof(secret, **bound, epoch=self._epoch)
        await send_all(stream, pack(Kind.WELCOME, epoch=self._epoch, meta={"mac": proof}))
        if secret not in self.keys:  # retired while this was sent
            raise ProtocolError("wrong proof")
        return Greeting(
            node=NodeId(node), instance=InstanceId(instance), session=SessionId(session), spans=spans,
            key=auth.key_id(secret),
        )  # fmt: skip


async def _read_frame(stream: Stream) -> Frame:
    """Exactly one frame without a body, and nothing behind it: who has not been answered has nothing more to say."""
    reader = FrameReader(lambda frame: None, max_body_bytes=0, scratch=memoryview(bytearray(_HELLO_BYTES)))
    n_total = 0
    while True:
        n_bytes = await receive(stream, reader.buffer())
        n_total += n_bytes
        if n_bytes == 0:
            raise ConnectionResetError("hung up during the handshake")
        frames = reader.advance(n_bytes)
        if len(frames) > 1 or n_total > _HELLO_BYTES:
            raise ProtocolError("more than a HELLO")
        if frames:
            return frames[0]


def _tune(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    with contextlib.suppress(OSError):
        for option, value in _KEEPALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
