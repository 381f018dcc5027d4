from __future__ import annotations

import io
import itertools
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from workload_fakes import MISBEHAVIOURS, FakeCache, FakePlatform

from infiniray.cost.price_book import load_price_book
from workloads.demo import DemoOptions, ReclaimPoint, run_demo
from workloads.demo_report import DemoReport, compare_cost, size_class
from workloads.errors import TraceError
from workloads.generate import RegistryProfile, generate, write_registry
from workloads.lookaside import Kind
from workloads.progress import Display
from workloads.readers import read_registry
from workloads.summary import summarize
from workloads.trace import Request

QUIET = DemoOptions(display=Display.NONE, reclaims=())
N = 120


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trace") / "t.csv.gz"
    write_registry(generate(RegistryProfile(n_requests=N, seed=1, max_bytes=200_000)), path)
    return path


def run(
    trace: Path, cache: FakeCache | None = None, options: DemoOptions = QUIET, **more: object
) -> tuple[DemoReport, FakePlatform]:
    cache = cache or FakeCache()
    platform = FakePlatform(cache)
    return run_demo(cache, platform, trace=trace, options=options, **more), platform  # type: ignore[arg-type]


def consistent(report: DemoReport) -> bool:
    return report.gets == report.hits + report.misses + report.resets


def test_a_cache_that_loses_nothing_hits_every_re_reference(trace: Path) -> None:
    report, _ = run(trace)
    figures = summarize(read_registry(trace))
    assert (report.gets, report.misses, report.resets) == (N, figures.n_objects, 0)
    assert report.hit_ratio == figures.infinite_hit_ratio
    assert (report.wrong_bytes, report.wrong_reads, report.faults) == (0, 0, {})
    assert (report.n_objects, report.object_bytes) == (figures.n_objects, figures.unique_bytes)
    assert report.moved_bytes == figures.total_bytes
    assert report.hit_bytes == figures.total_bytes - figures.unique_bytes
    assert report.held_bytes == figures.unique_bytes
    assert report.stopped_by == "the end of the trace"
    assert report.degraded_reads == 0  # the fake's constant: what was there before does not count


ACTS = [*MISBEHAVIOURS, "ok", "miss", "lost", "busy"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=st.lists(st.sampled_from(ACTS), max_size=N), refuse_puts=st.booleans(), n_clients=st.integers(1, 3))
def test_whatever_the_cache_does_counts_add_up_and_wrong_bytes_are_caught(
    trace: Path, script: list[str], refuse_puts: bool, n_clients: int
) -> None:
    cache = FakeCache(script=list(script), refuse_puts=refuse_puts)
    report, _ = run(trace, cache, DemoOptions(display=Display.NONE, reclaims=(), n_clients=n_clients))
    assert report.gets == N
    assert consistent(report)
    assert report.wrong_reads == cache.n_wrong
    assert (report.wrong_bytes > 0) == (cache.n_wrong > 0)
    assert report.resets == cache.done.count("lost")
    n_failed_puts = report.misses + report.resets if refuse_puts else 0
    assert report.faults.get("Overloaded", 0) == cache.done.count("busy") + n_failed_puts
    overall = {x.kind: x.n for x in report.latencies if x.size_class is None}
    assert overall.get(Kind.HIT, 0) == report.hits
    assert overall.get(Kind.PUT, 0) == report.misses + report.resets - n_failed_puts


def test_reclaims_happen_on_the_way_and_a_burst_makes_resets(trace: Path) -> None:
    points = (ReclaimPoint(at=0.9, n=5), ReclaimPoint(at=0.3, n=1), ReclaimPoint(at=0.5, n=2))
    report, platform = run(trace, options=DemoOptions(display=Display.NONE, reclaims=points))
    assert platform.asked == [1, 2, 5]
    assert [(r.at, r.asked, r.done) for r in report.reclaims] == [(0.3, 1, 1), (0.5, 2, 2), (0.9, 5, 5)]
    assert report.resets > 0
    assert consistent(report)
    assert report.instances_reclaimed == 8


def test_the_time_limit_ends_the_replay_and_says_so(trace: Path) -> None:
    ticks = itertools.count(step=0.5)
    options = DemoOptions(display=Display.NONE, max_seconds=10, n_clients=1, reclaims=(ReclaimPoint(at=0.6, n=1),))
    report, platform = run(trace, options=options, clock_s=lambda: float(next(ticks)))
    assert report.stopped_by == "the time limit of 10 s"
    assert 0 < report.gets < N
    assert platform.asked == [1]  # told by the time, since the requests would have lasted longer
    assert consistent(report)


def test_the_byte_limit_ends_the_replay_and_says_so(trace: Path) -> None:
    report, _ = run(trace, options=DemoOptions(display=Display.NONE, max_bytes=500_000))
    assert report.stopped_by == "the limit of 500,000 bytes"
    assert report.moved_bytes <= 500_000
    assert 0 < report.gets < N


def test_the_limit_of_distinct_bytes_counts_each_object_once(trace: Path) -> None:
    unique_bytes = summarize(read_registry(trace)).unique_bytes
    whole, _ = run(trace, options=DemoOptions(display=Display.NONE, max_unique_bytes=unique_bytes))
    assert whole.gets == N
    cut, _ = run(trace, options=DemoOptions(display=Display.NONE, max_unique_bytes=unique_bytes - 1))
    assert cut.stopped_by == f"the limit of {unique_bytes - 1:,} bytes of distinct objects"
    assert cut.object_bytes < unique_bytes


