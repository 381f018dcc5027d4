"""Cumulative distributions given by a few published points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Floats", "LogCdf"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LogCdf:
    """A cumulative distribution through ``points`` (x > 0, share), rising in both, linear over log x between them."""

    points: tuple[tuple[float, float], ...]

    def share(self, x: Floats | float) -> Floats:
        """Share at or below ``x``."""
        xs, shares = zip(*self.points, strict=True)
        return np.asarray(np.interp(np.log(x), np.log(xs), shares), np.float64)

    def quantile(self, share: Floats) -> Floats:
        """The x below which ``share`` lies."""
        xs, shares = zip(*self.points, strict=True)
        return np.asarray(np.exp(np.interp(share, shares, np.log(xs))), np.float64)
