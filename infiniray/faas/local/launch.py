"""Starting the platform as a process, and ending it."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from infiniray.errors import PlatformError
from infiniray.faas.local.admin import PlatformAdmin
from infiniray.faas.local.settings import LocalPlatformSettings

__all__ = ["LocalPlatform"]

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0


class LocalPlatform:
    """A handle to a platform process that this process started.

    Attributes:
        endpoint: URL for boto3's ``endpoint_url``.
        admin: its admin interface.
        pid: of the process.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], endpoint: str, owner_end: int | None, scratch: Path | None
    ) -> None:
        self.endpoint = endpoint
        self.admin = PlatformAdmin(endpoint)
        self.pid = process.pid
        self._process = process
        self._owner_end = owner_end  # while this end is open, the platform has an owner
        self._scratch = scratch

    @classmethod
    def start(
        cls, settings: LocalPlatformSettings | None = None, *, directory: str | Path | None = None, owned: bool = True
    ) -> LocalPlatform:
        """Start a platform and wait until it serves.

        Args:
            directory: for functions' code, the bill and the log; by default a temporary one that goes with the
            platform.
            owned: end it with this process, however that ends; else it runs until it is shut down, in a session of
            its own.

        Raises:
            PlatformError: it did not come up; the message has the end of its log.
        """
        scratch = Path(tempfile.mkdtemp(prefix="infiniray-platform-")) if directory is None else None
        root = Path(directory) if directory is not None else scratch
        assert root is not None
        root.mkdir(parents=True, exist_ok=True)
        ready_read, ready_write = os.pipe()
        owner_read, owner_write = os.pipe() if owned else (None, None)
        command = [sys.executable, "-m", "infiniray.faas.local", str(root)]
        command += ["--settings", (settings or LocalPlatformSettings()).model_dump_json()]
        command += ["--ready-fd", str(ready_write)]
        if scratch is not None:
            command.append("--scratch")
        inherited = [ready_write]
        if owner_read is not None:
            command += ["--owner-fd", str(owner_read)]
            inherited.append(owner_read)
        try:
            with (root / "platform.log").open("ab") as log:
                process = subprocess.Popen(
                    command,
                    pass_fds=inherited,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        finally:
            for end in inherited:
                os.close(end)
        try:
            endpoint = _await_endpoint(ready_read, process, root / "platform.log")
        except BaseException:
            process.kill()
            process.wait(_STOP_TIMEOUT_S)
            _clean(owner_write, scratch)
            raise
        finally:
            os.close(ready_read)
        return cls(process, endpoint, owner_write, scratch)

    def stop(self) -> None:
        """End the platform and every instance, and wait for it; doing it again does nothing."""
        if self._process.poll() is None:
            with contextlib.suppress(PlatformError):
                self.admin.shutdown()
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(_STOP_TIMEOUT_S)
        owner_end, self._owner_end = self._owner_end, None
        _clean(owner_end, self._scratch)

    def __enter__(self) -> LocalPlatform:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _await_endpoint(ready: int, process: subprocess.Popen[bytes], log: Path) -> str:
    """What the platform writes when it serves."""
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    text = b""
    while not text.endswith(b"\n"):
        left_s = deadline_s - time.monotonic()
        readable, _, _ = select.select([ready], [], [], max(0.0, left_s))
        data = os.read(ready, 4096) if readable else b""
        if not data:
            tail = log.read_text(errors="replace")[-2000:]
            detail = (
                f"it did not come up within {_START_TIMEOUT_S:g} s; exit code {process.poll()}; its log ends: {tail}"
            )
            raise PlatformError(operation="start", function="(platform)", detail=detail)
        text += data
    return text.decode().strip()


def _clean(owner_end: int | None, scratch: Path | None) -> None:
    if owner_end is not None:
        os.close(owner_end)
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)
