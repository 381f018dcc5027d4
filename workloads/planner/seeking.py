"""Searching the sample: the ends of each axis, then what should do best by what is known, then the neighbours of the
best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from workloads.planner.arithmetic import Arithmetic
from workloads.planner.plan import Pruned, Tried
from workloads.planner.space import Goal, Outcome, Settings, Space, Stage
from workloads.planner.surrogate import Surrogate

__all__ = ["Note", "Seeker"]

#: Of the simulations of a turn; the rest is for going downhill from the best guess.
_GUESSED_SHARE = 0.8
#: Guesses in a row that brought nothing better.
_PATIENCE = 10
#: Tried together, whether or not they are simulated at the same time, so that the answer does not depend on that.
_AT_ONCE = 2

#: Told of each simulation: ("sample" or "whole", how many of that kind so far, what was found).
Note = Callable[[str, int, Tried], None]


@dataclass(slots=True)
class Seeker:
    """I try choices on the sample, each once, until so many are known as I may.

    ``goal`` is the sample's, and may change as one learns more of the whole. From ``cost_factor`` times the best known
    cost on, arithmetic alone is believed that a choice is too dear.
    """

    space: Space
    goal: Goal
    arithmetic: Arithmetic
    stage: Stage
    cost_factor: float
    note: Note
    candidates: list[Settings]
    pruned: Pruned
    known: dict[Settings, Outcome] = field(default_factory=dict)
    #: so many choices may be known for now
    limit: int = 0
    #: USD of each candidate by arithmetic
    _guessed_usd: dict[Settings, float] = field(init=False)

    def __post_init__(self) -> None:
        self._guessed_usd = {settings: self.arithmetic.usd(settings) for settings in self.candidates}

    def look_around(self, start: Settings, limit: int) -> None:
        """Try the candidate closest to ``start``, and from there both ends of each axis: what does each of them do?"""
        self.limit = limit
        centre = min(self.candidates, key=lambda settings: self.space.n_steps(settings, start))
        ends = ((name, end) for name, choices in self.space.axes().items() for end in (choices[0], choices[-1]))
        self._try([centre, *(replace(centre, **{name: end}) for name, end in ends)])

    def search_until(self, limit: float) -> None:
        """Search, until ``limit`` choices are known or nothing better is found."""
        self.limit = int(limit)
        self._follow_guesses()
        self._go_downhill()

    def _follow_guesses(self) -> None:
        """Try what should do best by what is known, until that has brought nothing better for a while."""
        surrogate = Surrogate(self.space, self.stage.best_hit_ratio, self.candidates)
        limit = len(self.known) + _GUESSED_SHARE * (self.limit - len(self.known))
        n_in_vain = 0
        while len(self.known) < limit and n_in_vain < _PATIENCE:
            best = self._best()
            guesses = surrogate.best_guesses(self.goal, self.known, best, self._is_usable(), _AT_ONCE)
            if not guesses:
                return
            self._try(guesses)
            n_in_vain = n_in_vain + len(guesses) if self._best() == best else 0

    def _go_downhill(self) -> None:
        """From the best that is known to a better one next to it, while there is one."""
        at: Settings | None = self._best()
        while at is not None:
            usd, most_usd = self._guessed_usd, self._most_usd()
            steps = [step for step in self.space.neighbours(at) if step in usd and usd[step] <= most_usd]
            steps.sort(key=usd.__getitem__)
            few_at_once = (steps[i : i + _AT_ONCE] for i in range(0, len(steps), _AT_ONCE))
            at = next((step for few in few_at_once if (step := self._best_step(few, at)) is not None), None)

    def _best_step(self, steps: list[Settings], at: Settings) -> Settings | None:
        """The best of these, if it is better."""
        self._try(steps)
        known = [step for step in steps if step in self.known]
        best = min(known, key=self._rank, default=at)
        return best if self._rank(best) < self._rank(at) else None

    def _try(self, wanted: Iterable[Settings]) -> None:
        """What of it is not known, as far as the budget goes."""
        new = [one for one in dict.fromkeys(wanted) if one in self._guessed_usd and one not in self.known]
        new = new[: max(0, self.limit - len(self.known))]
        for settings, outcome in zip(new, self.stage.map_all(self.stage.evaluate, new), strict=True):
            self.known[settings] = outcome
            self.note("sample", len(self.known), Tried(settings=settings, outcome=outcome))

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
        return self.cost_factor * self._guessed_usd[best] if is_met else math.inf

    def tried(self) -> list[Tried]:
        return [Tried(settings=settings, outcome=outcome) for settings, outcome in self.known.items()]

    def best_but(self, others: Sequence[Tried]) -> Tried | None:
        """The best that is none of ``others``, by the goal as it is now."""
        left = self.known.keys() - {one.settings for one in others}
        best = min((one for one in self.known if one in left), key=self._rank, default=None)
        return None if best is None else Tried(settings=best, outcome=self.known[best])
