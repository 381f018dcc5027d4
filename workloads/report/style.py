"""How plots look: sizes, colours, axes that say their unit."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

__all__ = [
    "BYTES_TICKS",
    "INKS",
    "PURPOSE_INKS",
    "TIME_TICKS",
    "cumulative",
    "figure",
    "log_ticks",
    "percent_axis",
    "readable_number",
    "stacked_bars",
    "styled",
    "system_look",
]

#: colours that people with any colour vision tell apart (Okabe and Ito), strongest first
INKS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#8C6D31")
#: so that print in grey can be read too
_DASHES = ("-", "--", "-.", ":")

PURPOSE_INKS = {
    "serving": INKS[0],
    "serve": INKS[0],
    "warmup": INKS[4],
    "warm": INKS[4],
    "backup": INKS[2],
    "repair": INKS[1],
    "other": INKS[6],
}

BYTES_TICKS = {
    1e0: "1 B", 1e1: "10 B", 1e2: "100 B", 1e3: "1 kB", 1e4: "10 kB", 1e5: "100 kB", 1e6: "1 MB", 1e7: "10 MB",
    1e8: "100 MB", 1e9: "1 GB", 1e10: "10 GB",
}  # fmt: skip
TIME_TICKS = {
    1e-4: "0.1 ms", 1e-3: "1 ms", 1e-2: "10 ms", 1e-1: "100 ms", 1.0: "1 s", 10.0: "10 s", 60.0: "1 min",
    600.0: "10 min", 3600.0: "1 h", 21600.0: "6 h", 86400.0: "1 d", 604800.0: "1 wk",
}  # fmt: skip

_MAX_POINTS = 4000

_RC: Any = {
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "savefig.dpi": 130,
    "svg.hashsalt": "infiniray",  # the same figure gives the same bytes
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Plots made and saved inside look alike; nothing changes outside."""
    with matplotlib.rc_context(_RC):
        yield


def figure(
    n_columns: int = 1, n_rows: int = 1, *, height: float = 4.2, width: float = 9.6
) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` by ``height`` inches, and its panels, row by row. It belongs to no window system."""
    made = Figure(figsize=(width, height), layout="constrained")
    return made, list(np.atleast_1d(np.asarray(made.subplots(n_rows, n_columns))).ravel())


def system_look(number: int) -> dict[str, Any]:
    """Colour and dashes of the ``number``-th system."""
    return {"color": INKS[number % len(INKS)], "linestyle": _DASHES[number % len(_DASHES)]}


def cumulative(
    values: npt.NDArray[np.float64], weights: npt.NDArray[np.float64] | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The steps of a cumulative distribution, at most a few thousand: ``(value, percent at most that large)``. They
    begin at 0. At least one value, and one weight above 0."""
    order = np.argsort(values, kind="stable")
    at = values[order]
    shares = np.cumsum(np.ones(len(values)) if weights is None else weights[order])
    shares = 100 * shares / shares[-1]
    if len(at) > _MAX_POINTS:
        keep = np.unique(np.linspace(0, len(at) - 1, _MAX_POINTS).astype(int))
        at, shares = at[keep], shares[keep]
    return np.concatenate([at[:1], at]), np.concatenate([[0.0], shares])


def percent_axis(axes: Axes, label: str) -> None:
    """The vertical axis goes from 0 to 100 percent."""
    axes.set_ylim(0, 101)
    axes.set_ylabel(label)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}%"))


def log_ticks(axes: Axes, ticks: dict[float, str], low: float, high: float, n_at_most: int = 11) -> None:
    """A logarithmic horizontal axis around ``low`` to ``high``, with ticks that are named."""
    axes.set_xscale("log")
    floor = max((tick for tick in ticks if tick <= low), default=min(ticks))
    ceiling = min((tick for tick in ticks if tick >= high), default=max(high, max(ticks)))
    if floor == ceiling:
        floor, ceiling = floor / 10, ceiling * 10
    axes.set_xlim(floor, ceiling)
    shown = [tick for tick in ticks if floor <= tick <= ceiling]
    shown = shown[:: -(-len(shown) // n_at_most)]
    axes.set_xticks(shown, [ticks[tick] for tick in shown])
    axes.xaxis.set_minor_locator(NullLocator())


def readable_number(value: float) -> str:
    """``312,000`` rather than ``312191.99``: three digits that count."""
    if value <= 0 or not np.isfinite(value):
        return f"{value:g}"
    digits = 2 - int(np.floor(np.log10(value)))
    return f"{round(value, digits):,.{max(digits, 0)}f}"


def stacked_bars(
    axes: Axes,
    edges: npt.NDArray[np.float64],
    layers: Sequence[tuple[str, npt.NDArray[np.float64], str]],
) -> None:
    """Bars between ``edges``; ``layers`` from the bottom up: (label, heights, colour)."""
    base = np.zeros(len(edges) - 1)
    widths = np.diff(edges) * 0.92
    for label, heights, ink in layers:
        axes.bar(edges[:-1], heights, widths, bottom=base, align="edge", color=ink, label=label, linewidth=0)
        base = base + heights
    axes.set_xlim(edges[0], edges[-1])
