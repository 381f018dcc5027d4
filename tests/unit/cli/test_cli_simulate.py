"""The simulate command: what its document holds, what it refuses, and what a broken trace leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from infiniray.cli.main import main

OBJECTS = {"a": 2_000_000, "b": 500_000, "huge": 5_000_000_000}
TIMINGS = ("wall_s", "cpu_s", "events_per_s")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["simulate", *map(str, arguments), "--set", "pool.memory_mb=256"])


def document(*arguments: object) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


def trace_of(path: Path, *keys: str) -> Path:
    path.write_text("".join(f"{60_000 * i} REST.GET.OBJECT {key} {OBJECTS[key]}\n" for i, key in enumerate(keys)))
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return trace_of(tmp_path / "small.txt", *"abababab")


def test_the_document_has_what_is_promised(small: Path) -> None:
    found = document(small)
    assert (found["gets"], found["hits"], found["resets"], found["availability"]) == (8, 6, 0, 1.0)
    assert found["hit_ratio"] == 6 / 8
    assert {"repairs", "degraded_reads", "wall_s"} <= set(found)
    assert set(found["latency_s"]) == {"p50", "p90", "p99"}
    costs = found["cost_usd"]
    assert costs.pop("total") == pytest.approx(sum(costs.values()))
    assert {"serving", "warmup", "backup", "repair"} == set(costs)


def test_the_same_seed_gives_the_same_document_timings_apart(small: Path) -> None:
    first, second = document(small, "--seed", 3), document(small, "--seed", 3)
    assert {name: first[name] for name in first if name not in TIMINGS} == {
        name: second[name] for name in second if name not in TIMINGS
    }


def test_an_object_larger_than_the_pool_is_counted_and_no_hit(tmp_path: Path) -> None:
    found = document(trace_of(tmp_path / "t", "huge", "a", "huge", "a", "huge"))
    assert (found["gets"], found["hits"], found["misses"], found["skipped"]) == (5, 1, 1, 3)
    assert found["hit_ratio"] == 1 / 5


def test_lines_that_hold_no_request_are_counted_and_told(small: Path) -> None:
    small.write_text(small.read_text() + "garbage\n1 REST.GET.OBJECT a 2000000\n")
    result = run(small, "--json")
    assert (result.exit_code, json.loads(result.stdout)["gets"]) == (0, 9)
    assert json.loads(result.stdout)["malformed_lines"] == json.loads(result.stdout)["out_of_order_lines"] == 1
    assert "1 malformed line was left out, 1 line went back in time; the first, line 9" in result.stderr
    strict = run(small, "--strict", "--json")
    assert (strict.exit_code, strict.stdout) == (1, "")
    assert "line 9" in strict.stderr


@pytest.mark.parametrize("text", ["", "no trace\n"])
def test_what_is_no_trace_leaves_no_report(tmp_path: Path, text: str) -> None:
    (tmp_path / "t").write_text(text)
    result = run(tmp_path / "t", "--report", tmp_path / "report", "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_reclaims_that_are_none_are_named(small: Path, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("hour,count\n0.1,-2\n")
    result = run(small, "--reclaims", tmp_path / "r.csv")
    assert result.exit_code == 1
    assert "r.csv, line 2: a negative count" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--set", "pool.nodez=3"), "did you mean 'pool.nodes'"),
        (("--reclaims-scale", "nan"), "nan is not a finite number"),
        (("--config", "/no/such.yaml"), "does not exist"),
        (("--reclaims", "."), "is a directory"),
    ],
)
def test_what_is_refused(small: Path, arguments: tuple[str, ...], reason: str) -> None:
    result = run(small, *arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert reason in result.stderr


def test_a_report_is_a_page_with_its_pictures_and_is_not_written_over(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    assert run(small, "--report", folder).exit_code == 0
    assert "small.txt, simulated" in (folder / "report.html").read_text()
    assert {"requests.parquet", "costs.parquet", "run.json"} <= {path.name for path in folder.iterdir()}
    again = run(small, "--report", folder)
    assert again.exit_code == 2
    assert "holds results already" in again.stderr
