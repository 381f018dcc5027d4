"""The paper's figures, out of its closed form; and this system's own hour beside it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infiniray.cost.alternatives import elasticache_nodes
from infiniray.cost.model import (
    Behaviour,
    LinearCost,
    Load,
    Pool,
    Side,
    closed_form,
    crossover,
    metered_cost,
    metered_hour,
    transfer_ms,
)
from infiniray.cost.price_book import load_price_book

THEN, NOW = load_price_book("2019"), load_price_book("2026")
POOL = Pool(n_nodes=400, memory_mb=1536, data_chunks=10, parity_chunks=2)
PAPER = Behaviour(serve_ms=95.0, linger_ms=0.0, gets_read_parity=True)


def test_fast20_section_4_3() -> None:
    paper = closed_form(THEN.function_rates(), POOL, PAPER)
    assert paper.serving_usd_per_request == pytest.approx(3.24e-5, rel=1e-4)
    assert paper.warmup_usd_per_hour == pytest.approx(0.0648, rel=1e-4)
    assert paper.cost_usd(0)["total"] == paper.warmup_usd_per_hour + paper.backup_usd_per_hour


def test_fast20_fig_17_elasticache_is_cheaper_from_312k_requests_an_hour() -> None:
    elasticache = elasticache_nodes(THEN, "cache.r5.24xlarge", 635 * 10**9)
    found = crossover(closed_form(THEN.function_rates(), POOL, PAPER).cost, elasticache.cost)
    assert found.cheaper is Side.BELOW
    assert found.requests_per_hour is not None
    assert round(found.requests_per_hour / 1000) == 312


def test_without_warmup_and_backup_only_requests_cost() -> None:
    idle = Behaviour(serve_ms=95.0, warm_every_s=None, backup_every_s=None)
    assert closed_form(NOW.function_rates(), POOL, idle).cost_usd(0)["total"] == 0
    load = Load(requests_per_hour=0, object_bytes=10**7)
    assert metered_hour(NOW.function_rates(), POOL, load, idle).total.n_invocations == 0


def test_metered_as_the_paper_behaves_is_the_closed_form_but_for_backups_last_step() -> None:
    rates, load = THEN.function_rates(), Load(requests_per_hour=750, object_bytes=10**7)
    metered = metered_hour(rates, POOL, load, PAPER).cost_usd()
    paper = closed_form(rates, POOL, PAPER).cost_usd(750)
    assert metered["serving"] == pytest.approx(paper["serving"])
    assert metered["warmup"] == pytest.approx(paper["warmup"])
    assert metered["backup"] / paper["backup"] == pytest.approx(1600 / 1560, rel=0.01)


def test_a_get_invokes_the_data_chunks_a_put_all() -> None:
    behaviour = Behaviour(serve_ms=4.2, linger_ms=8.0, warm_every_s=None, backup_every_s=None)
    load = Load(requests_per_hour=100, object_bytes=10**7, put_share=0.25)
    line = metered_hour(NOW.function_rates(), POOL, load, behaviour).total
    assert line.n_invocations == 75 * 10 + 25 * 12
    assert line.billed_s == pytest.approx(line.n_invocations * 0.013)


def test_reclaims_make_warmups_begin_with_a_start() -> None:
    load = Load(requests_per_hour=0, object_bytes=10**7)
    ledger = metered_hour(NOW.function_rates(), POOL, load, Behaviour(serve_ms=5.0, reclaims_per_hour=300))
    assert ledger.total.n_invocations == 400 * 60 + 400 * 12
    assert ledger.total.init_usd == pytest.approx(300 * 0.250 * 1.5 * 1.66667e-5)


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
def test_the_hour_lies_on_the_line(thousands: int, put_share: float, gets_read_parity: bool) -> None:
    load = Load(requests_per_hour=1000 * thousands, object_bytes=10**7, put_share=put_share)
    behaviour = Behaviour(serve_ms=12.3, gets_read_parity=gets_read_parity)
    rates = NOW.function_rates()
    line = metered_cost(rates, POOL, load, behaviour)
    hour = metered_hour(rates, POOL, load, behaviour)
    assert line.usd_per_hour(load.requests_per_hour) == pytest.approx(hour.total_usd)


def test_a_transfer_is_a_burst_and_then_the_sustained_rate() -> None:
    assert transfer_ms(0) == 0
    assert transfer_ms(150 << 20) == pytest.approx(125)
    assert transfer_ms(225 << 20) == pytest.approx(125 + 1000)


@pytest.mark.parametrize(
    ("ours", "other", "cheaper", "at"),
    [
        ((1, 0.5), (3, 0.1), Side.BELOW, 5.0),
        ((3, 0.1), (1, 0.5), Side.ABOVE, 5.0),
        ((1, 0.1), (3, 0.5), Side.ALWAYS, None),
        ((1, 0.1), (3, 0.1), Side.ALWAYS, None),
        ((3, 0.5), (1, 0.1), Side.NEVER, None),
        ((1, 0.1), (1, 0.1), Side.NEVER, None),
        ((1, 0.5), (1, 0.1), Side.NEVER, None),
        ((1, 0.1), (1, 0.5), Side.ABOVE, 0.0),
    ],
)
def test_crossover(ours: tuple[float, float], other: tuple[float, float], cheaper: Side, at: float | None) -> None:
    first, second = (LinearCost(fixed_usd_per_hour=fixed, usd_per_request=slope) for fixed, slope in (ours, other))
    found = crossover(first, second)
    assert found.cheaper is cheaper
    assert found.requests_per_hour == (None if at is None else pytest.approx(at))


COSTS = st.builds(LinearCost, fixed_usd_per_hour=st.integers(0, 100), usd_per_request=st.integers(0, 100))


@given(COSTS, COSTS, st.integers(0, 1000))
def test_crossover_says_who_is_cheaper_at_any_rate(ours: LinearCost, other: LinearCost, rate: int) -> None:
    found = crossover(ours, other)
    at = found.requests_per_hour
    says = {
        Side.ALWAYS: True,
        Side.NEVER: False,
        Side.BELOW: at is not None and rate < at,
        Side.ABOVE: at is not None and rate > at,
    }[found.cheaper]
    if at is None or abs(rate - at) > 1e-6:
        assert (ours.usd_per_hour(rate) < other.usd_per_hour(rate)) is says
