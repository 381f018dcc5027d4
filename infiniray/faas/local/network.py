"""The network of instances, shaped and broken from outside: their sockets, duplicated through ``pidfd_getfd``.

- Bandwidth: ``SO_MAX_PACING_RATE``, which the kernel keeps to within a percent, moved along a token bucket.
- A cut network: a socket filter that drops every segment that comes in, acknowledgements included, so that both
directions come to a
  standstill without an end (classic BPF, ``ret 0``).
- A silent death: ``TCP_REPAIR`` lets a socket close without FIN or RST. Needs CAP_NET_ADMIN.

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
from dataclasses import dataclass

from infiniray.faas.local.instances import Instance
from infiniray.faas.local.settings import BandwidthShape

__all__ = ["Network"]

_SO_MAX_PACING_RATE = 47
_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_TCP_REPAIR = 19
_SYS_PIDFD_OPEN = 434
_SYS_PIDFD_GETFD = 438
_UNPACED = 0xFFFF_FFFF
_TICK_S = 0.02
#: What a slowed node is slowed from where no bandwidth is set.
_UNSHAPED_BYTES_PER_S = 1 << 30
#: Offset of tcpi_bytes_acked in struct tcp_info (linux/tcp.h).
_BYTES_ACKED_AT = 120
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class _Flow:
    """What one instance has sent, and may still send in a burst."""

    tokens_bytes: float
    sent_bytes: int = 0
    moved_s: float = 0.0


class Network:
    """I shape what instances send, and break their connections on request."""

    def __init__(self, shape: BandwidthShape | None) -> None:
        self._shape = shape
        self._slowed: dict[str, float] = {}  # by function
        self._cut: set[str] = set()
        self._busy: dict[str, Instance] = {}
        self._flows: dict[str, _Flow] = {}
        self._ticking: asyncio.Task[None] | None = None

    # ------------------------------------------------------------ what the platform tells

    def watch(self, instance: Instance) -> None:
        """It begins to run."""
        if self._shape is None and not self._is_troubled(instance):
            return
        self._busy[instance.id] = instance
        self._tick_on()

    def rest(self, instance: Instance) -> None:
        self._busy.pop(instance.id, None)

    def forget(self, instance: Instance) -> None:
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
        n_sockets = 0
        for connection in _sockets(instance):
            n_sockets += 1
            _filter_all(connection, instance.function.name in self._cut)
            self._pace(connection, self._rate(instance))
        return n_sockets

    def silence(self, instance: Instance) -> bool:
        """Let an instance's connections end without a word when it is killed. False if the system does not permit
        it."""
        try:
            for connection in _sockets(instance):
                connection.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        except OSError:
            return False
        return True

    def close(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()

    # ------------------------------------------------------------ shaping

    def _is_troubled(self, instance: Instance) -> bool:
        return instance.function.name in self._cut or instance.function.name in self._slowed

    def _tick_on(self) -> None:
        if self._ticking is None or self._ticking.done():
            self._ticking = asyncio.get_running_loop().create_task(self._tick())

    async def _tick(self) -> None:
        while self._busy:
            for instance in list(self._busy.values()):
                self.apply(instance)
            await asyncio.sleep(_TICK_S)

    def _rate(self, instance: Instance) -> int:
        """Bytes per second that it may send now."""
        name = instance.function.name
        if name in self._cut:
            return 1
        rate = self._shaped_rate(instance) if self._shape else _UNPACED
        if name in self._slowed:
            rate = int(min(rate, _UNSHAPED_BYTES_PER_S) / self._slowed[name])
        return max(1, rate)

    def _shaped_rate(self, instance: Instance) -> int:
        shape = self._shape
        assert shape is not None
        now_s = time.monotonic()
        flow = self._flows.setdefault(instance.id, _Flow(float(shape.bucket_bytes), 0, now_s))
        sent_bytes = sum(_bytes_acked(connection) for connection in _sockets(instance))
        if sent_bytes > flow.sent_bytes:
            if now_s - flow.moved_s >= shape.quiet_s:
                flow.tokens_bytes = max(flow.tokens_bytes, shape.bucket_bytes / 2)
            # what the sustained rate brings in meanwhile does not come out of the bucket
            spent = sent_bytes - flow.sent_bytes - shape.sustained_bytes_per_s * min(_TICK_S, now_s - flow.moved_s)
            flow.tokens_bytes = max(0.0, flow.tokens_bytes - max(0.0, spent))
            flow.moved_s = now_s
        flow.sent_bytes = sent_bytes  # a closed connection takes its count along
        return shape.burst_bytes_per_s if flow.tokens_bytes > 0 else shape.sustained_bytes_per_s

    @staticmethod
    def _pace(connection: socket.socket, rate: int) -> None:
        with contextlib.suppress(OSError):
            value = struct.pack("=I", min(rate, _UNPACED)) if rate >= _UNPACED else struct.pack("=Q", rate)
            connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, value)


def _filter_all(connection: socket.socket, is_on: bool) -> None:
    with contextlib.suppress(OSError):
        if not is_on:
            connection.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
            return
        program = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # BPF_RET | BPF_K, 0
        header = struct.pack("HL", 1, ctypes.addressof(program))
        connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, header)


def _bytes_acked(connection: socket.socket) -> int:
    with contextlib.suppress(OSError, struct.error):
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_ACKED_AT + 8)
        return int(struct.unpack_from("=Q", info, _BYTES_ACKED_AT)[0])
    return 0


def _sockets(instance: Instance) -> Iterator[socket.socket]:
    """The instance's connected TCP sockets, as duplicates that are closed after use."""
    pidfd = _libc.syscall(_SYS_PIDFD_OPEN, instance.pid, 0)
    if pidfd < 0:
        return
    try:
        for number in _socket_numbers(instance.pid):
            duplicate = _libc.syscall(_SYS_PIDFD_GETFD, pidfd, number, 0)
            if duplicate < 0:
                continue
            with socket.socket(fileno=duplicate) as connection:
                if _is_functions_own(connection, instance.runtime_port):
                    yield connection
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
    try:
        peer = connection.getpeername()
    except OSError:
        return False
    return connection.family == socket.AF_INET and peer[1] != runtime_port
