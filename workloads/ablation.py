"""One configuration and what becomes of it when single settings are others: a table, and cost against availability."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from infiniray.config import Config
from infiniray.errors import ConfigError
from infiniray.sim.client import Asked
from infiniray.sim.experiment import run_experiment
from infiniray.sim.reclaims import Sample
from workloads.planner.report import dollars
from workloads.report.style import INKS, figure, styled

__all__ = ["BASE", "Simulate", "Variation", "Varied", "ablation_figure", "frontier", "read_variations"]

#: What the configuration itself is called.
BASE = "as configured"


@dataclass(frozen=True, slots=True)
class Variation:
    """A configuration with some settings changed, under a name."""

    name: str
    config: Config


@dataclass(frozen=True, slots=True)
class Varied:
    """What a variation came to: the figures that ``infiniray simulate --json`` prints."""

    name: str
    figures: dict[str, Any]

    @property
    def cost_usd(self) -> float:
        return float(self.figures["cost_usd"]["total"])

    @property
    def availability(self) -> float:
        found = self.figures["availability"]  # None: nothing was hit
        return 0.0 if found is None else float(found)


def read_variations(base: Config, path: Path) -> list[Variation]:
    """The configuration itself, and a variation for each entry of a YAML file: {name: {section: {setting: value}}}.

    Raises:
        ConfigError: the file is not of that form, or a variation is no valid configuration.
        OSError: it cannot be read.
    """
    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(detail=f"{path}: not YAML: {error}") from None
    if not isinstance(entries, dict) or not entries:
        raise ConfigError(detail=f"{path}: not a list of variations, each {{section: {{setting: value}}}} under a name")
    variations = [Variation(BASE, base)]
    for name, changes in entries.items():
        if not isinstance(changes, dict):
            raise ConfigError(detail=f"{path}: {name!r}: not {{section: {{setting: value}}}}")
        tree = _merged(base.model_dump(exclude_unset=True), changes)
        try:
            variations.append(Variation(str(name), Config.load(None, tree, environ={})))
        except ConfigError as error:
            raise ConfigError(detail=f"{path}: {name!r}: {error}") from None
    return variations


def _merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(tree)
    for name, value in changes.items():
        former = merged.get(name)
        is_section = isinstance(value, dict) and isinstance(former, dict)
        merged[name] = _merged(former, value) if is_section else value  # type: ignore[arg-type]
    return merged


class Simulate:
    """I simulate variations on the same trace up to ``until_s``, under the same reclaims, with the same seed."""

    def __init__(
        self, trace: Sequence[Asked], reclaims: Sequence[Sample], *, until_s: float = float("inf"), seed: int = 0
    ) -> None:
        self._trace = trace
        self._reclaims = reclaims
        self._until_s = until_s
        self._seed = seed

    def __call__(self, variation: Variation) -> Varied:
        requests = itertools.takewhile(lambda asked: asked.at_s <= self._until_s, self._trace)
        result = run_experiment(variation.config, requests, self._reclaims, seed=self._seed)
        return Varied(variation.name, result.figures)


def frontier(varied: Iterable[Varied]) -> list[Varied]:
    """Those than which none is at most as dear and more available, or cheaper and as available; the cheapest first."""
    found: list[Varied] = []
    for one in sorted(varied, key=lambda one: (one.cost_usd, -one.availability)):
        if not found or one.availability > found[-1].availability:
            found.append(one)
    return found


# ---------------------------------------------------------------- the picture


def ablation_figure(varied: Sequence[Varied], hours: float) -> Figure:
    """Unavailability over cost, each variation by its number in order of cost, with the frontier and a key."""
    with styled():
        made, (axes,) = figure(height=5.6)
        _draw(axes, varied)
        axes.set_xlabel(f"USD for {hours:,.0f} hours")
        axes.set_ylabel("hits lost: resets / hits")
        axes.set_title("What does availability cost?")
        lines, names = axes.get_legend_handles_labels()
        key = [(_number_line(n), f"{one.name}: {_share(one)}") for n, one in _numbered(varied)]
        made.legend(
            [*lines, *(line for line, _ in key)], [*names, *(name for _, name in key)],
            loc="outside right upper", fontsize=8,
        )  # fmt: skip
    return made


def _numbered(varied: Sequence[Varied]) -> list[tuple[int, Varied]]:
    return list(enumerate(sorted(varied, key=lambda one: (one.cost_usd, one.availability)), 1))


def _number_line(number: int) -> Line2D:
    """What stands for a number in the key."""
    return Line2D([], [], linestyle="none", marker=f"${number}$", color="black", ms=5 if number < 10 else 8, mew=0.3)


def _share(one: Varied) -> str:
    return f"${one.cost_usd:,.3f}, {one.availability:.2%}"


def _draw(axes: Axes, varied: Sequence[Varied]) -> None:
    best = frontier(varied)
    floor = _floor(varied)
    rest = [one for one in varied if one not in best]
    axes.step(*_points(best, floor), where="post", color=INKS[6], linewidth=1.4, label="frontier")
    axes.plot(*_points(best, floor), "o", color=INKS[0], ms=7, label="on the frontier")
    axes.plot(*_points(rest, floor), "o", color=INKS[0], ms=7, mfc="white", label="dearer and no more available")
    own = [one for one in varied if one.name == BASE]
    axes.plot(*_points(own, floor), "*", color=INKS[1], ms=15, label=BASE)
    for number, one in _numbered(varied):
        ((usd,), (lost,)) = _points([one], floor)
        beside = (5, 5) if number % 2 else (5, -11)  # neighbours keep out of each other's way
        axes.annotate(f"{number}", (usd, lost), textcoords="offset points", xytext=beside, fontsize=8)
    axes.set_yscale("log")
    axes.invert_yaxis()  # more available is higher
    axes.margins(x=0.08, y=0.1)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: "none" if share <= floor else f"{100 * share:g}%"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda usd, _: dollars(usd)))


def _floor(varied: Sequence[Varied]) -> float:
    """Where those are drawn that lost nothing: a decade below the least that was lost, on an axis without zero."""
    lost = [1 - one.availability for one in varied if one.availability < 1]
    return 10.0 ** int(f"{min(lost, default=0.01):e}".split("e")[1]) / 10


def _points(varied: Sequence[Varied], floor: float) -> tuple[list[float], list[float]]:
    return [one.cost_usd for one in varied], [max(1 - one.availability, floor) for one in varied]
