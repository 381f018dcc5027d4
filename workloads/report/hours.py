"""What happened when: cost by purpose, and hits, misses, resets and repairs, by hour of the trace."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from workloads.report.columns import Bins, Floats, bins_of, floats, gets, texts
from workloads.report.style import INKS, PURPOSE_INKS, figure, readable_number, stacked_bars

__all__ = ["cost_figure", "outcomes_figure"]

_OUTCOME_INKS = {"hit": INKS[0], "miss": "#c9c9c9", "reset": INKS[1], "error": "#222222"}
_EVENT_INKS = {"repair": INKS[2], "degraded read": INKS[4], "reclaim": INKS[3], "eviction": INKS[6]}


def cost_figure(costs: pa.Table, span_s: float, *, told_every_s: float = 0.0) -> Figure | None:
    """Dollars by hour and purpose, for a run of one system over ``span_s`` of the trace. None if nothing was spent.

    ``told_every_s``: what one row of ``costs`` stands for.
    """
    if costs.num_rows == 0:
        return None
    at_s, usd, purposes = floats(costs, "request_s"), floats(costs, "usd"), texts(costs, "purpose")
    bins = bins_of(max(span_s, float(at_s.max())), told_every_s=told_every_s)
    made, (axes,) = figure()
    total = usd.sum()
    layers = []
    for number, purpose in enumerate(_known(set(purposes), PURPOSE_INKS)):
        mine = purposes == purpose
        label = f"{purpose}: ${readable_number(usd[mine].sum())} ({usd[mine].sum() / total:.0%})" if total else purpose
        ink = PURPOSE_INKS.get(purpose, INKS[number % len(INKS)])
        layers.append((label, bins.sums(at_s[mine], usd[mine]), ink))
    stacked_bars(axes, bins.edges, layers)
    _time_axis(axes, bins)
    axes.set_ylabel(f"USD per {bins.width_name}")
    axes.set_title(f"What was spent, and on what? ${readable_number(total)} in all")
    handles, labels = axes.get_legend_handles_labels()
    made.legend(handles[::-1], labels[::-1], loc="outside right upper")  # in the order of the stack
    return made


def outcomes_figure(requests: pa.Table, events: pa.Table, span_s: float, *, told_every_s: float = 0.0) -> Figure | None:
    """Hits and misses, resets and errors, and what went on inside, by hour, each in a panel of its own scale. None
    without any GET."""
    table = gets(requests)
    if table.num_rows == 0:
        return None
    at_s, outcomes = floats(table, "request_s"), texts(table, "outcome")
    event_s = floats(events, "request_s")
    bins = bins_of(max(span_s, float(at_s.max()), float(event_s.max(initial=0.0))), told_every_s=told_every_s)
    kinds = _known(set(texts(events, "kind")), _EVENT_INKS)
    made, panels = figure(1, 3 if kinds else 2, height=7.2 if kinds else 5.4)
    hits_share = np.count_nonzero(outcomes == "hit") / len(outcomes)
    _counts(panels[0], bins, [(name, at_s[outcomes == name]) for name in ("hit", "miss")])
    panels[0].set_title(f"GETs: {hits_share:.1%} of {len(outcomes):,} are hits")
    _counts(panels[1], bins, [(name, at_s[outcomes == name]) for name in ("reset", "error")])
    panels[1].set_title("GETs that should have been hits: resets (object lost) and errors")
    if kinds:
        n, names = floats(events, "n"), texts(events, "kind")
        for number, kind in enumerate(kinds):
            mine = names == kind
            sums = bins.sums(event_s[mine], n[mine])
            ink = _EVENT_INKS.get(kind, INKS[number % len(INKS)])
            panels[2].stairs(
                sums, bins.edges, baseline=None, color=ink, linewidth=2, label=f"{kind}: {sums.sum():,.0f}"
            )
        panels[2].set_ylim(bottom=0)
        panels[2].set_xlim(bins.edges[0], bins.edges[-1])
        panels[2].set_title("Inside: what was lost, read in spite of it, and rebuilt")
    for axes in panels:
        _time_axis(axes, bins, is_last=axes is panels[-1])
        axes.set_ylabel(f"per {bins.width_name}")
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.0)
    return made


def _counts(axes: Axes, bins: Bins, series: Sequence[tuple[str, Floats]]) -> None:
    """Stacked bars: so many GETs of each outcome, from the bottom up, at these times."""
    layers = [(f"{name}: {len(at_s):,}", bins.sums(at_s), _OUTCOME_INKS[name]) for name, at_s in series]
    stacked_bars(axes, bins.edges, layers)
    if not any(len(at_s) for _, at_s in series):
        axes.set_ylim(0, 1)
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", va="center", color="#777777")


def _known(found: set[str], known: dict[str, str]) -> list[str]:
    """Those that have a colour of their own, in that order, then the others."""
    return [name for name in known if name in found] + sorted(found - set(known))


def _time_axis(axes: Axes, bins: Bins, *, is_last: bool = True) -> None:
    axes.grid(False, axis="x")
    axes.xaxis.set_major_locator(MaxNLocator(12, steps=[1, 2, 5, 10], integer=True))
    if is_last:
        axes.set_xlabel(f"time in the trace ({bins.unit})")
    else:
        axes.tick_params(labelbottom=False)
