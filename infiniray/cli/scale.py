"""The scale command: more or fewer shards and functions, while the cache is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from infiniray.cli.output import fail, json_option, name_option, print_json, reports_errors, says
from infiniray.cli.reach import connected
from infiniray.cli.waiting import wait_for

if TYPE_CHECKING:
    from infiniray.cache import Cache

__all__ = ["scale", "scaling_line"]


@click.command()
@click.option("--shards", type=click.IntRange(min=1), help="Proxy shards there are to be.")
@click.option("--nodes", type=click.IntRange(min=1), help="Functions of all shards together.")
@click.option("--evict", is_flag=True, help="Let the least recently used objects go if they do not fit any more.")
@click.option("--timeout", "timeout_s", type=float, default=600.0, show_default=True, help="Seconds to wait for it.")
@click.option("--no-wait", is_flag=True, help="Return when it has begun; `status` shows how far it is.")
@name_option
@json_option
@reports_errors
def scale(
    shards: int | None, nodes: int | None, evict: bool, timeout_s: float, no_wait: bool, name: str, as_json: bool
) -> None:
    """Change how many shards and functions a running cache has. Every object stays readable meanwhile.

    Without --nodes each shard keeps its functions, and each new one gets as many. Functions that leave are emptied
    first; of keys only those move whose shard changes. If this command is interrupted, the scaling goes on.
    """
    if shards is None and nodes is None:
        raise click.UsageError("say what to change: --shards, --nodes or both")
    from infiniray.cluster.status import scale as begin

    with connected(name) as cache:
        changes = begin(name, shards=shards, nodes=nodes, may_evict=evict)
        is_change = any(before != after for before, after in changes.values())
        took_s = _wait(cache, timeout_s) if is_change and not no_wait else None
        report = {"name": name, **changes, "took_s": took_s, "epoch": cache.status()["epoch"]}
    if as_json:
        print_json(report)
        return
    said = ", ".join(f"{before} -> {after} {what}" for what, (before, after) in changes.items() if before != after)
    if not is_change:
        says().print(f"cache {name!r} has that already")
    elif took_s is None:
        says().print(f"cache {name!r}: {said}, begun")
    else:
        says().print(f"cache {name!r}: {said}, in {took_s:.1f} s")


def _wait(cache: Cache, timeout_s: float) -> float:
    """Until the scaling is over; the seconds that it took."""
    state, took_s = wait_for(cache, "scaling", scaling_line, timeout_s)
    if state is not None:
        fail(f"it could not be done, and all is as before: {state['trouble']}")
    return took_s


def scaling_line(state: dict[str, Any]) -> str:
    """How far a scaling is, or why the last one was given up."""
    from infiniray.units import format_bytes

    if not state["is_running"]:
        return f"given up, all is as before: {state['trouble']}"
    parts = [state["stage"]]
    if state.get("keys_left"):
        parts.append(f"{state['keys_left']:,} objects ({format_bytes(state['bytes_left'])}) to move")
    if state.get("nodes_left"):
        parts.append(f"{state['nodes_left']} functions with {format_bytes(state['node_bytes_left'])} to empty")
    if state["trouble"]:
        parts.append(state["trouble"])
    return ", ".join(parts)
