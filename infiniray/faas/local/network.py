"""The network of instances, shaped and broken from outside: their sockets, duplicated through ``pidfd_getfd``.

- Bandwidth: ``SO_MAX_PACING_RATE``, which the kernel keeps to within a percent, moved along a token bucket. It paces
  what an instance sends; what it receives is paced by whoever sends that.
- A cut network: what comes in is dropped by a socket filter (classic BPF, ``ret 0``), acknowledgements included; what
  goes out carries a loose source route (RFC 791, section 3.1), which hosts drop without a word unless told otherwise
  (``accept_source_route``). Neither end learns of it, nothing is lost when it heals, and no privilege is needed. A
  tiny pacing rate would not do: the kernel works off the debt of each segment at the rate it was sent at.
- A silent death: cut, then killed. The kernel's FIN or RST meets the same fate, and whatever the peer sends later
  meets the filter, which lives on with the orphaned connection.

The sockets to the Runtime API are left alone: they are the platform's, not the function's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from infiniray.faas.local.instances import Instance
from infiniray.faas.local.settings import BandwidthShape

__all__ = ["Flow", "Network"]

_SO_MAX_PACING_RATE = 47
_SO_COOKIE = 57
_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_SYS_PIDFD_GETFD = 438
_UNPACED = 0xFFFF_FFFF
#: Between two looks at a running instance: 25 MB at the burst rate.
_TICK_S = 0.02
#: The same where one is cut: a connection that it opens lives no longer than this.
_CUT_TICK_S = 0.002
#: What a slowed node is slowed from where no bandwidth is set.
_UNSHAPED_BYTES_PER_S = 1 << 30
#: Offset of tcpi_bytes_acked in struct tcp_info (linux/tcp.h).
_BYTES_ACKED_AT = 120
#: Loose source route with one stop, which is loopback; filled up to a word with an end of options.
_SOURCE_ROUTE = bytes([131, 7, 4, 127, 0, 0, 1, 0])
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Flow:
    """The token bucket of one instance: what it has sent, and may still send in a burst."""

    shape: BandwidthShape
    tokens_bytes: float
    moved_s: float
    looked_s: float
    #: {socket cookie: bytes acknowledged}
    acked_bytes: dict[int, int] = field(default_factory=dict)

    @classmethod
    def full(cls, shape: BandwidthShape, now_s: float) -> Flow:
        return cls(shape, float(shape.bucket_bytes), now_s, now_s)

    def look(self, acked_bytes: dict[int, int], now_s: float) -> int:
        """What its sockets have moved by now, hence the rate that each of them may have, in bytes per second."""
        moved = [n - self.acked_bytes.get(cookie, 0) for cookie, n in acked_bytes.items()]
        sent_bytes = sum(moved)
        if now_s - self.moved_s >= self.shape.quiet_s:
            self.tokens_bytes = max(self.tokens_bytes, self.shape.bucket_bytes / 2)
        if sent_bytes:
            # what the sustained rate brings in meanwhile does not come out of the bucket
            sustained_bytes = self.shape.sustained_bytes_per_s * (now_s - max(self.looked_s, self.moved_s))
            self.tokens_bytes = max(0.0, self.tokens_bytes - max(0.0, sent_bytes - sustained_bytes))
            self.moved_s = now_s
        self.acked_bytes, self.looked_s = acked_bytes, now_s
        rate = self.shape.burst_bytes_per_s if self.tokens_bytes > 0 else self.shape.sustained_bytes_per_s
        return rate // max(1, sum(n > 0 for n in moved))


class Network:
    """I shape what instances send, and break their connections on request."""

    def __init__(self, shape: BandwidthShape | None) -> None:
        self._shape = shape
        self._slowed: dict[str, float] = {}  # by function
        self._cut: set[str] = set()
        self._busy: dict[str, Instance] = {}
        self._flows: dict[str, Flow] = {}
        self._ticking: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ what the platform tells

    def watch(self, instance: Instance) -> None:
        """It begins to run."""
        if self._shape is None and not self._is_troubled(instance):
            return
        self._busy[instance.id] = instance
        self.apply(instance)
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.get_running_loop().create_task(self._tick())

    def rest(self, instance: Instance) -> None:
        """It is frozen."""
        self._busy.pop(instance.id, None)

    def forget(self, instance: Instance) -> None:
        """It is gone."""
        self._busy.pop(instance.id, None)
        self._flows.pop(instance.id, None)

    # ------------------------------------------------------------ what the admin asks

    def slow(self, function: str, factor: float) -> None:
        """Divide the bandwidth of a function's instances by ``factor``; 1 ends it."""
        if factor <= 1:
            self._slowed.pop(function, None)
        else:
            self._slowed[function] = factor

    def cut(self, function: str) -> None:
        self._cut.add(function)

    def heal(self, function: str) -> None:
        self._cut.discard(function)
        self._slowed.pop(function, None)

    def apply(self, instance: Instance) -> int:
        """Bring an instance's sockets in line with what was asked; how many there are."""
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(connection) for connection in _sockets(instance)]
            rate = self._rate(instance, connections)
            for connection in connections:
                _mute(connection, instance.function.name in self._cut)
                _pace(connection, rate)
            return len(connections)

    def silence(self, instance: Instance) -> bool:
        """Let an instance's connections end without a word when it is killed. False if one of them cannot."""
        is_silent = True
        for connection in _sockets(instance):
            with connection:
                is_silent &= _mute(connection, True)
        return is_silent

    def close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()

    # ------------------------------------------------------------ shaping

    def _is_troubled(self, instance: Instance) -> bool:
        return instance.function.name in self._cut or instance.function.name in self._slowed

    async def _tick(self) -> None:
        while self._busy:
            await asyncio.sleep(_CUT_TICK_S if self._cut else _TICK_S)
            for instance in list(self._busy.values()):
                self.apply(instance)

    def _rate(self, instance: Instance, connections: list[socket.socket]) -> int:
        """Bytes per second that each of its connections may send now."""
        name = instance.function.name
        rate = _UNPACED
        if self._shape is not None:
            now_s = time.monotonic()
            flow = self._flows.setdefault(instance.id, Flow.full(self._shape, now_s))
            rate = flow.look({_cookie(connection): _bytes_acked(connection) for connection in connections}, now_s)
        if name in self._slowed:
            rate = int(min(rate, _UNSHAPED_BYTES_PER_S) / self._slowed[name])
        return max(1, rate)


