"""A trace's statistics drawn: six panels in one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from workloads.describe.description import TraceDescription
from workloads.describe.histogram import LogHistogram
from workloads.describe.objects import LARGE_BYTES
from workloads.report.style import BYTES_TICKS, INKS, TIME_TICKS, cumulative, figure, log_ticks, percent_axis, styled
from workloads.whole_file import whole_file

__all__ = ["draw"]

_CAPACITY_TICKS = {1e6: "1 MB", 1e7: "10 MB", 1e8: "100 MB", 1e9: "1 GB", 1e10: "10 GB", 1e11: "100 GB", 1e12: "1 TB",
                   1e13: "10 TB", 1e14: "100 TB"}  # fmt: skip


def draw(description: TraceDescription, path: str | Path, *, title: str) -> None:
    """Writes the picture; its kind (PNG, SVG, PDF) goes by the ending of ``path``.

    Raises:
        OSError: the file cannot be written.
        ValueError: no such kind of picture.
    """
    with styled():
        made, panels = figure(3, 2, height=7.8, width=15.0)
        made.suptitle(title, fontsize=13, fontweight="bold", x=0.01, ha="left")
        for panel, draw_one in zip(panels, (_sizes, _popularity, _reuse, _hours, _bytes, _lru), strict=True):
            draw_one(panel, description)
        with whole_file(path) as partial:
            made.savefig(partial)


def _sizes(axes: Axes, trace: TraceDescription) -> None:
    axes.set_title("Sizes, and where the bytes are")
    curves = (
        ("objects", trace.object_sizes, "-"),
        ("GETs", trace.get_sizes, "--"),
        ("bytes", trace.object_bytes, "-."),
    )
    for number, (label, histogram, dashes) in enumerate(curves):
        _curve(axes, histogram, label, number, dashes, least=1.0)
    log_ticks(axes, BYTES_TICKS, max(1.0, trace.object_sizes.quantile(0.001) / 2), max(trace.largest_bytes * 2, 10), 6)
    least, most = axes.get_xlim()
    if least < LARGE_BYTES < most:
        axes.axvline(LARGE_BYTES, color="#777777", linewidth=1, linestyle=":", label="10 MB: above it, large")
    axes.set_xlabel("size of the object")
    percent_axis(axes, "share that is at most as large")
    axes.legend(loc="upper left")


def _popularity(axes: Axes, trace: TraceDescription) -> None:
    axes.set_title("Popularity")
    if trace.popularity_curve:
        tops, shares = np.array(trace.popularity_curve).T
        axes.plot(tops * 100, shares * 100, color=INKS[0])
        axes.set_xscale("log")
        axes.set_xlim(min(tops[0] * 100, 50), 100)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}%"))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("most popular share of the objects")
    percent_axis(axes, "share of the GETs")


def _reuse(axes: Axes, trace: TraceDescription) -> None:
    axes.set_title("Time until an object is asked for again")
    _curve(axes, trace.reuse_s, "all objects", 0, "-", least=1e-3)
    _curve(axes, trace.large_reuse_s, "objects > 10 MB", 1, "--", least=1e-3)
    log_ticks(axes, TIME_TICKS, 0.1, max(trace.reuse_s.largest, 3600.0), 7)
    axes.set_xlabel("time since the previous request")
    percent_axis(axes, "share of the re-references")
    if trace.reuse_s.total:
        axes.legend(loc="upper left")


def _hours(axes: Axes, trace: TraceDescription) -> None:
    axes.set_title("GETs by hour")
    hours = np.array(sorted(trace.gets_by_hour))
    _bars(axes, hours, np.array([trace.gets_by_hour[hour] for hour in hours]), INKS[0])
    axes.set_ylabel("GETs in the hour")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda count, _: f"{count:,.0f}"))


def _bytes(axes: Axes, trace: TraceDescription) -> None:
    axes.set_title("Bytes read by hour")
    hours = np.array(sorted(trace.bytes_by_hour))
    _bars(axes, hours, np.array([trace.bytes_by_hour[hour] / 1e9 for hour in hours]), INKS[2])
    axes.set_ylabel("GB read in the hour")


def _lru(axes: Axes, trace: TraceDescription) -> None:
    axes.set_title("What an LRU cache would hit")
    if trace.lru_bytes.total:
        needed, weights = np.array([(max(value, 1.0), weight) for value, weight in trace.lru_bytes.steps()]).T
        at, shares = cumulative(needed, weights)
        axes.step(at, shares * trace.infinite_hit_ratio, where="post", color=INKS[0])
        log_ticks(axes, _CAPACITY_TICKS, max(needed[0], 1e6), max(needed[-1], 1e7), 7)
    limit = trace.infinite_hit_ratio * 100
    axes.axhline(limit, color="#777777", linewidth=1.2, linestyle=":", label=f"infinite cache: {limit:.1f}%")
    axes.set_xlabel("capacity")
    percent_axis(axes, "hit ratio")
    axes.legend(loc="upper left")


def _bars(axes: Axes, hours: np.ndarray[tuple[int], np.dtype[np.int64]], heights: object, ink: str) -> None:
    axes.bar(hours, heights, width=0.92, align="edge", color=ink, linewidth=0)  # type: ignore[arg-type]
    axes.set_xlim(0, max(int(hours[-1]) + 1, 1) if len(hours) else 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("hours since the first request")


def _curve(axes: Axes, histogram: LogHistogram, label: str, number: int, dashes: str, *, least: float) -> None:
    """A cumulative curve; a logarithmic axis has no room for what is below ``least``, which is drawn there."""
    steps = [(max(value, least), weight) for value, weight in histogram.steps() if weight]
    if not steps:
        return
    values, weights = np.array(steps).T
    at, shares = cumulative(values, weights)
    axes.step(at, shares, where="post", color=INKS[number], linestyle=dashes, label=label)
