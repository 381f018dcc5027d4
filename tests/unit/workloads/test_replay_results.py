from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infiniray.errors import CacheUnavailable
from workloads.errors import ResultsError
from workloads.replay.results import (
    COSTS,
    REQUESTS,
    OutcomeName,
    Result,
    RunInfo,
    RunWriter,
    TableWriter,
    read_run,
    read_table,
    table_of,
)
from workloads.replay.sampling import Sampler
from workloads.replay.summary import Tally, summarize_run

ROW = Result(
    request_s=1.0,
    intended_s=0.5,
    latency_s=0.25,
    service_s=0.2,
    size_bytes=10,
    key="k",
    op="get",
    outcome=OutcomeName.HIT,
    system="fake",
    worker=0,
)
INFO = RunInfo(system="fake", trace="t.csv", speed_up=2.0)


def written(folder: Path, rows: list[Result], costs: list[dict[str, Any]] | None = None) -> Path:
    with RunWriter(folder, INFO) as writer:
        writer.requests.write(table_of(rows))
        writer.costs.write_rows(costs or [])
    return folder


def test_a_run_reads_back_as_it_was_written(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, outcome=OutcomeName.MISS, insert_s=0.1, error="PoolFull")]
    run = read_run(written(tmp_path / "a" / "b", rows))
    assert run.requests.equals(table_of(rows))
    assert [row["error"] for row in run.requests.to_pylist()] == [None, "PoolFull"]
    assert (run.info.system, run.info.speed_up, run.info.kind) == ("fake", 2.0, "live")
    assert run.costs.num_rows == run.events.num_rows == 0


def test_a_run_that_breaks_off_leaves_what_it_had(tmp_path: Path) -> None:
    def broken() -> None:
        with RunWriter(tmp_path, INFO) as writer:
            writer.requests.write(table_of([ROW]))
            writer.note({"replayed in": "1 s"})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken()
    run = read_run(tmp_path)
    assert run.requests.num_rows == 1
    assert run.info.notes["replayed in"] == "1 s"
    assert run.info.notes["broke off"].startswith("KeyboardInterrupt")