def _pace(connection: socket.socket, rate: int) -> None:
    # As 32 bits, all ones mean "unpaced"; a rate that needs more comes as 64.
    value = struct.pack("=I", _UNPACED) if rate == _UNPACED else struct.pack("=Q", rate)
    with contextlib.suppress(OSError):  # it was closed meanwhile
        connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, value)


def _mute(connection: socket.socket, is_on: bool) -> bool:
    """Drop all that goes in and out of a connection, or no longer; False if the system refuses."""
    try:
        connection.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, _SOURCE_ROUTE if is_on else b"")
        if is_on:
            program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # BPF_RET | BPF_K, 0
            header = struct.pack("HL", 1, ctypes.addressof(program))
            connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)
        else:
            with contextlib.suppress(FileNotFoundError):  # there is none
                connection.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
    except OSError:
        return False
    return True


def _cookie(connection: socket.socket) -> int:
    """The kernel's name for a socket: never given twice."""
    return int(struct.unpack("=Q", connection.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))[0])


def _bytes_acked(connection: socket.socket) -> int:
    with contextlib.suppress(OSError, struct.error):
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED_AT + 8)
        return int(struct.unpack_from("=Q", info, _BYTES_ACKED_AT)[0])
    return 0


def _sockets(instance: Instance) -> Iterator[socket.socket]:
    """The instance's connected TCP sockets, as duplicates that the caller closes."""
    if not instance.pid:
        return
    try:
        pidfd = os.pidfd_open(instance.pid)
    except ProcessLookupError:
        return
    try:
        for number in _socket_numbers(instance.pid):
            duplicate = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
            if duplicate < 0:
                continue
            connection = socket.socket(fileno=duplicate)
            if _is_functions_own(connection, instance.runtime_port):
                yield connection
            else:
                connection.close()
    finally:
        os.close(pidfd)


def _socket_numbers(pid: int) -> list[int]:
    directory = f"/proc/{pid}/fd"
    numbers = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(directory):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"{directory}/{name}").startswith("socket:"):
                    numbers.append(int(name))
    return numbers


def _is_functions_own(connection: socket.socket, runtime_port: int) -> bool:
    if connection.family != socket.AF_INET or connection.type != socket.SOCK_STREAM:
        return False
    try:
        return bool(connection.getpeername()[1] != runtime_port)
    except OSError:
        return False
