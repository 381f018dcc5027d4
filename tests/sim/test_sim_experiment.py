"""The experiment as a whole: repeatable, its books balanced, its memory flat in the trace's length."""

from __future__ import annotations

import gc
import json
import random
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from infiniray.config import Config
from infiniray.sim.client import Asked, Outcome, Served
from infiniray.sim.experiment import Experiment, ExperimentResult, HourRow, run_experiment
from infiniray.sim.reclaims import Sample

NAMES = {"gets", "hits", "hit_ratio", "resets", "availability", "repairs", "degraded_reads", "cost_usd", "latency_s",
         "wall_s"}  # fmt: skip
PURPOSES = {"serving", "warmup", "backup", "repair"}
TIMINGS = {"wall_s", "cpu_s", "events_per_s"}
N_KEYS, N_LARGE = 40, 4


def config(**sections: Any) -> Config:
    """A small pool that backs up, repairs and, as it is short of memory, evicts."""
    tree: dict[str, Any] = {
        "pool": {"nodes": 16, "memory_mb": 256},
        "ring": {"shards": 2},
        "redundancy": [{"scheme": "rs:4+2"}],
        "availability": {"backup_interval_s": "5m", "repair": "always"},
    }
    return Config.load(None, {**tree, **sections}, environ={})


def trace(n: int = 400, *, seed: int = 7, n_keys: int = N_KEYS, mean_gap_s: float = 20.0) -> Iterator[Asked]:
    """GETs of ``n_keys`` objects, few of them much more often than others, with a PUT now and then."""
    rng = random.Random(seed)
    at_s = 0.0
    for _ in range(n):
        key = int(n_keys * rng.random() ** 2)
        yield Asked(at_s, f"k{key}", 20_000_000 + 1_000_000 * key, rng.random() < 0.97)
        at_s += rng.expovariate(1 / mean_gap_s)


def reclaims(n: int = 10) -> list[Sample]:
    return [Sample(600.0 * (i + 1), 4 if i % 2 else 40) for i in range(n)]


def steady(result: ExperimentResult) -> str:
    """All but the timings, as the command prints it."""
    document = result.to_json_dict(with_hours=True)
    assert document.keys() >= TIMINGS
    return json.dumps({name: value for name, value in document.items() if name not in TIMINGS})


@pytest.fixture(scope="module")
def result() -> ExperimentResult:
    return run_experiment(config(), trace(), reclaims(), seed=1)


# ---------------------------------------------------------------- the same, or another


def test_the_same_seed_gives_the_same_bytes(result: ExperimentResult) -> None:
    assert steady(run_experiment(config(), trace(), reclaims(), seed=1)) == steady(result)


def test_another_seed_gives_other_figures(result: ExperimentResult) -> None:
    other = run_experiment(config(), trace(), reclaims(), seed=2).figures
    assert other.pop("seed") == 2
    assert other != {name: value for name, value in result.figures.items() if name != "seed"}
    assert other["gets"] == result.figures["gets"]


# ---------------------------------------------------------------- the books


def test_all_that_can_happen_here_does(result: ExperimentResult) -> None:
    """The other tests would show little otherwise."""
    f = result.figures
    for name in ("hits", "misses", "resets", "degraded_reads", "repairs", "evictions", "backups", "puts", "reclaims"):
        assert f[name] > 0, name
    assert all(f["cost_usd"][purpose] > 0 for purpose in PURPOSES)


def test_the_json_has_the_names_that_are_promised(result: ExperimentResult) -> None:
    document = json.loads(json.dumps(result.to_json_dict()))
    assert document.keys() >= NAMES
    assert document["cost_usd"].keys() == PURPOSES | {"total"}
    assert document["latency_s"].keys() == {"p50", "p90", "p99"}
    assert 0 < document["latency_s"]["p50"] <= document["latency_s"]["p90"] <= document["latency_s"]["p99"]
    assert "hours" not in document
    assert len(result.to_json_dict(with_hours=True)["hours"]) == len(result.hours)


