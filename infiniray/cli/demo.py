"""The demo command: an embedded cache, the replay of :mod:`workloads.demo`, and its report."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infiniray.cli.numbers import FiniteRange
from infiniray.cli.output import json_option, print_json, reports_errors, results, says

if TYPE_CHECKING:
    from infiniray.faas.local.admin import PlatformAdmin

__all__ = ["demo"]


class _Provider:
    """The embedded platform, as :class:`workloads.demo.PlatformControl` wants it."""

    def __init__(self, admin: PlatformAdmin) -> None:
        self._admin = admin

    def reclaim(self, n: int) -> int:
        """One instance of each of ``n`` functions that hold something."""
        alive = sorted({row["function"]: row["id"] for row in self._admin.instances()}.items())
        step = max(1, len(alive) // max(n, 1))
        chosen = alive[::step][:n]  # spread over the pool, the same in every run
        return sum(len(self._admin.reclaim(instance=instance)["reclaimed"]) for _, instance in chosen)

    def counters(self) -> dict[str, int]:
        stats = self._admin.stats()
        return {
            "started": stats.get("started", 0),
            "reclaimed": stats.get("reclaimed", 0),
            "frozen": stats["instances"]["idle"],
        }

    def bill(self) -> dict[str, float]:
        return {reason: line["usd"] for reason, line in self._admin.bill()["by_reason"].items()}


@click.command()
@click.option(
    "--trace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A trace of any format that `trace describe` knows.",
)
@click.option("--nodes", type=click.IntRange(min=1), help="Functions in the pool.")
@click.option("--shards", type=click.IntRange(min=1), help="Proxy shards.")
@click.option("--scheme", help="One redundancy scheme for all objects, like rs:4+2.")
@click.option("--max-seconds", type=FiniteRange(min=0.1), default=30.0, show_default=True, help="Of replay.")
@click.option("--strict", is_flag=True, help="Stop at a malformed line of the trace.")
@json_option
@reports_errors
def demo(
    trace: Path | None,
    nodes: int | None,
    shards: int | None,
    scheme: str | None,
    max_seconds: float,
    strict: bool,
    as_json: bool,
) -> None:
    """Store registry layers in function memory, lose functions on the way, read everything back, see the bill.

    Everything runs on this machine and is gone afterwards: a function platform, a Ray, the shards.
    """
    import infiniray
    from infiniray.cluster.status import cache_status
    from infiniray.faas.local.admin import PlatformAdmin
    from workloads.demo import DemoOptions, run_demo
    from workloads.progress import Display

    says().print("starting functions, shards and a Ray of their own ...")
    shape: dict[str, Any] = {"nodes": nodes, "shards": shards, "scheme": scheme, "name": "demo"}
    with infiniray.start(object_store_bytes=1 << 30, **shape) as cache:
        endpoint = cache_status("demo")["endpoint_url"]
        options = DemoOptions(max_seconds=max_seconds, strict=strict, display=Display.NONE if as_json else Display.AUTO)
        report = run_demo(cache, _Provider(PlatformAdmin(endpoint)), trace=trace, options=options, console=says())
    if as_json:
        print_json(report.to_json_dict())
    else:
        report.render(results())
    sys.exit(1 if report.wrong_bytes else 0)
