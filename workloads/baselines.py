"""What users would pick instead, behind one interface, so that a benchmark can take turns.

Each system is a :class:`Target`: it stores an array of bytes and gives it back as something with the buffer protocol.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["CacheTarget", "LoopbackTarget", "MemcpyTarget", "RayStoreTarget", "RedisTarget", "Target"]

ByteArray = npt.NDArray[np.uint8]
_START_S = 10.0


class Target(Protocol):
    """A system under measurement."""

    name: str

    def put(self, key: str, value: ByteArray) -> None: ...

    def get(self, key: str) -> Any: ...

    def delete(self, key: str) -> None: ...

    def close(self) -> None: ...


class CacheTarget:
    """This project's cache; values as arrays, so that neither side copies to convert."""

    name = "infiniray"

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def put(self, key: str, value: ByteArray) -> None:
        self._cache.put(key, value)

    def get(self, key: str) -> Any:
        return self._cache.get(key)

    def delete(self, key: str) -> None:
        self._cache.delete(key)

    def close(self) -> None:
        pass  # whoever started it closes it


class RedisTarget:
    """A redis-server of our own on loopback TCP, through redis-py with hiredis; nothing is written to disk."""

    name = "redis"

    @staticmethod
    def is_available() -> bool:
        """Whether there is a redis-server to run and a client to talk to it."""
        try:
            import redis  # noqa: F401
        except ImportError:
            return False
        return shutil.which("redis-server") is not None

    def __init__(self) -> None:
        import redis

        binary = shutil.which("redis-server")
        if binary is None:
            raise FileNotFoundError("no redis-server on the path")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._directory = tempfile.TemporaryDirectory(prefix="infiniray-bench-")
        self._server = subprocess.Popen(
            [
                *(binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
                *("--dir", self._directory.name, "--proto-max-bulk-len", "4gb"),
            ],
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        self._client = redis.Redis(host="127.0.0.1", port=port)
        self._wait_until_up(redis.ConnectionError)

    def _wait_until_up(self, not_yet: type[Exception]) -> None:
        deadline_s = time.monotonic() + _START_S
        while True:
            try:
                self._client.ping()
                return
            except not_yet:
                if time.monotonic() > deadline_s or self._server.poll() is not None:
                    self.close()
                    raise TimeoutError(f"redis-server did not answer within {_START_S:g} s") from None
                time.sleep(0.02)

    def put(self, key: str, value: ByteArray) -> None:
        self._client.set(key, value.data)

    def get(self, key: str) -> Any:
        return self._client.get(key)

    def delete(self, key: str) -> None:
        self._client.delete(key)

    def close(self) -> None:
        self._client.close()
        self._server.terminate()
        try:
            self._server.wait(5)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait(5)
        self._directory.cleanup()


class RayStoreTarget:
    """Ray's own object store. Its values die with their owner; a get is a mapping, not a transfer."""

    name = "ray store"

    def __init__(self) -> None:
        import ray

        self._ray = ray
        self._refs: dict[str, Any] = {}

    def put(self, key: str, value: ByteArray) -> None:
        self._refs[key] = self._ray.put(value)

    def get(self, key: str) -> Any:
        return self._ray.get(self._refs[key], timeout=30)

    def delete(self, key: str) -> None:
        self._refs.pop(key, None)

    def close(self) -> None:
        self._refs.clear()


class LoopbackTarget:
    """One TCP stream over loopback between two threads: what a socket alone can do here."""

    name = "loopback"

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._ours = socket.create_connection(server.getsockname())
            self._theirs, _ = server.accept()
        for end in (self._ours, self._theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            end.settimeout(_START_S)
        self._values: dict[str, ByteArray] = {}
        self._landing = np.empty(0, np.uint8)

    def put(self, key: str, value: ByteArray) -> None:
        if len(self._landing) != len(value):
            self._landing = np.zeros(len(value), np.uint8)
        self._values[key] = self._landing
        self._transfer(value, self._landing)

    def get(self, key: str) -> Any:
        landing = self._values[key]
        self._transfer(landing, landing)
        return landing

    def _transfer(self, source: ByteArray, target: ByteArray) -> None:
        sender = threading.Thread(target=self._ours.sendall, args=(source.data,))
        sender.start()
        view, filled = target.data, 0
        while filled < len(view):
            filled += self._theirs.recv_into(view[filled:])
        sender.join(_START_S)

    def delete(self, key: str) -> None:
        self._values.pop(key, None)

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()


class MemcpyTarget:
    """One copy in memory, into pages that are there already."""

    name = "memcpy"

    def __init__(self) -> None:
        self._values: dict[str, ByteArray] = {}
        self._landing = np.empty(0, np.uint8)

    def put(self, key: str, value: ByteArray) -> None:
        if len(self._landing) != len(value):
            self._landing = np.zeros(len(value), np.uint8)
        np.copyto(self._landing, value)
        self._values[key] = self._landing

    def get(self, key: str) -> Any:
        return self._values[key]

    def delete(self, key: str) -> None:
        self._values.pop(key, None)

    def close(self) -> None:
        self._values.clear()


#: Makers of the systems that need nothing but this machine, in the order of the table.
FLOORS: tuple[Callable[[], Target], ...] = (LoopbackTarget, MemcpyTarget)
