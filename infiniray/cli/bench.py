"""The bench command: :mod:`workloads.bench` on an embedded cache, beside what else this machine has."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import click

from infiniray.cli.output import json_option, print_json, reports_errors, results, says

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
@click.option("--awake/--asleep", default=False, help="Keep nodes awake between requests (a linger of 2 s).")
@json_option
@reports_errors
def bench(
    sizes: list[int], schemes: str, ops: str, clients: list[int], rounds: int, awake: bool, as_json: bool
) -> None:
    """Time PUT and GET of this cache, Redis, Ray's store, a socket and memcpy, in turns, in one run.

    Bytes are verified outside the timed section. With --json, one line for each row: `ratio_to_redis` is Redis's median
    over this one's, above 1 is faster.
    """
    import infiniray
    from infiniray.codec.measure import measure_kernels
    from infiniray.codec.schemes import Scheme
    from workloads import bench as runs
    from workloads.baselines import FLOORS, CacheTarget, RayStoreTarget, RedisTarget, Target

    chosen_ops = [op.strip() for op in ops.split(",")]
    if not set(chosen_ops) <= {"put", "get"}:
        raise click.BadParameter("put, get or both", param_hint="--ops")
    if not RedisTarget.is_available():
        says().print("no redis-server here: no ratios to Redis")
    rows: list[runs.BenchRow] = []
    for scheme in schemes.split(","):
        settings: dict[str, Any] = {} if scheme == "default" else {"scheme": scheme}
        if awake:
            settings["session"] = {"linger_s": 2.0}
        with contextlib.ExitStack() as stack:
            cache = stack.enter_context(infiniray.start(name="bench", shards=1, object_store_bytes=4 << 30, **settings))
            makers: list[Any] = [*([RedisTarget] if RedisTarget.is_available() else []), RayStoreTarget, *FLOORS]
            targets: list[Target] = [CacheTarget(cache)]
            for maker in makers:
                target = maker()
                stack.callback(target.close)
                targets.append(target)
            for size in sizes:
                for n_clients in clients:
                    case = runs.Case(size_bytes=size, clients=n_clients, rounds=rounds)
                    says().print(f"{scheme}: {size:,} bytes, {n_clients} clients, {rounds} rounds ...")
                    rows += runs.measure(targets, case, scheme=scheme, ops=chosen_ops)
    kernels = measure_kernels(100_000_000, Scheme.parse("rs:10+2"), 5)
    if as_json:
        for row in rows:
            print_json(row.to_json_dict())
    else:
        results().print(runs.render(rows))
        for speed in kernels:
            results().print(
                f"{speed.kernel} {speed.operation}: {speed.gb_per_s:.1f} GB/s, {speed.ratio:.1f} x zfec by itself"
            )
    sys.stdout.flush()
