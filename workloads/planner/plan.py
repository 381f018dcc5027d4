"""What the planner found: choices that were simulated, which of them to buy, and the frontier."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from workloads.planner.space import Goal, Outcome, Settings

__all__ = ["Plan", "Pruned", "Tried", "meeting", "pareto"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A choice that was simulated."""

    settings: Settings
    outcome: Outcome


@dataclass(slots=True, kw_only=True)
class Pruned:
    """How many choices arithmetic spared the simulator."""

    too_small: int = 0
    too_dear: set[Settings] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``choice`` is the cheapest that was confirmed to meet the goal on the whole trace; None if none did, and then
    ``closest`` is what came nearest. ``frontier``: of all confirmed, those than which none is both cheaper and more
    available, the cheapest first."""

    goal: Goal
    choice: Tried | None
    closest: Tried | None
    confirmed: Sequence[Tried]
    sampled: Sequence[Tried]
    pruned: Pruned

    @property
    def frontier(self) -> list[Tried]:
        return pareto(self.confirmed)

    @property
    def runner_up(self) -> Tried | None:
        """The next cheapest that meets the goal."""
        found = meeting(self.goal, self.confirmed)
        return found[1] if len(found) > 1 else None


def meeting(goal: Goal, tried: Iterable[Tried]) -> list[Tried]:
    """Those that meet the goal, the cheapest first."""
    return sorted((one for one in tried if not goal.shortfall(one.outcome)), key=lambda one: one.outcome.cost_usd)


def pareto(tried: Iterable[Tried]) -> list[Tried]:
    """Those than which none is at most as dear and more available, or cheaper and as available; the cheapest first."""
    found: list[Tried] = []
    for one in sorted(tried, key=lambda one: (one.outcome.cost_usd, -one.outcome.availability)):
        if not found or one.outcome.availability > found[-1].outcome.availability:
            found.append(one)
    return found
