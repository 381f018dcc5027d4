"""What the table does not show: `bench mixed`, `memory`, `processes`, `floors`, `stragglers`, `shards`."""

from __future__ import annotations

import contextlib

import click

from infiniray.cli.bench.options import (
    available,
    clients_option,
    hedge_option,
    node_rate_option,
    numbers_of,
    one_scheme,
    one_size,
    sizes,
    words_of,
)
from infiniray.cli.output import json_option, print_json, reports_errors, results, says

__all__ = ["floors", "memory", "mixed", "processes", "shards", "stragglers"]

_scheme_option = click.option("--scheme", callback=one_scheme, default="rs:10+2", show_default=True)


@click.command()
@click.option("--size", callback=one_size, default="10MiB", show_default=True, help="Of objects.")
@_scheme_option
@clients_option("1,8")
@click.option("--get-percent", type=click.IntRange(0, 100), default=90, show_default=True, help="The rest are PUTs.")
@click.option("--seconds", type=click.FloatRange(1), default=30.0, show_default=True, help="For each system.")
@click.option("--others", callback=words_of("redis", "ray"), default="redis", show_default=True)
@json_option
@reports_errors
def mixed(
    size: int, scheme: str, clients: list[int], get_percent: int, seconds: float, others: list[str], as_json: bool
) -> None:
    """GETs and PUTs from several clients for a while: throughput, p50, p99, and whether memory grows."""
    from workloads.bench.measuring import Conditions
    from workloads.bench.mixed import Mix, measure_mixed, render_mixed
    from workloads.bench.stand import Setting, stand

    conditions = Conditions(scheme=scheme)
    rows = []
    with stand(conditions, Setting(object_store_bytes=4 << 30), others=available(others)) as here:
        for count in clients:
            mix = Mix(size_bytes=size, clients=count, get_percent=get_percent, seconds=seconds)
            says().print(f"{conditions}: {mix} ...")
            found = measure_mixed(here.targets, mix, conditions, shard_pid=here.shard_pid, settle=here.settle)
            rows += found
            if as_json:
                for row in found:
                    print_json(row.to_json_dict())
    if not as_json:
        results().print(render_mixed(rows))


@click.command()
@click.option("--size", callback=one_size, default="100MiB", show_default=True, help="Of objects.")
@_scheme_option
@clients_option("1")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True)
@json_option
@reports_errors
def memory(size: int, scheme: str, clients: list[int], rounds: int, as_json: bool) -> None:
    """The most that client and shard hold while objects are in flight, and what is left of it afterwards."""
    from infiniray.config import Config
    from workloads.bench.measuring import Conditions
    from workloads.bench.memory import measure_memory, render_memory
    from workloads.bench.stand import Setting, stand

    conditions = Conditions(scheme=scheme)
    idle_s = 1.5 * Config().channel.idle_s  # it is looked for a few times within the idle time
    for count in clients:
        setting = Setting(object_store_bytes=max(2 << 30, 4 * size * count))
        with stand(conditions, setting) as here:  # anew: memory that is mapped once counts from then on
            here.settle()
            says().print(f"{conditions}: {count} x {size:,} bytes, {rounds} rounds ...")
            rows = measure_memory(
                here.targets[0], conditions,
                size_bytes=size, clients=count, rounds=rounds, shard_pid=here.shard_pid, idle_s=idle_s,
            )  # fmt: skip
        if as_json:
            for row in rows:
                print_json(row.to_json_dict())
        else:
            results().print(render_memory(rows))


@click.command()
@click.option("--sizes", callback=sizes, default="4KiB,64KiB,1MiB,10MiB,100MiB", show_default=True, help="Of objects.")
@_scheme_option
@click.option("--asleep", is_flag=True, help="Nodes must be invoked first.")
@json_option
@reports_errors
def processes(sizes: list[int], scheme: str, asleep: bool, as_json: bool) -> None:
    """CPU time, page faults and switches of client, shard, nodes and Ray, and of a socket, for one PUT and one GET."""
    from workloads.bench.measuring import Conditions
    from workloads.bench.processes import measure_processes, measure_socket, render_processes
    from workloads.bench.stand import Setting, stand

    with stand(Conditions(scheme=scheme, awake=not asleep), Setting()) as here:
        for size in sizes:
            rows = measure_processes(here, size_bytes=size) + measure_socket(size_bytes=size)
            if as_json:
                for row in rows:
                    print_json(row.to_json_dict())
            else:
                results().print(render_processes(rows))


