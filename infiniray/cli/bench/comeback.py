"""How the cache comes back, and what backups cost: `bench recovery`, `bench repair`, `bench backup`."""

from __future__ import annotations

from typing import Any

import click

from infiniray.cli.bench.options import one_size
from infiniray.cli.output import json_option, print_json, reports_errors, results, says

__all__ = ["backup", "recovery", "repair"]


@click.command()
@click.option("--objects", type=click.IntRange(min=1), default=10_000, show_default=True, help="In the shard's table.")
@click.option("--object-size", callback=one_size, default="1KiB", show_default=True)
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


@click.command()
@click.option("--objects", type=click.IntRange(min=1), default=48, show_default=True)
@click.option("--object-size", callback=one_size, default="100MB", show_default=True)
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


@click.command()
@click.option("--objects", type=click.IntRange(min=1), default=24, show_default=True)
@click.option("--object-size", callback=one_size, default="10MiB", show_default=True)
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
