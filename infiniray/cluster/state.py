"""What a cache that was brought ``up`` leaves on disk: other processes find it, and ``down`` clears it.

One JSON file per cache in the user's state directory, or in ``INFINIRAY_STATE_DIR``. Files hold no secrets,
but are private all the same, since they name processes that ``down`` will end.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs
import psutil

from infiniray.errors import CacheUnavailable

__all__ = ["CacheRecord", "ProcessMark", "StateDirectory"]

_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMark:
    """One process, told apart from a later one of the same number by when it started (Unix time)."""

    pid: int
    started_s: float

    @classmethod
    def of(cls, pid: int | None = None) -> ProcessMark:
        """The mark of a running process, by default this one.

        Raises:
            ProcessLookupError: there is none of this number.
        """
        pid = os.getpid() if pid is None else pid
        try:
            return cls(pid=pid, started_s=psutil.Process(pid).create_time())
        except psutil.NoSuchProcess:
            raise ProcessLookupError(f"no process {pid}") from None

    def process(self) -> psutil.Process | None:
        """The process if it still runs (a zombie does not)."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.started_s) > 1.0 or process.status() == psutil.STATUS_ZOMBIE:
                return None
        except psutil.NoSuchProcess:
            return None
        return process

    def is_alive(self) -> bool:
        return self.process() is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRecord:
    """A running cache: where it is, and which processes were started for it. ``created_s`` is Unix time."""

    name: str
    ray_address: str
    created_s: float
    #: None: the cache lives on a Ray that was there before
    ray_head: ProcessMark | None = None
    #: that Ray wants to see the user's token (https://docs.ray.io/en/latest/ray-security/token-auth.html)
    has_token_auth: bool = False
    #: None: AWS
    platform_endpoint: str | None = None
    platform: ProcessMark | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CacheRecord:
        """Raises: ValueError: not a record."""
        try:
            fields: dict[str, Any] = json.loads(text)
            for name in ("ray_head", "platform"):
                fields[name] = ProcessMark(**fields[name]) if fields.get(name) else None
            return cls(**fields)
        except (TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"not a record of a cache: {error}") from None


class StateDirectory:
    """I keep the records of running caches: one file each, replaced atomically."""

    def __init__(self, root: str | Path | None = None) -> None:
        chosen = root or os.environ.get("INFINIRAY_STATE_DIR")
        self.root = Path(chosen or platformdirs.user_state_dir("infiniray"))

    def read(self, name: str) -> CacheRecord | None:
        """The record of a cache; None if there is none, or none that can be read."""
        try:
            return CacheRecord.from_json(self._path(name).read_text())
        except (OSError, ValueError):
            return None

    def records(self) -> list[CacheRecord]:
        """Of all caches, by name."""
        found = (self.read(path.stem) for path in sorted(self.root.glob("*.json")))
        return [record for record in found if record is not None]

    def write(self, record: CacheRecord) -> None:
        """Write or replace the record of a cache."""
        self._make_root()
        descriptor, temporary = tempfile.mkstemp(dir=self.root, prefix=f".{record.name}.")  # mode 0600
        try:
            with open(descriptor, "w") as file:
                file.write(record.to_json())
            os.replace(temporary, self._path(record.name))
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def remove(self, name: str) -> None:
        self._path(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self, name: str, timeout_s: float = 60.0) -> Iterator[None]:
        """Held while a cache is brought up or taken down, so that two of these do not race.

        The lock ends with the process that holds it; its file stays.

        Raises:
            CacheUnavailable: another process holds it for longer than ``timeout_s``.
        """
        self._make_root()
        descriptor = os.open(self.root / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _acquire(descriptor, name, timeout_s)
            yield
        finally:
            os.close(descriptor)

    def _make_root(self) -> None:
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _path(self, name: str) -> Path:
        return self.root / f"{name}.json"


def _acquire(descriptor: int, name: str, timeout_s: float) -> None:
    give_up_s = time.monotonic() + timeout_s
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up_s:
                detail = f"another process has been bringing cache {name!r} up or down for {timeout_s:g} s"
                raise CacheUnavailable(detail=detail) from None
        time.sleep(_POLL_S)
