"""The command line, as a user's shell runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

__all__ = ["COMMAND", "Shell"]

COMMAND = [sys.executable, "-m", "infiniray.cli.main"]


class Shell:
    """Runs the command with a state directory of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        # what an earlier Ray in this process left in the environment is not a new user's
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "INFINIRAY_"))}
        self.environ = {**inherited, "INFINIRAY_STATE_DIR": str(state)}

    def __call__(self, *arguments: str, code: int = 0, stdin: bytes = b"") -> str:
        """What it prints."""
        return self._run(arguments, code, stdin).stdout.decode()

    def complaint(self, *arguments: str, code: int = 1) -> str:
        """What it says when it fails."""
        return self._run(arguments, code, b"").stderr.decode()

    def _run(self, arguments: Sequence[str], code: int, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [*COMMAND, *arguments], env=self.environ, input=stdin, capture_output=True, timeout=120, check=False
        )
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def python(self, code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code], env=self.environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def processes(self) -> list[psutil.Process]:
        """Those of the cache that is on record, with all their descendants."""
        records = [json.loads(path.read_text()) for path in self.state.glob("*.json")]
        pids = [r[which]["pid"] for r in records for which in ("ray_head", "platform") if r[which]]
        roots = [psutil.Process(pid) for pid in pids]
        return roots + [child for root in roots for child in root.children(recursive=True)]
