"""A trace's statistics as a table for people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from rich.table import Table

from workloads.describe.description import CAPACITIES_BYTES, LIMITS_BYTES, QUANTILES, TraceDescription
from workloads.describe.histogram import LogHistogram

__all__ = ["description_table"]

_SPANS = {60.0: "1 min", 600.0: "10 min", 3600.0: "1 h", 6 * 3600.0: "6 h", 24 * 3600.0: "1 day"}


def description_table(description: TraceDescription, *, title: str, begins: datetime | None = None) -> Table:
    """Two columns: what, and how much. Estimates from a sample of the objects are said to be such. ``begins``: when the
    first request came, if that is known."""
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column("figure")
    table.add_column("value", justify="left", overflow="fold")
    for block in (_requests(description, begins), _objects(description), _again(description)):
        for figure, value in block:
            table.add_row(figure, value)
        table.add_section()
    if description.followed_share < 1:
        share = f"{description.followed_share:.2%}"
        table.caption = f"Objects, popularity, reuse and LRU are estimates from {share} of the objects, chosen by hash."
    return table


def _requests(trace: TraceDescription, begins: datetime | None) -> Iterator[tuple[str, str]]:
    hourly = trace.hourly_gets
    yield "requests", f"{trace.n_gets:,} GETs, {trace.n_puts:,} PUTs over {_span(trace.span_s)}"
    if begins is not None:
        ends = begins + timedelta(seconds=trace.span_s)
        yield "first and last, UTC", f"{begins:%Y-%m-%d %H:%M:%S} to {ends:%Y-%m-%d %H:%M:%S}"
    if hourly:
        mean = sum(hourly) / len(hourly)
        yield "GETs per hour", f"mean {mean:,.0f}, least {min(hourly):,}, most {max(hourly):,}"
    yield "bytes read", _bytes(trace.get_bytes)
    if trace.n_puts:
        yield "bytes written", _bytes(trace.put_bytes)
    yield "size of a GET", f"{_quantiles(trace.get_sizes)}, largest {_bytes(trace.largest_bytes)}"
    if trace.n_gets:
        yield "GETs of objects > 10 MB", f"{trace.n_large_gets / trace.n_gets:.1%}"


def _objects(trace: TraceDescription) -> Iterator[tuple[str, str]]:
    yield "objects", f"{trace.n_objects:,} of {_bytes(trace.unique_bytes)} in all"
    yield "size of an object", _quantiles(trace.object_sizes)
    yield "objects of at most", _at_most(trace.object_sizes)
    yield "bytes in objects of at most", _at_most(trace.object_bytes)
    yield "objects > 10 MB", f"{trace.large_object_share:.1%}, which hold {trace.large_byte_share:.1%} of the bytes"
    yield "objects > 2 GiB", f"{trace.n_huge_objects:,}"
    yield "objects read once", f"{trace.seen_once_share:.1%}"
    yield "objects > 10 MB read 10 times or more", f"{trace.large_accessed_10_share:.1%}"
    shares = (f"top {top:.0%}: {share:.1%}" for top, share in trace.popularity.items())
    yield "GETs that go to the most popular objects", ", ".join(shares)
    if trace.zipf_exponent is not None:
        yield "Zipf's exponent, the 1,000 most popular", f"{trace.zipf_exponent:.2f}"


def _again(trace: TraceDescription) -> Iterator[tuple[str, str]]:
    yield "GETs of an object seen before", f"{trace.infinite_hit_ratio:.2%} (hit ratio of an infinite cache)"
    yield "seen again within", _within(trace.reuse_s)
    yield "the same, objects > 10 MB", _within(trace.large_reuse_s)
    hits = (f"{_round(c)}: {trace.lru_hit_ratio(c):.1%}" for c in CAPACITIES_BYTES)
    yield "hit ratio of an LRU cache", ", ".join(hits)


def _quantiles(sizes: LogHistogram) -> str:
    return ", ".join(f"p{share * 100:.0f} {_bytes(sizes.quantile(share))}" for share in QUANTILES)


def _at_most(sizes: LogHistogram) -> str:
    return ", ".join(f"{_round(limit)}: {sizes.share_at_most(limit):.1%}" for limit in LIMITS_BYTES)


def _within(gaps_s: LogHistogram) -> str:
    if not gaps_s.total:
        return "none is"
    return ", ".join(f"{name}: {gaps_s.share_at_most(limit_s):.1%}" for limit_s, name in _SPANS.items())


def _span(span_s: float) -> str:
    return f"{span_s / 3600:,.1f} h" if span_s >= 3600 else f"{span_s:,.0f} s"


def _round(limit_bytes: float) -> str:
    """A limit of ours, most of which are round numbers: 1 kB rather than 1.00 kB."""
    number, unit = _bytes(limit_bytes).split(" ")
    return f"{float(number):g} {unit}"


def _bytes(n_bytes: float) -> str:
    """Decimal units, three digits: the published statistics, and the limit of 10 MB, are in these."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 999.5 or unit == "TB":
            break
        n_bytes /= 1000
    digits = 0 if unit == "B" or n_bytes >= 99.95 else 1 if n_bytes >= 9.995 else 2
    return f"{n_bytes:,.{digits}f} {unit}"
