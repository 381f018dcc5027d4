"""The rotate-secret command: a new secret for a cache that is used."""

from __future__ import annotations

from typing import Any

import click

from infiniray.cli.output import json_option, name_option, print_json, reports_errors, says
from infiniray.cli.reach import connected
from infiniray.cli.waiting import wait_for

__all__ = ["rotate_secret", "rotation_line"]


@click.command("rotate-secret")
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True,
    help="Functions of each shard that are emptied at a time.",
)  # fmt: skip
@click.option("--evict", is_flag=True, help="Let the least recently used objects go if the others have no room.")
@click.option("--timeout", "timeout_s", type=float, default=1800.0, show_default=True, help="Seconds to wait for it.")
@click.option("--no-wait", is_flag=True, help="Return when it has begun; `status` shows how far it is.")
@name_option
@json_option
@reports_errors
def rotate_secret(batch: int, evict: bool, timeout_s: float, no_wait: bool, name: str, as_json: bool) -> None:
    """Give a running cache a new secret. Every object stays readable meanwhile.

    Functions are emptied onto the others, get the new secret, and are taken back, batch by batch; then the former
    secret is refused. Each shard needs a function more than its widest scheme. On AWS the shards' hosts need more for
    the time: `infiniray deploy --host-policy --for-rotation`. If this command is interrupted, the rotation goes on.
    """
    from infiniray.cluster.status import rotate_secret as begin

    with connected(name) as cache:
        n_nodes = begin(name, batch=batch, may_evict=evict)["nodes"]
        took_s = None if no_wait else wait_for(cache, "rotation", rotation_line, timeout_s)[1]
    if as_json:
        print_json({"name": name, "nodes": n_nodes, "took_s": took_s})
    elif took_s is None:
        says().print(f"cache {name!r}: a new secret for {n_nodes} functions, begun")
    else:
        says().print(f"cache {name!r}: {n_nodes} functions have a new secret, in {took_s:.1f} s")


def rotation_line(state: dict[str, Any]) -> str:
    """How far a change of the secret is."""
    from infiniray.units import format_bytes

    parts = [f"{state['nodes_done']} of {state['nodes']} functions have it", state["stage"]]
    if state["node_bytes_left"]:
        parts.append(f"{format_bytes(state['node_bytes_left'])} to move first")
    if state["trouble"]:
        parts.append(state["trouble"])
    return ", ".join(parts)
