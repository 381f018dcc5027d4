"""``python -m infiniray.sim``: run seeded schedules, or replay one with its story."""

from __future__ import annotations

import sys
import time

import click

from infiniray.sim.driver import Violation
from infiniray.sim.schedules import run_schedule


@click.command()
@click.option("--seed", type=int, help="Replay this one, with its story.")
@click.option("--schedules", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=150, show_default=True)
@click.option("--first", type=int, default=0, show_default=True, help="The first seed.")
def main(seed: int | None, schedules: int, steps: int, first: int) -> None:
    """Check a shard's decisions in virtual time. Exit code 1 if a promise was broken."""
    if seed is not None:
        _replay(seed, steps)
        return
    failed, n_events, start_s = [], 0, time.perf_counter()
    for number in range(first, first + schedules):
        try:
            n_events += run_schedule(number, steps).n_events
        except Violation as violation:
            failed.append(number)
            click.echo(str(violation))
    rate = n_events / (time.perf_counter() - start_s)
    click.echo(f"{schedules} schedules, {n_events:,} events, {rate:,.0f} events/s, {len(failed)} failed {failed}")
    sys.exit(1 if failed else 0)


def _replay(seed: int, steps: int) -> None:
    try:
        result = run_schedule(seed, steps, keeps_story=True)
    except Violation as violation:
        click.echo("\n".join(violation.story))
        click.echo(str(violation))
        sys.exit(1)
    click.echo("\n".join(result.story))
    click.echo(f"{result.hits} hits, {result.misses} misses, {result.resets} resets, {result.failures} failures")


if __name__ == "__main__":
    main()
