"""Leases: one holder per key, ended by time; against a model that keeps every grant for ever."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from infiniray.core.leases import Lease, Leases
from infiniray.errors import LeaseLost, Overloaded


def test_the_first_is_granted_and_the_second_learns_who_holds_it_until_when() -> None:
    leases = Leases(10)
    assert leases.acquire("k", "a", 100.0, 10.0) == Lease(key="k", holder="a", until_s=110.0)
    assert leases.acquire("k", "b", 105.0, 10.0) == Lease(key="k", holder="a", until_s=110.0)
    assert leases.acquire("another", "b", 105.0, 10.0).holder == "b"


def test_a_lease_ends_at_its_time_and_the_next_asker_gets_it() -> None:
    leases = Leases(10)
    leases.acquire("k", "a", 100.0, 10.0)
    assert leases.find("k", 109.9) is not None
    assert leases.acquire("k", "b", 110.0, 10.0).holder == "b"
    with pytest.raises(LeaseLost):
        leases.check("k", "a", 110.0)


def test_asking_again_is_granted_to_the_holder() -> None:
    leases = Leases(1)
    leases.acquire("k", "a", 100.0, 10.0)
    assert leases.acquire("k", "a", 105.0, 10.0) == Lease(key="k", holder="a", until_s=115.0)


def test_renewal_extends_and_never_shortens() -> None:
    leases = Leases(10)
    leases.acquire("k", "a", 100.0, 10.0)
    assert leases.renew("k", "a", 103.0, 10.0).until_s == 113.0
    assert leases.renew("k", "a", 104.0, 1.0).until_s == 113.0


def test_what_has_expired_cannot_be_renewed_even_if_nobody_took_it() -> None:
    leases = Leases(10)
    leases.acquire("k", "a", 100.0, 10.0)
    with pytest.raises(LeaseLost) as caught:
        leases.renew("k", "a", 110.0, 10.0)
    assert caught.value.key == "k"


def test_release_is_the_holders_alone() -> None:
    leases = Leases(10)
    leases.acquire("k", "a", 100.0, 10.0)
    assert not leases.release("k", "b")
    assert leases.release("k", "a")
    assert not leases.release("k", "a")
    assert leases.acquire("k", "b", 100.0, 10.0).holder == "b"


def test_a_voided_lease_is_lost_to_its_holder() -> None:
    leases = Leases(10)
    leases.acquire("k", "a", 100.0, 10.0)
    assert leases.void("k")
    assert not leases.void("k")
    for use in (leases.check, lambda *args: leases.renew(*args, 10.0)):
        with pytest.raises(LeaseLost):
            use("k", "a", 101.0)


def test_a_full_table_refuses_until_one_ends() -> None:
    leases = Leases(2)
    leases.acquire("a", "h", 100.0, 10.0)
    leases.acquire("b", "h", 100.0, 0.5)
    with pytest.raises(Overloaded) as caught:
        leases.acquire("c", "h", 100.0, 10.0)
    assert (caught.value.in_flight, caught.value.limit, caught.value.retry_after_s) == (2, 2, 0.5)
    assert leases.acquire("a", "h", 100.0, 10.0).holder == "h"  # not another one
    assert leases.acquire("c", "h", 100.5, 10.0).holder == "h"
    assert len(leases) == 2


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0.1, 5)), max_size=60))
def test_never_more_than_the_limit_are_kept(asked: list[tuple[int, float]]) -> None:
    leases = Leases(4)
    now_s = 0.0
    for number, lease_s in asked:
        now_s += 0.3
        with suppress(Overloaded):
            leases.acquire(f"k{number}", f"h{number}", now_s, lease_s)
        assert len(leases) <= 4


@dataclass
class Grant:
    holder: str
    until_s: float
    is_over: bool = False


@dataclass
class Model:
    """All grants ever, by key, in order."""

    grants: dict[str, list[Grant]] = field(default_factory=dict)

    def live(self, key: str, now_s: float) -> Grant | None:
        live = [g for g in self.grants.get(key, []) if not g.is_over and g.until_s > now_s]
        assert len(live) <= 1, "two hold the same key"
        return live[0] if live else None

    def n_live(self, now_s: float) -> int:
        return sum(self.live(key, now_s) is not None for key in self.grants)


KEYS = st.sampled_from("xyz")
HOLDERS = st.sampled_from("abcd")
SPANS = st.sampled_from([1.0, 2.0, 5.0])


class LeaseMachine(RuleBasedStateMachine):
    LIMIT = 2

    def __init__(self) -> None:
        super().__init__()
        self.leases, self.model, self.now_s = Leases(self.LIMIT), Model(), 0.0

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule(key=KEYS, holder=HOLDERS, lease_s=SPANS)
    def acquire(self, key: str, holder: str, lease_s: float) -> None:
        live = self.model.live(key, self.now_s)
        if live is None and self.model.n_live(self.now_s) >= self.LIMIT:
            with pytest.raises(Overloaded):
                self.leases.acquire(key, holder, self.now_s, lease_s)
            return
        lease = self.leases.acquire(key, holder, self.now_s, lease_s)
        if live is not None and live.holder == holder:
            live.until_s = self.now_s + lease_s
        elif live is None:
            live = Grant(holder, self.now_s + lease_s)
            self.model.grants.setdefault(key, []).append(live)
        assert (lease.holder, lease.until_s) == (live.holder, live.until_s)

    @rule(key=KEYS, holder=HOLDERS, lease_s=SPANS)
    def renew(self, key: str, holder: str, lease_s: float) -> None:
        live = self.model.live(key, self.now_s)
        if live is None or live.holder != holder:
            with pytest.raises(LeaseLost):
                self.leases.renew(key, holder, self.now_s, lease_s)
            return
        live.until_s = max(live.until_s, self.now_s + lease_s)
        assert self.leases.renew(key, holder, self.now_s, lease_s).until_s == live.until_s

    @rule(key=KEYS, holder=HOLDERS)
    def release(self, key: str, holder: str) -> None:
        live = self.model.live(key, self.now_s)
        is_holders = live is not None and live.holder == holder
        was_released = self.leases.release(key, holder)
        if is_holders:
            assert live is not None
            assert was_released
            live.is_over = True

    @precondition(lambda self: self.model.grants)
    @rule(key=KEYS)
    def void(self, key: str) -> None:
        live = self.model.live(key, self.now_s)
        self.leases.void(key)
        if live is not None:
            live.is_over = True

    @invariant()
    def only_the_live_holder_passes_the_fence(self) -> None:
        for key in "xyz":
            live = self.model.live(key, self.now_s)
            for holder in "abcd":
                passes = True
                try:
                    self.leases.check(key, holder, self.now_s)
                except LeaseLost:
                    passes = False
                assert passes == (live is not None and live.holder == holder)
        assert len(self.leases) <= self.LIMIT


TestLeaseMachine = LeaseMachine.TestCase