def test_objects_that_are_too_large_are_skipped_and_counted(trace: Path) -> None:
    report, _ = run(trace, options=DemoOptions(display=Display.NONE, max_object_bytes=1000))
    n_large = sum(r.size_bytes > 1000 for r in read_registry(trace))
    assert n_large > 0
    assert (report.skipped_large, report.gets) == (n_large, N - n_large)


def test_a_trace_too_long_to_read_ahead_is_replayed_whole(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workloads.demo._READ_AHEAD", 10)
    report, _ = run(trace)
    assert (report.gets, report.stopped_by) == (N, "the end of the trace")


def test_an_error_in_a_client_stops_all_and_is_raised(trace: Path) -> None:
    class Broken(FakeCache):
        def get(self, key: str) -> object:
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run(trace, Broken())


def test_a_damaged_trace_is_raised(tmp_path: Path, trace: Path) -> None:
    broken = tmp_path / "t.csv.gz"
    broken.write_bytes(trace.read_bytes()[:-500])
    with pytest.raises(TraceError):
        run(broken)


def test_the_backing_store_is_removed_unless_named(
    tmp_path: Path, trace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    run(trace)
    assert list((tmp_path / "tmp").iterdir()) == []
    report, _ = run(trace, store_dir=tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) == report.n_objects


def test_json_has_what_scripts_need(trace: Path) -> None:
    report, _ = run(trace, options=DemoOptions(display=Display.NONE))
    found = json.loads(json.dumps(report.to_json_dict(), allow_nan=False))
    assert {"gets", "hits", "resets", "wrong_bytes", "p50_s", "p99_s", "bill_usd"} <= found.keys()
    assert found["bill_usd"] == pytest.approx(0.0015)
    assert 0 < found["p50_s"] <= found["p99_s"]


def test_without_hits_there_are_no_percentiles(trace: Path) -> None:
    report, _ = run(trace, FakeCache(refuse_puts=True))
    assert (report.hits, report.p50_s, report.p99_s) == (0, None, None)


def test_costs_are_compared_for_the_replay_and_for_an_hour(trace: Path) -> None:
    ticks = itertools.count(step=0.001)
    report, _ = run(trace, clock_s=lambda: next(ticks), prices=load_price_book("2026"))
    nodes, serverless = report.comparisons
    assert nodes.name == "ElastiCache, 1 x cache.r5.large"  # the cheapest that holds a few megabytes
    assert nodes.replay_usd == pytest.approx(0.216 * report.span_s / 3600)
    assert nodes.hour_usd == pytest.approx(0.216)
    assert serverless.replay_usd == pytest.approx(serverless.hour_usd * report.span_s / 3600)


def test_serverless_is_compared_by_what_is_held_and_what_was_moved() -> None:
    _, serverless = compare_cost(load_price_book("2026"), object_bytes=1 << 30, moved_bytes=1 << 30, span_s=1800)
    assert serverless.replay_usd == pytest.approx(0.084 / 2 + 0.0023 * 1.048576)
    assert serverless.hour_usd == pytest.approx(0.084 + 2 * 0.0023 * 1.048576)


def test_size_classes_meet_without_gap_or_overlap() -> None:
    names = [size_class(n).name for n in (0, 10**6 - 1, 10**6, 10**7 - 1, 10**7, 10**8 - 1, 10**8, 10**12)]
    assert names == ["< 1 MB"] * 2 + ["1-10 MB"] * 2 + ["10-100 MB"] * 2 + [">= 100 MB"] * 2


def test_tables_show_the_figures_and_shout_at_wrong_bytes(trace: Path) -> None:
    for script, verdict in ([], "Every byte read is what was written."), (["flip"], "WRONG BYTES WERE READ."):
        report, _ = run(trace, FakeCache(script=list(script)))
        out = io.StringIO()
        report.render(Console(file=out, width=120))
        text = out.getvalue()
        assert verdict in text
        for shown in ("GETs", "resets", "degraded reads", "p99", "ElastiCache", "cache.r5.large", "16 / 12 / 0"):
            assert shown in text


@pytest.mark.parametrize(("terminal", "display"), [(True, Display.AUTO), (False, Display.AUTO), (False, Display.NONE)])
def test_progress_is_a_bar_or_lines_or_nothing(trace: Path, terminal: bool, display: Display) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120)
    options = DemoOptions(display=display, n_clients=1, reclaims=(ReclaimPoint(at=0.5, n=1),))
    run(trace, options=options, console=console)
    text = out.getvalue()
    if display is Display.NONE:
        assert text == ""
    else:
        assert f"{N} GETs" in text
        assert "reclaims 1" in text
        assert ("\x1b[" in text) == terminal
    if not terminal and display is Display.AUTO:
        assert text.count("GETs") == 10


@pytest.mark.parametrize("bad", [{"n_clients": 0}, {"max_seconds": 0.0}, {"max_bytes": 0}, {"max_unique_bytes": -1}])
def test_impossible_options_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="demo"):
        DemoOptions(**bad)  # type: ignore[arg-type]


def test_a_summary_of_nothing_has_no_ratios() -> None:
    assert summarize([]).infinite_hit_ratio == summarize([]).reuse_within_hour == 0.0
    one = summarize([Request(timestamp_s=0, key="a", size_bytes=3)])
    assert (one.n_gets, one.unique_bytes, one.infinite_hit_ratio) == (1, 3, 0.0)
