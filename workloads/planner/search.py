"""The search: on a sample of the trace first, then confirmed on the whole.

Simulating a trace as a whole takes long, so three things stand before it. Arithmetic drops what is too small for the
hit ratio, and what would cost far more than something that is known to do. A sample, the beginning of the trace, is
searched: the ends of each axis, then what should do best by what is known, then the neighbours of the best. And only
the best there is tried on the whole, which says how far the sample is to be believed, and so on in turns. What that
finds is the cheapest of what was confirmed, no proof that there is nothing cheaper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infiniray.errors import ConfigError
from workloads.planner.arithmetic import Arithmetic
from workloads.planner.plan import Plan, Pruned, Tried, meeting, pareto
from workloads.planner.seeking import Note, Seeker
from workloads.planner.space import Goal, Settings, Space, Stage

__all__ = ["Budget", "search"]

#: LRU with all memory for chunks is not strictly an upper bound for CLOCK: so much it may be off.
_CAPACITY_SLACK = 0.005
#: Of the simulations on the sample, what the first turn may use at least; the turns share the rest.
_FIRST_TURN = 0.5
#: A third of the simulations of the whole is for the frontier.
_FRONTIER_PART = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How many simulations at most, and from which multiple of the best known cost on arithmetic alone is believed that
    a choice is too dear."""

    n_on_sample: int = 40
    n_on_whole: int = 6
    cost_factor: float = 2.0


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
    seeker = Seeker(space, goal.on(sample, whole), arithmetic, sample, budget.cost_factor, note, candidates, pruned)
    seeker.look_around(space.middle() if start is None else space.nearest(start), budget.n_on_sample)
    confirmed = _seek_and_confirm(seeker, goal, whole, budget, note)
    confirmed += _confirm_frontier(seeker, whole, confirmed, budget, note)
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


def _seek_and_confirm(seeker: Seeker, goal: Goal, whole: Stage, budget: Budget, note: Note) -> list[Tried]:
    """In turns: search the sample, and try the best of it on the whole.

    What came of that there says by how much the sample flatters; the next turn asks that much more of it, or less.
    It ends when nothing cheaper is left that should do.
    """
    confirmed: list[Tried] = []
    n_turns = max(1, budget.n_on_whole - budget.n_on_whole // _FRONTIER_PART)
    for turn in range(1, n_turns + 1):
        seeker.search_until(budget.n_on_sample * (_FIRST_TURN + (1 - _FIRST_TURN) * turn / n_turns))
        one = seeker.best_but(confirmed)
        if one is None or (meeting(goal, confirmed) and not _may_be_cheaper(one, goal, confirmed, seeker)):
            break
        confirmed.append(Tried(settings=one.settings, outcome=whole.evaluate(one.settings)))
        note("whole", len(confirmed), confirmed[-1])
        really = confirmed[-1].outcome
        seeker.goal = goal.on_flattering(seeker.stage, whole, there=one.outcome, really=really)
    return confirmed


def _confirm_frontier(
    seeker: Seeker, whole: Stage, confirmed: Sequence[Tried], budget: Budget, note: Note
) -> list[Tried]:
    """With what is left: others of the sample's frontier, so that one sees what more or less availability costs."""
    known = {tried.settings for tried in confirmed}
    rest = [tried for tried in seeker.tried() if tried.settings not in known]
    others = [tried.settings for tried in _spread(rest, budget.n_on_whole - len(confirmed))]
    found = []
    for settings, outcome in zip(others, whole.map_all(whole.evaluate, others), strict=True):
        found.append(Tried(settings=settings, outcome=outcome))
        note("whole", len(confirmed) + len(found), found[-1])
    return found


def _may_be_cheaper(one: Tried, goal: Goal, confirmed: Sequence[Tried], seeker: Seeker) -> bool:
    """Whether, by the sample, it should do too and costs less than what is known to do."""
    bought = meeting(goal, confirmed)[0]
    is_cheaper = one.outcome.cost_usd < seeker.known[bought.settings].cost_usd
    return is_cheaper and not seeker.goal.shortfall(one.outcome)


def _spread(tried: Sequence[Tried], n: int) -> list[Tried]:
    """``n`` of the frontier of ``tried``, evenly from end to end."""
    frontier = pareto(tried)
    if len(frontier) <= n:
        return frontier
    places = dict.fromkeys(round(i * (len(frontier) - 1) / max(1, n - 1)) for i in range(n))
    return [frontier[place] for place in places]
