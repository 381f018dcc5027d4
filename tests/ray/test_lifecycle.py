"""A cache begins, and ends without a trace."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import psutil
import pytest

import infiniray
from infiniray import Cache, CacheUnavailable, ConfigError
from infiniray.cluster import rayapi

SMALL = {"nodes": 3, "shards": 1, "scheme": "rs:2+1", "memory_mb": 256}


def test_a_second_cache_of_the_same_name_is_refused(whole_cache: Cache) -> None:
    with pytest.raises(CacheUnavailable, match=r"'shared' already runs"):
        infiniray.start(**SMALL, name="shared")
    whole_cache["still here"] = 1
    assert whole_cache["still here"] == 1


def test_too_few_nodes_say_how_many_are_needed(local_ray: str) -> None:
    with pytest.raises(ConfigError, match="at least 12"):
        infiniray.start(nodes=8, shards=2, scheme="rs:4+2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheme": "rs:4"}, "rs:4"),
        ({"nods": 3}, "pool|nodes"),
        ({"pool": {"nods": 3}}, "nodes"),
        ({"name": "Not Good"}, "name"),
        ({"memory_mb": "lots"}, "memory_mb"),
        ({"platform": {"kind": "aws"}}, "AWS"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        infiniray.start(**arguments)  # type: ignore[arg-type]


def test_close_ends_all_that_was_started(local_ray: str) -> None:
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    cache = infiniray.start(**SMALL, name="brief")
    cache["k"] = b"x" * 1000
    names = [name for name in rayapi.actor_names() if name.startswith("brief:")]
    assert names == ["brief:shard-0", "brief:supervisor"]
    cache.close()
    cache.close()
    assert not [name for name in rayapi.actor_names() if name.startswith("brief:")]
    started = {process.pid for process in psutil.Process().children(recursive=True)} - before
    _until(lambda: not _told(started, before))
    assert _told(started, before) == []
    with pytest.raises(CacheUnavailable, match="closed"):
        cache["k"]
    with infiniray.start(**SMALL, name="brief") as again:  # the name is free
        assert "k" not in again


PROGRAM = """
import json, os, sys
import psutil
import infiniray
cache = infiniray.start(nodes=3, shards=1, scheme="rs:2+1", memory_mb=256)
cache["k"] = b"x" * 300_000
assert cache["k"] == b"x" * 300_000
print(json.dumps([[c.pid, c.name()] for c in psutil.Process().children(recursive=True)]), flush=True)
{ending}
"""


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ("cache.close()", 0),
        ("", 0),
        ("raise SystemExit(3)", 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
    ],
    ids=["close", "exit", "error", "killed"],
)
def test_a_program_leaves_no_process(ending: str, code: int) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(ending=ending)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = program.communicate(timeout=100)
    finally:
        program.kill()
    assert program.returncode == code, err
    started = json.loads(out.splitlines()[-1])
    assert len(started) > 5
    # two helpers of Ray's own end by themselves within two minutes if their node is killed
    assert _left_of([pid for pid, name in started if name not in ("ray::DashboardAgent", "ray::RuntimeEnvAgent")]) == []


def test_a_cache_on_somebodys_ray_ends_with_its_owner(local_ray: str) -> None:
    """Even if that is killed: its actors are detached, and watch it."""
    program = f"""
import os, signal
import infiniray
cache = infiniray.start(nodes=3, shards=1, scheme="rs:2+1", memory_mb=256, name="orphan", address={local_ray!r})
cache["k"] = 1
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert _until(lambda: not [name for name in rayapi.actor_names() if name.startswith("orphan:")])


def test_a_restarted_supervisor_knows_the_same_membership(local_ray: str) -> None:
    with infiniray.start(**SMALL, name="restarts") as cache:
        cache["k"] = 1
        supervisor = rayapi.find_actor("restarts:supervisor")
        rayapi.crash(supervisor)
        assert cache["k"] == 1
        again = infiniray.connect("restarts")
        assert again["k"] == 1
        assert again.stats()["nodes"] == 3


def _told(pids: set[int], before: set[int]) -> list[list[str]]:
    """Command lines of those that run, and are not somebody else's: an idle worker, which Ray keeps; one that
    has not got its name yet; an instance of another cache's function. The parents of these were there before."""
    told = []
    for pid in pids:
        try:
            process = psutil.Process(pid)
            name, command = process.name(), process.cmdline()
            is_others = name.startswith("ray::IDLE") or (not name.startswith("ray::") and process.ppid() in before)
            if process.status() != psutil.STATUS_ZOMBIE and not is_others:
                told.append(command or [name])
        except psutil.NoSuchProcess:
            continue
    return told


def _left_of(pids: list[int]) -> list[int]:
    """Which still run, after a while for Ray's own to notice."""

    def running() -> list[int]:
        return [pid for pid in pids if _runs(pid)]

    _until(lambda: not running())
    return running()


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _until(condition: object, timeout_s: float = 60.0) -> bool:
    assert callable(condition)
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_s:
            return False
        time.sleep(0.1)
    return True
