"""What tests leave behind on the machine: processes, sockets that listen, shared memory, temporary files.

Other sessions may run beside this one. What is this one's is told by its environment, which processes inherit, by where
it is, or by nobody's having it open any more.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

__all__ = ["Footprint", "footprint", "nothing_is_left"]

#: In the environment of this process and of all that it starts, also of those that have lost their parents.
_MARK = "TESTS_THAT_STARTED_ME"
_SHARED_MEMORY = Path("/dev/shm")
#: In the temporary directory: Ray keeps its logs, and its dashboard does not clear up behind itself.
_KEPT = ("ray", "pymp-")
#: For processes that have been told to end.
_PATIENCE_S = 60.0


class Footprint:
    """I know what was there before, and find what has come since.

    Args:
        directory: for temporary files of this process and of those that it starts; nobody else's.
    """

    def __init__(self, mark: str, directory: Path) -> None:
        self._mark = f"{_MARK}={mark}".encode()
        self._directory = directory
        self._shared_before = _names_in(_SHARED_MEMORY)
        self._listened_before = _listening()

    def left(self, patience_s: float = _PATIENCE_S) -> list[str]:
        """What should have gone by now."""
        processes = self.processes()
        psutil.wait_procs(processes, timeout=patience_s)
        return [
            *(f"process {_told(process)}" for process in self.processes()),
            *(f"socket that listens on {address}" for address in sorted(_listening() - self._listened_before)),
            *(f"shared memory {_SHARED_MEMORY / name}" for name in sorted(self._shared())),
            *(
                f"temporary {self._directory / name}"
                for name in sorted(_names_in(self._directory))
                if not name.startswith(_KEPT)
            ),
        ]

    def processes(self) -> list[psutil.Process]:
        """All that have been started since, by this one or its descendants, and that are alive."""
        return [
            process
            for process in psutil.process_iter()
            if self._marked(process) and _is_alive(process) and not _is_own_tracker(process)
        ]

    def _marked(self, process: psutil.Process) -> bool:
        with contextlib.suppress(OSError):
            return self._mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        return False

    def _shared(self) -> set[str]:
        """Segments that nobody has open."""
        new = _names_in(_SHARED_MEMORY) - self._shared_before
        return new - _in_use() if new else new


@contextlib.contextmanager
def footprint() -> Iterator[Footprint]:
    """From here on everything bears this session's mark, and temporary files have a place of their own. What is left at
    the end is ended and removed."""
    mark, directory = uuid.uuid4().hex, Path(tempfile.mkdtemp(prefix="tests-"))
    found = Footprint(mark, directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_MARK, mark)
        patch.setenv("TMPDIR", str(directory))
        patch.setattr(tempfile, "tempdir", str(directory))
        try:
            yield found
        finally:
            for process in found.processes():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def nothing_is_left() -> Iterator[None]:
    """Fails at the end if something is."""
    with footprint() as found:
        yield
        left = found.left()
        assert not left, "left behind:\n  " + "\n  ".join(left)


def _names_in(directory: Path) -> set[str]:
    return set(os.listdir(directory)) if directory.is_dir() else set()


def _is_alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def _is_own_tracker(process: psutil.Process) -> bool:
    """multiprocessing's, which this very process owns: it ends with it, and not before."""
    with contextlib.suppress(psutil.Error):
        return process.ppid() == os.getpid() and "multiprocessing.resource_tracker" in " ".join(process.cmdline())
    return False


def _told(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid}: {' '.join(process.cmdline())[:200]}"
    return str(process.pid)


def _listening() -> set[str]:
    """Addresses on which this process itself listens."""
    found = psutil.Process().net_connections("tcp")
    return {f"{c.laddr.ip}:{c.laddr.port}" for c in found if c.status == psutil.CONN_LISTEN}


def _in_use() -> set[str]:
    """Names of shared memory that some process has mapped or open."""
    used: set[str] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text(errors="replace")
            used.update(
                _name_of(line.split(maxsplit=5)[-1]) for line in maps.splitlines() if str(_SHARED_MEMORY) in line
            )
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{process.pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    target = os.readlink(link)
                    if target.startswith(str(_SHARED_MEMORY)):
                        used.add(_name_of(target))
    return used


def _name_of(path: str) -> str:
    return path.removeprefix(f"{_SHARED_MEMORY}/").split("/")[0].removesuffix(" (deleted)")
