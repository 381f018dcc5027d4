"""The trace commands: what a trace is like, in another format, or made up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from infiniray.cli.extras import need_extra
from infiniray.cli.numbers import FiniteRange
from infiniray.cli.output import json_option, print_json, reports_errors, results
from infiniray.cli.paths import OutFile
from infiniray.cli.problems import tell_problems

if TYPE_CHECKING:
    from workloads.trace import Request

__all__ = ["trace"]

_IN = click.Path(exists=True, dir_okay=False, path_type=Path)
_OUT = OutFile()
_strict_option = click.option(
    "--strict", is_flag=True, help="Stop at the first malformed line, or at one out of order."
)


@click.group()
def trace() -> None:
    """Traces of object requests: describe, convert, generate.

    IBM Container Registry (JSON, CSV), IBM Object Store, Azure Functions blobs and this project's Parquet are read,
    plain or gzip, and told by their content.
    """


@trace.command()
@click.argument("file", type=_IN)
@click.option("--plot", type=_OUT, metavar="PICTURE", help="Draw the statistics: .png, .svg or .pdf.")
@_strict_option
@json_option
@reports_errors
def describe(file: Path, plot: Path | None, strict: bool, as_json: bool) -> None:
    """Print the statistics of FILE: sizes, popularity, reuse, rate by hour, what an LRU cache would hit."""
    if plot is not None and plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise click.BadParameter("the picture's name must end in .png, .svg or .pdf", param_hint="--plot")
    need_extra("workloads")
    from workloads.describe import describe as described
    from workloads.describe.table import description_table
    from workloads.readers import open_trace, trace_format
    from workloads.trace import TraceProblems

    problems = TraceProblems(strict=strict)
    shape = trace_format(file)
    description = described(open_trace(file, problems=problems))
    if plot is not None:
        from workloads.describe.drawing import draw

        draw(description, plot, title=file.name)
    tell_problems(problems)
    if as_json:
        begins = None if problems.begins is None else problems.begins.isoformat()
        figures = {"format": shape.value, "begins": begins, **description.to_json_dict()}
        print_json({**figures, "problems": problems.to_json_dict()})
    else:
        title = f"{file.name}: {shape.value}"
        results().print(description_table(description, title=title, begins=problems.begins))


@trace.command()
@click.argument("file", type=_IN, metavar="IN")
@click.argument("out", type=_OUT)
@_strict_option
@json_option
@reports_errors
def convert(file: Path, out: Path, strict: bool, as_json: bool) -> None:
    """Write IN, of whatever format, as a compact Parquet trace to OUT, which is replaced if it is there."""
    need_extra("workloads")
    from workloads.readers import open_trace
    from workloads.readers.parquet import write_parquet
    from workloads.trace import TraceProblems

    problems = TraceProblems(strict=strict)
    n_requests = write_parquet(open_trace(file, problems=problems), out)
    tell_problems(problems)
    if as_json:
        print_json({"requests": n_requests, "bytes": out.stat().st_size, "problems": problems.to_json_dict()})
    else:
        results().print(f"{n_requests:,} requests in {out}, {out.stat().st_size / n_requests:.1f} bytes each")


@trace.command()
@click.argument("file", type=_IN)
@click.option(
    "--after", type=FiniteRange(min=0, min_open=True), multiple=True, default=(0.5, 1.0, 1.5, 2.0, 3.0, 5.0),
    show_default=True, help="Gigabytes times hours, as eviction.idle_gb_h; may be repeated.",
)  # fmt: skip
@click.option("--scheme", default="rs:10+2", show_default=True, help="Its redundancy counts among the bytes held.")
@_strict_option
@json_option
@reports_errors
def idle(file: Path, after: tuple[float, ...], scheme: str, strict: bool, as_json: bool) -> None:
    """What giving objects up that are idle would cost in hits, and save in bytes held, if nothing else were lost."""
    need_extra("workloads")
    from rich.table import Table

    from infiniray.codec.schemes import Scheme
    from infiniray.units import format_bytes
    from workloads.describe.idling import idling
    from workloads.readers import open_trace
    from workloads.trace import TraceProblems

    problems, chosen = TraceProblems(strict=strict), Scheme.parse(scheme)
    found = idling(open_trace(file, problems=problems), [*after, math.inf], overhead=chosen.n / chosen.k)
    tell_problems(problems)
    if as_json:
        print_json({"scheme": str(chosen), "idle": [one.to_json_dict() for one in found]})
        return
    table = Table("given up after", title=f"{file.name}: objects that are idle", title_justify="left")
    for heading in ("hit ratio at most", "held, mean", "held, most"):
        table.add_column(heading, justify="right")
    for one in found:
        name = "never" if math.isinf(one.idle_gb_h) else f"{one.idle_gb_h:g} GB-h"
        table.add_row(name, f"{one.hit_ratio:.2%}", format_bytes(one.mean_bytes), format_bytes(one.most_bytes))
    results().print(table)


_seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same trace."
)


@trace.group()
def generate() -> None:
    """Make a trace up: a registry's, a YCSB-like mix, bursts.

    OUT becomes Parquet if its name ends in .parquet, otherwise registry CSV, gzip if it ends in .gz. What is there is
    replaced.
    """


@generate.command()
@click.argument("out", type=_OUT)
@click.option("--datacenter", default="dal", show_default=True, help="dal, lon, fra, syd, stg, prs or dev.")
@click.option("--hours", type=FiniteRange(min=0, min_open=True), default=24.0, show_default=True)
@_seed_option
@json_option
@reports_errors
def registry(out: Path, datacenter: str, hours: float, seed: int, as_json: bool) -> None:
    """Sizes, popularity, reuse, rate and rhythm of a day as published for the IBM registry."""
    need_extra("workloads")
    from workloads.generate import generate as generated
    from workloads.generate import registry_profile

    try:
        profile = registry_profile(datacenter, hours=hours, seed=seed)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    _write(generated(profile), out, as_json)


@generate.command()
@click.argument("out", type=_OUT)
@click.option("--mix", type=click.Choice(["a", "b", "c"]), default="b", show_default=True, help="50, 95 or 100% reads.")
@click.option("--requests", type=click.IntRange(min=1), default=10_000, show_default=True)
@click.option("--objects", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--size", default="10MB", show_default=True, help="Of every object.")
@click.option("--theta", type=FiniteRange(min=0, max=10), default=0.99, show_default=True, help="Zipf's exponent.")
@click.option("--rate", type=FiniteRange(min=0, min_open=True), default=10.0, show_default=True, help="Requests/s.")
@click.option("--preload", is_flag=True, help="First PUT every object.")
@_seed_option
@json_option
@reports_errors
def ycsb(
    out: Path,
    mix: str,
    requests: int,
    objects: int,
    size: str,
    theta: float,
    rate: float,
    preload: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Zipf popularity, objects of one size, reads and writes in the proportion of YCSB's mix A, B or C."""
    need_extra("workloads")
    from workloads.generators import MIXES, YcsbMix

    made = YcsbMix(
        n_requests=requests,
        n_objects=objects,
        size_bytes=_size(size),
        read_share=MIXES[mix],
        theta=theta,
        requests_per_s=rate,
        preload=preload,
        seed=seed,
    )
    _write(made.requests(), out, as_json)


