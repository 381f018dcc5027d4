"""The command line against a real cache: up, used from several processes, down, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from shell import COMMAND, Shell

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]
SMALL = ["--nodes", "8", "--shards", "1", "--scheme", "rs:4+2", "--memory-mb", "256"]


@pytest.fixture
def infiniray(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path / "state")
    try:
        yield shell
    finally:
        shell("down")


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=15)
    return not [p for p in alive if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


def test_a_cache_stays_for_other_processes_and_down_leaves_nothing(infiniray: Shell, tmp_path: Path) -> None:
    source, copy = tmp_path / "source.bin", tmp_path / "copy.bin"
    source.write_bytes(os.urandom(3_000_001))
    assert json.loads(infiniray("up", *SMALL, "--json"))["running_before"] is False
    assert json.loads(infiniray("up", *SMALL, "--json"))["running_before"] is True
    processes = infiniray.processes()
    assert len(processes) > 8

    infiniray("put", str(source), "layers/1", "--ttl", "2h")
    infiniray("get", "layers/1", str(copy))
    assert copy.read_bytes() == source.read_bytes()
    assert infiniray.python("import infiniray; print(len(infiniray.connect()['layers/1']))").strip() == "3000001"

    infiniray("put", "-", "from/stdin", stdin=b"")
    assert infiniray("get", "from/stdin", "-") == ""
    listed = json.loads(infiniray("ls", "--json"))
    assert [(row["key"], row["bytes"]) for row in listed] == [("from/stdin", 0), ("layers/1", 3_000_001)]
    assert 7000 < listed[1]["ttl_s"] <= 7200

    status = json.loads(infiniray("status", "--json"))
    assert (status["ok"], status["objects"], status["nodes"]) == (True, 2, 8)
    assert json.loads(infiniray("stats", "--json"))["puts"] == 2

    infiniray("get", "nope", str(tmp_path / "nothing"), code=1)
    assert not (tmp_path / "nothing").exists()
    infiniray("rm", "layers/1", "nope", code=1)
    infiniray("put", str(source), "", code=2)

    assert json.loads(infiniray("down", "--json"))["was_running"] is True
    assert gone(processes)
    assert not list(infiniray.state.glob("*.json"))
    assert json.loads(infiniray("down", "--json"))["was_running"] is False
    infiniray("status", code=1)


def test_an_interrupted_up_is_cleared_by_down(infiniray: Shell) -> None:
    coming = subprocess.Popen([*COMMAND, "up", *SMALL], env=infiniray.environ, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 60
    while not list(infiniray.state.glob("*.json")) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    coming.send_signal(signal.SIGKILL)
    coming.wait(10)
    processes = infiniray.processes()
    assert processes
    infiniray("down")
    assert gone(processes)


def test_doctor_clears_what_a_crash_left(infiniray: Shell) -> None:
    infiniray("up", *SMALL)
    processes = infiniray.processes()
    record = json.loads((infiniray.state / "default.json").read_text())
    psutil.Process(record["platform"]["pid"]).kill()
    found = json.loads(infiniray("doctor", "--json"))["findings"]
    assert [f["level"] for f in found if f["check"] == "leftovers"] == ["warn"]
    assert json.loads(infiniray("doctor", "--fix", "--json"))["cleared"] == ["default"]
    assert gone(processes)
    found = json.loads(infiniray("doctor", "--json"))["findings"]
    assert [f["level"] for f in found if f["check"] == "leftovers"] == ["ok"]


def test_the_demo_ends_with_one_line_of_json_and_right_bytes(infiniray: Shell) -> None:
    report = json.loads(infiniray("demo", "--json", "--max-seconds", "8").splitlines()[-1])
    assert report["wrong_bytes"] == 0
    assert report["hits"] > 0
    assert report["gets"] == report["hits"] + report["misses"] + report["resets"]
    assert 0 < report["bill_usd"] < 0.05
    assert {"p50_s", "p99_s", "resets"} <= report.keys()
