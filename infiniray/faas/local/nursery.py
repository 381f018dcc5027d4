"""The platform's side of the zygote: asks for instances, hears of their ends."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["Nursery"]

_MESSAGE_BYTES = 1 << 16
_SPAWN_TIMEOUT_S = 10.0


class Nursery:
    """I own the zygote process. When I close, it and every instance end."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket, on_end: Callable[[], None]) -> None:
        self._process = process
        self._channel = channel
        self._on_end = on_end
        self._tokens = itertools.count(1)
        self._awaited: dict[int, asyncio.Future[int]] = {}
        self._on_exit: dict[int, Callable[[int], None]] = {}
        self._early_exits: dict[int, int] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(channel, self._read)

    @classmethod
    def start(cls, on_end: Callable[[], None]) -> Nursery:
        """Start a zygote; ``on_end`` is told if it ends though nobody closed it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "infiniray.faas.local.zygote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        ours.setblocking(False)
        return cls(process, ours, on_end)

    async def spawn(
        self, environ: dict[str, str], root: str, data_limit_bytes: int, output: int, on_exit: Callable[[int], None]
    ) -> int:
        """Fork an instance: its pid. ``on_exit`` is told its exit code, negative for a signal.

        Raises:
            asyncio.TimeoutError: the zygote does not answer.
            OSError: it is gone.
        """
        token = next(self._tokens)
        order = {"token": token, "environ": environ, "root": root, "data_limit_bytes": data_limit_bytes}
        self._awaited[token] = self._loop.create_future()
        try:
            await self._send(json.dumps(order).encode(), output)
            pid = await asyncio.wait_for(self._awaited[token], _SPAWN_TIMEOUT_S)
        finally:
            del self._awaited[token]
        if pid in self._early_exits:
            self._loop.call_soon(on_exit, self._early_exits.pop(pid))
        else:
            self._on_exit[pid] = on_exit
        return pid

    async def _send(self, message: bytes, descriptor: int) -> None:
        while True:
            try:
                socket.send_fds(self._channel, [message], [descriptor])
                return
            except BlockingIOError:
                await asyncio.sleep(0.001)

    def _read(self) -> None:
        while True:
            try:
                message = self._channel.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:
                self._end()
                return
            self._note(json.loads(message))

    def _note(self, news: dict[str, Any]) -> None:
        if "exited" in news:
            on_exit = self._on_exit.pop(news["exited"], None)
            if on_exit is not None:
                on_exit(news["status"])
            else:
                self._early_exits[news["exited"]] = news["status"]
            return
        future = self._awaited.get(news["token"])
        if future is not None and not future.done():
            future.set_result(news["pid"])
        else:  # too late: nobody would ever end it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(news["pid"], signal.SIGKILL)

    def _end(self) -> None:
        """The zygote is gone, and by the kernel's hand its instances with it."""
        self._loop.remove_reader(self._channel)
        for future in self._awaited.values():
            if not future.done():
                future.set_exception(ConnectionError("the zygote has ended"))
        for on_exit in self._on_exit.values():
            on_exit(-signal.SIGKILL)
        self._on_exit.clear()
        self._on_end()

    async def close(self) -> None:
        """End the zygote, which ends its instances; kill it if it does not end by itself."""
        self._loop.remove_reader(self._channel)
        self._channel.close()
        try:
            await asyncio.to_thread(self._process.wait, 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait, 5)