@generate.command()
@click.argument("out", type=_OUT)
@click.option("--hours", type=FiniteRange(min=0, min_open=True), default=1.0, show_default=True)
@click.option("--rate", type=FiniteRange(min=0, min_open=True), default=1.0, show_default=True, help="Requests/s.")
@click.option("--every", default=600.0, show_default=True, help="Seconds from the end of a burst to the next one's.")
@click.option("--lasting", default=30.0, show_default=True, help="Seconds that a burst lasts.")
@click.option("--factor", default=20.0, show_default=True, help="Rate in a burst, relative to --rate.")
@click.option("--hot", type=click.IntRange(min=1), default=5, show_default=True, help="New objects in each burst.")
@click.option("--objects", type=click.IntRange(min=1), default=1000, show_default=True, help="Asked for at all times.")
@click.option("--size", default="10MB", show_default=True, help="Of every object.")
@_seed_option
@json_option
@reports_errors
def bursts(
    out: Path,
    hours: float,
    rate: float,
    every: float,
    lasting: float,
    factor: float,
    hot: int,
    objects: int,
    size: str,
    seed: int,
    as_json: bool,
) -> None:
    """A steady stream, broken by bursts of requests for a few new objects, as after a release."""
    need_extra("workloads")
    from workloads.generators import Bursts

    try:
        made = Bursts(
            span_s=hours * 3600,
            requests_per_s=rate,
            period_s=every,
            burst_s=lasting,
            factor=factor,
            n_hot=hot,
            n_objects=objects,
            size_bytes=_size(size),
            seed=seed,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    _write(made.requests(), out, as_json)


def _size(text: str) -> int:
    from infiniray.units import parse_bytes

    try:
        return parse_bytes(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--size") from None


def _write(requests: Iterable[Request], out: Path, as_json: bool) -> None:
    from workloads.generate import write_registry
    from workloads.readers.parquet import write_parquet

    n_requests = (write_parquet if out.suffix == ".parquet" else write_registry)(requests, out)
    if as_json:
        print_json({"requests": n_requests, "file": str(out), "bytes": out.stat().st_size})
    else:
        results().print(f"{n_requests:,} requests in {out}")
