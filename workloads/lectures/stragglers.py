"""Stragglers: replication against erasure coding with first-d, by :mod:`workloads.lectures.straggler_model`.

MapReduce (OSDI'04) starts slow tasks once more elsewhere, which takes copies of the data; erasure coding computes the
chunks that are late from others, at less storage: computing them is cheaper than waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from infiniray.codec.schemes import Scheme
from infiniray.core.policy import Hedge
from infiniray.units import format_bytes
from workloads.lectures.page import Page, PageTable
from workloads.lectures.straggler_model import HedgeRule, Layout, NodeModel, draw_times, model_reads
from workloads.report.style import INKS, figure, styled

__all__ = ["StragglerRow", "compare_hedge_delays", "compare_layouts", "straggler_page"]

_NEVER, _ALL, _DELAYED = HedgeRule(hedge=None), HedgeRule(hedge=Hedge.ALL), HedgeRule(hedge=Hedge.DELAYED)


def _layout(scheme: str, n_parts: int = 1) -> Layout:
    return Layout(scheme=Scheme.parse(scheme), n_parts=n_parts)


#: Ten nodes are read from at once in each but the first, so that they differ in redundancy alone.
_CONTESTANTS: tuple[tuple[Layout, HedgeRule], ...] = (
    (_layout("mirror:1"), _NEVER),
    (_layout("stripe:10"), _NEVER),
    (_layout("mirror:2", 10), _ALL),
    (_layout("mirror:2", 10), _DELAYED),
    (_layout("mirror:3", 10), _ALL),
    (_layout("rs:10+1"), _ALL),
    (_layout("rs:10+1"), _DELAYED),
    (_layout("rs:10+2"), _NEVER),
    (_layout("rs:10+2"), _ALL),
    (_layout("rs:10+2"), _DELAYED),
    (_layout("rs:10+4"), _DELAYED),
)

_HEDGE_DELAYS_S = (0.0, 0.02, 0.05, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StragglerRow:
    """What reads come to, by the model. ``overhead``: bytes stored for a byte of the object; ``moved``: bytes that
    crossed the network for one, with late chunks cancelled on the wire, and ``moved_uncancelled`` without."""

    layout: str
    hedge: str
    hedge_delay_s: float
    overhead: float
    p50_s: float
    p90_s: float
    p99_s: float
    moved: float
    moved_uncancelled: float
    decoded_share: float


def _row(model: NodeModel, layout: Layout, rule: HedgeRule, object_bytes: int, n_reads: int, seed: int) -> StragglerRow:
    times = draw_times(model, layout, object_bytes, n_reads, seed)
    reads = model_reads(model, layout, rule, object_bytes, times)
    p50_s, p90_s, p99_s = (float(value) for value in np.percentile(reads.latency_s, (50, 90, 99)))
    return StragglerRow(
        layout=str(layout),
        hedge=str(rule),
        hedge_delay_s=rule.hedge_delay_s,
        overhead=layout.scheme.overhead,
        p50_s=p50_s,
        p90_s=p90_s,
        p99_s=p99_s,
        moved=float(reads.moved_bytes.mean()) / object_bytes,
        moved_uncancelled=float(reads.uncancelled_bytes.mean()) / object_bytes,
        decoded_share=float(reads.is_decoded.mean()),
    )


def compare_layouts(model: NodeModel, object_bytes: int, n_reads: int, seed: int) -> list[StragglerRow]:
    """One copy, striping, replication and erasure coding, each with the ways of hedging that make sense for it."""
    return [_row(model, layout, rule, object_bytes, n_reads, seed) for layout, rule in _CONTESTANTS]


def compare_hedge_delays(model: NodeModel, object_bytes: int, n_reads: int, seed: int) -> list[StragglerRow]:
    """Replication and 10+2, asking for more after so long: sooner moves more bytes, later waits for stragglers.

    For 10+2 the delay is a lower bound, as in the cache: how long its other chunks took says when one is overdue.
    """
    layouts = (_layout("mirror:2", 10), _layout("rs:10+2"))
    rules = [HedgeRule(hedge=Hedge.DELAYED, hedge_delay_s=delay_s) for delay_s in _HEDGE_DELAYS_S]
    return [_row(model, layout, rule, object_bytes, n_reads, seed) for layout in layouts for rule in rules]


# ---------------------------------------------------------------- the page


def straggler_page(
    object_bytes: int = 40_000_000,
    n_reads: int = 20_000,
    seed: int = 0,
    model: NodeModel | None = None,
    *,
    draws: bool = True,
) -> Page:
    """Both comparisons; nothing is measured."""
    model = model or NodeModel()
    rows = compare_layouts(model, object_bytes, n_reads, seed)
    delays = compare_hedge_delays(model, object_bytes, n_reads, seed)
    document: dict[str, Any] = {
        "is_model": True,
        "object_bytes": object_bytes,
        "n_reads": n_reads,
        "seed": seed,
        "model": asdict(model),
        "layouts": [asdict(row) for row in rows],
        "hedge_delays": [asdict(row) for row in delays],
    }
    return Page(
        name="stragglers",
        title="Stragglers: replication against erasure coding (a model, not a measurement)",
        tables=[_layouts_table(rows, object_bytes, n_reads, model), _delays_table(delays)],
        document=document,
        figures={"stragglers": _draw(rows, delays)} if draws else {},
    )


def _layouts_table(rows: Sequence[StragglerRow], object_bytes: int, n_reads: int, model: NodeModel) -> PageTable:
    title = (
        f"MODEL: {n_reads:,} reads of {format_bytes(object_bytes)}, {model.straggler_share:.0%} of the chunks come "
        f"from stragglers, {model.straggler_factor:g} times slower at least"
    )
    return PageTable(
        title=title,
        headings=("layout", "asks for more", "stored", "p50", "p90", "p99", "moved", "if not cancelled", "decoded"),
        rows=[
            (
                row.layout, row.hedge, f"{row.overhead:.2f} x", _ms(row.p50_s), _ms(row.p90_s), _ms(row.p99_s),
                f"{row.moved:.2f} x", f"{row.moved_uncancelled:.2f} x", f"{row.decoded_share:.0%}",
            )
            for row in rows
        ],
        note="Moved: bytes on the network for a byte of the object. 'all' is FAST'20's first-d, 'delayed' this cache's "
        "rule: parity only when chunks are overdue.",
    )  # fmt: skip


def _delays_table(rows: Sequence[StragglerRow]) -> PageTable:
    return PageTable(
        title="MODEL: how long to wait before asking for more (delayed)",
        headings=("layout", "hedge delay", "p50", "p99", "moved"),
        rows=[
            (row.layout, _ms(row.hedge_delay_s), _ms(row.p50_s), _ms(row.p99_s), f"{row.moved:.2f} x") for row in rows
        ],
        note="A fixed delay has to be right for the object's size; 10+2 sees from its other chunks what is normal, and "
        "takes the delay as the least to wait.",
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.0f} ms"


def _draw(rows: Sequence[StragglerRow], delays: Sequence[StragglerRow]) -> Figure:
    with styled():
        made, (left, right) = figure(2, width=12.0, height=5.0)
        _draw_layouts(left, rows)
        _draw_delays(right, delays, next(row for row in rows if (row.layout, row.hedge) == ("rs:10+2", "all")))
    return made


def _draw_layouts(axes: Axes, rows: Sequence[StragglerRow]) -> None:
    names = [f"{row.layout}, {row.hedge} ({row.overhead:.1f} x stored)" for row in rows]
    places = np.arange(len(rows))
    for quantile, values, ink, shift in (
        ("p50", [row.p50_s for row in rows], INKS[0], -0.2),
        ("p99", [row.p99_s for row in rows], INKS[1], 0.2),
    ):
        axes.barh(places + shift, [1000 * value for value in values], 0.4, color=ink, label=quantile)
    axes.set_yticks(places, names, fontsize=9.5)
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:,g}"))
    axes.set_xlabel("latency of a read, ms (model)")
    axes.set_ylabel("layout, and when it asks for more")
    axes.set_title("How long do reads take?")
    axes.legend(loc="lower right")


def _draw_delays(axes: Axes, rows: Sequence[StragglerRow], at_once: StragglerRow) -> None:
    for layout, ink, dashes in zip(dict.fromkeys(row.layout for row in rows), INKS, ("-", "--"), strict=False):
        own = [row for row in rows if row.layout == layout]
        moved, p99_ms = [row.moved for row in own], [1000 * row.p99_s for row in own]
        axes.plot(moved, p99_ms, "o", color=ink, linestyle=dashes, label=f"{layout} ({own[0].overhead:.1f} x stored)")
        for row in (own[0], own[-1]):
            at, shift = (row.moved, 1000 * row.p99_s), (6, 6 if row is own[0] or ink == INKS[0] else -10)
            axes.annotate(_ms(row.hedge_delay_s), at, textcoords="offset points", xytext=shift, fontsize=9, color=ink)
    axes.plot(
        [at_once.moved], [1000 * at_once.p99_s], "D", color=INKS[1], ms=9, mec="white", label="rs:10+2, all at once"
    )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda ms, _: f"{ms:,g}"))
    axes.set_xlabel("bytes moved for a byte of the object (model)")
    axes.set_ylabel("p99 latency of a read, ms (model)")
    axes.set_title("What does a shorter hedge delay buy?\nNumbers: the shortest and the longest delay")
    axes.legend()
