"""What each mode promises, over every kind of store: working, failing, slow, and coming back."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from backing_doubles import PATIENCE_S, World  # type: ignore[import-not-found]

from infiniray.backing import marks
from infiniray.backing.modes import Adopted
from infiniray.errors import (
    BackingDamaged,
    BackingRefused,
    BackingUnavailable,
    CacheUnavailable,
    KeyNotFound,
    LeaseLost,
    ObjectLost,
    PoolFull,
    ValueTooLarge,
    WriteLost,
    WritesUnflushed,
)

SHORT_S = 0.05  # for what is known to end by its deadline
NO_ROOM = PoolFull(need_bytes=1, free_bytes=0)


WRITING = pytest.mark.parametrize("mode", ["write-through", "write-back"])
ALL = pytest.mark.parametrize("mode", ["read-through", "write-through", "write-back"])


# ---------------------------------------------------------------- a store that works


def test_write_through_is_in_store_and_cache_when_acknowledged(world: World) -> None:
    process = world.process("write-through")
    process.put("a/b", b"value")
    assert world.store.bytes_of("a/b") == b"value"
    assert world.front.get("a/b", 1) == b"value"
    assert process.get("a/b") == b"value"
    assert world.store.calls["read"] == 0


def test_write_back_is_in_the_cache_at_once_and_in_the_store_after_flush(world: World) -> None:
    process = world.process("write-back")
    world.store.may_write.clear()
    process.put("a", b"value")
    assert world.front.get("a", 1) == b"value"
    assert world.store.bytes_of("a") is None
    assert process.stat("unflushed") == process.stat("dirty") == 1
    world.store.may_write.set()
    process.backing.flush(PATIENCE_S)
    assert world.store.bytes_of("a") == b"value"


def test_read_through_never_writes_the_store(world: World) -> None:
    world.process("write-through").put("a", b"theirs")
    process = world.process("read-through")
    process.put("a", b"mine")
    process.put("b", b"mine")
    assert process.get("a") == b"mine"
    assert process.delete("a")
    assert process.get("a") == b"theirs"
    assert world.store.bytes_of("b") is None
    assert world.store.calls == {"write": 1, "stat": 2, "read": 1}


@ALL
def test_a_miss_is_read_from_the_store_once_and_then_cached(world: World, mode: str) -> None:
    world.process("write-through").put("a", np.arange(1000))
    world.front.lose("a")
    process = world.process(mode)
    for _ in range(3):
        np.testing.assert_array_equal(process.get("a"), np.arange(1000))
    assert world.store.calls["read"] == 1
    assert process.stat("reads") == 1


def test_many_readers_of_a_key_load_it_once(world: World) -> None:
    world.process("write-through").put("a", b"value")
    world.front.lose("a")
    readers = [world.process("read-through") for _ in range(3)]
    with ThreadPoolExecutor(12) as threads:
        assert list(threads.map(lambda i: readers[i % 3].get("a"), range(12))) == [b"value"] * 12
    assert world.store.calls["read"] == 1


@ALL
def test_what_neither_has_is_a_miss(world: World, mode: str) -> None:
    process = world.process(mode)
    with pytest.raises(KeyNotFound):
        process.get("a")
    with pytest.raises(ObjectLost):
        process.backing.get("a", ObjectLost(key="a", have=1, need=2), raw=False, timeout_s=None)
    assert process.stat("misses") == 2
    assert not process.backing.exists("a", None)


@WRITING
def test_a_deletion_reaches_store_and_cache_at_once(world: World, mode: str) -> None:
    process = world.process(mode)
    process.put("a", b"value")
    assert process.delete("a")
    assert world.store.bytes_of("a") is None
    with pytest.raises(KeyNotFound):
        process.get("a")
    assert not process.delete("a")
    process.put("a", b"value")
    process.backing.flush(PATIENCE_S)
    world.front.lose("a")
    assert process.backing.exists("a", None)
    assert process.delete("a")  # the store alone had it


def test_a_deletion_replaces_a_write_that_waits(world: World) -> None:
    process = world.process("write-back", flush_delay_s=3600)
    process.put("a", b"value")
    assert process.delete("a")
    process.backing.flush(PATIENCE_S)
    assert world.store.calls["write"] == 0
    assert process.stat("dirty") == 0


@WRITING
def test_an_object_with_a_ttl_is_the_caches_alone_and_what_the_store_had_is_gone(world: World, mode: str) -> None:
    process = world.process(mode)
    process.put("a", b"old")
    process.put("a", b"new", ttl_s=60.0)
    process.backing.flush(PATIENCE_S)
    assert world.store.bytes_of("a") is None
    assert process.get("a") == b"new"
    with pytest.raises(KeyNotFound):
        process.reload("a")


@WRITING
def test_an_object_with_a_ttl_is_stored_where_that_is_configured(world: World, mode: str) -> None:
    process = world.process(mode, ttl_in_store=True, cached_ttl_s=100)
    process.put("a", b"value", ttl_s=60.0)
    assert world.front.ttls_s["a"] == 60.0
    process.backing.flush(PATIENCE_S)
    assert process.reload("a") == b"value"
    assert world.front.ttls_s["a"] == 100.0


@WRITING
def test_values_of_all_kinds_come_back(world: World, mode: str) -> None:
    process = world.process(mode)
    for value in (b"", b"bytes", {"a": [1]}, None, np.arange(6.0).reshape(2, 3)):
        process.put("k", value)
        process.backing.flush(PATIENCE_S)
        np.testing.assert_equal(process.reload("k"), value)


def test_raw_reads_are_views(world: World) -> None:
    process = world.process("write-through")
    process.put("a", b"value")
    found = process.reload("a", raw=True)
    assert isinstance(found, memoryview)
    assert found == b"value"


def test_many_keys(world: World) -> None:
    process = world.process("write-through", concurrency=4)
    values = {f"k{i}": b"%d" % i for i in range(20)}
    process.backing.put_many(values, None, None)
    assert world.store.calls["write"] == 20
    for key in values:
        world.front.lose(key)
    assert process.backing.get_many([*values, "absent"], raw=False, timeout_s=None) == values
    assert set(world.front.values) == set(values)


def test_later_puts_of_a_key_spare_the_store_the_earlier_ones(world: World) -> None:
    process = world.process("write-back", flush_delay_s=3600)
    for i in range(5):
        process.put("a", b"%d" % i)
    process.backing.flush(PATIENCE_S)
    assert world.store.bytes_of("a") == b"4"
    assert world.store.calls["write"] == 1
    assert process.stat("replaced") == 4


def test_an_array_that_is_changed_after_put_is_stored_as_it_was(world: World) -> None:
    process = world.process("write-back", flush_delay_s=3600)
    array = np.arange(5)
    process.put("a", array)
    array[:] = 0
    process.backing.flush(PATIENCE_S)
    np.testing.assert_array_equal(process.reload("a"), np.arange(5))


# ---------------------------------------------------------------- what may not be rebuilt


def test_pickles_of_a_store_that_is_only_read_are_refused(world: World) -> None:
    world.process("write-through").put("a", {"a": 1})
    process = world.process("read-through")
    with pytest.raises(BackingRefused, match="allow_pickle"):
        process.reload("a")
    assert process.stat("refused") == 1
    assert world.process("read-through", allow_pickle=True).get("a") == {"a": 1}


def test_what_nobody_could_read_is_not_written(world: World) -> None:
    process = world.process("write-through", allow_pickle=False)
    with pytest.raises(BackingRefused, match="allow_pickle"):
        process.put("a", {"a": 1})
    assert not world.front.values
    assert world.store.calls["write"] == 0


def test_a_damaged_object_is_an_error_not_a_value(world: World) -> None:
    process = world.process("write-through")
    process.put("a", np.arange(100))
    data = world.store.bytes_of("a")
    assert data is not None
    world.store.write("a", [memoryview(data[:-1])])
    with pytest.raises(BackingDamaged):
        process.reload("a")
    assert process.stat("damaged") == 1


# ---------------------------------------------------------------- a store that fails


def test_fail_closed_reads_raise_and_what_is_cached_is_still_served(world: World) -> None:
    process = world.process("write-through")
    process.put("a", b"cached")
    process.put("b", b"not cached")
    world.front.lose("b")
    world.store.is_down = True
    assert process.get("a") == b"cached"
    with pytest.raises(BackingUnavailable, match="switched off"):
        process.get("b")
    with pytest.raises(BackingUnavailable):
        process.backing.exists("b", None)
    assert process.stat("unavailable") == 2
    world.store.is_down = False
    assert process.get("b") == b"not cached"


def test_fail_closed_writes_raise_and_change_nothing(world: World) -> None:
    process = world.process("write-through")
    process.put("a", b"old")
    world.store.is_down = True
    for act in (lambda: process.put("a", b"new"), lambda: process.delete("a")):
        with pytest.raises(BackingUnavailable):
            act()
    world.store.is_down = False
    assert process.get("a") == world.store.bytes_of("a") == b"old"
    process.put("a", b"new")
    assert process.reload("a") == b"new"


def test_degraded_reads_are_misses_and_counted(world: World) -> None:
    process = world.process("read-through", on_error="degrade")
    world.store.is_down = True
    with pytest.raises(KeyNotFound):
        process.get("a")
    n_tried = world.store.calls.total()
    with pytest.raises(KeyNotFound):
        process.get("a")
    assert not process.backing.exists("a", None)
    assert world.store.calls.total() == n_tried  # it is left alone for a moment
    assert process.stat("degraded_reads") == 3


def test_degraded_writes_reach_the_store_when_it_is_back(world: World) -> None:
    process, other = world.process("write-through", on_error="degrade"), world.process("write-through")
    process.put("a", b"old")
    world.store.is_down = True
    process.put("a", b"new")
    assert process.get("a") == b"new"
    assert process.stat("degraded_writes") == process.stat("dirty") == 1
    world.front.lose("a")
    with pytest.raises(BackingUnavailable):  # not the old value
        other.get("a", timeout_s=SHORT_S)
    world.store.is_down = False
    process.backing.flush(PATIENCE_S)
    assert world.store.bytes_of("a") == b"new"
    assert other.reload("a") == b"new"
    assert process.stat("dirty") == 0


def test_a_deletion_is_never_degraded(world: World) -> None:
    process = world.process("write-through", on_error="degrade")
    process.put("a", b"value")
    world.store.is_down = True
    with pytest.raises(BackingUnavailable):
        process.delete("a")
    with pytest.raises(BackingUnavailable):  # it would have to be deleted from the store
        process.put("a", b"new", ttl_s=60.0)
    assert process.get("a") == b"value"


def test_a_failed_write_does_not_drop_one_that_waits(world: World) -> None:
    process = world.process("write-through", on_error="degrade", queue_writes=1)
    world.store.is_down = True
    process.put("a", b"first")
    with pytest.raises(BackingUnavailable, match="no more fit"):
        process.put("a", b"second")
    world.store.is_down = False
    process.backing.flush(PATIENCE_S)
    assert world.store.bytes_of("a") == process.reload("a") == b"first"


@WRITING
def test_a_store_that_says_no_is_refused_even_when_degrading(world: World, mode: str) -> None:
    process = world.process(mode, on_error="degrade")
    world.store.is_denied = True
    with pytest.raises(BackingRefused, match="denied"):
        process.get("a")
    with pytest.raises(BackingRefused):
        process.backing.check()
    if mode == "write-through":
        with pytest.raises(BackingRefused):
            process.put("a", b"value")
        assert "a" not in world.front.values


def test_check_degrades_with_the_rest(world: World) -> None:
    world.store.is_down = True
    world.process("read-through", on_error="degrade").backing.check()
    with pytest.raises(BackingUnavailable):
        world.process("read-through").backing.check()


def test_write_back_tries_until_the_store_is_back(world: World) -> None:
    process = world.process("write-back")
    world.store.is_down = True
    process.put("a", b"value")
    with pytest.raises(WritesUnflushed, match=r"1 acknowledged writes .*switched off") as caught:
        process.backing.flush(SHORT_S)
    assert (caught.value.n_writes, caught.value.n_bytes, caught.value.key) == (1, 5, "a")
    assert process.reload("a") == b"value"  # from the queue
    world.store.await_tries(3)
    world.store.is_down = False
    process.backing.flush(PATIENCE_S)
    assert world.store.bytes_of("a") == b"value"
    assert process.stat("flush_retries") >= 1
    assert process.stat("unflushed") == process.stat("unflushed_bytes") == process.stat("dirty") == 0


# ---------------------------------------------------------------- a store that is slow


def test_a_read_ends_at_its_deadline(world: World) -> None:
    process = world.process("write-through")
    process.put("a", b"value")
    world.store.may_read.clear()
    with pytest.raises(BackingUnavailable, match="no answer within"):
        process.reload("a", timeout_s=SHORT_S)
    world.store.may_read.set()
    assert process.get("a") == b"value"


def test_calls_that_hang_do_not_become_more_and_more(world: World) -> None:
    process = world.process("write-through", concurrency=2)
    for key in "abc":
        process.put(key, b"value")
        world.front.lose(key)
    world.store.may_read.clear()
    for key in "ab":
        with pytest.raises(BackingUnavailable, match="no answer within"):
            process.get(key, timeout_s=SHORT_S)
    with pytest.raises(BackingUnavailable, match="2 calls are under way"):
        process.get("c", timeout_s=SHORT_S)
    world.store.may_read.set()
    assert process.get("c") == b"value"


def test_a_write_that_was_given_up_on_cannot_replace_a_later_one(world: World) -> None:
    process = world.process("write-through")
    world.store.may_write.clear()
    with pytest.raises(BackingUnavailable, match="no answer"):
        process.put("a", b"first", timeout_s=SHORT_S)
    with pytest.raises(BackingUnavailable, match="still under way"):
        process.put("a", b"second", timeout_s=SHORT_S)
    world.store.may_write.set()
    process.put("a", b"third")
    assert world.store.bytes_of("a") == process.get("a") == b"third"


def test_a_full_queue_makes_writers_wait(world: World) -> None:
    process = world.process("write-back", queue_bytes=10)
    world.store.may_write.clear()
    process.put("a", bytes(8))
    with pytest.raises(BackingUnavailable, match="no more fit"):
        process.put("b", bytes(8), timeout_s=SHORT_S)
    assert "b" not in world.front.values
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(process.put, "b", bytes(8))
        world.store.may_write.set()
        waiting.result(PATIENCE_S)
    process.backing.flush(PATIENCE_S)
    assert world.store.bytes_of("b") == bytes(8)
    assert process.stat("queue_waits") == 2


def test_one_write_larger_than_the_queue_has_it_for_itself(world: World) -> None:
    process = world.process("write-back", queue_bytes=10)
    process.put("a", bytes(100))
    process.backing.flush(PATIENCE_S)
    assert world.store.bytes_of("a") == bytes(100)


# ---------------------------------------------------------------- a cache that fails


@pytest.mark.parametrize("error", [NO_ROOM, ValueTooLarge(size_bytes=2, limit_bytes=1), CacheUnavailable(detail="x")])
def test_what_the_cache_cannot_hold_is_in_the_store_and_nothing_older_in_the_cache(world: World, error: Any) -> None:
    process = world.process("write-through")
    process.put("a", b"old")
    world.front.failures["put"] = [error]
    process.put("a", b"new")
    assert "a" not in world.front.values
    assert process.get("a") == b"new"
    assert process.stat("not_cached") == 1


def test_a_write_is_not_acknowledged_while_the_cache_may_have_an_older_value(world: World) -> None:
    process = world.process("write-through")
    world.front.failures = {"put": [NO_ROOM], "delete": [CacheUnavailable(detail="the shard is away")]}
    with pytest.raises(CacheUnavailable):
        process.put("a", b"new")


def test_what_is_loaded_and_too_large_for_the_cache_is_served(world: World) -> None:
    process = world.process("write-through")
    process.put("a", b"value")
    world.front.failures["put"] = [ValueTooLarge(size_bytes=2, limit_bytes=1)]
    assert process.reload("a") == b"value"
    assert process.stat("not_cached") == 1


def test_write_back_that_the_cache_refuses_is_not_queued(world: World) -> None:
    process = world.process("write-back")
    world.front.failures["put"] = [NO_ROOM]
    with pytest.raises(PoolFull):
        process.put("a", b"value")
    assert process.stat("unflushed") == process.stat("unflushed_bytes") == process.stat("dirty") == 0
    assert world.store.calls["write"] == 0


# ---------------------------------------------------------------- several processes


@WRITING
def test_concurrent_writers_leave_cache_and_store_with_the_same_value(world: World, mode: str) -> None:
    processes = [world.process(mode) for _ in range(3)]

    def write(i: int) -> None:
        for j in range(10):
            processes[i % 3].put("a", b"%d.%d" % (i, j))

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(write, range(6)))
    for process in processes:
        process.backing.flush(PATIENCE_S)
    cached = world.front.get("a", 1)
    assert world.store.bytes_of("a") == cached
    assert processes[0].stat("dirty") == 0
    assert not [name for name in world.records.texts if "/mark/" in name]


def test_others_wait_for_a_write_that_the_store_does_not_have_yet(world: World) -> None:
    writer, reader = world.process("write-back"), world.process("read-through")
    world.store.may_write.clear()
    writer.put("a", b"value")
    world.front.lose("a")
    with pytest.raises(BackingUnavailable, match="does not have yet"):
        reader.get("a", timeout_s=SHORT_S)
    assert reader.backing.exists("a", None)
    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(reader.get, "a")
        world.store.may_write.set()
        assert waiting.result(PATIENCE_S) == b"value"


def test_what_a_dead_writer_left_is_served_and_can_be_adopted(world: World, dies: Any) -> None:
    writer, other = world.process("write-back", flush_delay_s=3600), world.process("write-back")
    writer.put("a", b"value")
    dies(world, writer)
    assert other.get("a") == b"value"
    assert other.stat("orphaned") == 1
    assert other.backing.adopt(None) == Adopted(flushed=("a",), lost=())
    assert other.reload("a") == world.store.bytes_of("a") == b"value"
    assert other.stat("orphaned") == other.stat("dirty") == 0
    assert other.backing.adopt(None) == Adopted(flushed=(), lost=())


def test_a_write_that_is_lost_is_no_miss(world: World, dies: Any) -> None:
    writer, other = world.process("write-back", flush_delay_s=3600), world.process("write-back", on_error="degrade")
    other.put("a", b"old")
    other.backing.flush(PATIENCE_S)
    writer.put("a", b"new")
    dies(world, writer)
    world.front.lose("a")
    assert other.backing.adopt(None) == Adopted(flushed=(), lost=("a",))
    with pytest.raises(WriteLost):
        other.get("a")
    with pytest.raises(WriteLost):
        other.backing.exists("a", None)
    other.put("a", b"again")
    other.backing.flush(PATIENCE_S)
    assert other.reload("a") == b"again"
    assert other.stat("orphaned") == 0


def test_a_lost_write_can_be_deleted(world: World, dies: Any) -> None:
    writer, other = world.process("write-back", flush_delay_s=3600), world.process("write-through")
    writer.put("a", b"new")
    dies(world, writer)
    world.front.lose("a")
    other.delete("a")
    with pytest.raises(KeyNotFound):
        other.get("a")


def test_adopting_from_a_store_that_is_away_forgets_nothing(world: World, dies: Any) -> None:
    writer, other = world.process("write-back", flush_delay_s=3600), world.process("write-back")
    writer.put("a", b"value")
    dies(world, writer)
    world.store.is_down = True
    with pytest.raises(BackingUnavailable):
        other.backing.adopt(None)
    assert other.stat("orphaned") == 1
    world.store.is_down = False
    assert other.backing.adopt(None).flushed == ("a",)


def test_the_mark_of_a_writer_that_died_in_write_through_expires(world: World, monkeypatch: Any) -> None:
    dead, other = world.process("write-through"), world.process("write-through")
    now_s = marks.time.time()
    dead.backing._marks.claim("a", dead.backing._deadline(1.0), is_dirty=False, lasts_s=10.0)
    with pytest.raises(BackingUnavailable, match="another process"):
        other.put("a", b"value", timeout_s=SHORT_S)
    monkeypatch.setattr(marks.time, "time", lambda: now_s + 11.0)
    other.put("a", b"value")
    assert world.store.bytes_of("a") == b"value"


# ---------------------------------------------------------------- computed values


def test_a_computed_value_is_stored_before_it_is_cached(world: World) -> None:
    process = world.process("write-through")
    seen: list[bytes | None] = []
    process.backing.put_computed("a", b"value", lambda: seen.append(world.store.bytes_of("a")), lambda: None)
    assert seen == [b"value"]
    assert process.backing.find("a", None) == (True, b"value")
    assert process.backing.find("b", None) == (False, None)


def test_a_computed_value_that_lost_its_turn_leaves_nothing_older_in_the_cache(world: World) -> None:
    process = world.process("write-through")
    world.front.put("a", b"somebody else's", None, 1.0)

    def fill() -> None:
        raise LeaseLost(key="a")

    process.backing.put_computed("a", b"computed", fill, lambda: world.front.lose("a"))
    assert process.get("a") == world.store.bytes_of("a") == b"computed"


def test_threads_end_when_all_is_written(world: World) -> None:
    process = world.process("write-back")
    process.put("a", b"value")
    process.backing.flush(PATIENCE_S)
    for thread in threading.enumerate():
        if thread.name.startswith(("infiniray-flush", "infiniray-beat")):
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
