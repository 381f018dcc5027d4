"""The plan command: which pool to buy for a trace, by simulation."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from infiniray.cli.extras import need_extra
from infiniray.cli.numbers import FiniteRange
from infiniray.cli.output import json_option, print_json, reports_errors, results, says
from infiniray.cli.problems import tell_problems

if TYPE_CHECKING:
    from rich.table import Table

    from infiniray.config import Config
    from workloads.planner.plan import Plan, Tried
    from workloads.planner.space import Goal

__all__ = ["plan"]

_SAMPLE_SHARE = 6  # of the trace, if nobody says how much


def _hours(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    from infiniray.units import parse_seconds

    if text is None:
        return None
    try:
        seconds = parse_seconds(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if seconds <= 0:
        raise click.BadParameter(f"a part of the trace is longer than {text}")
    return seconds / 3600


def _seconds_or_never(text: str) -> float:
    from infiniray.units import parse_seconds

    return 0.0 if text == "never" else parse_seconds(text)


def _seconds(text: str) -> float:
    from infiniray.units import parse_seconds

    return parse_seconds(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise ValueError(f"not a number of 1 or more: {text!r}")
    return int(text)


def _memory_mb(text: str) -> int:
    if not 128 <= (memory_mb := _count(text)) <= 10_240:
        raise ValueError(f"a function has 128 to 10,240 MB, not {memory_mb:,}")
    return memory_mb


#: {what --choose calls an axis: (the planner's name of it, how its choices are read)}
_AXES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "nodes": ("n_nodes", _count),
    "memory": ("memory_mb", _memory_mb),
    "scheme": ("scheme", str),
    "warm": ("warm_every_s", _seconds_or_never),
    "backup": ("backup_every_s", _seconds_or_never),
    "linger": ("linger_s", _seconds),
}


def _chosen(_ctx: click.Context, _param: click.Parameter, texts: tuple[str, ...]) -> dict[str, tuple[Any, ...]]:
    chosen: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        axis, equals, choices = text.partition("=")
        if axis not in _AXES or not equals:
            raise click.BadParameter(f"{text!r} is not AXIS=CHOICE,...; axes are {', '.join(_AXES)}")
        name, read = _AXES[axis]
        try:
            chosen[name] = tuple(dict.fromkeys(read(choice.strip()) for choice in choices.split(",")))
        except ValueError as error:
            raise click.BadParameter(f"{text!r}: {error}") from None
    return chosen


@click.command()
@click.argument("trace", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--hit-ratio", type=FiniteRange(0, 1), default=0.0, show_default=True, help="The least.")
@click.option("--availability", type=FiniteRange(0, 1), default=0.0, show_default=True, help="The least.")
@click.option(
    "--config",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What is in use, or near what is looked for: all that is not chosen, and where the search begins.",
)
@click.option(
    "--reclaims",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV of two columns: hour (or minute, second), instances reclaimed.  [default: none are]",
)
@click.option(
    "--choose",
    callback=_chosen,
    multiple=True,
    metavar="AXIS=CHOICE,...",
    help="nodes, memory (MB), scheme, warm, backup (a duration, or never), linger.  [default: about 8 each]",
)
@click.option(
    "--sample",
    "sample_hours",
    callback=_hours,
    help="The search's part of the trace: long enough that something is lost in it.  [default: a sixth]",
)
@click.option(
    "--tries", type=click.IntRange(min=1), default=40, show_default=True, help="Simulations of that, at most."
)
@click.option(
    "--confirm",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    help="Simulations of the whole trace.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Simulations at a time.  [default: one for each core]")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--strict", is_flag=True, help="Stop at a malformed line of the trace.")
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="Folder for the frontier's picture.")
@json_option
@reports_errors
def plan(
    trace: Path,
    hit_ratio: float,
    availability: float,
    plots: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Say which pool to buy for TRACE: the cheapest that has the hit ratio and the availability, under the reclaims.

    Choices are simulated on the trace's beginning, and the best of them on the whole. Exit code 1 if none is found.
    """
    need_extra("workloads")
    from workloads.planner.report import plan_document, verdict
    from workloads.planner.space import Goal

    found, hours = _search(trace, Goal(hit_ratio=hit_ratio, availability=availability), **options)
    pictures = [] if plots is None else _drawn(found, hours, plots)
    if as_json:
        print_json({"trace": str(trace), **plan_document(found, hours), "pictures": pictures})
    else:
        results().print(_table(found))
        for line in verdict(found, hours):
            results().print(line)
        for picture in pictures:
            says().print(f"drawn: {picture}")
    if found.choice is None:
        click.get_current_context().exit(1)


