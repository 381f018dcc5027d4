"""The platform as a process: whatever ends it or its owner, nothing is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from platform_harness import Gate, Lambda, children_of, is_alive, stock_client, wait_until

from infiniray.errors import PlatformError
from infiniray.faas.local.admin import PlatformAdmin
from infiniray.faas.local.launch import LocalPlatform
from infiniray.faas.local.settings import LocalPlatformSettings


def populated(functions: Lambda, gate: Gate) -> list[int]:
    """One frozen and one busy instance; the pids of the platform, its zygote and them."""
    functions.call(functions.deploy("count"))
    name = functions.deploy("held")
    functions.background(lambda: functions.boto.invoke(FunctionName=name, Payload=json.dumps(gate.event)))
    gate.wait()
    pids = [functions.platform.pid, *children_of(functions.platform.pid)]
    pids += [row["pid"] for row in functions.admin.instances()]
    assert len(set(pids)) == 4
    assert all(is_alive(pid) for pid in pids)
    return pids


def assert_gone(pids: list[int]) -> None:
    for pid in pids:
        wait_until(lambda pid=pid: not is_alive(pid))


def test_stop_leaves_nothing(own_lambda: Callable[..., Lambda], gate: Gate, tmp_path: Path) -> None:
    functions = own_lambda()
    pids = populated(functions, gate)
    functions.platform.stop()
    assert not [pid for pid in pids if is_alive(pid)]
    assert (tmp_path / "platform-0" / "platform.log").read_text() == ""
    functions.platform.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_leaves_nothing(own_lambda: Callable[..., Lambda], gate: Gate, number: signal.Signals) -> None:
    functions = own_lambda()
    pids = populated(functions, gate)
    os.kill(functions.platform.pid, number)
    assert_gone(pids)


def test_without_its_zygote_the_platform_ends(own_lambda: Callable[..., Lambda], gate: Gate) -> None:
    functions = own_lambda()
    pids = populated(functions, gate)
    os.kill(pids[1], signal.SIGKILL)
    assert_gone(pids)


OWNER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from platform_harness import Lambda, children_of
from infiniray.faas.local.launch import LocalPlatform
platform = LocalPlatform.start(owned=sys.argv[2] == "owned", directory=sys.argv[3] if len(sys.argv) > 3 else None)
functions = Lambda(platform)
functions.call(functions.deploy("count"))
pids = [platform.pid, *children_of(platform.pid), functions.admin.instances()[0]["pid"]]
print(json.dumps({"endpoint": platform.endpoint, "pids": pids}), flush=True)
os.kill(os.getpid(), 9)
"""


def dead_owners_platform(*arguments: str, **environment: str) -> Any:
    """What a process that started a platform and was killed leaves behind."""
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", OWNER, here, *arguments],
        stdout=subprocess.PIPE, timeout=60, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    return json.loads(done.stdout)


def test_an_owned_platform_ends_with_its_owner(tmp_path: Path) -> None:
    left = dead_owners_platform("owned", TMPDIR=str(tmp_path))
    assert_gone(left["pids"])
    wait_until(lambda: list(tmp_path.iterdir()) == [])


def test_another_one_goes_on_until_it_is_shut_down(tmp_path: Path) -> None:
    left = dead_owners_platform("free", str(tmp_path / "kept"))
    admin = PlatformAdmin(left["endpoint"])
    try:
        assert admin.stats()["invocations"] == 1
        boto = stock_client(left["endpoint"])
        assert json.loads(boto.invoke(FunctionName="count-1")["Payload"].read())["calls"] == 2
        boto.close()
    finally:
        admin.shutdown()
    assert_gone(left["pids"])
    assert (tmp_path / "kept" / "platform.log").read_text() == ""
    assert len((tmp_path / "kept" / "bill.jsonl").read_text().splitlines()) == 2


def test_a_temporary_directory_goes_with_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with LocalPlatform.start():
        assert len(list(tmp_path.glob("infiniray-platform-*/code"))) == 0
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_platform_that_cannot_start_says_why(tmp_path: Path) -> None:
    settings = LocalPlatformSettings(reclaim_timeline=tmp_path / "nowhere.csv")
    with pytest.raises(PlatformError, match=r"nowhere\.csv"):
        LocalPlatform.start(settings, directory=tmp_path)


def test_a_port_that_is_taken(tmp_path: Path, gate: Gate) -> None:
    with pytest.raises(PlatformError, match="address already in use"):
        LocalPlatform.start(LocalPlatformSettings(port=gate.port), directory=tmp_path)


def test_no_platform_there(gate: Gate) -> None:
    endpoint = f"http://127.0.0.1:{gate.port}"
    gate.close()
    with pytest.raises(PlatformError, match="no platform answers"):
        PlatformAdmin(endpoint).stats()


def test_64_instances_at_once(own_lambda: Callable[..., Lambda]) -> None:
    functions = own_lambda()
    names = [functions.deploy("count") for _ in range(64)]
    calls = [functions.background(functions.call, name) for name in names]
    assert len({call.result(30)["pid"] for call in calls}) == 64
    assert functions.admin.stats()["instances"] == {"init": 0, "idle": 64, "busy": 0}
    assert max(row["resident_bytes"] for row in functions.admin.instances()) < 20_000_000
