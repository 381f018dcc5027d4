"""Commands that begin, end and look at a running cache: up, down, status."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infiniray.cli.output import (
    json_option,
    name_option,
    named,
    named_by_config,
    print_json,
    reports_errors,
    results,
    says,
)
from infiniray.cli.reach import connected
from infiniray.cli.rotate import rotation_line
from infiniray.cli.scale import scaling_line

if TYPE_CHECKING:
    from rich.table import Table

    from infiniray.cache import Cache
    from infiniray.config import Config

__all__ = ["configuration", "down", "status", "up"]

_WATCH_S = 1.0


@click.command()
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="A YAML file.")
@click.option("--nodes", type=int, help="Functions in the pool.")
@click.option("--shards", type=int, help="Proxy shards.")
@click.option("--memory-mb", type=int, help="Memory size of a function.")
@click.option("--scheme", help="One redundancy scheme for all objects, like rs:4+2.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.NAME=VALUE", help="Any setting; may be repeated.")
@click.option("--address", help="The Ray cluster to run on; by default a Ray of the cache's own, on this machine.")
@named_by_config
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
    name: str | None,
    as_json: bool,
) -> None:
    """Bring up a cache that stays: other processes and later Ray jobs connect to it by name.

    Done again, it completes what is missing, and says that it is running.
    """
    chosen = configuration(config, settings, name=name, nodes=nodes, shards=shards, memory_mb=memory_mb, scheme=scheme)
    from infiniray.backing.process import check_store
    from infiniray.cluster.hosting import host
    from infiniray.cluster.state import StateDirectory
    from infiniray.lifecycle import announce_store

    with says().status("starting") as spinner:
        check_store(chosen.name, chosen.backing)
        members, was_running = host(chosen, address=address, state=StateDirectory(), say=spinner.update)
        if not was_running:
            announce_store(chosen)
    summary = {
        "name": chosen.name,
        "running_before": was_running,
        "epoch": members.epoch,
        "shards": len(members.shards),
        "nodes": len(members.all_nodes),
    }
    if as_json:
        print_json(summary)
        return
    begin = "already runs" if was_running else "is up"
    cache, option = chosen.name, named(chosen.name)
    says().print(f"cache {cache!r} {begin}: {summary['shards']} shards, {summary['nodes']} functions", markup=False)
    here = f"infiniray put FILE KEY{option}, infiniray down{option}"
    says().print(f"in Python: infiniray.connect({cache!r})   here: {here}", markup=False)


def configuration(config: Path | None, settings: tuple[str, ...], **short: Any) -> Config:
    """The configuration that the options describe.

    Raises:
        ConfigError: a setting is not valid.
    """
    from infiniray.settings import settings_of

    sections: dict[str, Any] = {}
    for setting in settings:
        _set(sections, setting)
    return settings_of(config, sections, **short)


def _set(sections: dict[str, Any], setting: str) -> None:
    """Enter one ``SECTION.NAME=VALUE``, its value in YAML, into the tree of sections."""
    import yaml

    from infiniray.errors import ConfigError

    path, found, text = setting.partition("=")
    *parents, last = path.split(".")
    if not found or not last or not all(parents):
        raise ConfigError(detail=f"--set takes SECTION.NAME=VALUE, not {setting!r}")
    level = sections
    for parent in parents:
        level = level.setdefault(parent, {})
        if not isinstance(level, dict):
            raise ConfigError(detail=f"--set {setting}: {parent!r} has been given a value of its own")
    try:
        level[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(detail=f"--set {setting}: the value is not YAML") from None


@click.command()
@name_option
@json_option
@reports_errors
def down(name: str, as_json: bool) -> None:
    """Take a cache down, with every process that `up` started for it. What it holds is gone."""
    from infiniray.cluster.hosting import unhost
    from infiniray.cluster.state import StateDirectory

    with says().status("ending") as spinner:
        ended = unhost(name, state=StateDirectory(), say=spinner.update)
    if as_json:
        trouble = {"trouble": ended.trouble} if ended.trouble else {}
        print_json({"name": name, "was_running": ended.was_there, **trouble})
    elif ended.trouble:
        says().print(f"the record of cache {name!r} is gone, but {ended.trouble}", markup=False)
        how = f"`infiniray up --address HOST:PORT{named(name)}` finds it again"
        says().print(f"if that Ray still runs, the cache does, too: {how}", markup=False)
    else:
        says().print(f"cache {name!r} is down" if ended.was_there else f"no cache {name!r} was up", markup=False)


@click.command()
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
@name_option
@json_option
@reports_errors
def status(watch: bool, name: str, as_json: bool) -> None:
    """What a cache is made of, and how it is. Exit code 1 if it does not run, or a shard of it does not answer."""
    from infiniray.errors import CacheUnavailable

    if watch and as_json:
        raise click.UsageError("--json gives one document, --watch one after the other: choose")
    try:
        with connected(name) as cache:
            report = _report(cache)
            if as_json:
                print_json(report)
            elif watch:
                report = _watch(cache, report)
            else:
                results().print(_table(report))
    except CacheUnavailable as error:
        if as_json:
            print_json({"name": name, "running": False, "ok": False, "error": str(error)})
        raise
    sys.exit(0 if report["ok"] else 1)


def _report(cache: Cache) -> dict[str, Any]:
    members, stats = cache.status(), cache.stats()
    platform = stats.get("platform") or {}  # AWS tells nothing
    per_shard = stats.get("per_shard", [])
    by_shard = {row["shard"]: row for row in per_shard}
    shards = [
        {
            "shard": shard,
            "nodes": len(members["nodes"][shard]),
            **{number: by_shard.get(shard, {}).get(number) for number in ("objects", "endangered")},
            **members["shards"][shard],
        }
        for shard in members["nodes"]
    ]
    numbers = ("objects", "object_bytes", "stored_bytes", "capacity_bytes", "in_flight", "gets", "hits", "resets",
               "endangered", "repairs", "repairs_failed")  # fmt: skip
    return {
        "name": cache.name,
        "running": True,
        "ok": members["ok"] and "error" not in platform,
        "epoch": members["epoch"],
        "uptime_s": round(time.time() - members["created_s"], 1),
        "shards": shards,
        "nodes": sum(row["nodes"] for row in shards),
        "instances": platform.get("instances"),
        "platform_error": platform.get("error"),
        **{number: stats.get(number, 0) for number in numbers},
        "backups": _backups(stats, per_shard),
        "backup_slots": members["backup_slots"],
        "scaling": members["scaling"],
        "rotation": members["rotation"],
    }


def _backups(stats: dict[str, Any], per_shard: list[dict[str, Any]]) -> dict[str, Any]:
    """What has been backed up, since shards have started: ages are those of nodes that hold anything."""
    ages_s = [age_s for row in per_shard for age_s in row.get("backup_ages_s", ())]
    return {
        "done": stats.get("backups", 0),
        "failed": stats.get("backups_failed", 0),
        "running": stats.get("backups_running", 0),
        "nodes_backed_up": len(ages_s),
        "nodes_never_backed_up": stats.get("nodes_never_backed_up", 0),
        "oldest_s": round(max(ages_s), 1) if ages_s else None,
        "median_s": round(statistics.median(ages_s), 1) if ages_s else None,
    }


def _watch(cache: Cache, report: dict[str, Any]) -> dict[str, Any]:
    """Show a report every second until Ctrl-C; the last one."""
    from rich.live import Live

    with Live(_table(report), console=results(), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(_WATCH_S)
                report = _report(cache)
                live.update(_table(report), refresh=True)
        except KeyboardInterrupt:
            return report


def _table(report: dict[str, Any]) -> Table:
    from rich.table import Table

    from infiniray.units import format_bytes

    title = f"cache {report['name']}: {'ok' if report['ok'] else 'NOT OK'}, epoch {report['epoch']}"
    used = f"{format_bytes(report['stored_bytes'])} of {format_bytes(report['capacity_bytes'])}"
    instances = report["instances"]
    awake = f", {instances['busy']} awake, {instances['idle']} frozen" if instances else ""
    table = Table(title=title, show_header=False)
    table.add_row("up for", f"{report['uptime_s']:.0f} s")
    table.add_row("functions", f"{report['nodes']}{awake}")
    table.add_row("objects", f"{report['objects']:,} ({format_bytes(report['object_bytes'])}), in memory {used}")
    table.add_row("reads", f"{report['gets']:,}, hits {report['hits']:,}, resets {report['resets']:,}")
    table.add_row("endangered", f"{report['endangered']:,} objects have lost chunks, {report['repairs']:,} repaired")
    table.add_row("backups", _backups_line(report["backups"], report["backup_slots"]))
    if report["scaling"]:
        table.add_row("scaling", scaling_line(report["scaling"]))
    if report["rotation"]:
        table.add_row("new secret", rotation_line(report["rotation"]))
    if report["platform_error"]:
        table.add_row("platform", report["platform_error"])
    for shard in report["shards"]:
        table.add_row(shard["shard"], _shard_line(shard))
    return table


def _backups_line(backups: dict[str, Any], slots: dict[str, int]) -> str:
    counts = f"{backups['done']:,} done, {backups['failed']:,} failed, {slots['taken']} of {slots['of']} slots taken"
    n_nodes = backups["nodes_backed_up"] + backups["nodes_never_backed_up"]
    if not n_nodes:
        return f"{counts}; no function holds anything"
    covered = f"{backups['nodes_backed_up']} of {n_nodes} functions that hold chunks have one"
    if backups["oldest_s"] is None:
        return f"{counts}; {covered}"
    return f"{counts}; {covered}, oldest {backups['oldest_s']:.0f} s, median {backups['median_s']:.0f} s"


def _shard_line(shard: dict[str, Any]) -> str:
    if "error" in shard:
        return f"{shard['state']}: {shard['error']}"
    return f"{shard['state']}, epoch {shard['epoch']}, {shard['nodes']} functions, at {shard['address']}"
