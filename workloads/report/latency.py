"""How long requests took, by size class and system; always from the intended start."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from workloads.demo_report import SIZE_CLASSES, SizeClass
from workloads.report.columns import Floats, floats, gets, texts
from workloads.report.style import TIME_TICKS, cumulative, figure, log_ticks, percent_axis, system_look

__all__ = ["LatencyRow", "latency_figure", "latency_rows"]

_LEAST_S = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyRow:
    """Percentiles of ``n`` latencies; ``size_class`` None: all sizes."""

    system: str
    size_class: str | None
    n: int
    p50_s: float
    p90_s: float
    p99_s: float


def latency_figure(requests: pa.Table, *, hits_only: bool) -> Figure | None:
    """Cumulative distributions of GET latency: a panel for each size class that occurs, a line for each system
    (FAST'20 Fig. 15). None without any such GET."""
    found = _Latencies.of(requests, hits_only=hits_only)
    classes = [size for size in SIZE_CLASSES if found.mask(size).any()]
    if not classes:
        return None
    n_columns = min(2, len(classes))
    n_rows = -(-len(classes) // n_columns)
    made, panels = figure(n_columns, n_rows, height=1.0 + 2.9 * n_rows)
    each = [mine for system in found.systems if (mine := found.latency_s[found.system == system]).size]
    low = max(_LEAST_S, min(float(np.percentile(mine, 1)) for mine in each))
    high = max(low, max(float(np.percentile(mine, 99.5)) for mine in each))
    for axes, size in zip(panels, classes, strict=False):
        for number, system in enumerate(found.systems):
            mine = found.latency_s[found.mask(size) & (found.system == system)]
            if mine.size:
                axes.step(*cumulative(np.maximum(mine, _LEAST_S)), where="post", label=system, **system_look(number))
        log_ticks(axes, TIME_TICKS, low, high, 7)
        percent_axis(axes, "share of GETs")
        axes.set_title(f"objects {size.name}")
        axes.set_xlabel("latency")
    for axes in panels[len(classes) :]:
        axes.set_visible(False)
    lines = {line.get_label(): line for axes in panels for line in axes.get_lines()}
    named = [system for system in found.systems if system in lines]
    made.legend([lines[system] for system in named], named, loc="outside upper left", ncols=len(named))
    return made


def latency_rows(requests: pa.Table, *, hits_only: bool) -> list[LatencyRow]:
    """The same in figures: by size class, then over all sizes; the systems one below the other."""
    found = _Latencies.of(requests, hits_only=hits_only)
    rows = []
    for size in (*SIZE_CLASSES, None):
        for system in found.systems:
            mine = found.latency_s[(found.system == system) & (found.mask(size) if size else True)]
            if mine.size:
                p50_s, p90_s, p99_s = (float(x) for x in np.percentile(mine, (50, 90, 99)))
                name = size.name if size else None
                rows.append(
                    LatencyRow(system=system, size_class=name, n=len(mine), p50_s=p50_s, p90_s=p90_s, p99_s=p99_s)
                )
    return rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Latencies:
    """Columns of the GETs that are looked at, and the systems in the order in which they came."""

    latency_s: Floats
    size_bytes: Floats
    system: np.ndarray[tuple[int], np.dtype[np.object_]]
    systems: tuple[str, ...]
    mask: Callable[[SizeClass], np.ndarray[tuple[int], np.dtype[np.bool_]]]

    @classmethod
    def of(cls, requests: pa.Table, *, hits_only: bool) -> _Latencies:
        table = gets(requests)
        if hits_only:
            table = table.filter(pc.equal(table["outcome"], "hit"))
        sizes = floats(table, "size_bytes")
        names = texts(table, "system")

        def mask(size: SizeClass) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
            return (sizes >= size.from_bytes) & (sizes < (np.inf if size.to_bytes is None else size.to_bytes))

        return cls(
            latency_s=floats(table, "latency_s"),
            size_bytes=sizes,
            system=names,
            systems=tuple(dict.fromkeys(texts(gets(requests), "system"))),
            mask=mask,
        )
