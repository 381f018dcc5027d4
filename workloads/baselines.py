"""What users would pick instead, behind one interface, so that a benchmark can take turns.

Each system is a :class:`Target`: it stores an array of bytes and gives it back as something with the buffer protocol.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from workloads.replay.targets import ray_store as replayed_ray
from workloads.replay.targets import redis as replayed
from workloads.replay.targets.infiniray import InfiniRayTarget

__all__ = ["CacheTarget", "LoopbackTarget", "MemcpyTarget", "RayStoreTarget", "RedisTarget", "Target"]

ByteArray = npt.NDArray[np.uint8]
_ANSWER_S = 10.0


class Target(Protocol):
    """A system under measurement."""

    name: str

    def put(self, key: str, value: ByteArray) -> None: ...

    def get(self, key: str) -> Any: ...

    def delete(self, key: str) -> None: ...

    def close(self) -> None: ...


class CacheTarget(InfiniRayTarget):
    """This project's cache."""

    name = "infiniray"


class RedisTarget(replayed.RedisTarget):
    """A redis-server of our own."""

    name = "redis"

    @staticmethod
    def is_available() -> bool:
        """Whether there is a redis-server to run and a client to talk to it."""
        return replayed.redis_is_available()

    def __init__(self) -> None:
        self._server = replayed.RedisServer()
        super().__init__(self._server.url)

    def close(self) -> None:
        super().close()
        self._server.close()


class RayStoreTarget(replayed_ray.RayStoreTarget):
    """Ray's own object store. Its values die with their owner; a get is a mapping, not a transfer."""

    name = "ray store"


class LoopbackTarget:
    """One TCP stream over loopback between two threads: what a socket alone can do here."""

    name = "loopback"

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._ours = socket.create_connection(server.getsockname())
            self._theirs, _ = server.accept()
        for end in (self._ours, self._theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
            end.settimeout(_ANSWER_S)
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
        sender.join(_ANSWER_S)

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