def _search(
    path: Path,
    goal: Goal,
    *,
    file: Path | None,
    reclaims: Path | None,
    choose: dict[str, tuple[Any, ...]],
    sample_hours: float | None,
    tries: int,
    confirm: int,
    workers: int | None,
    seed: int,
    strict: bool,
) -> tuple[Plan, float]:
    """The plan, and how many hours the trace has."""
    from infiniray.config import Config
    from infiniray.cost.price_book import load_price_book
    from infiniray.sim.reclaims import read_reclaims
    from workloads.planner.arithmetic import Arithmetic, profile_trace
    from workloads.planner.configured import settings_in, space_around
    from workloads.planner.search import Budget, search
    from workloads.planner.simulating import Simulated, asked_of, several_at_once
    from workloads.planner.space import MapAll, Stage
    from workloads.trace import TraceProblems

    config = Config.load(file)
    problems = TraceProblems(strict=strict)
    requests = list(_read(path, problems))
    tell_problems(problems)
    asked, lost = asked_of(requests), [] if reclaims is None else list(read_reclaims(reclaims))
    largest_bytes = _largest_bytes(config)

    def stage(hours: float, map_all: MapAll) -> Stage:
        best_hit_ratio = profile_trace(requests, hours * 3600, largest_bytes).best_hit_ratio
        evaluate = Simulated(config, asked, lost, until_s=hours * 3600, seed=seed)
        return Stage(evaluate=evaluate, hours=hours, best_hit_ratio=best_hit_ratio, map_all=map_all)

    profile = profile_trace(requests, largest_bytes=largest_bytes)
    rates = load_price_book(config.simulation.prices).function_rates(config.simulation.architecture)
    with several_at_once(workers or len(os.sched_getaffinity(0))) as map_all:
        found = search(
            space_around(config, choose),
            goal,
            Arithmetic(profile=profile, rates=rates),
            sample=stage(min(sample_hours or profile.hours / _SAMPLE_SHARE, profile.hours), map_all),
            whole=stage(profile.hours, map_all),
            start=settings_in(config),
            budget=Budget(n_on_sample=tries, n_on_whole=confirm),
            note=_note,
        )
    return found, profile.hours


def _read(path: Path, problems: Any) -> Any:
    from workloads.readers import open_trace

    return open_trace(path, problems=problems)


def _largest_bytes(config: Config) -> float:
    limit = config.simulation.client.max_object_bytes
    return float("inf") if limit is None else limit


def _note(stage: str, n: int, tried: Tried) -> None:
    outcome = tried.outcome
    figures = f"hit ratio {outcome.hit_ratio:.2%}, availability {outcome.availability:.2%}, ${outcome.cost_usd:.3f}"
    says().print(f"{stage} {n}: {tried.settings}: {figures}", soft_wrap=True)


# ---------------------------------------------------------------- what was found


def _table(found: Plan) -> Table:
    """The frontier, and what is bought if it is not on it."""
    from rich.table import Table

    drawn = Table(title="Confirmed on the whole trace: cost against availability", title_justify="left")
    headings = ("nodes", "MB", "scheme", "warm", "backup", "linger", "hit ratio", "availability", "USD", "")
    for heading in headings:
        drawn.add_column(heading, justify="left" if heading in ("scheme", "") else "right")
    shown = found.frontier
    if found.choice is not None and found.choice not in shown:
        shown = sorted([*shown, found.choice], key=lambda tried: tried.outcome.cost_usd)
    for tried in shown:
        is_bought = tried is found.choice
        mark = "buy" if is_bought else "" if found.goal.shortfall(tried.outcome) else "does too"
        drawn.add_row(*_cells(tried), mark, style="bold" if is_bought else "")
    return drawn


def _cells(tried: Tried) -> tuple[str, ...]:
    from workloads.planner.report import dollars

    settings, outcome = tried.settings, tried.outcome
    return (
        f"{settings.n_nodes}",
        f"{settings.memory_mb}",
        settings.scheme,
        _every(settings.warm_every_s),
        _every(settings.backup_every_s),
        f"{1000 * settings.linger_s:g} ms",
        f"{outcome.hit_ratio:.2%}",
        f"{outcome.availability:.2%}",
        dollars(outcome.cost_usd),
    )


def _every(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds else "never"


def _drawn(found: Plan, hours: float, folder: Path) -> list[str]:
    from workloads.planner.report import plan_figure
    from workloads.report.style import styled
    from workloads.whole_file import whole_file

    made = plan_figure(found, hours)
    if made is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "plan.png"
    with styled(), whole_file(file) as partial:
        made.savefig(partial)
    return [str(file)]
