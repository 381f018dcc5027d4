"""The token bucket of a function's network, on a clock of its own."""

from __future__ import annotations

import pytest

from infiniray.faas.local.network import Flow
from infiniray.faas.local.settings import BandwidthShape

SHAPE = BandwidthShape(bucket_bytes=1000, burst_bytes_per_s=500, sustained_bytes_per_s=100, quiet_s=2.0)


@pytest.fixture
def flow() -> Flow:
    return Flow.full(SHAPE, now_s=0.0)


def test_default_shape_is_what_was_measured_on_aws() -> None:
    shape = BandwidthShape()
    assert (shape.bucket_bytes, shape.burst_bytes_per_s, shape.sustained_bytes_per_s) == (
        300 << 20,
        1200 << 20,
        75 << 20,
    )


def test_a_full_bucket_bursts(flow: Flow) -> None:
    assert flow.look({1: 0}, 0.1) == 500


def test_sustained_traffic_does_not_empty_the_bucket(flow: Flow) -> None:
    for second in range(1, 50):
        assert flow.look({1: 100 * second}, float(second)) == 500
    assert flow.tokens_bytes == 1000


def test_what_exceeds_it_empties_the_bucket(flow: Flow) -> None:
    assert flow.look({1: 500}, 1.0) == 500
    assert flow.tokens_bytes == 600
    assert flow.look({1: 1000}, 2.0) == 500
    assert flow.look({1: 1500}, 3.0) == 100
    assert flow.tokens_bytes == 0


def test_half_comes_back_when_it_was_quiet(flow: Flow) -> None:
    flow.look({1: 5000}, 1.0)
    assert flow.look({1: 5000}, 2.5) == 100
    assert flow.look({1: 5000}, 3.0) == 500
    assert flow.tokens_bytes == 500


def test_quiet_never_takes_away(flow: Flow) -> None:
    flow.look({1: 200}, 1.0)
    assert flow.look({1: 200}, 10.0) == 500
    assert flow.tokens_bytes == 900


def test_the_quiet_time_itself_is_no_allowance(flow: Flow) -> None:
    """Bytes that move after an hour's rest come out of the bucket, but for what the last look's interval brought."""
    flow.look({1: 0}, 3600.0)
    flow.look({1: 700}, 3601.0)
    assert flow.tokens_bytes == 400


def test_connections_share_the_rate_among_those_that_move(flow: Flow) -> None:
    flow.look({1: 0, 2: 0, 3: 0}, 0.0)
    assert flow.look({1: 10, 2: 10, 3: 0}, 0.1) == 250
    assert flow.look({1: 20, 2: 10, 3: 0}, 0.2) == 500


def test_a_connection_that_closes_takes_nothing_back(flow: Flow) -> None:
    flow.look({1: 5000, 2: 10}, 1.0)
    flow.look({2: 110}, 2.0)
    assert (flow.tokens_bytes, flow.moved_s) == (0, 2.0)
