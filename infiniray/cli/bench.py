"""The bench command: :mod:`workloads.bench` on an embedded cache, beside what else this machine has."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from infiniray.cli.output import json_option, print_json, reports_errors, results, says

if TYPE_CHECKING:
    from collections.abc import Callable

    from workloads.bench import BenchRow, Case

__all__ = ["bench"]


def _sizes(_ctx: click.Context, _param: click.Parameter, text: str) -> list[int]:
    from infiniray.units import parse_bytes

    try:
        return [parse_bytes(part) for part in text.split(",")]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _size(_ctx: click.Context, _param: click.Parameter, text: str) -> int:
    return _sizes(_ctx, _param, text)[0]


def _clients(_ctx: click.Context, _param: click.Parameter, text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter("numbers, separated by commas") from None
    if any(not 1 <= count <= 64 for count in counts):
        raise click.BadParameter("1 to 64 clients")
    return counts


@click.group(invoke_without_command=True)
@click.option("--sizes", callback=_sizes, default="64KiB,1MiB,10MiB,100MB", show_default=True, help="Of objects.")
@click.option(
    "--schemes", default="default", show_default=True, help="default: by size, as configured; or rs:10+2,rs:4+2."
)
@click.option("--ops", default="put,get", show_default=True)
@click.option("--clients", callback=_clients, default="1", show_default=True, help="Threads at once, like 1,4.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=9, show_default=True)
@click.option("--hedge", type=click.Choice(["delayed", "all"]), default="delayed", show_default=True)
@click.option("--awake/--asleep", default=False, help="Keep nodes awake between requests (a linger of 2 s).")
@json_option
@click.pass_context
@reports_errors
def bench(
    ctx: click.Context,
    sizes: list[int],
    schemes: str,
    ops: str,
    clients: list[int],
    rounds: int,
    hedge: str,
    awake: bool,
    as_json: bool,
) -> None:
    """Time PUT and GET of this cache, Redis, Ray's store, a socket and memcpy, in turns, in one run.

    Bytes are verified outside the timed section. With --json, one line for each row: `ratio_to_redis` is Redis's median
    over this one's, above 1 is faster. Kernels, and the platform's starts, memory and code size come last.
    """
    if ctx.invoked_subcommand is not None:
        return
    from infiniray.codec.measure import measure_kernels
    from infiniray.codec.schemes import Scheme
    from workloads.baselines import RedisTarget
    from workloads.bench import Case, render
    from workloads.platform_bench import measure_platform

    chosen_ops = [op.strip() for op in ops.split(",")]
    if not set(chosen_ops) <= {"put", "get"}:
        raise click.BadParameter("put, get or both", param_hint="--ops")
    if not RedisTarget.is_available():
        says().print("no redis-server here: no ratios to Redis")
    cases = [Case(size_bytes=size, clients=count, rounds=rounds) for size in sizes for count in clients]
    settings: dict[str, Any] = {"read": {"hedge": hedge}, **({"session": {"linger_s": 2.0}} if awake else {})}
    rows = [row for scheme in schemes.split(",") for row in _against_others(scheme, settings, cases, chosen_ops)]
    kernels = measure_kernels(100_000_000, Scheme.parse("rs:10+2"), 5)
    platform = measure_platform()
    if as_json:
        for row in rows:
            print_json(row.to_json_dict())
        for speed in kernels:
            print_json(asdict(speed))
        print_json(platform.to_json_dict())
        return
    results().print(render(rows))
    for speed in kernels:
        results().print(
            f"{speed.kernel} {speed.operation}: {speed.gb_per_s:.1f} GB/s, {speed.ratio:.1f} x zfec by itself"
        )
    results().print(
        f"{platform.instances} instances started in {platform.start_all_s:.2f} s, "
        f"{platform.resident_bytes / 1e6:.1f} MB resident each; warm invoke {platform.warm_invoke_p50_s * 1e3:.1f} ms; "
        f"agent zip {platform.agent_zip_bytes:,} bytes"
    )


@bench.command()
@click.option("--objects", type=click.IntRange(min=1), default=10_000, show_default=True, help="In the shard's table.")
@click.option("--object-size", callback=_size, default="1KiB", show_default=True)
@json_option
@reports_errors
def recovery(objects: int, object_size: int, as_json: bool) -> None:
    """Kill a shard under its objects: seconds until the first GET is served, and until all have been."""
    import infiniray
    from infiniray.cluster.status import shard_pid
    from workloads.recovery_bench import measure_recovery

    with infiniray.start(name="bench", shards=1, nodes=16) as cache:
        says().print(f"{objects:,} objects of {object_size:,} bytes, one shard ...")
        figures = measure_recovery(
            cache, lambda: shard_pid("bench", "shard-0"), n_objects=objects, object_bytes=object_size
        )
    _show(figures.to_json_dict(), as_json=as_json)


@bench.command()
@click.option("--objects", type=click.IntRange(min=1), default=48, show_default=True)
@click.option("--object-size", callback=_size, default="100MB", show_default=True)
@click.option(
    "--reclaim", type=click.IntRange(1, 2), default=2, show_default=True, help="Nodes that lose all they have."
)
@json_option
@reports_errors
def repair(objects: int, object_size: int, reclaim: int, as_json: bool) -> None:
    """Reclaim nodes under large objects: seconds until every lost chunk is rebuilt. No budget, no peer replicas."""
    import infiniray
    from infiniray.faas.local.admin import PlatformAdmin
    from workloads.recovery_bench import measure_repair

    unbounded = {"warm_interval_s": 1, "backup_interval_s": 0, "repair_bytes_per_s": "100GiB", "repair_usd_per_h": 1000}
    settings: dict[str, Any] = {"pool": {"memory_mb": 1536}, "availability": unbounded}
    with infiniray.start(name="bench", shards=1, nodes=14, object_store_bytes=2 << 30, **settings) as cache:
        says().print(f"{objects:,} objects of {object_size:,} bytes on 14 nodes, {reclaim} reclaimed ...")
        admin = PlatformAdmin(_endpoint("bench"))
        figures = measure_repair(cache, admin, n_objects=objects, object_bytes=object_size, n_nodes=reclaim)
    _show(figures.to_json_dict(), as_json=as_json)


@bench.command()
@click.option("--objects", type=click.IntRange(min=1), default=24, show_default=True)
@click.option("--object-size", callback=_size, default="10MiB", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@json_option
@reports_errors
def backup(objects: int, object_size: int, rounds: int, as_json: bool) -> None:
    """Read while every node is backed up, and without, in turns: the ratio of the two throughputs."""
    import infiniray
    from infiniray.cluster.status import back_up
    from workloads.recovery_bench import measure_backup

    with infiniray.start(name="bench", shards=1, nodes=16, object_store_bytes=2 << 30) as cache:
        says().print(f"{objects:,} objects of {object_size:,} bytes, {rounds} rounds with backups and without ...")
        figures = measure_backup(
            cache, lambda: back_up("bench"), n_objects=objects, object_bytes=object_size, rounds=rounds, round_s=3.0
        )
    _show(figures.to_json_dict(), as_json=as_json)


def _show(figures: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json(figures)
        return
    for name, value in figures.items():
        results().print(f"{name:20} {value:,.3f}" if isinstance(value, float) else f"{name:20} {value:,}")


def _endpoint(name: str) -> str:
    from infiniray.cluster.status import cache_status

    return str(cache_status(name)["endpoint_url"])


def _against_others(scheme: str, settings: dict[str, Any], cases: list[Case], ops: list[str]) -> list[BenchRow]:
    """All cases under one scheme ("default": by size), on all systems that are here."""
    import infiniray
    from workloads.baselines import FLOORS, CacheTarget, RayStoreTarget, RedisTarget, Target
    from workloads.bench import measure

    chosen = settings if scheme == "default" else {**settings, "scheme": scheme}
    rows: list[BenchRow] = []
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(infiniray.start(name="bench", shards=1, object_store_bytes=2 << 30, **chosen))
        makers: list[Callable[[], Target]] = [RayStoreTarget, *FLOORS]
        if RedisTarget.is_available():
            makers.insert(0, RedisTarget)
        targets: list[Target] = [CacheTarget(cache)]
        for maker in makers:
            targets.append(maker())
            stack.callback(targets[-1].close)
        for case in cases:
            says().print(f"{scheme}: {case.size_bytes:,} bytes, {case.clients} clients, {case.rounds} rounds ...")
            rows += measure(targets, case, scheme=scheme, ops=ops)
    return rows
