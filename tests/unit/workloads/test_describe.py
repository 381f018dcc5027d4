"""The statistics of a trace against counts made by hand, by brute force, and as published."""

from __future__ import annotations

import json
import random
from collections import Counter, OrderedDict
from pathlib import Path

import pytest

from workloads.describe import describe
from workloads.describe.description import MAX_OBJECTS
from workloads.describe.distances import StackDistances
from workloads.describe.histogram import LogHistogram
from workloads.describe.objects import ObjectSample
from workloads.readers import open_trace
from workloads.trace import Method, Request, TraceProblems

TRACES = Path(__file__).resolve().parents[4] / "shared" / "traces"
LARGE_TRACE = TRACES / "dal09_10mb_50h.csv.gz"
MB = 1_000_000


def made_up(n: int, *, n_keys: int = 300, seed: int = 1) -> list[Request]:
    rng = random.Random(seed)
    sizes = [rng.randrange(1, 40 * MB) for _ in range(n_keys)]
    requests = []
    for i in range(n):
        key = min(int(rng.paretovariate(0.6)), n_keys) - 1
        requests.append(Request(timestamp_s=i * 7.0, key=str(key), size_bytes=sizes[key]))
    return requests


def test_a_small_trace_by_hand() -> None:
    trace = [
        Request(timestamp_s=0, key="a", size_bytes=20 * MB),
        Request(timestamp_s=10, key="b", size_bytes=5 * MB),
        Request(timestamp_s=30, key="a", size_bytes=20 * MB),
        Request(timestamp_s=50, key="c", size_bytes=0, method=Method.PUT),
        Request(timestamp_s=4000, key="a", size_bytes=20 * MB),
        Request(timestamp_s=4001, key="c", size_bytes=0),
    ]
    found = describe(trace)
    assert (found.n_gets, found.n_puts, found.n_objects, found.n_large_objects) == (5, 1, 3, 1)
    assert (found.get_bytes, found.put_bytes, found.unique_bytes, found.largest_bytes) == (65 * MB, 0, 25 * MB, 20 * MB)
    assert found.hourly_gets == [3, 2]
    assert found.followed_share == 1
    assert found.infinite_hit_ratio == 3 / 5
    assert found.large_byte_share == 20 / 25
    assert found.seen_once_share == 2 / 3
    assert found.reuse_s.share_at_most(60) == 1 / 3
    assert found.large_reuse_s.share_at_most(60) == 1 / 2
    assert found.popularity[0.01] == 3 / 5  # of one object at least


def test_of_nothing_there_are_no_figures_but_no_error_either() -> None:
    figures = describe([]).to_json_dict()
    assert (figures["gets"], figures["infinite_hit_ratio"], figures["gets_by_hour"]) == (0, 0.0, [])


def test_an_object_has_the_largest_size_that_was_said() -> None:
    sizes = [5, 9, 7]
    assert describe([Request(timestamp_s=0, key="a", size_bytes=size) for size in sizes]).unique_bytes == 9


def test_stack_distances_are_those_of_brute_force() -> None:
    stack: OrderedDict[str, int] = OrderedDict()
    distances = StackDistances()
    for request in made_up(9000, n_keys=700):
        expected = None
        if request.key in stack:
            keys = list(stack)
            expected = sum(stack[key] for key in keys[keys.index(request.key) :])
        assert distances.access(request.key, request.size_bytes) == expected
        stack[request.key] = request.size_bytes
        stack.move_to_end(request.key)


@pytest.mark.parametrize("capacity_bytes", [50 * MB, 300 * MB, 2000 * MB])
def test_the_lru_curve_is_what_an_lru_cache_hits(capacity_bytes: int) -> None:
    trace = made_up(5000)
    held: OrderedDict[str, int] = OrderedDict()
    n_hits = 0
    for request in trace:
        n_hits += request.key in held
        held[request.key] = request.size_bytes
        held.move_to_end(request.key)
        while sum(held.values()) > capacity_bytes:
            held.popitem(last=False)
    assert describe(trace).lru_hit_ratio(capacity_bytes) == pytest.approx(n_hits / len(trace), abs=0.002)


def test_quantiles_of_a_histogram_are_right_to_a_fifth_of_a_percent() -> None:
    histogram = LogHistogram()
    rng = random.Random(3)
    values = sorted(10 ** rng.uniform(0, 9) for _ in range(5000))
    for value in values:
        histogram.add(value)
    for share in (0.01, 0.25, 0.5, 0.99):
        assert histogram.quantile(share) == pytest.approx(values[int(share * 5000) - 1], rel=0.002)
        assert histogram.share_at_most(values[int(share * 5000) - 1]) == pytest.approx(share, abs=0.002)
    assert histogram.share_at_most(-1) == 0
    assert len(histogram.steps()) <= 256 * 30


