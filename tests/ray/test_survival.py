"""What survives what: rows of the README's table that no other file shows, on real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from stamps import identify, stamped

import infiniray
from infiniray import Cache, ObjectLost
from infiniray.errors import DeadlineExceeded, InfiniRayError, PlatformError
from infiniray.faas.local.admin import PlatformAdmin

#: k, r, and one node more than an object has chunks, so that not every object is on every node.
K, R, NODES = 2, 2, 5
LINGER_S = 2.0
#: Of a call that is to fail.
BRIEF_S = 2.0
_PATIENCE_S = 40.0


@pytest.fixture(scope="module")
def survivor(local_ray: str) -> Iterator[Cache]:
    """Its functions stay awake for seconds and are not backed up. What is read comes from them."""
    with infiniray.start(
        nodes=NODES,
        shards=1,
        scheme=f"rs:{K}+{R}",
        memory_mb=256,
        name="survivor",
        session={"linger_s": LINGER_S},
        availability={"backup_interval_s": 0, "warm_interval_s": 1},
    ) as cache:
        yield cache


@pytest.fixture
def cache(survivor: Cache) -> Cache:
    """A fresh namespace of it."""
    return survivor.namespace(uuid.uuid4().hex[:8])


@pytest.fixture
def admin(survivor: Cache) -> PlatformAdmin:
    return PlatformAdmin(survivor.status()["endpoint_url"])


def value(seed: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, 100_000, np.uint8)


def stored(cache: Cache, n: int = 20) -> dict[str, npt.NDArray[np.uint8]]:
    values = {f"k{i}": value(i) for i in range(n)}
    cache.put_many(values)
    return values


def is_there(cache: Cache, values: dict[str, npt.NDArray[np.uint8]]) -> bool:
    found = cache.get_many(values)
    return found.keys() == values.keys() and all(np.array_equal(found[key], values[key]) for key in values)


def eventually(holds: Callable[[], bool], what: str) -> None:
    give_up_s = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_s, f"not within {_PATIENCE_S:g} s: {what}"
        time.sleep(0.05)


def nodes_of(cache: Cache) -> list[str]:
    return [node for nodes in cache.status()["nodes"].values() for node in nodes]


# ---------------------------------------------------------------- functions


def test_one_function_lost_costs_nothing_and_is_rebuilt(survivor: Cache, cache: Cache, admin: PlatformAdmin) -> None:
    values = stored(cache)
    before = survivor.stats()
    assert admin.reclaim(function=nodes_of(survivor)[0])["reclaimed"]
    assert is_there(cache, values)
    eventually(lambda: survivor.stats()["repairs"] > before["repairs"], "its loss was found, and a chunk rebuilt")
    eventually(lambda: survivor.stats()["endangered"] == 0, "every chunk has been rebuilt")
    assert is_there(cache, values)
    assert survivor.stats()["resets"] == before["resets"]


def test_r_functions_lost_at_once_cost_nothing(survivor: Cache, cache: Cache, admin: PlatformAdmin) -> None:
    values = stored(cache)
    before = survivor.stats()
    for node in nodes_of(survivor)[:R]:
        assert admin.reclaim(function=node)["reclaimed"]
    assert is_there(cache, values)
    assert survivor.stats()["resets"] == before["resets"]


def test_r_plus_one_lose_those_objects_that_were_on_all_of_them(
    survivor: Cache, cache: Cache, admin: PlatformAdmin
) -> None:
    """The others are served; the lost ones say what they lack, and can be stored again."""
    values = stored(cache)
    before = survivor.stats()
    for node in nodes_of(survivor)[: R + 1]:
        assert admin.reclaim(function=node)["reclaimed"]
    lost = {}
    for key in values:
        try:
            assert np.array_equal(cache[key], values[key])
        except ObjectLost as error:
            lost[key] = error
    assert 0 < len(lost) < len(values)
    assert {(error.have, error.need) for error in lost.values()} == {(1, K)}
    assert survivor.stats()["resets"] == before["resets"] + len(lost)
    cache.put_many({key: values[key] for key in lost})
    assert is_there(cache, values)


# ---------------------------------------------------------------- the platform's API


@contextlib.contextmanager
def refusing(admin: PlatformAdmin) -> Iterator[None]:
    """Every invocation is answered with 500."""
    admin.fail(share=1.0)
    try:
        yield
    finally:
        admin.clear_faults()


@contextlib.contextmanager
def silent(admin: PlatformAdmin) -> Iterator[None]:
    """Nobody answers: the process of the platform stands still, the functions' own go on."""
    platform = platform_of(admin)
    platform.suspend()
    try:
        yield
    finally:
        platform.resume()


