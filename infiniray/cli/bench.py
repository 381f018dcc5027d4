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


def _clients(_ctx: click.Context, _param: click.Parameter, text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter("numbers, separated by commas") from None
    if any(not 1 <= count <= 64 for count in counts):
        raise click.BadParameter("1 to 64 clients")
    return counts


@click.command()
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
@reports_errors
def bench(
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
