"""The soak command: seeded schedules of bad luck in virtual time, for as long as one likes; and the replay of one."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from infiniray.cli.output import json_option, print_json, reports_errors, results, says

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.table import Table

    from infiniray.sim.soak import SoakResult
    from infiniray.sim.violation import Violation

__all__ = ["soak"]


@click.command()
@click.option("--seconds", type=click.FloatRange(min=0), default=60.0, show_default=True, help="For how long.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which schedules.")
@click.option("--steps", type=click.IntRange(min=1), default=150, show_default=True, help="In each schedule.")
@click.option(
    "--limit",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Processor seconds after which a schedule hangs.",
)
@click.option("--replay", type=click.IntRange(min=0), metavar="SEED", help="Run this one schedule, and tell its story.")
@json_option
@reports_errors
def soak(seconds: float, seed: int, steps: int, limit: float, replay: int | None, as_json: bool) -> None:
    """Check the shards' decisions in virtual time: clients at work while functions vanish, hang and lie, connections
    break and shards crash, and every promise is checked after every step.

    Each violation is told with its seed, its story and the command that replays it. Ctrl-C ends with the summary. Exit
    code 1 if a promise was broken.
    """
    if replay is not None:
        sys.exit(_replay(replay, steps, limit, as_json=as_json))
    from infiniray.sim.soak import soak as run

    with _progress(seconds, is_shown=not as_json) as on_schedule:
        result = run(
            seconds=seconds,
            seed=seed,
            n_steps=steps,
            limit_s=limit,
            on_schedule=on_schedule,
            on_violation=lambda violation: _tell(violation, to_stderr=as_json),
        )
    if as_json:
        print_json(result.to_json_dict())
    else:
        results().print(_table(result))
    sys.exit(1 if result.violations else 0)


def _replay(seed: int, steps: int, limit_s: float, *, as_json: bool) -> int:
    """Print a schedule's whole story, and how it ended; the exit code."""
    from infiniray.sim.soak import SoakResult, replay
    from infiniray.sim.violation import Violation

    sums = SoakResult(seed=seed)
    try:
        result = replay(seed, steps, limit_s=limit_s)
    except Violation as violation:
        sums.add_violation(violation)
        _tell(violation, to_stderr=as_json)
    else:
        sums.add(result)
        click.echo("\n".join(result.story), err=as_json)
    if as_json:
        print_json(sums.to_json_dict())
    else:
        results().print(_table(sums))
    return 1 if sums.violations else 0


def _tell(violation: Violation, *, to_stderr: bool) -> None:
    click.echo("\n".join([*violation.story, str(violation)]), err=to_stderr)  # as it is: a story may be long


@contextlib.contextmanager
def _progress(seconds: float, *, is_shown: bool) -> Iterator[Callable[[SoakResult], None]]:
    """A bar on standard error, if somebody watches."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("soaking"), BarColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, console=says(), transient=True, disable=not (is_shown and sys.stderr.isatty())) as bar:
        task = bar.add_task("", total=seconds, note="")

        def on_schedule(result: SoakResult) -> None:
            note = f"{result.schedules:,} schedules, {result.violations:,} violations"
            bar.update(task, completed=result.elapsed_s, note=note)

        yield on_schedule


def _table(result: SoakResult) -> Table:
    from rich.table import Table

    ended = ", interrupted" if result.is_interrupted else ""
    table = Table("", "", title=f"soak of seed {result.seed}{ended}", title_justify="left", show_header=False, box=None)
    reads = (result.hits, result.misses, result.resets, result.failures)
    rows = [
        ("schedules, steps", f"{result.schedules:,}, {result.steps:,}"),
        ("events", f"{result.events:,}"),
        ("hits, misses, resets, failures", ", ".join(f"{n:,}" for n in reads)),
        ("shards recovered", f"{result.recoveries:,}"),
        ("violations", f"{result.violations:,}"),
    ]
    if result.seeds_failed:
        rows.append(("of these", ", ".join(map(str, result.seeds_failed))))
    if result.elapsed_s:
        rows.append(("took", f"{result.elapsed_s:,.1f} s"))
    for name, value in rows:
        table.add_row(name, value)
    return table
