"""What ``docs/backing.md`` promises of each mode beyond the usual: for a store that fails and comes back, a cache that
is full, and processes that die."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from backing_doubles import World  # type: ignore[import-not-found]

from infiniray.backing import objects
from infiniray.errors import BackingRefused, BackingUnavailable, KeyNotFound, PoolFull, ValueTooLarge

PATIENCE_S = 30.0
SHORT_S = 0.05
ON_ERROR = pytest.mark.parametrize("on_error", ["fail", "degrade"])


@ON_ERROR
def test_read_through_puts_do_not_need_the_store(world: World, on_error: str) -> None:
    process = world.process("read-through", on_error=on_error)
    world.process("write-through").put("a", b"stored")
    world.front.lose("a")
    world.store.is_down = True
    process.put("b", b"value")
    assert process.get("b") == b"value"
    with pytest.raises(BackingUnavailable if on_error == "fail" else KeyNotFound):
        process.get("a")
    assert (process.stat("unavailable"), process.stat("degraded_reads")) == (1, on_error == "degrade")


def test_degraded_reads_find_the_store_when_it_is_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "_REST_S", 0.0)
    process = world.process("read-through", on_error="degrade")
    world.process("write-through").put("a", b"stored")
    world.front.lose("a")
    world.store.is_down = True
    with pytest.raises(KeyNotFound):
        process.get("a")
    world.store.is_down = False
    assert process.get("a") == b"stored"
    assert process.stat("degraded_reads") == 1


def test_write_back_puts_work_until_the_queue_is_full_and_all_arrive_in_the_end(world: World) -> None:
    process = world.process("write-back", queue_writes=3)
    world.store.is_down = True
    for key in "abc":
        process.put(key, key.encode())
    with pytest.raises(BackingUnavailable, match="no more fit"):
        process.put("d", b"d", timeout_s=SHORT_S)
    assert "d" not in world.front.values
    world.store.await_tries(1)
    assert (process.stat("unflushed"), process.stat("unflushed_bytes"), process.stat("dirty")) == (3, 3, 3)
    assert process.stat("lag_s") > 0
    world.store.is_down = False
    process.put("d", b"d")  # waits for the first to arrive
    process.backing.flush(PATIENCE_S)
    assert [world.store.bytes_of(key) for key in "abcd"] == [b"a", b"b", b"c", b"d"]
    assert (process.stat("unflushed"), process.stat("lag_s"), process.stat("dirty")) == (0, 0, 0)
    assert process.stat("writes") == 4


def test_why_the_store_is_behind_is_told(world: World) -> None:
    process = world.process("write-back")
    world.store.is_down = True
    process.put("a", b"value")
    world.store.await_tries(2)  # the first has failed by then
    assert "switched off" in process.stat("last_flush_error")


@pytest.mark.parametrize("error", [PoolFull(need_bytes=1, free_bytes=0), ValueTooLarge(size_bytes=2, limit_bytes=1)])
def test_read_through_says_what_the_cache_cannot_hold(world: World, error: Any) -> None:
    process = world.process("read-through")
    world.front.failures["put"] = [error]
    with pytest.raises(type(error)):
        process.put("a", b"value")
    assert not process.backing.exists("a", None)


def test_what_write_through_has_acknowledged_outlives_its_writer(world: World, dies: Any) -> None:
    writer, other = world.process("write-through"), world.process("write-through")
    writer.put("a", b"value")
    dies(world, writer)
    world.front.lose("a")
    assert other.get("a") == b"value"
    assert (other.stat("dirty"), other.stat("orphaned")) == (0, 0)
    other.put("a", b"newer", timeout_s=PATIENCE_S)
    assert world.store.bytes_of("a") == b"newer"


@ON_ERROR
@pytest.mark.parametrize("mode", ["write-through", "write-back"])
def test_what_the_store_refuses_is_counted(world: World, mode: str, on_error: str) -> None:
    process = world.process(mode, on_error=on_error)
    world.store.is_denied = True
    for act in (lambda: process.get("a"), lambda: process.delete("a"), process.backing.check):
        with pytest.raises(BackingRefused, match="denied"):
            act()
    assert process.stat("refused") == 3
    assert process.stat("degraded_reads") == process.stat("degraded_writes") == process.stat("unavailable") == 0


def test_what_fails_closed_is_counted(world: World) -> None:
    process = world.process("write-through")
    world.store.is_down = True
    for act in (lambda: process.get("a"), lambda: process.put("a", b"v"), lambda: process.delete("a")):
        with pytest.raises(BackingUnavailable, match="switched off"):
            act()
    assert process.stat("unavailable") == 3
    assert process.stat("degraded_reads") == process.stat("degraded_writes") == process.stat("writes") == 0


def writers(world: World) -> list[str]:
    return [name for name in world.records.texts if "/writer/" in name]


def test_records_of_processes_that_have_ended_do_not_become_more_and_more(world: World) -> None:
    for _ in range(40):
        process = world.process("write-back")
        process.put("a", b"value")
        process.backing.flush(PATIENCE_S)
        (mine,) = [name for name in writers(world) if name.endswith(process.backing._marks.writer)]
        assert abs(float(world.records.texts[mine]) - time.time()) < PATIENCE_S
        world.records.texts[mine] = str(time.time() - 3600)  # it has ended long ago
    assert len(writers(world)) <= 2


def test_a_writer_that_was_silent_for_a_moment_is_not_forgotten(world: World) -> None:
    silent = world.process("write-back")
    silent.put("a", b"value")
    (name,) = writers(world)
    world.records.texts[name] = str(time.time() - 60)
    world.process("write-back").put("b", b"value")
    assert name in writers(world)


def test_a_write_for_which_there_is_no_thread_is_refused_and_keeps_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    process = world.process("write-through", concurrency=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BackingUnavailable, match="can't start new thread"):
            process.put("a", b"value")
    process.put("a", b"value", timeout_s=5)  # the key, and the place among the calls, are free
    assert world.store.bytes_of("a") == b"value"


def test_a_write_that_nobody_would_write_back_is_not_acknowledged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    process = world.process("write-back", concurrency=1, queue_writes=1)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(BackingUnavailable, match="can't start new thread"):
            process.put("a", b"value")
    with pytest.raises(KeyNotFound):
        world.front.get("a", 1)
    for value in (b"value", b"next"):
        process.put("a", value, timeout_s=5)
    process.backing.flush(PATIENCE_S)
    assert world.store.bytes_of("a") == b"next"
    assert process.stat("unflushed_bytes") == 0


def test_a_write_does_not_wait_for_another_that_hangs(world: World) -> None:
    process = world.process("write-back", concurrency=2)
    world.store.may_write.clear()
    process.put("a", b"value")
    world.store.await_tries(1)
    process.put("b", b"value")
    world.store.await_tries(1)  # another one, while that of "a" hangs
    world.store.may_write.set()
    process.backing.flush(PATIENCE_S)
