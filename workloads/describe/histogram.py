"""A distribution kept in bins that are a fixed ratio wide, so that its memory does not grow with what is counted."""

from __future__ import annotations

import math
from collections import defaultdict

__all__ = ["LogHistogram"]

#: bins of 0.27%: a quantile is right to within half of that
_BINS_PER_OCTAVE = 256


class LogHistogram:
    """I count values >= 0, each with a weight, in bins over the logarithm of the value."""

    def __init__(self) -> None:
        self._bins: defaultdict[int, float] = defaultdict(float)
        self._zeros = 0.0
        self.smallest = math.inf  #: above zero
        self.largest = 0.0
        self.total = 0.0

    def add(self, value: float, weight: float = 1.0) -> None:
        self.total += weight
        if value <= 0:
            self._zeros += weight
            return
        self._bins[math.floor(math.log2(value) * _BINS_PER_OCTAVE)] += weight
        self.smallest = min(self.smallest, value)
        self.largest = max(self.largest, value)

    def scale(self, factor: float) -> None:
        """Multiplies all weights."""
        self.total *= factor
        self._zeros *= factor
        for number in self._bins:
            self._bins[number] *= factor

    def steps(self) -> list[tuple[float, float]]:
        """``(value, weight)`` of the bins in use, values rising; a bin's value is its geometric middle, and none lies
        outside of what was counted."""
        zeros = [(0.0, self._zeros)] if self._zeros else []
        return zeros + [
            (min(max(_middle(number), self.smallest), self.largest), self._bins[number])
            for number in sorted(self._bins)
        ]

    def share_at_most(self, value: float) -> float:
        """Share of the weight at or below ``value``; 0 if nothing has been counted."""
        if not self.total or value < 0:
            return 0.0
        below = self._zeros
        if value > 0:
            # the edge of a round number can be a bin's lower edge: the bin counts if its middle lies below
            below += sum(weight for number, weight in self._bins.items() if _middle(number) <= value)
        return below / self.total

    def quantile(self, share: float) -> float:
        """The value at or below which ``share`` of the weight lies; 0 if nothing has been counted."""
        passed = 0.0
        for value, weight in self.steps():
            passed += weight
            if passed >= share * self.total:
                return value
        return self.largest


def _middle(number: int) -> float:
    return float(2 ** ((number + 0.5) / _BINS_PER_OCTAVE))
