"""Redis as a target, and a redis-server of our own for machines that run none."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from infiniray.errors import InfiniRayError
from workloads.errors import TargetFailed

__all__ = ["RedisServer", "RedisSpec", "RedisTarget", "redis_is_available"]

_START_S = 10.0
_STOP_S = 5.0
_ANSWER_S = 60.0


def redis_is_available() -> bool:
    """Whether there is a redis-server to run and a client to talk to it."""
    try:
        import redis  # noqa: F401
    except ImportError:
        return False
    return shutil.which("redis-server") is not None


class RedisTarget:
    """Plain SET, GET and DEL through redis-py (with hiredis where it is installed), one connection per caller."""

    def __init__(self, url: str, *, prefix: str = "", system: str = "redis") -> None:
        """Connects. Raises TargetFailed if nobody answers."""
        import redis

        self._error = redis.RedisError
        self._prefix = prefix
        self._system = system
        self._client = redis.Redis.from_url(url, socket_timeout=_ANSWER_S)
        try:
            self._client.ping()
        except self._error as error:
            self._client.close()
            raise self._failed(error) from None

    def get(self, key: str) -> Any:
        try:
            value = self._client.get(self._prefix + key)
        except self._error as error:
            raise self._failed(error) from None
        if value is None:
            raise KeyError(key)
        return value

    def put(self, key: str, value: Any) -> None:
        try:
            self._client.set(self._prefix + key, memoryview(value))
        except self._error as error:
            raise self._failed(error) from None

    def delete(self, key: str) -> None:
        try:
            self._client.delete(self._prefix + key)
        except self._error as error:
            raise self._failed(error) from None

    def close(self) -> None:
        self._client.close()

    def _failed(self, error: Exception) -> InfiniRayError:
        return TargetFailed(system=self._system, detail=f"{type(error).__name__}: {error}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisSpec:
    """The Redis at ``url``; every key begins with ``prefix``."""

    url: str
    prefix: str = ""
    system: str = "redis"

    def open(self) -> RedisTarget:
        return RedisTarget(self.url, prefix=self.prefix, system=self.system)


class RedisServer:
    """A redis-server of our own on loopback TCP, that writes nothing to disk. Context manager.

    With ``max_bytes`` it evicts approximately the least recently used keys, as a cache does.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        """Starts it.

        Raises:
            FileNotFoundError: there is no redis-server on the path.
            TargetFailed: it does not answer.
        """
        binary = shutil.which("redis-server")
        if binary is None:
            raise FileNotFoundError("no redis-server on the path")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"redis://127.0.0.1:{port}"
        self._directory = tempfile.TemporaryDirectory(prefix="infiniray-redis-")
        evict = ("--maxmemory", str(max_bytes), "--maxmemory-policy", "allkeys-lru") if max_bytes else ()
        self._process = subprocess.Popen(
            [
                *(binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
                *("--dir", self._directory.name, "--proto-max-bulk-len", "4gb", *evict),
            ],
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
        )
        try:
            self._wait_until_up()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_until_up(self) -> None:
        deadline_s = time.monotonic() + _START_S
        while True:
            try:
                RedisTarget(self.url).close()
                return
            except TargetFailed:
                if time.monotonic() > deadline_s or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def close(self) -> None:
        """Ends it; what it held is gone."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_S)
        self._directory.cleanup()
