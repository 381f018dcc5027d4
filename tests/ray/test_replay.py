"""Replays whose workers are actors on a real Ray, against a real cache and Ray's own store."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path

import pytest
import ray
from click.testing import CliRunner
from rich.console import Console

from infiniray import Cache
from infiniray.cli.main import main
from workloads.errors import ReplayError, TargetFailed
from workloads.generate import RegistryProfile, generate, write_registry
from workloads.progress import Display, ReplayProgress
from workloads.replay.fleet import Fleet
from workloads.replay.partition import Limits, partition
from workloads.replay.results import read_run
from workloads.replay.run import ReplayPlan, replay_trace
from workloads.replay.summary import ReplaySummary
from workloads.replay.targets import TargetSpec
from workloads.replay.targets.infiniray import InfiniRaySpec
from workloads.replay.targets.ray_store import RayStoreSpec
from workloads.replay.targets.redis import RedisSpec
from workloads.replay.worker import BackingSpec, WorkerSpec
from workloads.summary import summarize
from workloads.trace import Request, TraceProblems

TRACE = list(generate(RegistryProfile(n_requests=120, seed=3, max_bytes=3_000_000)))
SPAN_S = TRACE[-1].timestamp_s


def workers(target: TargetSpec, *, preload: bool = False) -> WorkerSpec:
    return WorkerSpec(target=target, backing=BackingSpec(), speed_up=SPAN_S / 2, n_outstanding=4, preload=preload)


def run(plan: ReplayPlan, folder: Path) -> tuple[ReplaySummary, str]:
    shown = io.StringIO()
    with ReplayProgress(Console(file=shown, width=200), Display.AUTO) as progress:
        summary = replay_trace(TRACE, plan, folder, progress=progress, problems=TraceProblems())
    return summary, shown.getvalue()


def test_two_workers_replay_against_the_cache_and_leave_nothing(cache: Cache, tmp_path: Path) -> None:
    target = InfiniRaySpec(cache=cache)
    plan = ReplayPlan(workers=workers(target), trace="generated", n_workers=2, watched=cache)
    summary, shown = run(plan, tmp_path)
    figures = summarize(TRACE)
    assert (summary.requests, summary.gets) == (120, 120)
    assert (summary.hits, summary.misses) == (120 - figures.n_objects, figures.n_objects)
    assert (summary.resets, summary.errors, summary.wrong_reads, summary.faults) == (0, 0, 0, {})
    assert summary.total_bytes == figures.total_bytes
    assert summary.cost_usd["serve"] > 0
    table = read_run(tmp_path).requests
    assert set(table["worker"].to_pylist()) == {0, 1}
    assert sorted(table["request_s"].to_pylist()) == [r.timestamp_s for r in TRACE]
    assert min(table["latency_s"].to_pylist()) > 0
    assert "120 requests" in shown
    assert cache.keys() == []


def test_a_preloaded_store_of_ray_has_no_misses(local_ray: str, tmp_path: Path) -> None:
    plan = ReplayPlan(
        workers=workers(RayStoreSpec(), preload=True),
        trace="generated",
        n_workers=2,
        limits=Limits(max_requests=50),
    )
    summary, shown = run(plan, tmp_path)
    assert (summary.requests, summary.hits) == (50, 50)
    assert "preloaded" in shown
    run_of = read_run(tmp_path)
    assert run_of.info.system == "ray store"
    assert run_of.costs.num_rows == 0


def test_a_target_that_nobody_answers_at_is_a_typed_error(local_ray: str, tmp_path: Path) -> None:
    plan = ReplayPlan(workers=workers(RedisSpec(url="redis://127.0.0.1:1")), trace="generated")
    with pytest.raises(TargetFailed, match="redis: ConnectionError"):
        run(plan, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_trace_with_nothing_within_the_limits_is_refused(local_ray: str, tmp_path: Path) -> None:
    plan = ReplayPlan(workers=workers(RayStoreSpec()), trace="generated", limits=Limits(max_object_bytes=0))
    with pytest.raises(ReplayError, match="no request of the trace is within the limits; "):
        run(plan, tmp_path)


def far_off() -> list[Request]:
    """One request now, one in thirty years."""
    return [Request(timestamp_s=t, key="k", size_bytes=100) for t in (0.0, SPAN_S / 2 * 1e9)]


def test_a_worker_that_dies_ends_the_replay(local_ray: str) -> None:
    cut = partition(far_off(), 1, ray.put)
    with Fleet(workers(RayStoreSpec()), 1) as fleet:
        results = fleet.replay(cut.parts)
        assert sum(next(results).num_rows for _ in range(2)) == 1
        os.kill(fleet.worker_pids()[0], signal.SIGKILL)
        with pytest.raises(ReplayError, match="replaying: "):
            list(results)


def test_stopping_ends_the_streams(local_ray: str) -> None:
    cut = partition(far_off(), 1, ray.put)
    with Fleet(workers(RayStoreSpec()), 1) as fleet:
        results = fleet.replay(cut.parts)
        n_rows = next(results).num_rows
        fleet.stop()
        assert n_rows + sum(table.num_rows for table in results) == 1
        assert fleet.clear() == 1


def test_the_command_and_a_report_of_what_it_found(whole_cache: Cache, tmp_path: Path) -> None:
    trace, folder, page = tmp_path / "t.csv.gz", tmp_path / "run", tmp_path / "report.html"
    write_registry(iter(TRACE), trace)
    limits = ["--max-requests", "40", "--max-object", "2MB", "--speed-up", str(SPAN_S)]
    arguments = ["replay", str(trace), "--name", "shared", "--out", str(folder), *limits, "--json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["requests"], summary["errors"], summary["wrong_reads"]) == (40, 0, 0)
    assert summary["hits"] + summary["misses"] == 40
    again = CliRunner().invoke(main, [*arguments, "--overwrite"])
    assert json.loads(again.stdout)["hits"] == summary["hits"]  # the first left nothing behind
    reported = CliRunner().invoke(main, ["report", str(folder), "--out", str(page)])
    assert reported.exit_code == 0, reported.output
    assert "Latency of hits" in page.read_text()
