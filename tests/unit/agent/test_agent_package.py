"""The agent's zip: small, always the same, and whole."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from infiniray.faas import package
from infiniray.faas.package import AGENT_HANDLER, agent_zip

MAX_RSS_BYTES = 20 << 20

_ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
import importlib
module, _, name = sys.argv[2].rpartition(".")
handle = getattr(importlib.import_module(module), name)
assert callable(handle)
import infiniray
assert getattr(infiniray, "__file__", None) is None, infiniray
foreign = sorted(
    name for name, module in sys.modules.items()
    if "site-packages" in (getattr(module, "__file__", None) or "")
)
assert not foreign, foreign
for name in ("asyncio", "logging", "dataclasses", "boto3", "ssl"):
    assert name not in sys.modules, name
with open("/proc/self/status") as file:
    print(next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS")))
"""


def test_the_same_code_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = agent_zip()
    monkeypatch.setattr(time, "time", lambda: 4e9)
    monkeypatch.setattr(time, "localtime", lambda *_: time.gmtime(4e9))
    assert agent_zip() == first


def test_it_holds_agent_and_wire_and_nothing_else() -> None:
    archive = agent_zip()
    assert len(archive) < 64 << 10
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        names = opened.namelist()
        assert opened.testzip() is None
        assert {entry.external_attr >> 16 for entry in opened.infolist() if not entry.is_dir()} == {0o100644}
    assert names == sorted(names)
    assert names.pop(0) == "infiniray/"
    assert {"lambda_agent/handler.py", "infiniray/wire/frames.py"} <= set(names)
    assert {os.path.dirname(name) for name in names} == {"lambda_agent", "infiniray/wire"}
    assert all(name.endswith(".py") for name in names)


@pytest.mark.parametrize("extracted", [False, True])
def test_it_runs_alone_and_stays_small(tmp_path: Path, extracted: bool) -> None:
    """As on AWS: standard library only, no site-packages, and ``infiniray`` a namespace."""
    path = tmp_path / "agent.zip"
    path.write_bytes(agent_zip())
    if extracted:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / "task")
        path = tmp_path / "task"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _ALONE, str(path), AGENT_HANDLER],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < MAX_RSS_BYTES


def test_the_command_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.zip"
    assert package.main([str(path)]) == 0
    assert path.read_bytes() == agent_zip()
    assert AGENT_HANDLER in capsys.readouterr().out
    assert package.main([]) == 2
