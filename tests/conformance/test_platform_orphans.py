"""Every process has an owner: whoever is killed, and whatever its instances do, none of theirs outlives it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from platform_harness import APP, Gate, Lambda, children_of, descendants_of, is_alive, process_state, wait_until

VICTIMS = ["platform", "zygote", "both"]
#: What handlers of the running test started, in case that the platform fails to end it.
_started: list[int] = []


@pytest.fixture(autouse=True)
def _end_what_is_left() -> Iterator[None]:
    yield
    while _started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(_started.pop(), signal.SIGKILL)


def kill(functions: Lambda, victim: str) -> None:
    """SIGKILL, which nobody can prepare for."""
    platform = functions.platform.pid
    (zygote,) = children_of(platform)
    pids = {"platform": [platform], "zygote": [zygote], "both": [platform, zygote]}[victim]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def assert_gone(pids: list[int]) -> None:
    for pid in pids:
        wait_until(lambda pid=pid: not is_alive(pid))


def marked(mark: str) -> list[int]:
    """The living with ``mark`` in their environment: nobody can tell how many a platform has forked when it dies."""
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "environ").read_bytes() and is_alive(int(entry.name)):
                    pids.append(int(entry.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue  # it ended, or is somebody else's
    return pids


def start_family(functions: Lambda, gate: Gate | None) -> list[int]:
    """An instance and what its handler started, a daemon at the end; it is busy if there is a gate, else frozen."""
    name = functions.deploy("family")
    if gate is None:
        functions.call(name)
        wait_until(lambda: process_state(functions.instance(name)["pid"]) == "T")
    else:
        functions.background(lambda: functions.boto.invoke(FunctionName=name, Payload=json.dumps(gate.event)))
        gate.wait()
    instance: int = functions.instance(name)["pid"]
    family = [instance, *descendants_of(instance)]
    _started.extend(family)
    assert len(family) == 4
    return family


@pytest.mark.parametrize("is_busy", [True, False], ids=["busy", "frozen"])
@pytest.mark.parametrize("victim", ["platform", "zygote"])
def test_what_a_handler_started_goes_too(
    own_lambda: Callable[..., Lambda], gate: Gate, victim: str, is_busy: bool
) -> None:
    functions = own_lambda()
    family = start_family(functions, gate if is_busy else None)
    pids = [functions.platform.pid, *descendants_of(functions.platform.pid)]
    assert set(family) < set(pids)
    kill(functions, victim)
    assert_gone(pids)


def test_not_even_both_deaths_at_once_leave_an_instances_group(own_lambda: Callable[..., Lambda], gate: Gate) -> None:
    functions = own_lambda()
    family = start_family(functions, gate)
    group = [pid for pid in family if os.getpgid(pid) == family[0]]
    assert len(group) == 2
    kill(functions, "both")
    assert_gone(group)  # those in sessions of their own have nobody left


@pytest.mark.parametrize("victim", VICTIMS)
def test_an_instance_goes_in_the_middle_of_its_init(own_lambda: Callable[..., Lambda], gate: Gate, victim: str) -> None:
    functions = own_lambda()
    name = functions.deploy("echo", source=f"{APP}\nsubprocess.Popen(['sleep', '600'])\nheld({gate.event}, None)\n")
    functions.background(lambda: functions.boto.invoke(FunctionName=name))
    gate.wait()
    pids = [functions.platform.pid, *descendants_of(functions.platform.pid)]
    _started.extend(pids)
    assert len(pids) == 4
    kill(functions, victim)
    assert_gone(pids)


@pytest.mark.parametrize("victim", VICTIMS)
def test_instances_go_in_the_middle_of_their_making(
    own_lambda: Callable[..., Lambda], gate: Gate, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    mark = uuid.uuid4().hex
    monkeypatch.setenv("MARK", mark)
    functions = own_lambda()
    name = functions.deploy("held")
    for _ in range(16):
        functions.background(lambda: functions.boto.invoke(FunctionName=name, Payload=json.dumps(gate.event)))
    gate.wait()  # one of them is there, others are on their way
    assert len(marked(mark)) >= 3
    kill(functions, victim)
    wait_until(lambda: not marked(mark))


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_hung_instance_goes(own_lambda: Callable[..., Lambda], gate: Gate, victim: str) -> None:
    functions = own_lambda()
    name = functions.deploy("held")
    functions.background(lambda: functions.boto.invoke(FunctionName=name, Payload=json.dumps(gate.event)))
    gate.wait()
    functions.admin.hang(name)
    pid = functions.instance(name)["pid"]
    wait_until(lambda: process_state(pid) == "T")
    kill(functions, victim)
    assert_gone([pid])


def test_a_stopped_zygote_does_not_keep_instances(own_lambda: Callable[..., Lambda], gate: Gate) -> None:
    functions = own_lambda()
    start_family(functions, gate)
    pids = [functions.platform.pid, *descendants_of(functions.platform.pid)]
    os.kill(pids[1], signal.SIGSTOP)
    kill(functions, "platform")
    assert_gone(pids)


def test_a_family_goes_with_its_instance_and_nobody_elses(functions: Lambda) -> None:
    families = [start_family(functions, None) for _ in range(2)]
    functions.admin.reclaim(instance=next(r["id"] for r in functions.admin.instances() if r["pid"] == families[0][0]))
    assert_gone(families[0])
    assert all(is_alive(pid) for pid in families[1])
    functions.admin.reclaim(everything=True)
    assert_gone(families[1])
    (zygote,) = children_of(functions.platform.pid)
    wait_until(lambda: not children_of(zygote))  # nor are there zombies


def test_a_shutdown_takes_everybody(own_lambda: Callable[..., Lambda], gate: Gate) -> None:
    functions = own_lambda()
    start_family(functions, gate)
    pids = [functions.platform.pid, *descendants_of(functions.platform.pid)]
    functions.platform.stop()
    assert not [pid for pid in pids if is_alive(pid)]
