"""When instances are reclaimed: a time line of counts, as the papers print it, made into single moments."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from infiniray.errors import ReclaimsError
from infiniray.sim.settings import ReclaimModel

__all__ = ["Reclaim", "Sample", "read_reclaims", "spread_out"]

#: What the first column's name says its unit is.
_UNITS_S = {"hour": 3600.0, "minute": 60.0, "second": 1.0}


class Sample(NamedTuple):
    """``n`` instances were reclaimed between the sample before and ``until_s``, seconds from the start."""

    until_s: float
    n: int


class Reclaim(NamedTuple):
    """``n`` instances go at ``at_s``."""

    at_s: float
    n: int


def read_reclaims(path: Path, *, scale: float = 1.0) -> Iterator[Sample]:
    """The samples of a CSV file of two columns: time (named after its unit: hour, minute or second) and count.

    Counts that were read off a figure are rounded to whole numbers, what scaling leaves over being carried on to
    the next; a time before the start counts as the start.

    Args:
        scale: of the counts, for a pool of another size.

    Raises (while iterating):
        ReclaimsError: a column is not what it should be, or times do not rise.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        header = next(rows, [])
        unit_s = _UNITS_S.get(header[0].strip().removesuffix("s")) if len(header) == 2 else None
        if unit_s is None:
            raise ReclaimsError(file=str(path), line=1, detail=f"not 'hour,count' (or minute, second): {header!r:.80}")
        last_s, carried = -math.inf, 0.0
        for row in rows:
            if not row:
                continue
            try:
                hour, count = map(float, row)
                exact = round(count) * scale + carried
                sample = Sample(hour * unit_s, max(0, round(exact)) if count >= 0 else -1)
            except (ValueError, OverflowError):
                raise ReclaimsError(
                    file=str(path), line=rows.line_num, detail=f"not two numbers: {row!r:.80}"
                ) from None
            if sample.n < 0 or not last_s <= sample.until_s < math.inf:
                detail = "a negative count" if sample.n < 0 else "times must rise"
                raise ReclaimsError(file=str(path), line=rows.line_num, detail=detail)
            last_s, carried = sample.until_s, exact - sample.n
            yield Sample(max(0.0, sample.until_s), sample.n)


def spread_out(samples: Iterator[Sample], model: ReclaimModel, rng: random.Random) -> Iterator[Reclaim]:
    """Moments, in order, at which instances go."""
    since_s = 0.0
    for until_s, n in samples:
        if model.spread == "even":
            for at_s in sorted(rng.uniform(since_s, until_s) for _ in range(n)):
                yield Reclaim(at_s, 1)
        elif n:
            width_s = 60.0 if model.spread == "minute" else 0.0
            first_s = rng.uniform(since_s, max(since_s, until_s - width_s))
            if not width_s:
                yield Reclaim(first_s, n)
            else:
                for at_s in sorted(rng.uniform(first_s, min(first_s + width_s, until_s)) for _ in range(n)):
                    yield Reclaim(at_s, 1)
        since_s = max(since_s, until_s)
