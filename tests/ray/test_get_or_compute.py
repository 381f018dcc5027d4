"""One computes, the others wait: several processes on one cache, some of which fail, die or freeze."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import ray

import infiniray
from infiniray import Cache, ConfigError, DeadlineExceeded, InvalidTTL, ValueNotStorable
from infiniray.cluster import rayapi

LARGE = 2_000_000
PATIENCE_S = 60.0


@ray.remote(num_cpus=0, max_concurrency=200)
class Board:
    """What computers report, and the gates that they wait at."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.change = asyncio.Condition()

    async def begin(self, who: str) -> int:
        """How many have begun to compute, this one included."""
        async with self.change:
            self.begun.append(who)
            self.change.notify_all()
            return len(self.begun)

    async def pass_gate(self, name: str) -> None:
        await self.gates.setdefault(name, asyncio.Event()).wait()

    async def open_gate(self, name: str) -> None:
        self.gates.setdefault(name, asyncio.Event()).set()

    async def who(self) -> list[str]:
        return self.begun

    async def wait_begun(self, n: int) -> list[str]:
        async with self.change:
            await self.change.wait_for(lambda: len(self.begun) >= n)
            return self.begun


@ray.remote(num_cpus=0, max_concurrency=20)
class Process:
    """A process with a handle of the cache."""

    def __init__(self, cache: Cache, name: str, board: Any) -> None:
        self.cache, self.name, self.board = cache, name, board

    def pid(self) -> int:
        return os.getpid()

    def compute(self, key: str, value: Any, gate: str = "", fails: bool = False, **options: Any) -> Any:
        def fn() -> Any:
            ray.get(self.board.begin.remote(self.name))
            if gate:
                ray.get(self.board.pass_gate.remote(gate))
            if fails:
                raise ZeroDivisionError("the computation failed")
            return value

        return self.cache.get_or_compute(key, fn, timeout=PATIENCE_S, **options)

    def compute_many(self, key: str, value: Any, gate: str, n: int) -> list[Any]:
        """``n`` callers in as many threads."""
        with ThreadPoolExecutor(n) as threads:
            return list(threads.map(lambda _: self.compute(key, value, gate), range(n)))


@pytest.fixture
def board() -> Iterator[Any]:
    board = Board.remote()
    yield board
    ray.kill(board)


@pytest.fixture
def process(cache: Cache, board: Any) -> Iterator[Callable[[str], Any]]:
    started: list[Any] = []

    def start(name: str) -> Any:
        started.append(Process.remote(cache, name, board))
        ray.get(started[-1].pid.remote(), timeout=PATIENCE_S)
        return started[-1]

    yield start
    for actor in started:
        ray.kill(actor)


def got(ref: Any) -> Any:
    return ray.get(ref, timeout=PATIENCE_S)


def await_waiting(cache: Cache, n: int) -> None:
    """Until ``n`` calls wait at the shards."""
    give_up_s = time.monotonic() + PATIENCE_S
    while cache.stats()["computing"]["waiting"] < n:
        assert time.monotonic() < give_up_s, f"fewer than {n} ever waited"
        time.sleep(0.02)


def test_a_miss_is_computed_and_a_hit_is_not(cache: Cache) -> None:
    calls: list[int] = []

    def fn() -> np.ndarray:
        calls.append(1)
        return np.arange(LARGE)

    assert cache.get_or_compute("k", fn).flags.writeable  # its own
    np.testing.assert_array_equal(cache.get_or_compute("k", fn), np.arange(LARGE))
    np.testing.assert_array_equal(cache["k"], np.arange(LARGE))
    assert len(calls) == 1
    assert cache.get_or_compute("small", lambda: {"a": 1}) == cache["small"] == {"a": 1}
    assert cache.get_or_compute("none", lambda: None) is None
    assert cache.get_or_compute("none", lambda: 1) is None


def test_fifty_callers_in_five_processes_compute_once(cache: Cache, board: Any, process: Any) -> None:
    value = np.arange(LARGE, dtype=np.uint8)
    calls = [process(f"p{i}").compute_many.remote("k", value, "go", 10) for i in range(5)]
    await_waiting(cache, 49)
    ray.get(board.open_gate.remote("go"))
    answers = [answer for call in calls for answer in got(call)]
    assert len(answers) == 50
    for answer in answers:
        np.testing.assert_array_equal(answer, value)
    assert len(got(board.who.remote())) == 1


