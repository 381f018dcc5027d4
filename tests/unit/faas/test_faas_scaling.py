"""The limit of new instances in a window of time."""

from __future__ import annotations

import random

from infiniray.faas.local.scaling import ScalingLimit


def test_so_many_at_once_and_the_next_when_the_first_is_a_window_ago() -> None:
    limit = ScalingLimit(n_instances=3, window_s=10.0)
    for now_s in (0.0, 1.0, 2.0):
        assert limit.wait_s(now_s) == 0.0
        limit.note(now_s)
    assert limit.wait_s(4.0) == 6.0
    assert limit.wait_s(9.5) == 0.5
    assert limit.wait_s(10.0) == 0.0
    limit.note(10.0)
    assert limit.wait_s(10.5) == 0.5


def test_asking_costs_nothing() -> None:
    limit = ScalingLimit(n_instances=1, window_s=10.0)
    assert [limit.wait_s(0.0) for _ in range(5)] == [0.0] * 5


def test_no_window_of_any_position_has_more() -> None:
    rng = random.Random(5)
    limit = ScalingLimit(n_instances=4, window_s=10.0)
    now_s, started_s = 0.0, list[float]()
    for _ in range(2000):
        now_s += rng.expovariate(2.0)
        if limit.wait_s(now_s) == 0.0:
            limit.note(now_s)
            started_s.append(now_s)
    assert len(started_s) > 100
    assert all(later - earlier >= 10.0 for earlier, later in zip(started_s, started_s[4:], strict=False))
