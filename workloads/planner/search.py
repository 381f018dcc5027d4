"""The search: on a sample of the trace first, then confirmed on the whole.

Simulating a trace as a whole takes long, so three things stand before it. Arithmetic drops what is too small for the
hit ratio, and what would cost far more than something that is known to do. A sample, the beginning of the trace, is
searched: the ends of each axis, then what should do best by what is known, then the neighbours of the best. And only
what did well there is tried on the whole, cheapest first. What that finds is the cheapest of what was confirmed, no
proof that there is nothing cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from infiniray.errors import ConfigError
from workloads.planner.arithmetic import Arithmetic
from workloads.planner.space import Goal, Outcome, Settings, Space, Stage
from workloads.planner.surrogate import Surrogate

__all__ = ["Budget", "Plan", "Pruned", "Tried", "pareto", "search"]

#: LRU with all memory for chunks is not strictly an upper bound for CLOCK: so much it may be off.
_CAPACITY_SLACK = 0.005
#: Of the simulations on the sample; the rest is for going downhill from the best guess.
_GUESSED_SHARE = 0.8
#: Guesses in a row that brought nothing better.
_PATIENCE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A choice that was simulated."""

    settings: Settings
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many simulations at most, and from which multiple of the best known cost on arithmetic alone is believed that
    a choice is too dear."""

    n_on_sample: int = 60
    n_on_whole: int = 10
    cost_factor: float = 2.0


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
        meeting = sorted(_meeting(self.goal, self.confirmed), key=lambda tried: tried.outcome.cost_usd)
        return meeting[1] if len(meeting) > 1 else None


def _meeting(goal: Goal, tried: Iterable[Tried]) -> list[Tried]:
    return [one for one in tried if not goal.shortfall(one.outcome)]


def pareto(tried: Iterable[Tried]) -> list[Tried]:
    """Those than which none is at most as dear and more available, or cheaper and as available; the cheapest first."""
    found: list[Tried] = []
    for one in sorted(tried, key=lambda one: (one.outcome.cost_usd, -one.outcome.availability)):
        if not found or one.outcome.availability > found[-1].outcome.availability:
            found.append(one)
    return found


#: Told of each simulation: ("sample" or "whole", how many of that kind so far, what was found).
Note = Callable[[str, int, Tried], None]


def search(
    space: Space,
    goal: Goal,
    arithmetic: Arithmetic,
    *,
    sample: Stage,
    whole: Stage,
    start: Settings | None = None,
    budget: Budget | None = None,
    note: Note = lambda stage, n, tried: None,
) -> Plan:
    """The cheapest choice that meets ``goal`` on the whole trace, as far as the budget goes.

    Args:
        start: where to begin, if something is in use already; else the middle of the space.
        note: told of each simulation.

    Raises:
        ConfigError: no choice has room for enough objects to reach the hit ratio.
    """
    budget = budget or Budget()
    candidates, pruned = _large_enough(space, goal, arithmetic)
    seeker = _Seeker(space, goal.on(sample, whole), arithmetic, sample, budget, note, candidates, pruned)
    seeker.look_around(space.middle() if start is None else space.nearest(start))
    seeker.follow_guesses()
    seeker.go_downhill()
    confirmed = _confirm(goal, whole, seeker.ranking(), budget.n_on_whole, note)
    closest = min(confirmed, key=lambda tried: goal.rank(tried.outcome), default=None)
    return Plan(
        goal=goal,
        choice=closest if closest is not None and not goal.shortfall(closest.outcome) else None,
        closest=closest,
        confirmed=confirmed,
        sampled=seeker.tried(),
        pruned=pruned,
    )


def _large_enough(space: Space, goal: Goal, arithmetic: Arithmetic) -> tuple[list[Settings], Pruned]:
    """What has room for enough objects. Raises ConfigError if nothing has."""
    choices = list(space.choices())
    at_most = {settings: arithmetic.hit_ratio_at_most(settings) for settings in choices}
    enough = [settings for settings in choices if at_most[settings] + _CAPACITY_SLACK >= goal.hit_ratio]
    if not enough:
        best, most = arithmetic.profile.best_hit_ratio, max(at_most.values())
        raise ConfigError(
            detail=f"planner: no choice can have a hit ratio of {goal.hit_ratio:.2%}: the largest pool reaches "
            f"{most:.2%} if nothing is ever lost, and an infinite cache {best:.2%}"
        )
    return enough, Pruned(too_small=len(choices) - len(enough))


@dataclass(slots=True)
class _Seeker:
    """I try choices on the sample, each once, in three ways, until the budget is used up."""

    space: Space
    goal: Goal
    arithmetic: Arithmetic
    stage: Stage
    budget: Budget
    note: Note
    candidates: list[Settings]
    pruned: Pruned
    known: dict[Settings, Outcome] = field(default_factory=dict)
    #: USD of each candidate by arithmetic
    _guessed_usd: dict[Settings, float] = field(init=False)

    def __post_init__(self) -> None:
        self._guessed_usd = {settings: self.arithmetic.usd(settings) for settings in self.candidates}

    def look_around(self, start: Settings) -> None:
        """Try the candidate closest to ``start``, and from there both ends of each axis: what does each of them do?"""
        centre = min(self.candidates, key=lambda settings: self.space.n_steps(settings, start))
        self._try(centre)
        for name, choices in self.space.axes().items():
            for end in dict.fromkeys((choices[0], choices[-1])):
                self._try(replace(centre, **{name: end}))

    def follow_guesses(self) -> None:
        """Try what should do best by what is known, until that has brought nothing better for a while."""
        surrogate = Surrogate(self.space, self.stage.best_hit_ratio, self.candidates)
        limit = _GUESSED_SHARE * self.budget.n_on_sample
        n_in_vain = 0
        while len(self.known) < limit and n_in_vain < _PATIENCE:
            best = self._best()
            place = surrogate.best_guess(self.goal, self.known, best, self._is_usable())
            if place is None:
                return
            self._try(self.candidates[place])
            n_in_vain = n_in_vain + 1 if self._best() == best else 0

    def go_downhill(self) -> None:
        """From the best that is known to a better one next to it, while there is one."""
        at: Settings | None = self._best()
        while at is not None:
            usd, most_usd = self._guessed_usd, self._most_usd()
            steps = [step for step in self.space.neighbours(at) if step in usd and usd[step] <= most_usd]
            steps.sort(key=usd.__getitem__)
            at = next((step for step in steps if self._is_better(step, at)), None)

    def _is_better(self, step: Settings, at: Settings) -> bool:
        self._try(step)
        return step in self.known and self._rank(step) < self._rank(at)

    def _try(self, settings: Settings) -> None:
        is_allowed = settings in self._guessed_usd and len(self.known) < self.budget.n_on_sample
        if is_allowed and settings not in self.known:
            self.known[settings] = self.stage.evaluate(settings)
            self.note("sample", len(self.known), Tried(settings=settings, outcome=self.known[settings]))

    def _rank(self, settings: Settings) -> tuple[float, float]:
        return self.goal.rank(self.known[settings])

    def _best(self) -> Settings:
        return min(self.known, key=self._rank)

    def _is_usable(self) -> npt.NDArray[np.bool_]:
        """Of each candidate: neither tried nor too dear."""
        most_usd = self._most_usd()
        usable = []
        for settings, usd in self._guessed_usd.items():
            if usd > most_usd:
                self.pruned.too_dear.add(settings)
            usable.append(usd <= most_usd and settings not in self.known)
        return np.array(usable, dtype=np.bool_)

    def _most_usd(self) -> float:
        """What may be tried costs at most so much by arithmetic: like is compared with like."""
        best = self._best()
        is_met = not self.goal.shortfall(self.known[best])
        return self.budget.cost_factor * self._guessed_usd[best] if is_met else math.inf

    def tried(self) -> list[Tried]:
        return [Tried(settings=settings, outcome=outcome) for settings, outcome in self.known.items()]

    def ranking(self) -> list[Tried]:
        """What is worth confirming: all that meets the goal, the cheapest first; then the sample's frontier."""
        meeting = sorted(_meeting(self.goal, self.tried()), key=lambda one: one.outcome.cost_usd)
        frontier = [one for one in pareto(self.tried()) if one not in meeting]
        return meeting + sorted(frontier, key=lambda one: self.goal.rank(one.outcome))