def test_many_rows_go_to_disk_in_groups(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t.parquet", REQUESTS) as writer:
        for _ in range(5):
            writer.write(table_of([ROW] * 9000))
    assert writer.n_rows == 45_000
    file = pq.ParquetFile(tmp_path / "t.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [27_000, 18_000]
    file.close()


def test_another_schema_is_refused(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t.parquet", REQUESTS) as writer, pytest.raises(ValueError, match="does not fit"):
        writer.write(COSTS.empty_table())


@pytest.mark.parametrize(
    ("damage", "detail"),
    [
        (lambda path: path.write_bytes(b"no parquet"), "not a Parquet file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "not a Parquet file"),
        (lambda path: pq.write_table(pa.table({"request_s": [1.0]}), path), "columns are lacking: intended_s"),
        (
            lambda path: pq.write_table(table_of([ROW]).set_column(2, "latency_s", pa.array(["fast"])), path),
            "another type",
        ),
    ],
)
def test_a_file_that_is_damaged_says_so(tmp_path: Path, damage: Any, detail: str) -> None:
    path = written(tmp_path, [ROW]) / "requests.parquet"
    damage(path)
    with pytest.raises(ResultsError, match=detail):
        read_run(tmp_path)


def test_a_folder_that_holds_no_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match="not a run"):
        read_run(tmp_path)
    written(tmp_path, [ROW])
    for text in ("[]", "{", '{"trace": "t"}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ResultsError, match="does not describe a run"):
            read_run(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ResultsError, match="lacking"):
        read_run(tmp_path)


def test_fields_of_a_later_version_are_ignored(tmp_path: Path) -> None:
    written(tmp_path, [ROW])
    document = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(document | {"colour": "blue"}))
    assert read_run(tmp_path).info.trace == "t.csv"


def test_a_column_more_is_no_harm(tmp_path: Path) -> None:
    table = table_of([ROW])
    pq.write_table(table.append_column("more", pa.array([1])), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", REQUESTS).equals(table)


# ---------------------------------------------------------------- figures


def test_the_summary_adds_up(tmp_path: Path) -> None:
    rows = [
        *[replace(ROW, latency_s=float(i), service_s=float(i)) for i in range(1, 101)],
        replace(ROW, outcome=OutcomeName.MISS, latency_s=1000.0, service_s=1.0),
        replace(ROW, outcome=OutcomeName.RESET),
        replace(ROW, outcome=OutcomeName.ERROR, error="WrongBytes"),
        replace(ROW, outcome=OutcomeName.ERROR, error="Overloaded", request_s=7.0),
        replace(ROW, outcome=OutcomeName.STORED, op="put"),
    ]
    usd = [
        {"request_s": 0.0, "purpose": p, "usd": u, "system": "fake"} for p, u in (("a", 1.0), ("b", 2.0), ("a", 4.0))
    ]
    summary = summarize_run(written(tmp_path, rows, usd), elapsed_s=10.0, skipped_large=3)
    assert (summary.requests, summary.gets, summary.hits) == (105, 104, 100)
    assert (summary.misses, summary.resets, summary.errors, summary.stored) == (1, 1, 2, 1)
    assert summary.gets == summary.hits + summary.misses + summary.resets + summary.errors
    assert summary.hit_ratio == 100 / 104
    assert (summary.wrong_reads, summary.faults) == (1, {"Overloaded": 1, "WrongBytes": 1})
    assert summary.hit_latency_s == {"p50": 50.5, "p90": pytest.approx(90.1), "p99": pytest.approx(99.01)}
    assert (summary.total_bytes, summary.requests_per_s, summary.trace_span_s) == (1050, 10.5, 7.0)
    assert summary.cost_usd == {"a": 5.0, "b": 2.0, "total": 7.0}
    json.dumps(summary.to_json_dict())


def test_the_summary_of_nothing(tmp_path: Path) -> None:
    summary = summarize_run(written(tmp_path, []), elapsed_s=1.0, interrupted=True)
    assert (summary.requests, summary.hit_ratio, summary.late_p99_s, summary.cost_usd) == (0, 0.0, None, {})
    assert summary.latency_s == {"p50": None, "p90": None, "p99": None}


def test_the_tally_says_rates_and_lateness() -> None:
    tally = Tally()
    assert tally.note(0.0).startswith("0 requests, 0.0/s, 0.0 MB/s, no GETs yet")
    tally.add(table_of([]))
    rows = [ROW, replace(ROW, size_bytes=3_000_000, outcome=OutcomeName.RESET, latency_s=2.0, service_s=0.5)]
    tally.add(table_of(rows))
    assert tally.note(2.0) == "2 requests, 1.0/s, 1.5 MB/s, 50% hits, 1 reset, 1.5 s late"


# ---------------------------------------------------------------- the cache's own counters


class Stats:
    """A cache whose counters a test sets; None: it does not answer."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] | None = {}

    def stats(self) -> dict[str, Any]:
        if self.answer is None:
            raise CacheUnavailable(detail="no answer")
        return self.answer

    def set(self, repairs: int, reclaimed: int, serve_usd: float) -> None:
        bill = {"by_reason": {"serve": {"usd": serve_usd}, "warm": {"usd": 0.5}}}
        self.answer = {"repairs": repairs, "platform": {"reclaimed": reclaimed, "bill": bill}}


def sampled(folder: Path, cache: Stats, script: list[Any]) -> tuple[Counter[tuple[float, str]], Counter[str], Sampler]:
    now_s = 0.0
    with RunWriter(folder, INFO) as writer:
        sampler = Sampler(cache, writer, lambda: now_s, system="fake", every_s=1e6)
        for act in script:
            act()
            sampler.sample()
            now_s += 60.0
    run = read_run(folder)
    events = Counter({(row["request_s"], row["kind"]): row["n"] for row in run.events.to_pylist()})
    spent: Counter[str] = Counter()
    for row in run.costs.to_pylist():
        spent[row["purpose"]] += row["usd"]
    return events, spent, sampler


def test_what_counters_grow_by_is_written(tmp_path: Path) -> None:
    cache = Stats()
    script = [lambda: cache.set(5, 1, 1.0), lambda: cache.set(7, 1, 1.5), lambda: cache.set(7, 4, 1.75)]
    events, spent, _ = sampled(tmp_path, cache, script)
    assert events == {(60.0, "repair"): 2, (120.0, "reclaim"): 3}
    assert spent == {"serve": 0.75}


def test_a_reading_that_fails_is_made_up_for_by_the_next(tmp_path: Path) -> None:
    cache = Stats()
    script = [lambda: cache.set(0, 0, 0.0), lambda: setattr(cache, "answer", None), lambda: cache.set(3, 0, 1.0)]
    events, spent, sampler = sampled(tmp_path, cache, script)
    assert events == {(120.0, "repair"): 3}
    assert spent == {"serve": 1.0}
    assert sampler.n_failed == 1


def test_a_shard_that_restarted_counts_from_nothing_and_takes_nothing_back(tmp_path: Path) -> None:
    cache = Stats()
    events, spent, _ = sampled(tmp_path, cache, [lambda: cache.set(9, 0, 2.0), lambda: cache.set(1, 0, 0.5)])
    assert events == {}
    assert spent == {}


def test_a_platform_that_tells_nothing_costs_nothing(tmp_path: Path) -> None:
    cache = Stats()
    silent = [lambda: None, lambda: setattr(cache, "answer", {"repairs": 2, "platform": {"error": "gone"}})]
    events, spent, _ = sampled(tmp_path, cache, silent)
    assert events == {(60.0, "repair"): 2}
    assert spent == {}