def test_after_a_failure_one_of_those_who_wait_computes(cache: Cache, board: Any, process: Any) -> None:
    failing = process("failing").compute.remote("k", "never", "go", fails=True)
    got(board.wait_begun.remote(1))
    others = [process(f"other{i}").compute.remote("k", "value") for i in range(3)]
    await_waiting(cache, 3)
    ray.get(board.open_gate.remote("go"))
    with pytest.raises(ZeroDivisionError, match="the computation failed"):
        got(failing)
    assert [got(other) for other in others] == ["value"] * 3
    assert len(got(board.who.remote())) == 2


def test_a_killed_computers_turn_goes_to_one_who_waits(cache: Cache, board: Any, process: Any) -> None:
    doomed = process("doomed")
    doomed.compute.remote("k", "never", "closed", lease_s=1)
    got(board.wait_begun.remote(1))
    others = [process(f"other{i}").compute.remote("k", "value") for i in range(3)]
    await_waiting(cache, 3)
    os.kill(got(doomed.pid.remote()), signal.SIGKILL)
    assert [got(other) for other in others] == ["value"] * 3
    assert len(got(board.who.remote())) == 2
    assert cache["k"] == "value"


def test_a_frozen_computer_keeps_its_value_to_itself(cache: Cache, board: Any, process: Any) -> None:
    frozen = process("frozen")
    pid = got(frozen.pid.remote())
    call = frozen.compute.remote("k", "older", "thaw", lease_s=1)
    got(board.wait_begun.remote(1))
    other = process("other").compute.remote("k", "newer")
    await_waiting(cache, 1)
    os.kill(pid, signal.SIGSTOP)
    try:
        assert got(other) == "newer"
    finally:
        os.kill(pid, signal.SIGCONT)
    ray.get(board.open_gate.remote("thaw"))
    assert got(call) == "older"
    assert cache["k"] == "newer"
    assert got(board.who.remote()) == ["frozen", "other"]


def test_a_computation_that_outlasts_its_lease_many_times_is_still_the_only_one(
    whole_cache: Cache, cache: Cache, board: Any, process: Any
) -> None:
    expired = whole_cache.stats()["computing"]["expired"]
    slow = process("slow").compute.remote("k", "value", "go", lease_s=0.5)
    got(board.wait_begun.remote(1))
    other = process("other").compute.remote("k", "other value")
    await_waiting(cache, 1)
    time.sleep(2.5)  # five leases
    ray.get(board.open_gate.remote("go"))
    assert got(slow) == got(other) == "value"
    assert got(board.who.remote()) == ["slow"]
    assert whole_cache.stats()["computing"]["expired"] == expired


def test_a_stale_value_is_served_while_one_computes(cache: Cache, board: Any, process: Any) -> None:
    assert cache.get_or_compute("k", lambda: "old", ttl=0.5, stale_s=600) == "old"
    assert 600 < (cache.ttl("k") or 0) <= 600.5
    time.sleep(0.6)
    computer = process("computer").compute.remote("k", "new", "go", ttl=600, stale_s=600)
    got(board.wait_begun.remote(1))
    others = [process(f"other{i}").compute.remote("k", "not this") for i in range(3)]
    assert [got(other) for other in others] == ["old"] * 3
    assert cache["k"] == "old"
    ray.get(board.open_gate.remote("go"))
    assert got(computer) == "new"
    assert cache.get_or_compute("k", lambda: "not this") == "new"
    assert got(board.who.remote()) == ["computer"]


@pytest.mark.parametrize("verb", ["put", "delete"])
def test_what_was_written_or_deleted_meanwhile_stays_so(cache: Cache, verb: str) -> None:
    def fn() -> str:
        if verb == "put":
            cache.put("k", "written")
        else:
            cache.delete("k")
        return "computed"

    assert cache.get_or_compute("k", fn) == "computed"
    assert cache.get("k", "nothing") == {"put": "written", "delete": "nothing"}[verb]