def _confirm(goal: Goal, whole: Stage, ranking: Sequence[Tried], n_at_most: int, note: Note) -> list[Tried]:
    """Try the best ranked on the whole trace until one meets the goal, and a few beside it for the frontier.

    When one does, those that follow in the ranking were dearer on the sample: what is left of the budget, up to half,
    goes to others of the sample's frontier, so that one sees what more or less availability costs.
    """
    confirmed: list[Tried] = []
    rest = list(ranking)
    while rest and len(confirmed) < n_at_most:
        one = rest.pop(0)
        confirmed.append(Tried(settings=one.settings, outcome=whole.evaluate(one.settings)))
        note("whole", len(confirmed), confirmed[-1])
        if not goal.shortfall(confirmed[-1].outcome):
            break
    for one in _spread(rest, (n_at_most - len(confirmed) + 1) // 2):
        confirmed.append(Tried(settings=one.settings, outcome=whole.evaluate(one.settings)))
        note("whole", len(confirmed), confirmed[-1])
    return confirmed


def _spread(tried: Sequence[Tried], n: int) -> list[Tried]:
    """``n`` of the frontier of ``tried``, evenly from end to end."""
    frontier = pareto(tried)
    if len(frontier) <= n:
        return frontier
    places: Mapping[int, None] = dict.fromkeys(round(i * (len(frontier) - 1) / max(1, n - 1)) for i in range(n))
    return [frontier[place] for place in places]
