"""The check for leftovers finds some."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

import psutil
from leaks import footprint

#: Starts a process that outlives it, and says which.
_ORPHAN = """
import subprocess
sleeper = subprocess.Popen(["sh", "-c", "echo begun; sleep 60"], start_new_session=True, stdout=subprocess.PIPE)
sleeper.stdout.readline()  # it has its environment by now
print(sleeper.pid)
sleeper.returncode = 0  # no warning that it still runs
"""


def test_nothing_is_found_where_nothing_is_left(tmp_path: Path) -> None:
    with footprint() as found:
        subprocess.run([sys.executable, "-c", "pass"], check=True)
        with tempfile.TemporaryDirectory():
            pass
        assert found.left() == []


def test_processes_are_found_whoever_their_parent_is_and_ended() -> None:
    with footprint() as found:
        done = subprocess.run([sys.executable, "-c", _ORPHAN], check=True, stdout=subprocess.PIPE, text=True)
        orphan = psutil.Process(int(done.stdout))
        assert orphan.ppid() != os.getpid()
        assert any(line.startswith(f"process {orphan.pid}: sh -c ") for line in found.left(patience_s=0))
    psutil.wait_procs([orphan], timeout=10)
    assert not orphan.is_running()


def test_temporary_files_are_found_and_removed() -> None:
    with footprint() as found:
        path = tempfile.mkdtemp()
        assert f"temporary {path}" in found.left(patience_s=0)
    assert not os.path.exists(path)


def test_sockets_that_listen_are_found() -> None:
    with footprint() as found, socket.create_server(("127.0.0.1", 0)) as server:
        assert f"socket that listens on 127.0.0.1:{server.getsockname()[1]}" in found.left(patience_s=0)


def test_shared_memory_is_found_once_nobody_has_it() -> None:
    with footprint() as found:
        path = Path("/dev/shm") / f"tests-{uuid.uuid4().hex}"
        with path.open("w"):
            assert f"shared memory {path}" not in found.left(patience_s=0)
        try:
            assert f"shared memory {path}" in found.left(patience_s=0)
        finally:
            path.unlink()
