"""The planner on the simulation: choices are simulated with what was chosen, and the command says what to buy."""

from __future__ import annotations

import csv
import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from infiniray.cli.main import main
from infiniray.config import Config
from infiniray.errors import ConfigError
from infiniray.sim.client import Asked
from infiniray.sim.reclaims import Sample
from workloads.planner.configured import settings_in
from workloads.planner.simulating import Simulated, asked_of, several_at_once
from workloads.planner.space import Settings
from workloads.trace import Method, Request

SMALL = ["--choose", "nodes=8,16", "--choose", "memory=256,512", "--choose", "scheme=rs:4+1,rs:4+2",
         "--choose", "warm=1min,never", "--choose", "backup=never,5min", "--choose", "linger=8ms"]  # fmt: skip


FEW = ["--tries", "14", "--confirm", "4", "--workers", "1"]


def config() -> Config:
    return Config.load(
        None, {"ring": {"shards": 1}, "pool": {"nodes": 12}, "redundancy": [{"scheme": "rs:4+2"}]}, environ={}
    )


def trace(n: int = 60, n_keys: int = 6) -> list[Asked]:
    return [Asked(i * 60.0, f"k{i % n_keys}", 1_000_000, True) for i in range(n)]


def settings(**changes: float) -> Settings:
    return replace(settings_in(config()), **changes)  # type: ignore[arg-type]


def test_a_trace_without_reclaims_hits_what_it_can() -> None:
    found = Simulated(config(), trace())(settings())
    assert found.hit_ratio == pytest.approx(54 / 60)
    assert found.availability == 1.0
    assert found.cost_usd == pytest.approx(sum(found.cost_by_purpose.values()))
    assert found.cost_by_purpose["serving"] > 0


def test_what_is_chosen_is_simulated() -> None:
    simulated = Simulated(config(), trace())
    usual = simulated(settings()).cost_by_purpose
    assert simulated(settings(warm_every_s=0.0)).cost_by_purpose["warmup"] == 0 < usual["warmup"]
    assert simulated(settings(backup_every_s=0.0)).cost_by_purpose["backup"] == 0 < usual["backup"]
    assert simulated(settings(linger_s=0.1)).cost_by_purpose["serving"] > usual["serving"]


def test_reclaims_cost_hits_and_availability() -> None:
    all_at_once = Config.load(
        None, {**config().model_dump(), "simulation": {"reclaims": {"spread": "burst"}}}, environ={}
    )
    found = Simulated(all_at_once, trace(), [Sample(1800.0, 100)])(settings())
    assert found.hit_ratio == pytest.approx(48 / 60)  # each of the six objects is loaded once more
    assert found.availability == pytest.approx(1 - 6 / 48)


def test_only_the_beginning_is_simulated() -> None:
    part = Simulated(config(), trace(), until_s=600.0)(settings())
    assert part.hit_ratio == pytest.approx(5 / 11)
    assert part.cost_usd < Simulated(config(), trace())(settings()).cost_usd


def test_the_same_seed_gives_the_same() -> None:
    lost = [Sample(900.0, 5), Sample(1800.0, 5)]
    simulated = Simulated(config(), trace(), lost, seed=3)
    assert simulated(settings()) == simulated(settings())


def test_processes_find_the_same_in_the_same_order() -> None:
    simulated, choices = Simulated(config(), trace()), [settings(linger_s=0.001 * i) for i in range(4)]
    with several_at_once(2) as map_all:
        assert list(map_all(simulated, choices)) == list(map(simulated, choices))
        before = multiprocessing.active_children()
    assert len(before) == 2
    assert not multiprocessing.active_children()


def test_what_goes_wrong_in_a_process_is_told() -> None:
    with several_at_once(2) as map_all, pytest.raises(ConfigError, match="too few"):
        list(map_all(Simulated(config(), trace()), [settings(n_nodes=3)]))


def test_requests_become_what_the_simulation_takes() -> None:
    put = Request(timestamp_s=1.0, key="a", size_bytes=5, method=Method.PUT)
    assert asked_of([put, replace(put, method=Method.GET)]) == [Asked(1.0, "a", 5, False), Asked(1.0, "a", 5, True)]


