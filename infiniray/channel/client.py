"""A client process's connections to one shard: as many as there are requests at once, and memory that both map."""

from __future__ import annotations

import os
import socket
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from infiniray.channel.frames import PROTOCOL
from infiniray.channel.line import ChannelBusy, ChannelLost, ChannelUnreachable, Line, Outcome, Write
from infiniray.channel.mapped import Leases, Mappings
from infiniray.channel.server import Endpoint
from infiniray.channel.waiting import WRITABLE, Exchange
from infiniray.errors import FrameError

__all__ = ["Channel"]

T = TypeVar("T")

#: More requests at once go another way.
_MAX_LINES = 64
#: Kept open while nobody uses them.
_MAX_IDLE = 16


class Channel:
    """I connect this process to one incarnation of one shard: lazily, from any thread and any event loop.

    What a process forks off does not use its parent's connections; it makes its own. Views that both have after a
    fork stay valid in both, since the shard is never told that they are over.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        #: whether somebody has ever answered there
        self.was_reached = False
        self._lines: set[Line] = set()
        self._idle: deque[Line] = deque()
        self._leases: Leases | None = None
        self._mappings = Mappings()
        self._is_remote = False
        self._is_closed = False
        self._held = _Held()
        weakref.finalize(self, _hang_up, self._lines, self._held)
        _channels.add(self)

    def close(self) -> None:
        """Hang up. Values that are in use stay valid, and requests that are under way go on."""
        self._is_closed = True
        leases, self._leases, self._held.leases = self._leases, None, None
        self._mappings = Mappings()
        if leases is not None:
            leases.close()
        with suppress(IndexError):
            while True:
                line = self._idle.pop()
                line.say_goodbye()
                self._drop(line)

    def get(self, epoch: int, timeout_s: float, keys: Sequence[str]) -> Exchange[list[Outcome]]:
        """What is under each of ``keys``: at most ``endpoint.max_keys``."""
        return self._on_line(lambda line: line.get(epoch, timeout_s, keys))

    def put(self, epoch: int, timeout_s: float, writes: Sequence[Write]) -> Exchange[list[Outcome]]:
        """Store values, in one frame: of at most ``endpoint.max_body_bytes`` together."""
        return self._on_line(lambda line: line.put(epoch, timeout_s, writes))

    def put_shared(self, epoch: int, left_s: Callable[[], float], write: Write) -> Exchange[list[Outcome] | None]:
        """Store a large value; None: the shard has no memory to spare for it."""
        return self._on_line(lambda line: line.put_shared(epoch, left_s, write))

    def ask(self, epoch: int, timeout_s: float, method: str, key: str, details: dict[str, Any]) -> Exchange[Any]:
        return self._on_line(lambda line: line.ask(epoch, timeout_s, method, key, details))

    @property
    def has_shared_memory(self) -> bool:
        return not self._is_remote

    # ------------------------------------------------------------ lines

    def _on_line(self, talk: Callable[[Line], Exchange[T]]) -> Exchange[T]:
        """
        Raises:
            ChannelUnreachable: nothing was asked.
            ChannelLost: the shard is gone.
        """
        line = yield from self._free_line()
        try:
            result = yield from talk(line)
        except BaseException as error:  # given up in the middle, too: answers may still come
            self._drop(line)
            if isinstance(error, (FrameError, TypeError, IndexError)):
                raise ChannelLost(f"garbage: {error}", may_have_run=True) from None
            raise
        if self._is_closed or line.leases is not self._leases or len(self._idle) >= _MAX_IDLE:
            line.say_goodbye()
            self._drop(line)
        else:
            self._idle.append(line)
        return result

    def _free_line(self) -> Exchange[Line]:
        if self._leases is not None:
            self._leases.say()
            if self._leases.is_over:  # the shard did not like what it heard, or is gone
                self._leases = self._held.leases = None
        while self._idle:
            try:
                line = self._idle.pop()
            except IndexError:  # another thread was faster
                break
            if line.is_quiet():
                return line
            self._drop(line)
        if self._is_closed:
            raise ChannelUnreachable("it is closed")
        if len(self._lines) >= _MAX_LINES:
            raise ChannelBusy("too many requests at once")
        if self._leases is None and not self._is_remote:
            yield from self._open_leases()
        leases = self._leases
        line = yield from self._connected("requests", "" if leases is None else leases.name)
        line.leases = leases
        return line

    def _open_leases(self) -> Exchange[None]:
        line = yield from self._connected("leases", "")
        if self._is_remote:  # there is no such socket on this machine, but an address
            self._drop(line)
            return
        self._lines.discard(line)
        leases = Leases(line.detach(), line.tenancy, weakref.ref(self))
        if self._leases is None and not self._is_closed:
            self._leases = self._held.leases = leases
        else:  # another thread was faster
            leases.close()

    def _connected(self, role: str, tenancy: str) -> Exchange[Line]:
        if self.endpoint.protocol != PROTOCOL:
            raise ChannelUnreachable("it speaks another protocol")
        connection = None if self._is_remote else _dial_local(self.endpoint.name)
        if connection is None:
            self._is_remote = True
            role, tenancy = "requests", ""
            connection = yield from _dial(self.endpoint.address)
        line = Line(connection, self._mappings, is_local=not self._is_remote)
        self._lines.add(line)
        try:
            line.tenancy = yield from line.greet(self.endpoint.secret, role, tenancy)
        except (ChannelLost, FrameError) as error:
            self._drop(line)
            raise ChannelUnreachable(str(error)) from None
        except BaseException:
            self._drop(line)
            raise
        self.was_reached = True
        return line

    def _drop(self, line: Line) -> None:
        self._lines.discard(line)
        line.close()

    # ------------------------------------------------------------ forks

    def before_fork(self) -> None:
        """What is viewed now may be viewed by two processes: neither says when it has ended."""
        if self._leases is not None and self._leases.live:
            self._leases.close()
            self._leases = self._held.leases = None
            self._mappings = Mappings()

    def after_fork(self) -> None:
        """In the child: these connections are the parent's."""
        _close_all(self._lines, self._held)
        self._idle = deque()
        self._leases = None
        self._mappings = Mappings()


class _Held:
    """What is to be closed with the channel, beside its lines."""

    def __init__(self) -> None:
        self.leases: Leases | None = None


def _hang_up(lines: set[Line], held: _Held) -> None:
    """Nobody uses them any more."""
    for line in lines:
        line.say_goodbye()
    _close_all(lines, held)


def _close_all(lines: set[Line], held: _Held) -> None:
    while lines:
        lines.pop().close()
    if held.leases is not None:
        held.leases.close()
        held.leases = None


def _dial_local(name: str) -> socket.socket | None:
    """Connected to the socket of this name; None: this machine has none."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.connect(f"\0{name}")
    except OSError:
        connection.close()
        return None
    return connection


def _dial(address: tuple[str, int] | None) -> Exchange[socket.socket]:
    if address is None:
        raise ChannelUnreachable("it is not on this machine, and listens for no other")
    connection = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_STREAM)
    connection.setblocking(False)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            connection.connect(address)
        except BlockingIOError:
            yield connection.fileno(), WRITABLE
        number = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise OSError(number, os.strerror(number))
    except OSError as error:
        connection.close()
        raise ChannelUnreachable(str(error)) from None
    except BaseException:
        connection.close()
        raise
    return connection


_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


def _before_fork() -> None:
    for channel in list(_channels):
        channel.before_fork()


def _after_fork() -> None:
    for channel in list(_channels):
        channel.after_fork()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork)