def test_few_objects_are_followed_of_many_and_estimate_the_rest() -> None:
    rng = random.Random(5)
    trace = [
        Request(timestamp_s=i / 10, key=str(rng.randrange(20_000)), size_bytes=rng.randrange(1, 20) * MB)
        for i in range(60_000)
    ]
    exact, estimated = describe(trace), describe(trace, max_objects=3000)
    assert estimated.followed_share == 0.125
    assert (estimated.n_gets, estimated.get_bytes, estimated.gets_by_hour) == (
        exact.n_gets,
        exact.get_bytes,
        exact.gets_by_hour,
    )
    assert estimated.n_objects == pytest.approx(exact.n_objects, rel=0.05)
    assert estimated.infinite_hit_ratio == pytest.approx(exact.infinite_hit_ratio, abs=0.03)
    assert estimated.reuse_s.share_at_most(600) == pytest.approx(exact.reuse_s.share_at_most(600), abs=0.03)
    assert estimated.lru_hit_ratio(50e9) == pytest.approx(exact.lru_hit_ratio(50e9), abs=0.03)


def test_zipfs_exponent_is_that_of_the_law_it_was_made_by() -> None:
    times_asked = [round(2000 * rank**-0.8) for rank in range(1, 101)]
    trace = [
        Request(timestamp_s=0, key=str(rank), size_bytes=1) for rank, n in enumerate(times_asked) for _ in range(n)
    ]
    assert describe(trace).zipf_exponent == pytest.approx(0.8, abs=0.01)
    assert describe(trace[:2000]).zipf_exponent is None  # of one object


def test_sizes_are_told_at_round_limits_by_objects_and_by_bytes() -> None:
    sizes = [50, 100, 101, 5_000_000, 3 << 30]
    found = describe([Request(timestamp_s=i, key=str(i), size_bytes=size) for i, size in enumerate(sizes)])
    figures = found.to_json_dict()
    assert figures["objects_at_most"]["100"] == 2 / 5
    assert figures["objects_at_most"]["10000000"] == 4 / 5
    assert figures["bytes_in_objects_at_most"]["10000000"] == pytest.approx(sum(sizes[:4]) / sum(sizes))
    assert figures["objects_above_2_gib"] == 1


def test_objects_of_one_size_have_just_that_size() -> None:
    found = describe([Request(timestamp_s=i, key=str(i), size_bytes=10 * MB) for i in range(9)])
    assert {found.object_sizes.quantile(share) for share in (0.01, 0.5, 0.99)} == {10 * MB}


def test_never_more_objects_are_followed_than_asked_for() -> None:
    sample = ObjectSample(64)
    for i in range(5000):
        sample.add(Request(timestamp_s=i, key=str(i), size_bytes=1))
        assert len(sample.objects) <= 64
    assert MAX_OBJECTS > 64


def test_the_json_document_is_json() -> None:
    trace = made_up(500)
    figures = json.loads(json.dumps(describe(trace).to_json_dict()))
    counts = Counter(request.key for request in trace)
    assert figures["objects"] == len(counts)
    assert sum(figures["gets_by_hour"]) == 500
    assert figures["seen_once_share"] == pytest.approx(sum(n == 1 for n in counts.values()) / len(counts))


@pytest.mark.skipif(not LARGE_TRACE.exists(), reason="the 50-hour trace is not here")
def test_the_50_hour_trace_has_the_published_statistics() -> None:
    problems = TraceProblems(strict=True)
    found = describe(open_trace(LARGE_TRACE, problems=problems))
    assert str(problems.begins).startswith("2017-06-20 00:00:26")
    assert (found.n_gets, found.n_objects) == (37_474, 12_541)
    assert found.get_bytes == pytest.approx(2.25e12, rel=0.002)
    assert found.unique_bytes == pytest.approx(950e9, rel=0.001)
    # published by the hour of the clock; the first request comes 26 s after one
    assert (min(found.hourly_gets), max(found.hourly_gets)) == pytest.approx((341, 1389), rel=0.01)
    quantiles_mb = [found.get_sizes.quantile(share) / 1e6 for share in (0.1, 0.5, 0.9, 0.99)]
    assert quantiles_mb == pytest.approx([14.8, 51.5, 94.8, 397], rel=0.003)
    assert round(found.largest_bytes / 1e6) == 8487
    assert found.n_huge_objects == 33
    assert found.zipf_exponent == pytest.approx(0.91, abs=0.01)
    assert round(found.seen_once_share, 2) == 0.77
    reuse = [found.reuse_s.share_at_most(limit_s) for limit_s in (60, 600, 3600, 21600)]
    assert reuse == pytest.approx([0.46, 0.80, 0.91, 0.967], abs=0.005)
    assert found.infinite_hit_ratio == pytest.approx(0.6653, abs=0.0001)
    lru = [found.lru_hit_ratio(capacity) for capacity in (10e9, 50e9, 100e9, 400e9, 635.61e9)]
    assert lru == pytest.approx([0.562, 0.626, 0.638, 0.657, 0.6646], abs=0.001)


@pytest.mark.skipif(not LARGE_TRACE.exists(), reason="the 50-hour trace is not here")
def test_a_sample_of_the_50_hour_trace_keeps_its_shape() -> None:
    found = describe(open_trace(LARGE_TRACE), max_objects=5000)
    assert found.followed_share == 0.25
    assert found.n_objects == pytest.approx(12_541, rel=0.05)
    assert found.infinite_hit_ratio == pytest.approx(0.665, abs=0.04)  # whether a few hot keys are followed tells
