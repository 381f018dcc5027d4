"""The ablate command: a configuration beside variations of it, on the same trace and under the same reclaims."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infiniray.cli.extras import need_extra
from infiniray.cli.numbers import FiniteRange
from infiniray.cli.output import json_option, print_json, reports_errors, results, says
from infiniray.cli.problems import tell_problems

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from workloads.ablation import Varied

__all__ = ["ablate"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("trace", type=_FILE)
@click.argument("variations", type=_FILE)
@click.option("--config", "file", type=_FILE, help="What is varied.  [default: the defaults]")
@click.option("--reclaims", type=_FILE, help="CSV of (hour or minute, instances reclaimed).  [default: none]")
@click.option("--hours", type=FiniteRange(min=0, min_open=True), help="Of the trace.  [default: all of it]")
@click.option("--only", multiple=True, metavar="NAME", help="Of the variations; may be repeated.  [default: all]")
@click.option("--workers", type=click.IntRange(min=1), help="Simulations at a time.  [default: one for each core]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--strict", is_flag=True, help="Stop at a malformed line of the trace.")
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Folder for the frontier's picture.")
@json_option
@reports_errors
def ablate(
    trace: Path,
    variations: Path,
    file: Path | None,
    reclaims: Path | None,
    hours: float | None,
    only: tuple[str, ...],
    workers: int | None,
    seed: int,
    strict: bool,
    plots: Path | None,
    as_json: bool,
) -> None:
    """Simulate TRACE with a configuration and with each of VARIATIONS, a YAML file {name: {section: {setting: value}}}.

    What each setting is worth: hits, losses and cost with another one in its place.
    """
    need_extra("workloads")
    from infiniray.config import Config
    from infiniray.sim.reclaims import read_reclaims
    from workloads.ablation import BASE, Simulate, read_variations
    from workloads.planner.simulating import asked_of, several_at_once
    from workloads.readers import open_trace
    from workloads.trace import TraceProblems

    chosen = read_variations(Config.load(file), variations)
    unknown = sorted(set(only) - {one.name for one in chosen})
    if unknown:
        raise click.UsageError(f"{variations} has no {', '.join(map(repr, unknown))}")
    if only:
        chosen = [one for one in chosen if one.name in (BASE, *only)]
    problems = TraceProblems(strict=strict)
    asked = asked_of(open_trace(trace, problems=problems))
    tell_problems(problems)
    lost = [] if reclaims is None else list(read_reclaims(reclaims))
    until_s = float("inf") if hours is None else hours * 3600
    spanned_h = min(until_s, asked[-1].at_s if asked else 0.0) / 3600
    found: list[Varied] = []
    with several_at_once(min(workers or os.cpu_count() or 1, len(chosen))) as map_all:
        for varied in map_all(Simulate(asked, lost, until_s=until_s, seed=seed), chosen):  # type: ignore[arg-type]
            found.append(varied)  # type: ignore[arg-type]
            says().print(f"{len(found)} of {len(chosen)}: {_in_short(found[-1])}", soft_wrap=True)
    picture = None if plots is None else _draw(found, spanned_h, plots)
    if as_json:
        figures: dict[str, Any] = {one.name: one.figures for one in found}
        print_json({"trace": str(trace), "hours": spanned_h, "variations": figures, "picture": picture})
        return
    results().print(_table(found, title=f"{trace.name}, {spanned_h:,.1f} hours"))
    if picture is not None:
        says().print(f"drawn: {picture}")


def _in_short(one: Varied) -> str:
    f = one.figures
    return (
        f"{one.name}: hit ratio {f['hit_ratio'] or 0.0:.2%}, {f['resets']:,} resets, availability "
        f"{one.availability:.2%}, ${one.cost_usd:.3f}"
    )


def _table(found: Sequence[Varied], *, title: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in ("hit ratio", "RESETs", "availability", "serving", "warm-up", "backup", "repair", "total"):
        table.add_column(heading, justify="right")
    for one in found:
        f = one.figures
        costs = [f"${f['cost_usd'][purpose]:.3f}" for purpose in ("serving", "warmup", "backup", "repair", "total")]
        table.add_row(
            one.name, f"{f['hit_ratio'] or 0.0:.2%}", f"{f['resets']:,}", f"{one.availability:.2%}", *costs
        )  # fmt: skip
    return table


def _draw(found: Sequence[Varied], hours: float, folder: Path) -> str:
    from workloads.ablation import ablation_figure
    from workloads.report.style import styled

    made = ablation_figure(found, hours)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "ablation.png"
    with styled():
        made.savefig(file)
    return str(file)
