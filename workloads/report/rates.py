"""Cost against request rate: from which rate on is what cheaper?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from infiniray.cost.model import LinearCost, crossover
from infiniray.units import format_bytes
from workloads.errors import ResultsError
from workloads.report.columns import Floats
from workloads.report.style import INKS, figure, readable_number

__all__ = ["LINES", "lines_of", "rates_figure", "read_lines"]

#: One row per way to serve the same requests: so much whatever happens, and so much for each request. ``is_ours`` marks
#: this system, in as many variants as one likes; crossovers are told for the first of them.
LINES = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("fixed_usd_per_hour", pa.float64(), nullable=False),
        pa.field("usd_per_request", pa.float64(), nullable=False),
        pa.field("is_ours", pa.bool_(), nullable=False),
    ]
)

#: what the lines are about, in the table's metadata
_ABOUT = b"about"
_FROM, _TO = 1e2, 1e7  #: requests per hour, unless a crossover lies beyond


def lines_of(comparison: Mapping[str, Any]) -> pa.Table:
    """The lines of a cost comparison, as ``infiniray cost --json`` prints it.

    Raises:
        KeyError, TypeError: it is something else.
    """
    metered, paper, hosts = comparison["metered"], comparison["closed_form"], comparison["hosts"]
    fixed, per_request = metered["fixed_usd_per_hour"], metered["usd_per_request"]
    rows = [_row("InfiniRay, functions", fixed, per_request, True)]
    if hosts["n"]:
        name = f"InfiniRay with {hosts['n']} x {hosts['instance_type']}"
        rows.append(_row(name, fixed + hosts["usd_per_hour"], per_request, True))
    upkeep = paper["warmup_usd_per_hour"] + paper["backup_usd_per_hour"]
    rows.append(_row("InfiniCache, closed form", upkeep, paper["serving_usd_per_request"], True))
    rows += [
        _row(other["name"], other["fixed_usd_per_hour"], other["usd_per_request"], False)
        for other in comparison["alternatives"]
    ]
    return pa.Table.from_pylist(rows, LINES).replace_schema_metadata({_ABOUT: _about(comparison)})


def _about(comparison: Mapping[str, Any]) -> str:
    """For which objects and which pool the lines hold: without it, nobody can use the plot."""
    pool, load = comparison["pool"], comparison["load"]
    held = f"{format_bytes(load['object_bytes'])} an object, {format_bytes(load['held_bytes'])} held"
    functions = f"{pool['n_nodes']} functions of {pool['memory_mb']} MB, {pool['data_chunks']}+{pool['parity_chunks']}"
    return f"{held}, {load['put_share']:.0%} PUTs; {functions}; prices as of {comparison['prices']['as_of']}"


def _row(name: str, fixed_usd_per_hour: float, usd_per_request: float, is_ours: bool) -> dict[str, Any]:
    return {
        "name": name,
        "fixed_usd_per_hour": float(fixed_usd_per_hour),
        "usd_per_request": float(usd_per_request),
        "is_ours": is_ours,
    }


def read_lines(path: Path) -> pa.Table:
    """The same from a file. Raises ResultsError if it holds something else, OSError if it cannot be read."""
    try:
        return lines_of(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        detail = f"not what `infiniray cost --json` prints: {type(error).__name__}: {error}"
        raise ResultsError(path=str(path), detail=detail) from None


def rates_figure(lines: pa.Table) -> Figure | None:
    """USD per hour over requests per hour, both logarithmic, with the crossovers marked (FAST'20 Fig. 17).

    None without a line of ours.
    """
    ours = [line for line in lines.to_pylist() if line["is_ours"]]
    others = [line for line in lines.to_pylist() if not line["is_ours"]]
    if not ours:
        return None
    first = _cost(ours[0])
    crossings = [rate for other in others if (rate := crossover(first, _cost(other)).requests_per_hour)]
    lowest, highest = min([_FROM, *(x / 3 for x in crossings)]), max([_TO, *(x * 3 for x in crossings)])
    rates = np.geomspace(lowest, highest, 400)
    made, (axes,) = figure(height=5.0, width=10.6)
    for number, line in enumerate(ours):
        dashes = ("-", "--", ":")[number % 3]
        axes.plot(rates, _usd(line, rates), label=line["name"], color=INKS[0], linestyle=dashes, linewidth=2.8)
    for number, line in enumerate(others):
        ink = INKS[1 + number % (len(INKS) - 1)]
        label = f"{line['name']}\n    {_verdict(first, _cost(line))}"
        axes.plot(rates, _usd(line, rates), label=label, color=ink, linewidth=1.6)
        if rate := crossover(first, _cost(line)).requests_per_hour:
            axes.plot([rate], [_cost(line).usd_per_hour(rate)], "o", color=ink, mec="white", ms=9, zorder=5)
    _axes_of_rates(axes, lowest, highest, ((lines.schema.metadata or {}).get(_ABOUT) or b"").decode())
    made.legend(loc="outside right upper", fontsize=9.5)
    return made


def _axes_of_rates(axes: Axes, lowest: float, highest: float, about: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(lowest, highest)
    axes.set_xlabel("requests per hour" + (f"\n{about}" if about else ""))
    axes.set_ylabel("USD per hour")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1e6:g} M" if x >= 1e6 else f"{x:,.10g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}"))
    axes.set_title("From which request rate on is what cheaper?\nDots: crossovers with the thick solid line")


def _cost(line: Mapping[str, Any]) -> LinearCost:
    return LinearCost(fixed_usd_per_hour=line["fixed_usd_per_hour"], usd_per_request=line["usd_per_request"])


def _usd(line: Mapping[str, Any], rates: Floats) -> Floats:
    usd: Floats = line["fixed_usd_per_hour"] + line["usd_per_request"] * rates
    return usd


def _verdict(ours: LinearCost, other: LinearCost) -> str:
    """Where ``other`` is the cheaper one."""
    found = crossover(ours, other)
    if found.requests_per_hour is None:
        return "always dearer" if found.cheaper.value == "always" else "always cheaper"
    side = "above" if found.cheaper.value == "below" else "below"
    return f"cheaper {side} {readable_number(found.requests_per_hour)}/h"
