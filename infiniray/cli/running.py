"""Commands that begin, end and look at a running cache: up, down, status."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infiniray.cli.output import fail, json_option, name_option, print_json, reports_errors, results, says

if TYPE_CHECKING:
    from rich.table import Table

    from infiniray.config import Config

__all__ = ["down", "status", "up"]

_WATCH_S = 1.0


@click.command()
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A YAML file.")
@click.option("--nodes", type=int, help="Functions in the pool.")
@click.option("--shards", type=int, help="Proxy shards.")
@click.option("--memory-mb", type=int, help="Memory size of a function.")
@click.option("--scheme", help="One redundancy scheme for all objects, like rs:4+2.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.NAME=VALUE", help="Any setting; may be repeated.")
@click.option("--address", help="The Ray cluster to run on; by default a Ray of the cache's own, on this machine.")
@name_option
@json_option
@reports_errors
def up(
    config: Path | None,
    nodes: int | None,
    shards: int | None,
    memory_mb: int | None,
    scheme: str | None,
    settings: tuple[str, ...],
    address: str | None,
    name: str,
    as_json: bool,
) -> None:
    """Bring up a cache that stays: other processes and later Ray jobs connect to it by name.

    Done again, it completes what is missing, and says that it is running.
    """
    chosen = _configuration(config, settings, name=name, nodes=nodes, shards=shards, memory_mb=memory_mb, scheme=scheme)
    from infiniray.cluster.hosting import host
    from infiniray.cluster.state import StateDirectory

    with says().status("starting") as spinner:
        members, was_running = host(chosen, address=address, state=StateDirectory(), say=spinner.update)
    summary = {
        "name": name,
        "running_before": was_running,
        "epoch": members.epoch,
        "shards": len(members.shards),
        "nodes": len(members.all_nodes),
    }
    if as_json:
        print_json(summary)
        return
    begin = "already runs" if was_running else "is up"
    says().print(f"cache {name!r} {begin}: {summary['shards']} shards, {summary['nodes']} functions", markup=False)
    says().print(f"in Python: infiniray.connect({name!r})   here: infiniray put FILE KEY, infiniray down", markup=False)


def _configuration(config: Path | None, settings: tuple[str, ...], **short: Any) -> Config:
    """The configuration that the options describe.

    Raises:
        ConfigError: a setting is not valid.
    """
    import yaml

    from infiniray.cluster.lifecycle import settings_of
    from infiniray.errors import ConfigError

    sections: dict[str, Any] = {}
    for setting in settings:
        path, found, text = setting.partition("=")
        if not found or not path:
            raise ConfigError(detail=f"--set takes SECTION.NAME=VALUE, not {setting!r}")
        *parents, last = path.split(".")
        level = sections
        for parent in parents:
            level = level.setdefault(parent, {})
        level[last] = yaml.safe_load(text)
    return settings_of(config, sections, **short)


@click.command()
@name_option
@json_option
@reports_errors
def down(name: str, as_json: bool) -> None:
    """Take a cache down, with every process that `up` started for it. What it holds is gone."""
    from infiniray.cluster.hosting import unhost
    from infiniray.cluster.state import StateDirectory

    with says().status("ending") as spinner:
        was_running = unhost(name, state=StateDirectory(), say=spinner.update)
    if as_json:
        print_json({"name": name, "was_running": was_running})
    else:
        says().print(f"cache {name!r} is down" if was_running else f"no cache {name!r} was up", markup=False)


@click.command()
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
@name_option
@json_option
@reports_errors
def status(watch: bool, name: str, as_json: bool) -> None:
    """What a cache is made of, and how it is. Exit code 1 if it does not run, or a shard of it does not answer."""
    from infiniray.cluster import rayapi
    from infiniray.cluster.state import StateDirectory

    record = StateDirectory().read(name)
    if record is None:
        fail(f"no cache {name!r} is up on this machine")
        return
    rayapi.attach(record.ray_address, has_token_auth=record.has_token_auth)
    try:
        report = _report(name)
        if as_json:
            print_json(report)
        elif watch:
            _watch(name)
        else:
            results().print(_table(report))
    finally:
        rayapi.disconnect()
    sys.exit(0 if report["ok"] else 1)


def _report(name: str) -> dict[str, Any]:
    import infiniray
    from infiniray.cluster.status import cache_status

    members = cache_status(name)
    stats = infiniray.connect(name).stats()
    shards = [
        {"shard": shard, "nodes": len(members["nodes"][shard]), **members["shards"][shard]}
        for shard in members["nodes"]
    ]
    numbers = ("objects", "object_bytes", "stored_bytes", "capacity_bytes", "in_flight", "gets", "hits", "resets")
    return {
        "name": name,
        "ok": members["ok"],
        "epoch": members["epoch"],
        "uptime_s": round(time.time() - members["created_s"], 1),
        "shards": shards,
        "nodes": sum(row["nodes"] for row in shards),
        "instances": stats.get("platform", {}).get("instances"),
        **{number: stats.get(number, 0) for number in numbers},
    }


def _watch(name: str) -> None:
    from rich.live import Live

    with Live(_table(_report(name)), console=results(), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(_WATCH_S)
                live.update(_table(_report(name)), refresh=True)
        except KeyboardInterrupt:
            pass


def _table(report: dict[str, Any]) -> Table:
    from rich.table import Table

    from infiniray.units import format_bytes

    title = f"cache {report['name']}: {'ok' if report['ok'] else 'NOT OK'}, epoch {report['epoch']}"
    used = f"{format_bytes(report['stored_bytes'])} of {format_bytes(report['capacity_bytes'])}"
    instances = report["instances"] or {}
    awake = f", {instances.get('busy', 0)} awake, {instances.get('idle', 0)} frozen" if instances else ""
    table = Table(title=title, show_header=False)
    table.add_row("up for", f"{report['uptime_s']:.0f} s")
    table.add_row("functions", f"{report['nodes']}{awake}")
    table.add_row("objects", f"{report['objects']:,} ({format_bytes(report['object_bytes'])}), in memory {used}")
    table.add_row("reads", f"{report['gets']:,}, hits {report['hits']:,}, resets {report['resets']:,}")
    for shard in report["shards"]:
        what = shard.get("error") or f"{shard['nodes']} functions, at {shard['address']}"
        table.add_row(shard["shard"], what)
    return table