def platform_of(admin: PlatformAdmin) -> psutil.Process:
    port = urllib.parse.urlsplit(admin.endpoint).port
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(c.laddr.port == port and c.status == psutil.CONN_LISTEN for c in child.net_connections("tcp")):
                return child
    raise AssertionError(f"no process listens on {port}")


def are_asleep(admin: PlatformAdmin) -> bool:
    return all(row["state"] == "idle" for row in admin.instances())


@pytest.mark.parametrize("down", [refusing, silent])
def test_while_the_platforms_api_is_down_awake_functions_serve_and_nothing_is_lost(
    cache: Cache, admin: PlatformAdmin, down: Callable[[PlatformAdmin], contextlib.AbstractContextManager[None]]
) -> None:
    values = stored(cache, 10)
    cache.get_many(values)  # each of them is awake from now on, for LINGER_S
    with down(admin):
        assert is_there(cache, values)
        values["new"] = value(99)
        cache["new"] = values["new"]
    eventually(lambda: are_asleep(admin), "all functions have gone to sleep")
    with down(admin):  # nobody can be woken
        with pytest.raises((DeadlineExceeded, PlatformError)) as caught:
            cache.get("k0", timeout=BRIEF_S)
        assert caught.value.retryable
        with pytest.raises(InfiniRayError) as refused:
            cache.put("k0", value(1), timeout=BRIEF_S)
        assert refused.value.retryable
        values.pop("k0")  # a write that failed may take effect
    assert is_there(cache, values)


# ---------------------------------------------------------------- a client

_WRITER = """
import itertools, sys
import infiniray
from stamps import stamped
cache = infiniray.connect("survivor", address=sys.argv[1]).namespace(sys.argv[2])
for i in itertools.count(1):
    cache["k"] = stamped(i, 8_000_000)
    print(i, flush=True)
"""


@contextlib.contextmanager
def python(code: str, *arguments: str, environ: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Another process, which ends at the latest with the block."""
    environ = {**(environ or os.environ), "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_client_that_is_killed_while_it_writes_leaves_the_old_value_or_the_new_one(
    local_ray: str, survivor: Cache, cache: Cache
) -> None:
    values = stored(cache, 5)
    cache["k"] = stamped(0, 8_000_000)
    with python(_WRITER, local_ray, cache._prefix[:-1]) as writer:
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(3)]
        eventually(lambda: survivor.stats()["in_flight"] > 0, "it writes")
        writer.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in writer.stdout]
    eventually(lambda: survivor.stats()["in_flight"] == 0, "nothing is left of its write")
    assert acknowledged[-1] <= identify(cache["k"]) <= acknowledged[-1] + 1
    assert is_there(cache, values)
    cache["k"] = stamped(1 << 30, 8_000_000)
    assert identify(cache["k"]) == 1 << 30


# ---------------------------------------------------------------- the Ray head

_CLIENT = """
import os, sys
import infiniray
cache = infiniray.connect()
cache["k"] = b"value"
print("stored", flush=True)
sys.stdin.readline()
try:
    print(cache.get("k", timeout=2), flush=True)
except infiniray.InfiniRayError as error:
    print(type(error).__name__, flush=True)
os._exit(0)  # Ray takes its time to leave a cluster that is gone
"""


@pytest.mark.timeout(240)
def test_with_the_ray_head_the_cache_is_lost_and_up_starts_an_empty_one() -> None:
    """Calls end at their deadlines; who connects is told at once; nothing of the former one stays."""
    up = ("up", "--nodes", "4", "--shards", "1", "--scheme", "rs:2+1", "--memory-mb", "256")
    try:
        infiniray_command(*up)
        record = json.loads((Path(os.environ["INFINIRAY_STATE_DIR"]) / "default.json").read_text())
        head, platform = family(record["ray_head"]["pid"]), family(record["platform"]["pid"])
        with python(_CLIENT, environ=shell()) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            assert client.stdout.readline() == "stored\n"
            for process in head:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            seen, _ = client.communicate("\n", timeout=_PATIENCE_S)
        assert seen in ("DeadlineExceeded\n", "CacheUnavailable\n")
        assert "has crashed: the Ray that it ran on has ended" in infiniray_command("get", "k", "-", code=1)
        assert not json.loads(infiniray_command(*up, "--json").splitlines()[0])["running_before"]
        assert psutil.wait_procs(head + platform, timeout=_PATIENCE_S)[1] == []
    finally:
        infiniray_command("down")


def infiniray_command(*arguments: str, code: int = 0) -> str:
    """What it prints, on either stream."""
    command = [sys.executable, "-m", "infiniray.cli.main", *arguments]
    done = subprocess.run(command, env=shell(), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def shell() -> dict[str, str]:
    """A new user's environment: without what Ray in this process left there."""
    return {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]
