"""A whole live replay: the trace cut up, the workers started, results written as they come."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray

from workloads.errors import ReplayError
from workloads.progress import ReplayProgress
from workloads.replay.fleet import Fleet
from workloads.replay.partition import Limits, Partition, limited, partition
from workloads.replay.results import RunInfo, RunWriter
from workloads.replay.sampling import Sampler, StatsSource, elapsed_trace_s
from workloads.replay.summary import ReplaySummary, Tally, summarize_run
from workloads.replay.worker import WorkerSpec
from workloads.trace import Request, TraceProblems

__all__ = ["ReplayPlan", "replay_trace"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPlan:
    """What a replay does beyond what its workers do. ``watched``: the cache whose counters are sampled meanwhile.
    ``keep``: what the replay stored stays stored."""

    workers: WorkerSpec
    trace: str
    n_workers: int = 1
    limits: Limits = field(default_factory=Limits)
    watched: StatsSource | None = None
    keep: bool = False


def replay_trace(
    requests: Iterable[Request], plan: ReplayPlan, folder: Path, *, progress: ReplayProgress, problems: TraceProblems
) -> ReplaySummary:
    """Replays ``requests`` on the Ray that this process is connected to; results go to ``folder``.

    Ctrl-C stops it in good order: what is under way is finished, and what was measured is written.

    Raises:
        TraceError: the trace cannot be read.
        ReplayError: there is nothing to replay; a worker died.
        InfiniRayError, OSError: a target or the backing store cannot be reached, or refuses to be preloaded.
    """
    cut = partition(limited(requests, plan.limits), plan.n_workers, ray.put)
    if cut.n_requests == 0:
        skipped = f"; {plan.limits.n_skipped} objects were too large" if plan.limits.n_skipped else ""
        raise ReplayError(detail=f"no request of the trace is within the limits{skipped}")
    with Fleet(plan.workers, plan.n_workers) as fleet:
        if plan.workers.preload:
            _preload(fleet, cut, progress)
        info = RunInfo(
            system=plan.workers.target.system, trace=plan.trace, speed_up=plan.workers.speed_up, notes=_notes(plan, cut)
        )
        with RunWriter(folder, info) as writer:
            elapsed_s, interrupted = _replay(fleet, cut, plan, writer, progress)
            writer.note({"replayed in": f"{elapsed_s:,.1f} s" + (", stopped by hand" if interrupted else "")})
        if not plan.keep:
            fleet.clear()
    return summarize_run(
        folder,
        elapsed_s=elapsed_s,
        skipped_large=plan.limits.n_skipped,
        malformed_lines=problems.n_malformed,
        interrupted=interrupted,
    )


def _preload(fleet: Fleet, cut: Partition[Any], progress: ReplayProgress) -> None:
    n_objects = n_bytes = 0
    for size_bytes in fleet.preload(cut.parts):
        n_objects += 1
        n_bytes += size_bytes
        progress.update(0.0, f"preloading: {n_objects:,} objects, {n_bytes / 1e6:,.0f} MB")
    progress.event(f"preloaded {n_objects:,} objects, {n_bytes / 1e6:,.0f} MB")


def _replay(
    fleet: Fleet, cut: Partition[Any], plan: ReplayPlan, writer: RunWriter, progress: ReplayProgress
) -> tuple[float, bool]:
    """How long it took, and whether it was stopped by hand."""
    began_s = time.monotonic()
    tally = Tally()
    interrupted = False

    def trace_s() -> float:
        return elapsed_trace_s(began_s, plan.workers.speed_up)

    with _sampling(plan, writer, trace_s):
        results = fleet.replay(cut.parts)
        while True:
            try:
                table = next(results, None)
                if table is None:
                    break
                writer.requests.write(table)
                tally.add(table)
                progress.update(tally.n_requests / cut.n_requests, tally.note(time.monotonic() - began_s))
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                progress.event("stopping: requests under way are finished; once more to stop at once")
                fleet.stop()
    return max(time.monotonic() - began_s, 1e-6), interrupted


def _sampling(
    plan: ReplayPlan, writer: RunWriter, request_s: Callable[[], float]
) -> contextlib.AbstractContextManager[object]:
    if plan.watched is None:
        return contextlib.nullcontext()
    return Sampler(plan.watched, writer, request_s, system=plan.workers.target.system)


def _notes(plan: ReplayPlan, cut: Partition[Any]) -> dict[str, str]:
    spec = plan.workers
    preloaded = "yes, before the clock began" if spec.preload else "no: first requests miss"
    skipped = f", {plan.limits.n_skipped:,} objects skipped as too large" if plan.limits.n_skipped else ""
    return {
        "requests": f"{cut.n_requests:,} over {cut.span_s:,.0f} s of the trace, {cut.n_bytes / 1e9:,.2f} GB{skipped}",
        "workers": f"{plan.n_workers}, each with at most {spec.n_outstanding} requests under way",
        "backing store": str(spec.backing),
        "objects stored beforehand": preloaded,
    }
