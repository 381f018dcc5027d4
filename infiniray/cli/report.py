"""The report command: one page with plots of what replays and simulations found."""

from __future__ import annotations

from pathlib import Path

import click

from infiniray.cli.extras import need_extra
from infiniray.cli.output import json_option, print_json, reports_errors, results

__all__ = ["report"]


@click.command()
@click.argument("runs", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="[RUN]...")
@click.option(
    "--costs",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What `infiniray cost --json` printed: cost against request rate.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("report.html"), show_default=True)
@click.option("--title", default="InfiniRay: report", show_default=True)
@json_option
@reports_errors
def report(runs: tuple[Path, ...], costs: Path | None, out: Path, title: str, as_json: bool) -> None:
    """Make one page, that needs no other file, of each RUN: a folder that `infiniray replay` or `infiniray simulate
    --report` has written.

    The plots are beside it as PNG too. Runs of the same system are told apart by their folders' names.
    """
    if not runs and costs is None:
        raise click.UsageError("name a run, or --costs")
    need_extra("workloads")
    from workloads.replay.results import read_run, renamed
    from workloads.report.build import build_report, write_report
    from workloads.report.rates import read_lines

    lines = None if costs is None else read_lines(costs)
    read = [read_run(run) for run in runs]
    names = [run.info.system for run in read]
    shown = [
        renamed(run, f"{name}, {folder.resolve().name}") if names.count(name) > 1 else run
        for run, name, folder in zip(read, names, runs, strict=True)
    ]
    files = write_report(build_report(shown, lines=lines, title=title), out)
    if as_json:
        print_json({"page": str(files[0]), "pictures": [str(file) for file in files[1:]]})
    else:
        results().print(f"{files[0]}, and {len(files) - 1} pictures beside it")