@click.command()
@click.option("--size", callback=one_size, default="100MiB", show_default=True, help="Of what is moved.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=7, show_default=True)
@json_option
@reports_errors
def floors(size: int, rounds: int, as_json: bool) -> None:
    """What copying, checking, coding and new pages cost on this machine, in CPU time."""
    from workloads.bench.floors import measure_floors, render_floors

    found = measure_floors(size, rounds)
    if as_json:
        for floor in found:
            print_json(floor.to_json_dict())
    else:
        results().print(render_floors(found))


@click.command()
@click.option("--size", callback=one_size, default="100MiB", show_default=True, help="Of the object.")
@_scheme_option
@click.option("--reads", type=click.IntRange(1), default=100, show_default=True, help="With slow nodes, and without.")
@click.option("--slowed", type=click.IntRange(0), default=2, show_default=True, help="Nodes that send at a tenth.")
@node_rate_option("75MiB")
@hedge_option
@json_option
@reports_errors
def stragglers(size: int, scheme: str, reads: int, slowed: int, node_rate: int, hedge: str, as_json: bool) -> None:
    """Read an object from shaped nodes, while all are alike and while some are slow: the line's share, and p99."""
    from infiniray.codec.schemes import Scheme
    from workloads.bench.measuring import Conditions
    from workloads.bench.stand import Setting, stand
    from workloads.bench.stragglers import measure_stragglers, render_stragglers

    if scheme == "default":
        raise click.BadParameter("one scheme, like rs:10+2: it says how many nodes there are", param_hint="--scheme")
    n_nodes = Scheme.parse(scheme).n
    if slowed > n_nodes:
        raise click.BadParameter(f"there are {n_nodes} nodes", param_hint="--slowed")
    setting = Setting(nodes=n_nodes, hedge=hedge, node_bytes_per_s=node_rate)
    with stand(Conditions(scheme=scheme, shaped=True), setting) as here:
        says().print(f"{here.conditions}: {reads} reads of {size:,} bytes each way ...")
        row = measure_stragglers(here, size_bytes=size, reads=reads, slowed=slowed)
    if as_json:
        print_json(row.to_json_dict())
    else:
        results().print(render_stragglers(row))


@click.command()
@click.option("--size", callback=one_size, default="10MiB", show_default=True, help="Of objects.")
@_scheme_option
@click.option(
    "--shards", "counts", callback=numbers_of(1, 16), default="1,4", show_default=True, help="Caches to compare."
)
@click.option("--nodes", type=click.IntRange(1), default=12, show_default=True, help="Of each shard.")
@node_rate_option("8MiB")
@clients_option("24")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1), default=4.0, show_default=True, help="Of each cache in a round.")
@json_option
@reports_errors
def shards(
    size: int, scheme: str, counts: list[int], nodes: int, node_rate: int, clients: list[int], rounds: int,
    seconds: float, as_json: bool,
) -> None:  # fmt: skip
    """Read from shaped nodes of caches with few and with many shards: how the aggregate throughput grows.

    The nodes' bandwidth must be what limits the first; the machine must be able to move what the last one's can.
    """
    from workloads.bench.measuring import Conditions
    from workloads.bench.shards import measure_shards, render_shards
    from workloads.bench.stand import Setting, stand

    conditions = Conditions(scheme=scheme, shaped=True)
    with contextlib.ExitStack() as stack:
        stands = []
        for count in counts:
            setting = Setting(shards=count, nodes=nodes * count, node_bytes_per_s=node_rate, object_store_bytes=4 << 30)
            says().print(f"{count} shards, {setting.nodes} nodes ...")
            stands.append(stack.enter_context(stand(conditions, setting, name=f"bench-{count}")))
        rows = [
            row
            for n_clients in clients
            for row in measure_shards(stands, size_bytes=size, clients=n_clients, rounds=rounds, round_s=seconds)
        ]
    if as_json:
        for row in rows:
            print_json(row.to_json_dict())
    else:
        results().print(render_shards(rows))