# ---------------------------------------------------------------- the command


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    file = tmp_path / "trace.csv"
    with file.open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["", "Unnamed: 0", "host", "http.request.duration", "http.request.method",
                       "http.request.remoteaddr", "http.request.uri", "http.request.useragent",
                       "http.response.status", "http.response.written", "id", "timestamp"])  # fmt: skip
        for i in range(60):
            uri = f"v2/u/r/blobs/{i % 6}"
            when = f"2017-06-20 00:{i:02}:00.000"
            rows.writerow([i, i, "h", 0.1, "GET", "a", uri, "ua", 200, 1_000_000.0, f"id{i}", when])
    return file


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text("pool: {nodes: 16, memory_mb: 256}\nring: {shards: 1}\nredundancy: [{scheme: 'rs:4+2'}]\n")
    return file


@pytest.fixture
def reclaims_file(tmp_path: Path) -> Path:
    file = tmp_path / "reclaims.csv"
    file.write_text("minute,count\n10,2\n20,3\n30,2\n40,3\n50,2\n")
    return file


def run(trace_file: Path, config_file: Path, *more: str) -> tuple[int, str]:
    arguments = ["plan", str(trace_file), "--config", str(config_file), *SMALL, *FEW]
    result = CliRunner().invoke(main, [*arguments, *more])
    return result.exit_code, result.stdout if result.exit_code in (0, 1) else result.output


def test_the_command_says_what_to_buy(trace_file: Path, config_file: Path, reclaims_file: Path, tmp_path: Path) -> None:
    goal = ["--hit-ratio", "0.7", "--availability", "0.8", "--reclaims", str(reclaims_file), "--sample", "20min"]
    code, out = run(trace_file, config_file, *goal, "--json", "--plots", str(tmp_path / "plots"))
    assert code == 0, out
    document = json.loads(out)
    bought = document["choice"]
    assert bought["meets_goal"] is True
    assert bought["outcome"]["hit_ratio"] >= 0.7
    assert bought["outcome"]["availability"] >= 0.8
    assert bought["settings"]["n_nodes"] in (8, 16)
    assert document["n_on_sample"] <= 14
    assert document["n_on_whole"] <= 4
    assert all(bought["outcome"]["cost_usd"] <= one["outcome"]["cost_usd"] for one in document["confirmed"]
               if one["meets_goal"])  # fmt: skip
    assert (tmp_path / "plots" / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_marks_what_is_bought(trace_file: Path, config_file: Path) -> None:
    code, out = run(trace_file, config_file, "--hit-ratio", "0.7")
    assert code == 0, out
    assert "buy" in out
    assert "availability 100.00%" in out


def test_a_goal_that_nothing_meets_ends_with_1(trace_file: Path, config_file: Path, reclaims_file: Path) -> None:
    reclaims_file.write_text("minute,count\n15,100\n30,100\n45,100\n")  # all of them
    code, out = run(trace_file, config_file, "--availability", "1", "--reclaims", str(reclaims_file))
    assert code == 1
    assert "misses availability by" in out


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--hit-ratio", "0.99"], "infinite cache 90.00%"),
        (["--choose", "colour=red"], "axes are nodes"),
        (["--choose", "nodes=many"], "'nodes=many': not a number of 1 or more: 'many'"),
        (["--choose", "nodes=-3"], "not a number of 1 or more: '-3'"),
        (["--choose", "memory=64"], "a function has 128 to 10,240 MB"),
        (["--sample", "0"], "a part of the trace is longer than 0"),
        (["--availability", "nan"], "nan is not a finite number"),
        (["--choose", "warm=sometimes"], "not a duration"),
        (["--hit-ratio", "65.5"], "not in the range"),
    ],
)
def test_what_cannot_be_asked_is_wrong_usage(trace_file: Path, config_file: Path, more: list[str], told: str) -> None:
    arguments = ["plan", str(trace_file), "--config", str(config_file), *more]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2, result.output
    assert told in result.output
