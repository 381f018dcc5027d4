"""A guess at what choices come to that were not tried, from those that were.

Losses multiply and costs about do: the logarithms of both are taken as sums of one parabola for each axis, fitted by
least squares. That is rough; it only has to say what to try next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from workloads.planner.space import Goal, Outcome, Settings, Space

__all__ = ["Surrogate"]

Floats = npt.NDArray[np.float64]

_LEAST_LOSS = 1e-5
_RIDGE = 1e-3
_HOPE = 0.85


class Surrogate:
    """I guess outcomes on one stage, on which an infinite cache has ``best_hit_ratio``."""

    def __init__(self, space: Space, best_hit_ratio: float, candidates: Sequence[Settings]) -> None:
        self._axes = space.axes()
        self._best_hit_ratio = best_hit_ratio
        self._candidates = candidates
        self._features = self._features_of(self._places(candidates))

    def best_guesses(
        self, goal: Goal, known: Mapping[Settings, Outcome], near: Settings, usable: npt.NDArray[np.bool_], n: int
    ) -> list[Settings]:
        """The ``n`` of the ``usable`` candidates (one flag for each) that should do best by ``goal``.

        What is known close to ``near`` counts more. Losses are guessed a little too low, so that what may just do is
        tried too.
        """
        guesses = self._features @ self._fit(known, near)
        losses, cost_usd = _HOPE * np.exp(guesses[:, :2]), np.exp(guesses[:, 2])
        shortfall = np.maximum(0.0, goal.hit_ratio - (self._best_hit_ratio - losses[:, 0]))
        shortfall += np.maximum(0.0, goal.availability - (1 - losses[:, 1]))
        order = np.lexsort((cost_usd, shortfall, ~usable))
        return [self._candidates[place] for place in order[: min(n, int(np.count_nonzero(usable)))]]

    def _fit(self, known: Mapping[Settings, Outcome], near: Settings) -> Floats:
        places = self._places(list(known))
        steps = np.abs(places - self._places([near])).sum(axis=1)
        weights = np.sqrt(1 / (1 + steps))[:, np.newaxis]
        features, targets = self._features_of(places) * weights, self._targets(known.values()) * weights
        penalty = _RIDGE * np.eye(features.shape[1])
        penalty[0, 0] = 0.0  # the mean is free
        found: Floats = np.linalg.lstsq(features.T @ features + penalty, features.T @ targets, rcond=None)[0]
        return found

    def _targets(self, outcomes: Iterable[Outcome]) -> Floats:
        rows = [
            (self._best_hit_ratio - outcome.hit_ratio, 1 - outcome.availability, outcome.cost_usd)
            for outcome in outcomes
        ]
        return np.log(np.maximum(rows, _LEAST_LOSS))

    def _places(self, choices: Sequence[Settings]) -> Floats:
        """Where each choice is on each axis: shape (choices, axes)."""
        index = {name: {choice: place for place, choice in enumerate(axis)} for name, axis in self._axes.items()}
        return np.array([[index[name][getattr(one, name)] for name in self._axes] for one in choices], dtype=np.float64)

    def _features_of(self, places: Floats) -> Floats:
        """1, and for each axis its place between -1 and 1 and the square of it."""
        last = np.array([max(1, len(axis) - 1) for axis in self._axes.values()])
        at = 2 * places / last - 1
        return np.hstack([np.ones((len(at), 1)), at, at**2])
