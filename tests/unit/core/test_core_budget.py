"""What may be spent in a time."""

from __future__ import annotations

import math

import pytest

from infiniray.core.budget import Allowance, Budget


def test_it_is_full_at_the_start() -> None:
    budget = Budget(per_s=1.0, burst=10.0)
    budget.spend(9.9, 0.0)
    assert budget.wait_s(0.0) == 0.0


def test_what_is_begun_is_not_refused_and_the_next_one_waits_until_the_debt_is_paid() -> None:
    budget = Budget(per_s=2.0, burst=10.0)
    budget.spend(30.0, 100.0)
    assert budget.wait_s(100.0) == pytest.approx(10.0, abs=0.01)
    assert budget.wait_s(109.0) == pytest.approx(1.0, abs=0.01)
    assert budget.wait_s(110.0 + 0.01) == 0.0


def test_after_the_wait_that_was_told_there_is_something_to_spend() -> None:
    budget = Budget(per_s=0.1, burst=1.0)
    budget.spend(5.0, 0.0)
    assert budget.wait_s(budget.wait_s(0.0)) == 0.0


def test_no_more_is_saved_up_than_the_burst() -> None:
    budget = Budget(per_s=5.0, burst=10.0)
    assert budget.wait_s(0.0) == 0.0
    budget.spend(10.0, 1e6)  # a long time later there are still only ten
    assert budget.wait_s(1e6) > 0.0


@pytest.mark.parametrize("per_s", [0.0, -1.0])
def test_nothing_comes_back_without_an_income(per_s: float) -> None:
    budget = Budget(per_s=per_s, burst=1.0)
    budget.spend(2.0, 0.0)
    assert budget.wait_s(0.0) == math.inf


def test_all_that_was_spent_is_counted() -> None:
    budget = Budget(per_s=1.0, burst=1.0)
    budget.spend(3.0, 0.0)
    budget.spend(4.0, 1.0)
    assert budget.spent == 7.0


def test_an_allowance_is_a_share_of_what_was_earned_and_is_not_saved_up_for_ever() -> None:
    allowance = Allowance(share=0.1, burst=50)
    assert allowance.spend(50)
    assert not allowance.spend(1)
    allowance.earn(100)
    assert allowance.spend(10)
    assert not allowance.spend(0.1)
    allowance.earn(10_000)
    assert not allowance.spend(51)
    assert allowance.spend(50)
