"""A plan, told: what it would buy, by how much that meets the goal, and what more or less would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from workloads.planner.plan import Plan, Tried
from workloads.planner.space import Goal, Outcome
from workloads.report.style import INKS, figure, styled

__all__ = ["dollars", "margin", "plan_document", "plan_figure", "verdict"]


def margin(goal: Goal, outcome: Outcome) -> dict[str, float]:
    """By how much the goal is exceeded; negative where it is missed."""
    return {
        "hit_ratio": outcome.hit_ratio - goal.hit_ratio,
        "availability": outcome.availability - goal.availability,
    }


def dollars(usd: float) -> str:
    """Cents, and where there are few, three digits that count."""
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.3g}"


def verdict(plan: Plan, hours: float) -> list[str]:
    """In sentences: what to buy, or what binds."""
    goal = plan.goal
    if plan.choice is None:
        return _nothing_does(plan)
    bought, left = plan.choice, margin(goal, plan.choice.outcome)
    lines = [
        f"buy {bought.settings}",
        f"{dollars(bought.outcome.cost_usd)} for {hours:,.1f} h: hit ratio {bought.outcome.hit_ratio:.2%} "
        f"({100 * left['hit_ratio']:+.2f} points), availability {bought.outcome.availability:.2%} "
        f"({100 * left['availability']:+.2f} points)",
    ]
    if plan.runner_up is not None:
        more_usd = plan.runner_up.outcome.cost_usd - bought.outcome.cost_usd
        lines.append(f"the next that was confirmed costs {dollars(more_usd)} more: {plan.runner_up.settings}")
    return lines


def _nothing_does(plan: Plan) -> list[str]:
    if plan.closest is None:
        return ["nothing was tried on the whole trace"]
    goal, nearest = plan.goal, plan.closest
    missed = [
        f"{name.replace('_', ' ')} by {-100 * points:.2f} points"
        for name, points in margin(goal, nearest.outcome).items()
        if points < 0
    ]
    return [
        f"nothing that was tried on the whole trace meets the goal; the closest misses {' and '.join(missed)}:",
        f"{nearest.settings}, {dollars(nearest.outcome.cost_usd)}",
    ]


def plan_document(plan: Plan, hours: float) -> dict[str, Any]:
    """All of it, for JSON. ``hours``: of the whole trace."""
    return {
        "goal": asdict(plan.goal),
        "hours": hours,
        "is_met": plan.choice is not None,
        "choice": None if plan.choice is None else _entry(plan.choice, plan.goal),
        "closest": None if plan.closest is None else _entry(plan.closest, plan.goal),
        "runner_up": None if plan.runner_up is None else _entry(plan.runner_up, plan.goal),
        "frontier": [_entry(tried, plan.goal) for tried in plan.frontier],
        "confirmed": [_entry(tried, plan.goal) for tried in plan.confirmed],
        "n_on_sample": len(plan.sampled),
        "n_on_whole": len(plan.confirmed),
        "n_pruned": {"too_small": plan.pruned.too_small, "too_dear": len(plan.pruned.too_dear)},
    }


def _entry(tried: Tried, goal: Goal) -> dict[str, Any]:
    return {
        "settings": asdict(tried.settings),
        "outcome": asdict(tried.outcome),
        "meets_goal": not goal.shortfall(tried.outcome),
        "margin": margin(goal, tried.outcome),
    }


# ---------------------------------------------------------------- the picture


def plan_figure(plan: Plan, hours: float) -> Figure | None:
    """Availability over cost, of all that was confirmed, with the frontier. None if nothing was."""
    if not plan.confirmed:
        return None
    with styled():
        made, (axes,) = figure(height=4.8)
        _draw(axes, plan)
        axes.set_xlabel(f"USD for the trace's {hours:,.3g} hours")
        axes.set_ylabel("availability: 1 - resets / hits")
        axes.set_title("What does availability cost?")
        made.legend(loc="outside right upper")
    return made


def _draw(axes: Axes, plan: Plan) -> None:
    frontier = plan.frontier
    axes.step(*_points(frontier), where="post", color=INKS[6], linewidth=1.4, label="frontier of cost and availability")
    reaches = [one for one in plan.confirmed if one.outcome.hit_ratio >= plan.goal.hit_ratio]
    misses = [one for one in plan.confirmed if one not in reaches]
    wanted = f"{plan.goal.hit_ratio:.1%}"
    axes.plot(*_points(reaches), "o", color=INKS[0], ms=8, label=f"hit ratio {wanted} or more")
    axes.plot(*_points(misses), "o", color=INKS[0], ms=8, mfc="white", label=f"hit ratio below {wanted}")
    axes.axhline(100 * plan.goal.availability, color=INKS[1], linestyle="--", linewidth=1.4, label="the goal")
    if plan.choice is not None:
        axes.plot(*_points([plan.choice]), "*", color=INKS[1], ms=17, label="bought")
    _name_points(axes, plan.choice, frontier)
    axes.margins(x=0.15, y=0.25)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda percent, _: f"{percent:g}%"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda usd, _: dollars(usd)))


def _name_points(axes: Axes, choice: Tried | None, frontier: Sequence[Tried]) -> None:
    """What is bought, and what of the frontier is not too close to something named."""
    xs, ys = _points(frontier)
    width, height = (max(xs) - min(xs)) or 1.0, (max(ys) - min(ys)) or 1.0
    named: list[tuple[float, float]] = []
    for one in [*([choice] if choice is not None else []), *frontier]:
        ((usd,), (percent,)) = _points([one])
        if any(abs(usd - x) < 0.12 * width and abs(percent - y) < 0.12 * height for x, y in named):
            continue
        named.append((usd, percent))
        # beyond the middle to the left of its point, so that nothing leaves the axes
        side, away = ("right", -9) if usd > (min(xs) + max(xs)) / 2 else ("left", 9)
        axes.annotate(_name(one), (usd, percent), textcoords="offset points", xytext=(away, -36), ha=side, fontsize=8.5)


def _name(tried: Tried) -> str:
    settings = tried.settings
    backup = f"backup {settings.backup_every_s / 60:g} min" if settings.backup_every_s else "no backup"
    return f"{settings.n_nodes} x {settings.memory_mb} MB\n{settings.scheme}\n{backup}"


def _points(tried: Sequence[Tried]) -> tuple[list[float], list[float]]:
    return [one.outcome.cost_usd for one in tried], [100 * one.outcome.availability for one in tried]
