"""What users would pick instead, behind one interface, so that a benchmark can take turns.

Each system is a :class:`Target`: it stores an array of bytes and gives it back as something with the buffer protocol.
Any number of threads may call it, each with keys of its own.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from workloads.bench.passing import connected_pair, receive
from workloads.errors import TargetFailed
from workloads.replay.targets import ray_store as replayed_ray
from workloads.replay.targets import redis as replayed
from workloads.replay.targets.infiniray import InfiniRayTarget

__all__ = ["ByteArray", "CacheTarget", "LoopbackTarget", "ManyTarget", "MemcpyTarget", "RayStoreTarget", "RedisTarget",
           "Target"]  # fmt: skip

ByteArray = npt.NDArray[np.uint8]
_ANSWER_S = 10.0


class Target(Protocol):
    """A system under measurement."""

    name: str

    def put(self, key: str, value: ByteArray) -> None: ...

    def get(self, key: str) -> Any: ...

    def delete(self, key: str) -> None: ...

    def close(self) -> None: ...


class ManyTarget(Target, Protocol):
    """A system that takes several keys in one call."""

    def put_many(self, values: Mapping[str, ByteArray]) -> None: ...

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]: ...


class CacheTarget(InfiniRayTarget):
    """This project's cache."""

    name = "infiniray"

    def put_many(self, values: Mapping[str, ByteArray]) -> None:
        self._cache.put_many(values)

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        return self._cache.get_many(keys)


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

    def put_many(self, values: Mapping[str, ByteArray]) -> None:
        """One pipeline, no transaction."""
        pipeline = self._client.pipeline(transaction=False)
        for key, value in values.items():
            pipeline.set(key, value.data)
        self._execute(pipeline)

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """One pipeline, no transaction."""
        pipeline = self._client.pipeline(transaction=False)
        for key in keys:
            pipeline.get(key)
        return dict(zip(keys, self._execute(pipeline), strict=True))

    def _execute(self, pipeline: Any) -> list[Any]:
        try:
            answers: list[Any] = pipeline.execute()
        except self._error as error:
            raise self._failed(error) from None
        return answers

    def close(self) -> None:
        super().close()
        self._server.close()


class RayStoreTarget(replayed_ray.RayStoreTarget):
    """Ray's own object store. Its values die with their owner; a get is a mapping, not a transfer."""

    name = "ray store"


class LoopbackTarget:
    """One TCP connection over loopback for each calling thread, a thread at the other end: what a socket can do here.

    A put is the value one way and one byte back; a get is one byte one way and the value back. Both land in pages that
    are there already, once a key has been stored and read.
    """

    name = "loopback"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._peers: dict[int, _Peer] = {}  # by calling thread
        self._stored: dict[str, ByteArray] = {}
        self._landed: dict[str, ByteArray] = {}

    def put(self, key: str, value: ByteArray) -> None:
        self._peer().put(key, value)

    def get(self, key: str) -> Any:
        n_bytes = len(self._stored[key])
        landing = self._landed.get(key)
        if landing is None or len(landing) != n_bytes:
            landing = self._landed[key] = np.zeros(n_bytes, np.uint8)
        self._peer().get(key, landing)
        return landing

    def _peer(self) -> _Peer:
        caller = threading.get_ident()
        with self._lock:
            if caller not in self._peers:
                self._peers[caller] = _Peer(self._stored)
            return self._peers[caller]

    def delete(self, key: str) -> None:
        self._stored.pop(key, None)
        self._landed.pop(key, None)

    def close(self) -> None:
        for peer in self._peers.values():
            peer.close()


class _Peer:
    """A connection, and a thread that stores what comes and sends what is asked for.

    What is asked for is left in ``_order``, so that nothing has to be parsed; bytes wake the thread.
    """

    def __init__(self, stored: dict[str, ByteArray]) -> None:
        self._ours, self._theirs = connected_pair()
        for end in (self._ours, self._theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self._ours.settimeout(_ANSWER_S)
        self._stored = stored
        self._order: tuple[str, str] = ("", "")
        self._thread = threading.Thread(target=self._serve, name="loopback", daemon=True)
        self._thread.start()

    def put(self, key: str, value: ByteArray) -> None:
        if key not in self._stored or len(self._stored[key]) != len(value):
            self._stored[key] = np.zeros(len(value), np.uint8)
        self._order = ("put", key)
        self._ours.sendall(value.data)
        self._expect(np.empty(1, np.uint8))

    def get(self, key: str, landing: ByteArray) -> None:
        self._order = ("get", key)
        self._ours.sendall(b"?")
        self._expect(landing)

    def _expect(self, landing: ByteArray) -> None:
        if not receive(self._ours, landing.data):
            raise TargetFailed(system=LoopbackTarget.name, detail="the other end has gone")

    def _serve(self) -> None:
        first = bytearray(1)
        while receive(self._theirs, memoryview(first)):
            op, key = self._order
            stored = self._stored[key]
            if op == "get":
                self._theirs.sendall(stored.data)
                continue
            stored[0] = first[0]
            if not receive(self._theirs, stored.data[1:]):
                return
            self._theirs.sendall(b".")

    def close(self) -> None:
        self._ours.close()
        self._thread.join(_ANSWER_S)
        self._theirs.close()


class MemcpyTarget:
    """One copy in memory each way, into pages that are there already once a key has been stored and read."""

    name = "memcpy"

    def __init__(self) -> None:
        self._stored: dict[str, ByteArray] = {}
        self._landed: dict[str, ByteArray] = {}

    def put(self, key: str, value: ByteArray) -> None:
        _copy(value, self._stored, key)

    def get(self, key: str) -> Any:
        return _copy(self._stored[key], self._landed, key)

    def delete(self, key: str) -> None:
        self._stored.pop(key, None)
        self._landed.pop(key, None)

    def close(self) -> None:
        self._stored.clear()
        self._landed.clear()


def _copy(source: ByteArray, into: dict[str, ByteArray], key: str) -> ByteArray:
    landing = into.get(key)
    if landing is None or len(landing) != len(source):
        landing = into[key] = np.zeros(len(source), np.uint8)
    np.copyto(landing, source)
    return landing
