"""The shard's end of the channel: where clients connect, and who has."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any

from infiniray.channel.frames import PROTOCOL
from infiniray.channel.peer import MAX_BODY_BYTES, MAX_KEYS, Handler, Peer, Tenancy
from infiniray.channel.shared import SharedPool

__all__ = ["ChannelServer", "Endpoint"]

_BACKLOG = 256
_MAX_CONNECTIONS = 1024
_MAX_UNPROVEN = 256
_CREDENTIALS = struct.Struct("3i")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a shard's process is reached, for those who have this from it.

    ``name`` is that of a socket in the kernel's abstract namespace: on this machine (network namespace) only, and gone
    with the process, however it ends. ``address``: (host, port) for other machines, if that is configured.
    """

    protocol: int
    name: str
    address: tuple[str, int] | None
    secret: bytes
    #: smaller values travel in frames
    shared_min_bytes: int
    #: of one request
    max_keys: int = MAX_KEYS
    max_body_bytes: int = MAX_BODY_BYTES

    def __repr__(self) -> str:
        return f"Endpoint(name={self.name!r}, address={self.address!r})"  # never the secret


class ChannelServer:
    """I listen for clients of one shard, on its event loop.

    Args:
        heap: where small values, and those that find no shared memory, are received: ``take(n_bytes)``.
        shared_bytes: at most so much memory that clients map; 0: none.
        idle_s: what nobody has used for so long is given back to the machine.
        listen_host: for clients on other machines; None: there are none.
        dial_host: what they dial.
    """

    def __init__(
        self,
        handler: Handler,
        heap: Any,
        *,
        shared_bytes: int,
        shared_min_bytes: int,
        idle_s: float,
        listen_host: str | None = None,
        dial_host: str | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.handler = handler
        self.heap = heap
        self.pool = SharedPool(shared_bytes, self._loop.time)
        self.secret = secrets.token_bytes(32)
        self.protocol = PROTOCOL
        self.shared_min_bytes = shared_min_bytes
        self.tenancies: dict[str, Tenancy] = {}
        self.counters: Counter[str] = Counter()
        self._idle_s = idle_s
        self._listen_host = listen_host
        self._dial_host = dial_host or listen_host
        self._listening: list[socket.socket] = []
        self._peers: set[Peer] = set()
        self._trimming: asyncio.TimerHandle | None = None
        self._is_closed = False

    def start(self) -> Endpoint:
        """Raises: OSError: the host has no such address."""
        name = f"infiniray-{os.getpid()}-{secrets.token_hex(8)}"
        local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listen(local, f"\0{name}", is_local=True)
        address = None
        if self._listen_host is not None:
            family = socket.AF_INET6 if ":" in self._listen_host else socket.AF_INET
            remote = socket.socket(family, socket.SOCK_STREAM)
            self._listen(remote, (self._listen_host, 0), is_local=False)
            address = (str(self._dial_host), int(remote.getsockname()[1]))
        self._trim()
        return Endpoint(
            protocol=PROTOCOL, name=name, address=address, secret=self.secret, shared_min_bytes=self.shared_min_bytes
        )

    def close(self) -> None:
        self._is_closed = True
        if self._trimming is not None:
            self._trimming.cancel()
        for listening in self._listening:
            self._loop.remove_reader(listening)
            listening.close()
        self._listening.clear()
        for peer in list(self._peers):
            peer.close("the shard closes")
        self.pool.close()

    def stats(self) -> dict[str, Any]:
        names = ("bytes_in", "bytes_out", "n_requests")
        totals = {name: self.counters[name] + sum(getattr(peer, name) for peer in self._peers) for name in names}
        return {
            "connections": len(self._peers),
            "leases": sum(len(tenancy) for tenancy in self.tenancies.values()),
            "requests": totals.pop("n_requests"),
            **totals,
            "garbage": self.counters["garbage"],
            "refused": self.counters["refused"],
            "shared": self.pool.stats(),
        }

    def on_closed(self, peer: Peer, reason: str) -> None:
        self._peers.discard(peer)
        self.counters["bytes_in"] += peer.bytes_in
        self.counters["bytes_out"] += peer.bytes_out
        self.counters["n_requests"] += peer.n_requests
        if reason.startswith("garbage"):
            self.counters["garbage"] += 1
        elif not peer.is_proven:
            self.counters["refused"] += 1

    def _listen(self, listening: socket.socket, where: Any, *, is_local: bool) -> None:
        listening.setblocking(False)
        try:
            listening.bind(where)
            listening.listen(_BACKLOG)
        except BaseException:
            listening.close()
            raise
        self._listening.append(listening)
        self._loop.add_reader(listening, self._accept, listening, is_local)

    def _accept(self, listening: socket.socket, is_local: bool) -> None:
        try:
            connection, _ = listening.accept()
        except OSError:  # it has hung up already, or this process has too many descriptors
            return
        connection.setblocking(False)
        n_unproven = sum(not peer.is_proven for peer in self._peers)
        if (
            len(self._peers) >= _MAX_CONNECTIONS
            or n_unproven >= _MAX_UNPROVEN
            or (is_local and not _is_ours(connection))
        ):
            self.counters["refused"] += 1
            connection.close()
            return
        if not is_local:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._peers.add(Peer(connection, self, is_local=is_local))

    def _trim(self) -> None:
        """Give back what has been idle. Runs for ever, at a fraction of the idle time."""
        self.pool.trim(self._idle_s)
        self._trimming = self._loop.call_later(max(0.1, self._idle_s / 4), self._trim)


def _is_ours(connection: socket.socket) -> bool:
    """Whether the process at the other end is of this user."""
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(told)[1] in (os.getuid(), 0))