def test_what_can_never_be_stored_is_an_error_and_leaves_no_lease(cache: Cache) -> None:
    with pytest.raises(ValueNotStorable):
        cache.get_or_compute("k", threading.Lock)
    assert cache.get_or_compute("k", lambda: 1, timeout=5) == 1


def test_a_wait_for_a_computation_has_a_deadline(cache: Cache, board: Any, process: Any) -> None:
    call = process("slow").compute.remote("k", "value", "go")
    got(board.wait_begun.remote(1))
    with pytest.raises(DeadlineExceeded):
        cache.get_or_compute("k", lambda: "other", timeout=0.2)
    ray.get(board.open_gate.remote("go"))
    assert got(call) == "value"


def test_bad_arguments_are_refused_before_anything_is_computed(cache: Cache) -> None:
    def fn() -> None:
        raise AssertionError("it was called")

    for options, error in [
        ({"stale_s": 5}, InvalidTTL),
        ({"ttl": 5, "stale_s": -1}, InvalidTTL),
        ({"lease_s": 0.01}, ConfigError),
        ({"lease_s": "soon"}, ConfigError),
    ]:
        with pytest.raises(error):
            cache.get_or_compute("k", fn, **options)


def test_no_thread_is_left_behind(cache: Cache) -> None:
    def leases() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name.startswith("infiniray-lease")]

    assert cache.get_or_compute("k", leases) != []
    with pytest.raises(KeyError):
        cache.get_or_compute("another", lambda: {}["missing"])
    assert leases() == []


async def test_the_asynchronous_twin_computes_once_too(cache: Cache) -> None:
    calls: list[int] = []
    go = asyncio.Event()

    async def fn() -> bytes:
        calls.append(1)
        await go.wait()
        return b"x" * LARGE

    tasks = [asyncio.create_task(cache.aio.get_or_compute("k", fn)) for _ in range(20)]
    await asyncio.to_thread(await_waiting, cache, 19)
    go.set()
    assert set(await asyncio.gather(*tasks)) == {b"x" * LARGE}
    assert len(calls) == 1
    assert await cache.aio.get_or_compute("plain", lambda: 7) == 7


async def test_a_cancelled_computation_leaves_the_turn_to_the_next(cache: Cache) -> None:
    has_begun = asyncio.Event()

    async def fn() -> str:
        has_begun.set()
        await asyncio.Event().wait()
        return "never"

    first = asyncio.create_task(cache.aio.get_or_compute("k", fn, lease_s=600))
    await has_begun.wait()
    second = asyncio.create_task(cache.aio.get_or_compute("k", lambda: "value"))
    await asyncio.to_thread(await_waiting, cache, 1)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert await second == "value"


def test_memoized_functions_are_computed_once_per_arguments(cache: Cache) -> None:
    calls: list[tuple[Any, ...]] = []

    @cache.memoize(ttl="1h")
    def area(width: int, height: int = 2) -> int:
        calls.append((width, height))
        return width * height

    assert [area(3), area(width=3), area(3, 2), area(4)] == [6, 6, 6, 8]
    assert calls == [(3, 2), (4, 2)]
    cache.delete(area.key(3))  # type: ignore[attr-defined]
    assert area(3) == 6
    assert calls[2:] == [(3, 2)]


async def test_memoized_coroutine_functions_are_computed_once(cache: Cache) -> None:
    calls: list[str] = []

    @cache.aio.memoize(key=lambda name: f"greeting-{name}")
    async def greet(name: str) -> str:
        calls.append(name)
        return f"hello {name}"

    assert [await greet("you") for _ in range(3)] == ["hello you"] * 3
    assert calls == ["you"]
    assert await cache.aio.get("greeting-you") == "hello you"


def test_a_computation_outlives_its_shard(local_ray: str) -> None:
    """The restarted shard has granted no lease: the value goes to its caller, and the next one computes again."""
    with infiniray.start(nodes=3, shards=1, scheme="rs:2+1", memory_mb=256, name="turns") as cache:

        def fn() -> str:
            rayapi.crash(rayapi.find_actor("turns:shard-0"))
            return "first"

        assert cache.get_or_compute("k", fn, lease_s=600) == "first"
        assert cache.get("k", None) is None
        assert cache.get_or_compute("k", lambda: "second") == "second"
        assert cache["k"] == "second"
