"""What the requests are like: how large the objects, how soon and how often they are asked for again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from workloads.report.columns import Floats, floats, gets, key_numbers
from workloads.report.style import BYTES_TICKS, INKS, TIME_TICKS, cumulative, figure, log_ticks, percent_axis

__all__ = ["reuse_figure", "reuse_times_s", "size_figure"]


def size_figure(requests: pa.Table) -> Figure | None:
    """Cumulative distributions over object size: of requests, of objects, of the objects' bytes (FAST'20 Fig. 1a, b).

    None without any request for an object of at least one byte.
    """
    sizes = floats(requests, "size_bytes")
    _, first = np.unique(key_numbers(requests), return_index=True)
    per_object = sizes[first]
    if sizes.size == 0 or sizes.max() < 1:
        return None
    made, (axes,) = figure()
    curves = (
        ("requests", sizes, None),
        (f"objects ({len(per_object):,})", per_object, None),
        (f"bytes of the objects ({per_object.sum() / 1e9:,.1f} GB)", per_object, per_object),
    )
    for (label, values, weights), ink, dashes in zip(curves, INKS, ("-", "--", ":"), strict=False):
        axes.step(*cumulative(np.maximum(values, 1), weights), where="post", color=ink, linestyle=dashes, label=label)
    log_ticks(axes, BYTES_TICKS, max(sizes.min(), 1), sizes.max())
    axes.set_xlabel("object size")
    percent_axis(axes, "share at most that large")
    axes.set_title("How large are the objects?")
    made.legend(loc="outside right upper")
    return made


def reuse_times_s(requests: pa.Table) -> Floats:
    """Seconds since the last GET of the same key, of every GET that is not the first: shape ``(n,)``."""
    table = gets(requests)
    at_s, keys = floats(table, "request_s"), key_numbers(table)
    order = np.lexsort((at_s, keys))
    again = np.diff(keys[order]) == 0
    found: Floats = np.diff(at_s[order])[again]
    return found


def reuse_figure(requests: pa.Table) -> Figure | None:
    """Time between accesses (FAST'20 Fig. 1d), and popularity (FAST'18 Fig. 10). None without any GET."""
    table = gets(requests)
    if table.num_rows == 0:
        return None
    made, (left, right) = figure(2)
    times_s = reuse_times_s(requests)
    left.set_title("How soon again?")
    again = f"{len(times_s) / table.num_rows:.1%} of the GETs\nare re-references"
    left.text(0.97, 0.05, again, transform=left.transAxes, ha="right", va="bottom")
    if times_s.size:
        left.step(*cumulative(np.maximum(times_s, 1e-3)), where="post", color=INKS[0])
        log_ticks(left, TIME_TICKS, max(1.0, float(np.percentile(times_s, 1))), max(times_s.max(), 60.0), 8)
    left.set_xlabel("time since the last GET of the object, in the trace")
    percent_axis(left, "share of re-references within that time")
    counts = np.sort(np.unique(key_numbers(table), return_counts=True)[1])[::-1].astype(float)
    shares = 100 * np.arange(1, len(counts) + 1) / len(counts)
    right.plot(shares, 100 * np.cumsum(counts) / counts.sum(), color=INKS[1])
    right.set_xscale("log")
    low = min(1.0, shares[0])
    right.set_xlim(low, 100)
    ticks = [tick for tick in (0.01, 0.1, 1, 10, 100) if tick >= low]
    right.set_xticks(ticks, [f"{tick:g}%" for tick in ticks])
    right.set_xlabel("most popular share of the objects")
    percent_axis(right, "share of the GETs that go to them")
    right.set_title("How popular?")
    return made
