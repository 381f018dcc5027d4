"""The simulate command: a trace against the shards' own decisions, on modelled functions, in virtual time."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infiniray.cli.extras import need_extra
from infiniray.cli.numbers import FiniteRange
from infiniray.cli.output import json_option, print_json, reports_errors, results, says
from infiniray.cli.problems import tell_problems
from infiniray.cli.running import configuration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from infiniray.sim.experiment import ExperimentResult
    from workloads.simulated import SimulatedRun
    from workloads.trace import Request

__all__ = ["simulate"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("trace", type=_FILE)
@click.option("--config", type=_FILE, help="What runs, and (section simulation) on what.  [default: the defaults]")
@click.option("--set", "settings", multiple=True, metavar="SECTION.NAME=VALUE", help="Any setting; may be repeated.")
@click.option("--reclaims", type=_FILE, help="CSV of (hour or minute, instances reclaimed).  [default: none]")
@click.option("--reclaims-scale", type=FiniteRange(min=0.0), default=1.0, show_default=True, help="Times as many.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--hourly", is_flag=True, help="What every hour added, too.")
@click.option("--report", type=click.Path(file_okay=False, path_type=Path), help="Write tables and a page there.")
@click.option("--system", default="infiniray", show_default=True, help="What the page calls it.")
@click.option("--overwrite", is_flag=True, help="Replace a report that is there.")
@click.option("--strict", is_flag=True, help="Stop at a malformed line of the trace.")
@json_option
@reports_errors
def simulate(
    trace: Path,
    config: Path | None,
    settings: tuple[str, ...],
    reclaims: Path | None,
    reclaims_scale: float,
    seed: int,
    hourly: bool,
    report: Path | None,
    system: str,
    overwrite: bool,
    strict: bool,
    as_json: bool,
) -> None:
    """Run TRACE in virtual time: what would be hit, lost, repaired, waited for and paid.

    The shards' decisions are those that serve users; functions, their network, their bill and the backing store are
    modelled as the configuration says. The same seed gives the same figures, timings apart.
    """
    need_extra("workloads")
    from infiniray.sim.experiment import Experiment
    from infiniray.sim.reclaims import read_reclaims
    from workloads.readers import open_trace
    from workloads.simulated import asked_of
    from workloads.trace import TraceProblems

    if report is not None and (report / "requests.parquet").exists() and not overwrite:
        raise click.UsageError(f"{report} holds results already: --overwrite replaces them")
    chosen = configuration(config, settings, name=None, nodes=None, shards=None, memory_mb=None, scheme=None)
    problems = TraceProblems(strict=strict)
    requests = _begun(open_trace(trace, problems=problems))
    samples = read_reclaims(reclaims, scale=reclaims_scale) if reclaims is not None else ()
    with _run(report, system, trace) as run:
        experiment = Experiment(
            chosen, seed=seed, tell=run.tell if run else None, tell_hour=run.tell_hour if run else None
        )
        result = experiment.run(asked_of(requests), samples)
        if run is not None:
            run.note(result)
    if report is not None:
        _write_page(report)
    tell_problems(problems)
    if as_json:
        counts = {"malformed_lines": problems.n_malformed, "out_of_order_lines": problems.n_out_of_order}
        print_json({**result.to_json_dict(with_hours=hourly), **counts})
        return
    results().print(_table(result, title=f"{trace.name}, simulated"))
    if hourly:
        results().print(_hour_table(result))
    if report is not None:
        says().print(f"results and report.html are in {report}")


def _begun(requests: Iterator[Request]) -> Iterator[Request]:
    """The same requests, the first of which has been read: what is no trace ends here, before a report is begun."""
    first = next(requests)
    return itertools.chain([first], requests)


@contextlib.contextmanager
def _run(folder: Path | None, system: str, trace: Path) -> Iterator[SimulatedRun | None]:
    if folder is None:
        yield None
        return
    from workloads.simulated import SimulatedRun

    with SimulatedRun(folder, system=system, trace=trace.name) as run:
        yield run


def _write_page(folder: Path) -> None:
    from workloads.replay.results import read_run
    from workloads.report.build import build_report, write_report

    run = read_run(folder)
    write_report(build_report([run], title=f"{run.info.trace}, simulated"), folder / "report.html")


def _table(result: ExperimentResult, *, title: str) -> Table:
    from rich.table import Table

    from infiniray.units import format_bytes

    f = result.figures
    table = Table("", "", title=title, title_justify="left", show_header=False, box=None)
    table.columns[1].justify = "right"
    table.add_row("hits", f"{f['hits']:,} of {f['gets']:,} GETs ({_percent(f['hit_ratio'])})")
    table.add_row("resets", f"{f['resets']:,} (availability {_percent(f['availability'])})")
    table.add_row("too large, skipped", f"{f['skipped']:,}")
    table.add_row("degraded reads, repairs", f"{f['degraded_reads']:,}, {f['repairs']:,}")
    table.add_row("backups, evictions, reclaims", f"{f['backups']:,}, {f['evictions']:,}, {f['reclaims']:,}")
    table.add_row("working set", f"{format_bytes(f['working_set_bytes'])} of {f['working_set_objects']:,} objects")
    for title, name in (("all", "latency_s"), ("hits", "hit_latency_s")):
        shown = ", ".join("-" if x is None else f"{1e3 * x:,.1f}" for x in f[name].values())
        table.add_row(f"latency p50, p90, p99, {title}", f"{shown} ms")
    for purpose, usd in f["cost_usd"].items():
        table.add_row(f"cost: {purpose}", f"${usd:,.3f}")
    t = result.timings
    table.add_row("took", f"{t['wall_s']:,.1f} s, {f['events']:,} events, {t['events_per_s']:,.0f}/s")
    return table


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


_HOUR_COLUMNS = ("gets", "hits", "resets", "degraded_reads", "repairs", "reclaims", "evictions")


def _hour_table(result: ExperimentResult) -> Table:
    from rich.table import Table

    table = Table(title="by hour", title_justify="left")
    for name in ("hour", *(name.replace("_", " ") for name in _HOUR_COLUMNS), "USD"):
        table.add_column(name, justify="right")
    for row in result.hours:
        counts: list[Any] = [f"{getattr(row, name):,}" for name in _HOUR_COLUMNS]
        table.add_row(str(row.hour), *counts, f"{sum(row.cost_usd.values()):.4f}")
    return table
