"""The replay command: a trace's requests, at their times, against this cache, Redis, S3 or Ray's object store."""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infiniray.cli.extras import need_extra
from infiniray.cli.numbers import FiniteRange
from infiniray.cli.output import json_option, name_option, print_json, reports_errors, results, says
from infiniray.cli.problems import tell_problems

if TYPE_CHECKING:
    from rich.table import Table

    from infiniray.cache import Cache
    from workloads.replay.summary import ReplaySummary
    from workloads.replay.targets import TargetSpec
    from workloads.replay.worker import BackingSpec

__all__ = ["replay"]

_SYSTEMS = ("infiniray", "redis", "s3", "ray")


def _size(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    from infiniray.units import parse_bytes

    try:
        return None if text is None else parse_bytes(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _duration(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    from infiniray.units import parse_seconds

    try:
        return None if text is None else parse_seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.argument("trace", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--system", type=click.Choice(_SYSTEMS), default="infiniray", show_default=True, help="What is measured.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder.  [default: results/SYSTEM]")
@click.option("--overwrite", is_flag=True, help="Replace the results that are there.")
@click.option("--speed-up", type=FiniteRange(min=0, min_open=True), default=1.0, show_default=True)
@click.option("--workers", type=click.IntRange(1, 1000), default=1, show_default=True, help="Spread over the cluster.")
@click.option("--outstanding", type=click.IntRange(1, 1000), default=32, show_default=True, help="In each, at once.")
@click.option("--max-requests", type=click.IntRange(min=1), help="Only so many.")
@click.option("--first", callback=_duration, help="Only this much of the trace, like 2h.")
@click.option("--max-object", callback=_size, help="Leave out larger objects.")
@click.option("--backing", help="A directory that all workers see, or s3://BUCKET/PREFIX.  [default: made up at once]")
@click.option("--backing-endpoint-url", help="Of an S3 that is not AWS's.")
@click.option("--redis-url", help="[default: a redis-server of the replay's own]")
@click.option("--redis-memory", callback=_size, default="1GiB", show_default=True, help="Of that one.")
@click.option("--bucket", help="For s3.")
@click.option("--endpoint-url", help="For s3, where it is not AWS's.")
@click.option("--preload/--no-preload", default=None, help="Store all objects beforehand.  [default: for s3]")
@click.option("--keep", is_flag=True, help="Leave what was stored in the system.")
@click.option("--address", help="The Ray to run on, where SYSTEM is not infiniray.  [default: one of its own]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the objects' bytes.")
@click.option("--strict", is_flag=True, help="Stop at a malformed line of the trace.")
@name_option
@json_option
@reports_errors
def replay(
    trace: Path,
    system: str,
    out: Path | None,
    overwrite: bool,
    speed_up: float,
    workers: int,
    outstanding: int,
    max_requests: int | None,
    first: float | None,
    max_object: int | None,
    backing: str | None,
    backing_endpoint_url: str | None,
    preload: bool | None,
    keep: bool,
    seed: int,
    strict: bool,
    as_json: bool,
    **where: Any,
) -> None:
    """Replay TRACE, open loop: each request starts at its time, and its latency counts from then, however long it waits
    for its turn. On a miss the object is loaded from the backing store and inserted. Every byte read is checked.

    Results go to a folder that `infiniray report` makes a page of. Exit code 1 if wrong bytes were read.
    """
    need_extra("workloads")
    from workloads.progress import Display, ReplayProgress
    from workloads.readers import open_trace
    from workloads.replay.partition import Limits
    from workloads.replay.run import ReplayPlan, replay_trace
    from workloads.replay.worker import WorkerSpec
    from workloads.trace import TraceProblems

    folder = out or Path("results") / system
    if (folder / "requests.parquet").exists() and not overwrite:
        raise click.UsageError(f"{folder} holds results already: --overwrite replaces them, --out names another folder")
    problems = TraceProblems(strict=strict)
    behind = _backing(backing, backing_endpoint_url)
    with _target(system, **where) as (target, watched):
        plan = ReplayPlan(
            workers=WorkerSpec(
                target=target,
                backing=behind,
                speed_up=speed_up,
                n_outstanding=outstanding,
                preload=system == "s3" if preload is None else preload,
                seed=seed,
            ),
            trace=trace.name,
            n_workers=workers,
            limits=Limits(max_requests=max_requests, max_trace_s=first, max_object_bytes=max_object),
            watched=watched,
            keep=keep,
        )
        display = Display.NONE if as_json else Display.AUTO
        with ReplayProgress(says(), display) as progress:
            requests = open_trace(trace, problems=problems)
            summary = replay_trace(requests, plan, folder, progress=progress, problems=problems)
    tell_problems(problems)
    if as_json:
        print_json(summary.to_json_dict() | {"folder": str(folder)})
    else:
        results().print(_table(summary))
        says().print(f"results are in {folder}; `infiniray report {folder}` makes a page of them", soft_wrap=True)
    sys.exit(1 if summary.wrong_reads else 0)


# ---------------------------------------------------------------- which system


@contextlib.contextmanager
def _target(
    system: str,
    *,
    name: str,
    address: str | None,
    redis_url: str | None,
    redis_memory: int,
    bucket: str | None,
    endpoint_url: str | None,
) -> Iterator[tuple[TargetSpec, Cache | None]]:
    """The system, with this process connected to a Ray, and the cache to be watched, if it is ours."""
    prefix = f"replay-{uuid.uuid4().hex[:8]}"  # what earlier replays stored is not found
    if system == "s3" and bucket is None:
        raise click.UsageError("--system s3 needs --bucket")
    with contextlib.ExitStack() as stack:
        if system == "infiniray":
            from infiniray.cli.reach import connected
            from workloads.replay.targets.infiniray import InfiniRaySpec

            cache = stack.enter_context(connected(name))
            yield InfiniRaySpec(cache=cache.namespace(prefix)), cache
            return
        stack.enter_context(_on_ray(address))
        if system == "redis":
            from workloads.replay.targets.redis import RedisSpec

            redis_url = redis_url or stack.enter_context(_redis_server(redis_memory))
            yield RedisSpec(url=redis_url, prefix=f"{prefix}/"), None
        elif system == "s3":
            from workloads.replay.targets.s3 import S3Spec

            yield S3Spec(bucket=str(bucket), prefix=f"{prefix}/", endpoint_url=endpoint_url), None
        else:
            from workloads.replay.targets.ray_store import RayStoreSpec

            yield RayStoreSpec(), None


@contextlib.contextmanager
def _on_ray(address: str | None) -> Iterator[None]:
    from infiniray.cluster import rayapi

    address = address or os.environ.get("RAY_ADDRESS")
    if address is None or address == "local":
        rayapi.start_local()
    else:
        rayapi.attach(address)
    try:
        yield
    finally:
        rayapi.disconnect()


@contextlib.contextmanager
def _redis_server(max_bytes: int) -> Iterator[str]:
    """The URL of a server of our own; only workers on this machine reach it.

    Raises:
        TargetFailed: there is none to run, or the workers may be elsewhere.
    """
    from workloads.errors import TargetFailed
    from workloads.replay.fleet import n_ray_nodes
    from workloads.replay.targets.redis import RedisServer, redis_is_available

    if not redis_is_available():
        detail = "no redis-server or no redis-py is installed here: name a server with --redis-url"
        raise TargetFailed(system="redis", detail=detail)
    if n_ray_nodes() > 1:
        raise TargetFailed(system="redis", detail="the workers are on several nodes: name a server with --redis-url")
    with RedisServer(max_bytes) as server:
        yield server.url


def _backing(text: str | None, endpoint_url: str | None) -> BackingSpec:
    from workloads.replay.targets.s3 import S3Spec
    from workloads.replay.worker import BackingSpec

    if text is None:
        return BackingSpec()
    if not text.startswith("s3://"):
        return BackingSpec(directory=Path(text).absolute())
    bucket, _, prefix = text.removeprefix("s3://").partition("/")
    if not bucket:
        raise click.BadParameter("s3://BUCKET/PREFIX", param_hint="--backing")
    prefix = prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
    return BackingSpec(s3=S3Spec(bucket=bucket, prefix=prefix, endpoint_url=endpoint_url, system="backing store"))


# ---------------------------------------------------------------- what is shown


def _table(summary: ReplaySummary) -> Table:
    from rich.table import Table

    from infiniray.units import format_bytes

    table = Table("", "", title=f"replay against {summary.system}", title_justify="left", show_header=False, box=None)
    table.columns[1].justify = "right"
    table.add_row("requests", f"{summary.requests:,} in {summary.elapsed_s:,.1f} s ({summary.requests_per_s:,.1f}/s)")
    table.add_row("bytes", f"{format_bytes(summary.total_bytes)} ({format_bytes(summary.bytes_per_s)}/s)")
    table.add_row("hits", f"{summary.hits:,} of {summary.gets:,} GETs ({summary.hit_ratio:.1%})")
    table.add_row("misses, resets, errors", f"{summary.misses:,}, {summary.resets:,}, {summary.errors:,}")
    for title, latency in (("all", summary.latency_s), ("hits", summary.hit_latency_s)):
        shown = ", ".join("-" if x is None else f"{1e3 * x:,.1f}" for x in latency.values())
        table.add_row(f"latency p50, p90, p99, {title}", f"{shown} ms")
    table.add_row("waiting for their turn, p99", f"{1e3 * (summary.late_p99_s or 0):,.1f} ms")
    for name, n in summary.faults.items():
        table.add_row(f"failed calls, inserts too: {name}", f"{n:,}")
    for purpose, usd in summary.cost_usd.items():
        table.add_row(f"cost: {purpose}", f"${usd:.6f}")
    for title, n in (("too large, skipped", summary.skipped_large), ("malformed lines", summary.malformed_lines)):
        if n:
            table.add_row(title, f"{n:,}")
    return table
