"""Slots for backups."""

from __future__ import annotations

import pytest

from infiniray.cluster.slots import Slots


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def slots(clock: Clock) -> Slots:
    return Slots(2, expiry_s=60.0, clock=clock)


def test_so_many_are_granted_over_all_shards(slots: Slots) -> None:
    assert slots.acquire("a", "n1")
    assert slots.acquire("b", "n2")
    assert not slots.acquire("c", "n3")
    slots.release("a", "n1")
    assert slots.acquire("c", "n3")
    assert slots.n_taken == 2


def test_asked_again_the_answer_is_the_same_and_takes_no_second_slot(slots: Slots) -> None:
    assert slots.acquire("a", "n1")
    assert slots.acquire("a", "n1")
    assert slots.n_taken == 1


def test_releasing_what_was_not_granted_changes_nothing(slots: Slots) -> None:
    slots.acquire("a", "n1")
    slots.release("a", "n2")
    slots.release("b", "n1")
    assert slots.n_taken == 1


def test_a_slot_that_nobody_releases_comes_free(slots: Slots, clock: Clock) -> None:
    slots.acquire("a", "n1")
    clock.now_s += 30
    slots.acquire("a", "n2")
    clock.now_s += 30
    assert slots.n_taken == 1
    assert slots.acquire("b", "n1")
    assert not slots.acquire("b", "n2")


def test_a_crashed_shards_slots_come_free_at_once(slots: Slots) -> None:
    slots.acquire("a", "n1")
    slots.acquire("b", "n2")
    slots.release_all("a")
    assert slots.n_taken == 1
    assert slots.acquire("b", "n3")
