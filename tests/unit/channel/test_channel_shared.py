"""Memory that is shared: used again when nobody can look at it any more, and never before."""

from __future__ import annotations

import gc
import mmap
import os

import numpy as np
import pytest

from infiniray.channel.shared import Landing, SharedPool, Slot
from infiniray.runtime.buffers import BufferPool

MIB = 1 << 20


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def pool(limit_bytes: int = 256 * MIB, clock: Clock | None = None) -> SharedPool:
    return SharedPool(limit_bytes, clock or Clock())


def place(slot: Slot) -> tuple[int, int]:
    return slot.segment.number, slot.offset


def taken(pool: SharedPool, n_bytes: int) -> Slot:
    slot = pool.take(n_bytes)
    assert slot is not None
    return slot


@pytest.mark.parametrize("n_bytes", [1, 4096, 100_000, MIB, 4 * MIB, 4 * MIB + 1, 33_333_333])
def test_a_slot_has_the_size_that_was_asked_for_and_is_what_others_see(n_bytes: int) -> None:
    slot = taken(pool(), n_bytes)
    assert (slot.array.nbytes, slot.array.dtype, slot.array.flags.writeable) == (n_bytes, np.uint8, True)
    slot.array[:] = np.arange(n_bytes, dtype=np.uint64).astype(np.uint8)
    with mmap.mmap(slot.segment.fd, slot.segment.n_bytes, prot=mmap.PROT_READ) as seen:
        assert seen[slot.offset : slot.offset + n_bytes] == slot.array.tobytes()


def test_slots_of_one_size_lie_together_and_do_not_overlap() -> None:
    shared = pool()
    slots = [taken(shared, MIB) for _ in range(40)]
    assert len({place(slot) for slot in slots}) == 40
    assert len({slot.segment.number for slot in slots}) == 2
    for i, slot in enumerate(slots):
        slot.array[:] = i
    assert all((slot.array == i).all() for i, slot in enumerate(slots))


def test_a_slot_comes_back_with_the_last_view_of_it() -> None:
    shared = pool()
    slot = taken(shared, MIB)
    where, view = place(slot), memoryview(slot.array[100:200].reshape(10, 10))[3:]
    del slot
    gc.collect()
    assert place(taken(shared, MIB)) != where
    gc.collect()
    del view
    gc.collect()
    assert shared.stats()["bytes_in_use"] == 0
    again = [taken(shared, MIB) for _ in range(32)]
    assert where in [place(slot) for slot in again]


def test_what_is_used_last_is_taken_first() -> None:
    shared = pool()
    where = place(taken(shared, 10 * MIB))
    gc.collect()
    assert place(taken(shared, 10 * MIB - 5)) == where


def test_beyond_the_limit_there_is_nothing() -> None:
    shared = pool(limit_bytes=64 * MIB)
    held = [taken(shared, 20 * MIB) for _ in range(3)]
    assert shared.take(20 * MIB) is None
    assert shared.take(65 * MIB) is None
    assert shared.stats()["denied"] == 2
    assert shared.bytes_mapped <= 64 * MIB
    held.clear()
    gc.collect()
    assert shared.take(20 * MIB) is not None


def test_room_is_made_at_the_expense_of_what_has_been_idle_for_longest() -> None:
    clock = Clock()
    shared = pool(64 * MIB, clock)
    older, newer = taken(shared, 20 * MIB), taken(shared, 24 * MIB)
    numbers = older.segment.number, newer.segment.number
    del older
    gc.collect()
    shared.stats()
    clock.now_s = 1.0
    del newer
    gc.collect()
    held = taken(shared, 32 * MIB)
    assert shared.stats()["segments"] == 2
    assert taken(shared, 24 * MIB).segment.number == numbers[1]
    assert shared.bytes_mapped <= 64 * MIB
    del held


def test_a_small_limit_is_not_spent_on_one_size() -> None:
    shared = pool(limit_bytes=8 * MIB)
    held = [taken(shared, MIB), taken(shared, 2 * MIB)]
    assert shared.bytes_mapped <= 8 * MIB
    assert shared.take(1) is not None
    del held


def test_nothing_at_all() -> None:
    assert pool(limit_bytes=0).take(1) is None


def test_what_was_given_up_is_never_used_again() -> None:
    shared = pool()
    first, other = taken(shared, MIB), taken(shared, MIB)
    segment = first.segment
    assert other.segment is segment
    shared.give_up(segment)
    shared.give_up(segment)
    assert taken(shared, MIB).segment is not segment
    first.array[:] = 7
    view = mmap.mmap(segment.fd, segment.n_bytes, prot=mmap.PROT_READ)  # somebody else's
    offset = first.offset
    del first
    gc.collect()
    assert taken(shared, MIB).segment is not segment
    del other
    gc.collect()
    assert shared.stats()["segments_given_up"] == 1
    assert segment.fd == -1  # closed with its last slot
    assert view[offset : offset + MIB] == b"\7" * MIB
    view.close()


def test_idle_memory_is_given_back_also_where_others_have_it_mapped() -> None:
    clock = Clock()
    shared = pool(clock=clock)
    slot, kept = taken(shared, 10 * MIB), taken(shared, 12 * MIB)
    slot.array[:] = 1
    descriptor = os.dup(slot.segment.fd)
    del slot
    gc.collect()
    shared.trim(5.0)
    assert shared.stats()["segments"] == 2
    clock.now_s = 5.0
    shared.trim(5.0)
    assert shared.stats()["segments"] == 1
    assert os.fstat(descriptor).st_blocks == 0
    os.close(descriptor)
    assert kept.array.nbytes == 12 * MIB


def test_those_who_have_segments_mapped_learn_which_have_been_closed() -> None:
    shared = pool()
    known, closed = shared.closed_since(0)
    assert (known, closed) == (0, [])
    numbers = []
    for n_mib in (5, 6, 7):
        slot = taken(shared, n_mib * MIB)
        numbers.append(slot.segment.number)
        del slot
    gc.collect()
    shared.trim(0.0)
    known, closed = shared.closed_since(1)
    assert known == 3
    assert len(closed) == 2
    assert set(closed) < set(numbers)
    assert shared.closed_since(3) == (3, [])


def test_clients_cannot_change_the_size() -> None:
    slot = taken(pool(), MIB)
    for size in (0, slot.segment.n_bytes * 2):
        with pytest.raises(PermissionError):
            os.ftruncate(slot.segment.fd, size)


def test_closed_with_nothing_left_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    shared = pool()
    held = taken(shared, MIB)
    taken(shared, 10 * MIB)
    gc.collect()
    shared.close()
    assert shared.take(MIB) is None
    held.array[:] = 1
    del held
    gc.collect()
    shared.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("has_pool", "n_bytes", "is_shared"), [(True, MIB, True), (True, 999, False), (False, MIB, False)]
)
def test_where_a_read_lands(has_pool: bool, n_bytes: int, is_shared: bool) -> None:
    landing = Landing(pool() if has_pool else None, 1000, BufferPool())
    array = landing.take(n_bytes)
    assert array.nbytes == n_bytes
    assert (landing.slot is not None) == is_shared


def test_a_read_that_finds_no_room_lands_on_the_heap() -> None:
    landing = Landing(pool(limit_bytes=MIB), 1000, BufferPool())
    assert landing.take(2 * MIB).nbytes == 2 * MIB
    assert landing.slot is None
