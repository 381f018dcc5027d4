"""`infiniray bench` itself: PUT and GET by size, beside what else this machine has."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from infiniray.cli.bench.options import (
    available,
    clients_option,
    hedge_option,
    node_rate_option,
    schemes,
    sizes,
    words_of,
)
from infiniray.cli.output import json_option, print_json, reports_errors, results, says

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from workloads.bench.measuring import Case, Conditions
    from workloads.bench.rows import BenchRow
    from workloads.bench.stand import Setting

__all__ = ["bench"]

#: A call of put_many or get_many has at most this much; larger sizes are left out of those.
_MANY_BYTES = 128 << 20


@click.group(invoke_without_command=True)
@click.option("--sizes", callback=sizes, default="4KiB,64KiB,1MiB,10MiB,100MiB", show_default=True, help="Of objects.")
@click.option(
    "--schemes", callback=schemes, default="default,rs:10+2,rs:4+2", show_default=True,
    help="default: by size, as configured.",
)  # fmt: skip
@click.option(
    "--ops", callback=words_of("put", "get", "put_many", "get_many"), default="put,get", show_default=True,
    help="The last two have 100 objects in a call.",
)  # fmt: skip
@clients_option("1")
@click.option("--rounds", type=click.IntRange(1, 1000), default=9, show_default=True, help="In which all take turns.")
@click.option(
    "--others", callback=words_of("redis", "ray", "relay", "loopback", "memcpy"), default="redis,ray,loopback,memcpy",
    show_default=True, help="What the cache takes turns with.",
)  # fmt: skip
@click.option("--awake", is_flag=True, help="Nodes are in a session when they are asked; so by default.")
@click.option("--asleep", is_flag=True, help="Nodes must be invoked first. Both: one after the other.")
@click.option("--shaped", is_flag=True, help="Nodes have the bandwidth of --node-rate, not the machine's.")
@click.option("--near", is_flag=True, help="Also with shards that keep copies of small values, in rows of their own.")
@node_rate_option("75MiB")
@hedge_option
@json_option
@click.pass_context
@reports_errors
def bench(
    ctx: click.Context,
    sizes: list[int],
    schemes: list[str],
    ops: list[str],
    clients: list[int],
    rounds: int,
    others: list[str],
    awake: bool,
    asleep: bool,
    shaped: bool,
    near: bool,
    node_rate: int,
    hedge: str,
    as_json: bool,
) -> None:
    """Time PUT and GET of this cache, Redis, Ray's store, a socket and memcpy, in turns, in one run.

    Bytes are verified outside the timed section. With --json, one line for each row: `ratio_to_redis` is Redis's median
    over this one's, above 1 is faster; so is `ratio_to_loopback` for the socket's. Kernels, and the platform's starts,
    memory and code size come last. docs/performance.md says what is timed.
    """
    if ctx.invoked_subcommand is not None:
        return
    from infiniray.codec.measure import measure_kernels
    from infiniray.codec.schemes import Scheme
    from workloads.bench.measuring import MANY, Case, Conditions
    from workloads.bench.rows import render
    from workloads.bench.stand import Setting
    from workloads.platform_bench import measure_platform

    cases = [Case(size_bytes=size, clients=count, rounds=rounds) for size in sizes for count in clients]
    if any(op.endswith("_many") for op in ops):
        fitting = [size for size in sizes if size * MANY <= _MANY_BYTES]
        cases += [Case(size_bytes=s, clients=count, rounds=rounds, n_values=MANY) for s in fitting for count in clients]
    # values, results and what is stored anew beside what it replaces, of the cache and of Ray's store
    store_bytes = max(2 << 30, *(5 * case.size_bytes * case.n_values * case.clients for case in cases))
    setting = Setting(hedge=hedge, node_bytes_per_s=node_rate, object_store_bytes=store_bytes)
    states = [state for state, wanted in ((True, awake or not asleep), (False, asleep)) if wanted]
    rows: list[BenchRow] = []
    for scheme in schemes:
        for state, keeps in ((state, keeps) for state in states for keeps in ((False, True) if near else (False,))):
            conditions = Conditions(scheme=scheme, awake=state, shaped=shaped, near=keeps)
            for row in _rows(conditions, setting, cases, ops, available(others)):
                rows.append(row)
                if as_json:
                    print_json(row.to_json_dict())
    if not as_json:
        results().print(render(rows))
    kernels = measure_kernels(100 << 20, Scheme.parse("rs:10+2"), 5)
    platform = measure_platform()
    if as_json:
        for speed in kernels:
            print_json({"system": f"codec {speed.kernel}", **asdict(speed)})
        print_json({"system": "platform", **platform.to_json_dict()})
        return
    for speed in kernels:
        results().print(
            f"{speed.kernel} {speed.operation}: {speed.gb_per_s:.1f} GB/s, {speed.ratio:.1f} x zfec by itself"
        )
    results().print(
        f"{platform.instances} instances started in {platform.start_all_s:.2f} s, "
        f"{platform.resident_bytes / 1e6:.1f} MB resident each; warm invoke {platform.warm_invoke_p50_s * 1e3:.1f} ms; "
        f"agent zip {platform.agent_zip_bytes:,} bytes"
    )


def _rows(
    conditions: Conditions, setting: Setting, cases: Sequence[Case], ops: Sequence[str], others: Sequence[str]
) -> Iterator[BenchRow]:
    """All cases under the same conditions, on all systems."""
    from workloads.bench.measuring import measure
    from workloads.bench.stand import stand

    with stand(conditions, setting, others=others) as here:
        for case in cases:
            case_ops = [op for op in ops if op.endswith("_many") == (case.n_values > 1)]
            if not case_ops:
                continue
            says().print(f"{conditions}: {case} ...")
            yield from measure(here.targets, case, conditions, ops=case_ops, settle=here.settle)
