"""Which fault an invocation meets: counts, shares, one function or all."""

from __future__ import annotations

import random

import pytest

from infiniray.faas.local.faults import FaultKind, FaultRule, Faults
from infiniray.faas.local.refusals import Refusal


def faults(**rules: FaultRule) -> Faults:
    made = Faults(random.Random(1))
    for kind, rule in rules.items():
        made.order(FaultKind(kind), rule)
    return made


def test_a_count_goes_down_to_nothing() -> None:
    some = faults(fail=FaultRule(n=2))
    assert [some.meets(FaultKind.FAIL, "f") is not None for _ in range(4)] == [True, True, False, False]


def test_a_functions_own_rule_comes_first_and_spends_nothing_of_the_others() -> None:
    some = faults(fail=FaultRule(n=1))
    some.order(FaultKind.FAIL, FaultRule(n=1), "f")
    assert some.meets(FaultKind.FAIL, "f") is not None
    assert some.meets(FaultKind.FAIL, "g") is not None
    assert some.meets(FaultKind.FAIL, "f") is None


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_is_that_of_many(share: float) -> None:
    some = faults(throttle=FaultRule(share=share))
    n = sum(some.meets(FaultKind.THROTTLE, "f") is not None for _ in range(4000))
    assert abs(n - 4000 * share) <= (150 if 0 < share < 1 else 0)


def test_kinds_do_not_mix() -> None:
    some = faults(throttle=FaultRule(share=1.0))
    assert some.meets(FaultKind.FAIL, "f") is None
    assert some.meets(FaultKind.DELAY, "f") is None


def test_clearing() -> None:
    some = faults(throttle=FaultRule(share=1.0), fail=FaultRule(n=5))
    some.order(FaultKind.FAIL, FaultRule(n=5), "f")
    some.clear("f")
    assert some.meets(FaultKind.FAIL, "f") is not None  # one that all meet
    some.clear()
    assert [some.meets(kind, "f") for kind in FaultKind] == [None] * 3


@pytest.mark.parametrize(
    "order",
    [
        {},
        {"kind": "explode", "n": 1},
        {"kind": "fail", "n": -1},
        {"kind": "fail", "n": True},
        {"kind": "fail", "share": 1.01},
        {"kind": "fail", "share": float("nan")},
        {"kind": "fail", "n": 1, "share": 0.5},
        {"kind": "delay", "share": 1.0},
        {"kind": "delay", "share": 1.0, "delay_ms": -1},
        {"kind": "delay", "share": 1.0, "delay_ms": float("inf")},
        {"kind": "delay", "share": 1.0, "delay_ms": float("nan")},
    ],
)
def test_orders_that_make_no_sense(order: dict[str, object]) -> None:
    with pytest.raises(Refusal):
        FaultRule.parse(order)


def test_an_order() -> None:
    order = {"kind": "delay", "share": 0.5, "delay_ms": 20}
    assert FaultRule.parse(order) == (FaultKind.DELAY, FaultRule(share=0.5, delay_s=0.02))
