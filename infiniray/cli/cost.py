"""The cost command: what a pool costs beside its alternatives, and what a platform's bill came to."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from infiniray.cli.numbers import FiniteRange
from infiniray.cli.output import json_option, print_json, reports_errors, results, says

if TYPE_CHECKING:
    from rich.table import Table

    from infiniray.cost.bill import Bill
    from infiniray.cost.comparison import Comparison
    from infiniray.cost.ledger import LedgerLine
    from infiniray.cost.model import Crossover, Load, Pool

__all__ = ["cost"]

#: What can be said along with --bill; the other options describe a pool, and a bill knows its own.
_WITH_BILL = {"bill", "prices", "arch", "as_json"}


def _size(_ctx: click.Context, _param: click.Parameter, text: str | None) -> int | None:
    from infiniray.units import parse_bytes

    try:
        return None if text is None else parse_bytes(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _interval(_ctx: click.Context, _param: click.Parameter, text: str) -> float | None:
    from infiniray.units import parse_seconds

    try:
        return None if text == "never" else parse_seconds(text) or None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command()
@click.option("--requests-per-hour", type=FiniteRange(min=0), default=3600.0, show_default=True)
@click.option("--object-size", callback=_size, default="10MB", show_default=True)
@click.option("--puts", type=FiniteRange(0, 1), default=0.0, show_default=True, help="Share of the requests.")
@click.option("--stored", callback=_size, help="Objects held, for the alternatives.  [default: all the pool can hold]")
@click.option("--nodes", type=click.IntRange(min=1), default=400, show_default=True, help="Functions in the pool.")
@click.option("--memory", type=click.IntRange(128, 10_240), default=1536, show_default=True, help="Of each, MB.")
@click.option("--arch", type=click.Choice(["x86", "arm"]), default="x86", show_default=True)
@click.option("--scheme", default="rs:10+2", show_default=True, help="Redundancy scheme of the objects.")
@click.option("--hedge", type=click.Choice(["delayed", "all"]), default="delayed", show_default=True)
@click.option("--serve-ms", type=FiniteRange(min=0), help="Of an invocation.  [default: 5, and the chunk's way]")
@click.option("--linger-ms", type=FiniteRange(min=0), default=8.0, show_default=True)
@click.option("--warm-every", callback=_interval, default="1min", show_default=True, help="Each node; or never.")
@click.option("--warm-ms", type=FiniteRange(min=0), default=1.0, show_default=True)
@click.option("--backup-every", callback=_interval, default="5min", show_default=True, help="Each node; or never.")
@click.option("--backup-ms", type=FiniteRange(min=0), default=1560.0, show_default=True)
@click.option("--reclaims-per-hour", type=FiniteRange(min=0), default=0.0, show_default=True)
@click.option("--init-ms", type=FiniteRange(min=0), default=250.0, show_default=True, help="Start of an instance.")
@click.option("--proxies", type=click.IntRange(min=0), default=1, show_default=True, help="Hosts of the shards.")
@click.option("--proxy-type", default="c5n.4xlarge", show_default=True, help="EC2 instance type of these.")
@click.option("--hours", type=FiniteRange(min=0, min_open=True), default=50.0, show_default=True)
@click.option("--prices", default="2026", show_default=True, help="Price book: a year that comes along, or a file.")
@click.option(
    "--bill",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Instead: what a platform metered (its bill.jsonl), by purpose and hour.",
)
@json_option
@click.pass_context
@reports_errors
def cost(ctx: click.Context, /, prices: str, arch: Any, bill: Path | None, as_json: bool, **options: Any) -> None:
    """What a pool costs by the hour, by this system's invocations and by the paper's closed form, and what would hold
    the same objects otherwise: ElastiCache, S3. At which request rates is which cheaper?

    The paper's own figures: --prices 2019 --hedge all --object-size 1MB.
    """
    from infiniray.cost.bill import read_bill
    from infiniray.cost.comparison import compare
    from infiniray.cost.price_book import load_price_book

    book = load_price_book(prices)
    if bill is not None:
        _refuse_what_a_bill_knows(ctx)
        found = read_bill(bill, book.function_rates(arch))
        _show_bill(found, bill, book.title, as_json)
        return
    pool, load = _pool(options), _load(options)
    _refuse_what_does_not_fit(pool, load, options["stored"])
    comparison = compare(
        book,
        pool,
        load,
        _behaviour(options, pool, load),
        held_bytes=options["stored"],
        host_type=options["proxy_type"],
        n_hosts=options["proxies"],
        architecture=arch,
    )
    if as_json:
        print_json(comparison.to_json_dict() | {"hours": options["hours"]})
        return
    for table in (_hour_table(comparison), _alternatives_table(comparison, options["hours"])):
        results().print(table)
    for gone in comparison.not_offered:
        results().print(f"{gone.name}: not offered then, {gone.why}")


# ---------------------------------------------------------------- what was asked


def _pool(options: dict[str, Any]) -> Pool:
    from infiniray.codec.schemes import Scheme
    from infiniray.cost.model import Pool

    scheme = Scheme.parse(options["scheme"])
    return Pool(n_nodes=options["nodes"], memory_mb=options["memory"], data_chunks=scheme.k, parity_chunks=scheme.r)


def _load(options: dict[str, Any]) -> Load:
    from infiniray.cost.model import Load

    return Load(
        requests_per_hour=options["requests_per_hour"],
        object_bytes=options["object_size"],
        put_share=options["puts"],
    )


def _behaviour(options: dict[str, Any], pool: Pool, load: Load) -> Any:
    from infiniray.cost.model import Behaviour, transfer_ms

    chunk_bytes = -(-load.object_bytes // pool.data_chunks)
    serve_ms = options["serve_ms"]
    return Behaviour(
        serve_ms=5.0 + transfer_ms(chunk_bytes) if serve_ms is None else serve_ms,
        linger_ms=options["linger_ms"],
        gets_read_parity=options["hedge"] == "all",
        warm_every_s=options["warm_every"],
        warm_ms=options["warm_ms"],
        backup_every_s=options["backup_every"],
        backup_ms=options["backup_ms"],
        reclaims_per_hour=options["reclaims_per_hour"],
        init_ms=options["init_ms"],
    )


def _refuse_what_does_not_fit(pool: Pool, load: Load, held_bytes: int | None) -> None:
    from infiniray.units import format_bytes

    if pool.n_nodes < pool.n_chunks:
        raise click.UsageError(f"{pool.n_chunks} chunks of an object need as many nodes, not {pool.n_nodes}")
    limit_bytes = (pool.memory_mb << 20) * pool.data_chunks
    if load.object_bytes > limit_bytes:
        raise click.UsageError(
            f"objects of {format_bytes(load.object_bytes)} do not fit: {pool.data_chunks} chunks of at most "
            f"{pool.memory_mb} MB hold {format_bytes(limit_bytes)}"
        )
    if held_bytes is not None and held_bytes > pool.object_bytes:
        raise click.UsageError(
            f"{format_bytes(held_bytes)} of objects do not fit: the pool holds {format_bytes(pool.object_bytes)}"
        )


def _refuse_what_a_bill_knows(ctx: click.Context) -> None:
    given = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    unused = sorted("--" + name.replace("_", "-") for name in set(given) - _WITH_BILL)
    if unused:
        raise click.UsageError(f"--bill says what was metered; {', '.join(unused)} would change nothing")


# ---------------------------------------------------------------- what it costs


def _usd(usd: float) -> str:
    """Cents, and where there are none, three digits that count."""
    return f"${usd:,.2f}" if usd >= 1 or not usd else f"${usd:.3g}" if usd < 1e-4 else f"${usd:.5f}".rstrip("0")


def _hour_table(comparison: Comparison) -> Table:

    from infiniray.units import format_bytes

    pool, load, book = comparison.pool, comparison.load, comparison.book
    title = (
        f"USD an hour at {load.requests_per_hour:,.0f} requests of {format_bytes(load.object_bytes)}: "
        f"{pool.n_nodes} functions of {pool.memory_mb} MB, {pool.data_chunks}+{pool.parity_chunks}\n"
        f"prices: {book.title} (as of {book.as_of})"
    )
    metered, paper = comparison.metered_usd, comparison.closed_form_usd
    table = _table(title, "", "metered model", "FAST'20 closed form")
    for purpose, name in (("serving", "serving"), ("warmup", "warm-up"), ("backup", "backup")):
        table.add_row(name, _usd(metered[purpose]), _usd(paper[purpose]))
    table.add_row("functions in all", _usd(metered["total"]), _usd(paper["total"]), style="bold")
    hosts = comparison.hosts
    if hosts.n:
        with_hosts = (_usd(usd + hosts.usd_per_hour) for usd in (metered["total"], paper["total"]))
        table.add_row(f"with proxies on {hosts.name}", *with_hosts)
    per_request = (comparison.metered.usd_per_request, comparison.closed_form.serving_usd_per_request)
    table.add_row("each request", *(_usd(usd) for usd in per_request))
    return table


def _alternatives_table(comparison: Comparison, hours: float) -> Table:
    from infiniray.units import format_bytes

    rate, hosts = comparison.load.requests_per_hour, comparison.hosts
    title = f"The same load, {format_bytes(comparison.held_bytes)} of objects held"
    headings = ["", "an hour", f"{hours:g} hours", "times ours"]
    beside = ["ours is cheaper", *(["with hosts"] if hosts.n else []), "by closed form"]
    table = _table(title, *headings, *beside)
    for name, usd in (
        ("InfiniRay, functions", comparison.metered_usd["total"]),
        *([("InfiniRay with hosts", comparison.metered_usd["total"] + hosts.usd_per_hour)] if hosts.n else []),
    ):
        table.add_row(name, _usd(usd), _usd(usd * hours), *[""] * (len(beside) + 1), style="bold")
    for other in comparison.others:
        usd = other.alternative.cost.usd_per_hour(rate)
        times = f"{usd / comparison.metered_usd['total']:,.2f}" if comparison.metered_usd["total"] else ""
        when = [other.metered, *([other.with_hosts] if hosts.n else []), other.closed_form]
        table.add_row(other.alternative.name, _usd(usd), _usd(usd * hours), times, *(_when(found) for found in when))
    return table


def _when(found: Crossover) -> str:
    if found.requests_per_hour is None:
        return found.cheaper.value
    return f"{found.cheaper.value} {found.requests_per_hour:,.0f}/h"


# ---------------------------------------------------------------- what was metered


def _show_bill(bill: Bill, path: Path, book_title: str, as_json: bool) -> None:
    ledger = bill.ledger
    if as_json:
        print_json(
            {
                "file": str(path),
                "prices": book_title,
                "n_invocations": bill.n_invocations,
                "platform_usd": bill.platform_usd,
                "cost_usd": ledger.cost_usd(),
                "by_purpose": {purpose.value: _line_dict(line) for purpose, line in ledger.by_purpose().items()},
                "by_hour": [
                    {"hour": _hour(hour), **{purpose.value: _line_dict(line) for purpose, line in lines.items()}}
                    for hour, lines in ledger.by_hour().items()
                ],
            }
        )
        return
    if not bill.n_invocations:
        says().print(f"{path}: nothing was invoked")
        return
    results().print(_purpose_table(bill, book_title))
    results().print(_by_hour_table(bill))
    results().print(f"the platform itself asked {_usd(bill.platform_usd)}")


def _line_dict(line: LedgerLine) -> dict[str, Any]:
    return {
        "usd": line.usd,
        "requests_usd": line.requests_usd,
        "duration_usd": line.duration_usd,
        "init_usd": line.init_usd,
        "n_invocations": line.n_invocations,
        "billed_s": line.billed_s,
        "gb_seconds": line.gb_seconds,
    }


def _purpose_table(bill: Bill, book_title: str) -> Table:
    headings = ("", "invocations", "billed", "GB-s", "requests", "duration", "init", "USD")
    table = _table(f"By purpose; prices: {book_title}", *headings)
    lines = {purpose.value: line for purpose, line in bill.ledger.by_purpose().items()}
    for name, line in (lines | {"in all": bill.ledger.total}).items():
        parts = (line.requests_usd, line.duration_usd, line.init_usd, line.usd)
        counts = (f"{line.n_invocations:,}", f"{line.billed_s:,.3f} s", f"{line.gb_seconds:,.3f}")
        table.add_row(name, *counts, *(_usd(usd) for usd in parts), style="bold" if name == "in all" else "")
    return table


def _by_hour_table(bill: Bill) -> Table:
    purposes = list(bill.ledger.by_purpose())
    table = _table("USD by hour", "hour", *(purpose.value for purpose in purposes), "in all")
    for hour, lines in bill.ledger.by_hour().items():
        cells = (_usd(lines[purpose].usd) if purpose in lines else "" for purpose in purposes)
        table.add_row(_hour(hour), *cells, _usd(sum(line.usd for line in lines.values())))
    return table


def _hour(hour: int) -> str:
    """The beginning of an hour of Unix time, as people write it."""
    return datetime.fromtimestamp(hour * 3600, timezone.utc).strftime("%Y-%m-%dT%H:%MZ")


def _table(title: str, first: str, *others: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table
