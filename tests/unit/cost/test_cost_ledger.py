"""What invocations add up to."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infiniray.cost.ledger import Ledger, Purpose
from infiniray.cost.price_book import FunctionRates, load_price_book

THEN, NOW = (load_price_book(year).function_rates() for year in ("2019", "2026"))


@pytest.mark.parametrize(("rates", "usd"), [(NOW, 3.89), (THEN, 46.66)], ids=["1 ms", "100 ms"])
def test_400_functions_pinged_each_minute_for_30_days(rates: FunctionRates, usd: float) -> None:
    ledger = Ledger(rates)
    for day in range(30):
        ledger.charge(Purpose.WARMUP, 1.0, 1536, 400 * 60 * 24, at_s=day * 86400.0)
    assert round(ledger.total_usd, 2) == usd
    assert ledger.total.n_invocations == 17_280_000


def test_fee_work_and_start_are_told_apart() -> None:
    ledger = Ledger(NOW)
    ledger.charge(Purpose.SERVING, 2.5, 1024, init_ms=250.0)
    line = ledger.by_purpose()[Purpose.SERVING]
    assert (line.n_invocations, line.billed_s, line.gb_seconds) == (1, 0.253, 0.253)  # one sum, rounded once
    assert line.requests_usd == pytest.approx(0.2e-6)
    assert line.duration_usd == pytest.approx(0.003 * 1.66667e-5)
    assert line.init_usd == pytest.approx(0.250 * 1.66667e-5)
    assert line.usd == line.requests_usd + line.duration_usd + line.init_usd


def test_a_start_was_free_in_2019() -> None:
    ledger = Ledger(THEN)
    ledger.charge(Purpose.SERVING, 2.5, 1024, init_ms=250.0)
    assert (ledger.total.billed_s, ledger.total.init_usd) == (0.1, 0.0)


def test_by_hour_is_the_same_money_as_by_purpose() -> None:
    ledger = Ledger(NOW)
    for at_s, purpose in ((0.0, Purpose.BACKUP), (3599.9, Purpose.WARMUP), (3600.0, Purpose.WARMUP)):
        ledger.charge(purpose, 10, 1536, at_s=at_s)
    by_hour = ledger.by_hour()
    assert {hour: list(lines) for hour, lines in by_hour.items()} == {
        0: [Purpose.WARMUP, Purpose.BACKUP],
        1: [Purpose.WARMUP],
    }
    summed = math.fsum(line.usd for lines in by_hour.values() for line in lines.values())
    assert summed == pytest.approx(ledger.total_usd)


def test_cost_names_all_purposes_and_other_only_where_there_is_some() -> None:
    ledger = Ledger(NOW)
    assert ledger.cost_usd() == {"serving": 0.0, "warmup": 0.0, "backup": 0.0, "repair": 0.0, "total": 0.0}
    ledger.charge(Purpose.OTHER, 1, 1536)
    ledger.charge(Purpose.REPAIR, 1, 1536)
    costs = ledger.cost_usd()
    assert list(costs) == ["serving", "warmup", "backup", "repair", "other", "total"]
    assert costs["total"] == costs["other"] + costs["repair"] > 0


CHARGES = st.tuples(
    st.sampled_from(Purpose), st.floats(0, 1e6), st.integers(128, 10_240), st.integers(0, 10**6), st.floats(0, 1e6)
)


@given(st.lists(CHARGES, max_size=4))
def test_the_order_of_charges_changes_no_bit(charges: list[tuple[Purpose, float, int, int, float]]) -> None:
    found = set()
    for order in itertools.permutations(charges):
        ledger = Ledger(NOW)
        for purpose, duration_ms, memory_mb, n, at_s in order:
            ledger.charge(purpose, duration_ms, memory_mb, n, at_s=at_s)
        found.add((ledger.total_usd, tuple(ledger.cost_usd().items()), tuple(ledger.by_hour())))
    assert len(found) == 1


@given(st.floats(0, 1e5), st.integers(1, 1000))
def test_many_alike_at_once_are_the_same_as_one_by_one(duration_ms: float, n: int) -> None:
    at_once, one_by_one = Ledger(NOW), Ledger(NOW)
    at_once.charge(Purpose.SERVING, duration_ms, 1536, n)
    for _ in range(n):
        one_by_one.charge(Purpose.SERVING, duration_ms, 1536)
    assert at_once.total == one_by_one.total


@pytest.mark.parametrize(
    ("duration_ms", "init_ms", "memory_mb", "n"),
    [(-1.0, 0.0, 1536, 1), (math.nan, 0.0, 1536, 1), (math.inf, 0.0, 1536, 1), (1, -1.0, 1536, 1), (1, 0, 0, 1),
     (1, 0, 1536, -1)],
)  # fmt: skip
def test_what_cannot_have_happened_is_not_charged(duration_ms: float, init_ms: float, memory_mb: int, n: int) -> None:
    ledger = Ledger(NOW)
    with pytest.raises(ValueError, match="cannot charge"):
        ledger.charge(Purpose.SERVING, duration_ms, memory_mb, n, init_ms=init_ms)
    assert ledger.by_hour() == {}