def test_every_get_is_accounted_for_once() -> None:
    large = [Asked(1.0 + i, f"large{i}", 1 << 40, True) for i in range(N_LARGE)]
    asked = sorted([*trace(), *large], key=lambda one: one.at_s)
    served: list[Served] = []
    f = Experiment(config(), seed=1, tell=served.append).run(asked, reclaims()).figures
    assert f["gets"] == sum(one.is_get for one in asked)
    assert f["puts"] == sum(not one.is_get for one in asked)
    assert f["skipped"] == N_LARGE
    assert f["gets"] == f["hits"] + f["misses"] + f["resets"] + f["errors"] + f["skipped"]
    assert f["hit_ratio"] == f["hits"] / f["gets"]
    assert f["availability"] == 1 - f["resets"] / f["hits"]
    assert sorted((one.asked.key, one.asked.is_get) for one in served) == sorted((one.key, one.is_get) for one in asked)
    told = {outcome: sum(one.outcome is outcome for one in served) for outcome in Outcome}
    assert told[Outcome.HIT] == f["hits"]
    assert told[Outcome.RESET] == f["resets"]


def test_costs_add_up(result: ExperimentResult) -> None:
    costs = dict(result.figures["cost_usd"])
    assert costs.pop("total") == pytest.approx(sum(costs.values()), rel=1e-12)


def test_hours_add_up_to_the_totals(result: ExperimentResult) -> None:
    f = result.figures
    for name in ("gets", "hits", "misses", "resets", "degraded_reads", "repairs", "evictions", "reclaims", "backups"):
        assert sum(getattr(row, name) for row in result.hours) == f[name], name
    for purpose in PURPOSES:
        by_hour = sum(row.cost_usd.get(purpose, 0.0) for row in result.hours)
        assert by_hour == pytest.approx(f["cost_usd"][purpose], rel=1e-12), purpose
    assert [row.hour for row in result.hours] == list(range(len(result.hours)))
    assert f["span_s"] <= 3600 * len(result.hours) < f["span_s"] + 3600
    assert result.hours[-1].stored_bytes == f["stored_bytes"] <= f["capacity_bytes"]


def test_hours_are_told_as_they_end(result: ExperimentResult) -> None:
    told: list[HourRow] = []
    Experiment(config(), seed=1, tell_hour=told.append).run(trace(), reclaims())
    assert tuple(told) == result.hours


def test_without_requests_there_are_no_ratios() -> None:
    f = run_experiment(config(), []).figures
    assert (f["gets"], f["hit_ratio"], f["availability"]) == (0, None, None)
    assert f["latency_s"] == {"p50": None, "p90": None, "p99": None}


# ---------------------------------------------------------------- however long it is


def test_the_trace_is_read_one_request_ahead_at_most() -> None:
    n_read = n_over = 0

    def counted() -> Iterator[Asked]:
        nonlocal n_read
        for asked in trace(mean_gap_s=60.0):
            n_read += 1
            furthest.append(n_read - n_over)
            yield asked

    def tell(_: Served) -> None:
        nonlocal n_over
        n_over += 1

    furthest: list[int] = []
    Experiment(config(), tell=tell).run(counted(), reclaims())
    assert n_read == n_over == 400
    assert max(furthest) <= 4  # one ahead, and what is loaded at that moment


def test_memory_is_flat_in_the_length_of_the_trace() -> None:
    held_bytes: dict[int, int] = {}

    def weighed() -> Iterator[Asked]:
        for number, asked in enumerate(trace(1600, mean_gap_s=3.0)):
            if number in (400, 1599):
                gc.collect()
                held_bytes[number] = tracemalloc.get_traced_memory()[0]
            yield asked

    lost = (Sample(60.0 * (i + 1), 1) for i in range(10_000))
    tracemalloc.start()
    try:
        run_experiment(config(), weighed(), lost)
    finally:
        tracemalloc.stop()
    assert held_bytes[1599] < 1.25 * held_bytes[400]  # had the 1,200 requests between been kept: 1.6 times
