"""Columns of results tables as arrays, and what is derived from several of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Bins", "Floats", "bins_of", "floats", "gets", "key_numbers", "texts"]

Floats = npt.NDArray[np.float64]

#: widths of time bins: (seconds, what one is called)
_WIDTHS = ((1.0, "second"), (10.0, "10 s"), (60.0, "minute"), (600.0, "10 min"), (3600.0, "hour"), (86400.0, "day"))
_MAX_BINS = 120
_MIN_BINS = 4


def floats(table: pa.Table, column: str) -> Floats:
    """A column of numbers; NaN where there is none."""
    found: Floats = table[column].cast(pa.float64()).to_numpy()
    return found


def texts(table: pa.Table, column: str) -> npt.NDArray[Any]:
    """A column of text."""
    return np.asarray(table[column].to_pylist(), dtype=object)


def gets(requests: pa.Table) -> pa.Table:
    """The GETs among requests."""
    return requests.filter(pc.equal(requests["op"], "get"))


def key_numbers(requests: pa.Table) -> npt.NDArray[np.int64]:
    """A number for each key: shape ``(n,)``, the same number where the key is the same."""
    encoded = requests["key"].combine_chunks().dictionary_encode()
    chunks = encoded.chunks if isinstance(encoded, pa.ChunkedArray) else [encoded]
    numbers = [np.asarray(chunk.indices, np.int64) for chunk in chunks]
    return np.concatenate(numbers) if numbers else np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bins:
    """Equal stretches of the trace's time. ``unit_s`` and ``unit`` are what its axis counts in."""

    edges_s: Floats
    width_name: str  #: "hour", "10 min": what one bin is
    unit_s: float
    unit: str

    @property
    def edges(self) -> Floats:
        """In units."""
        return self.edges_s / self.unit_s

    def sums(self, at_s: Floats, weights: Floats | None = None) -> Floats:
        """What falls into each bin, from ``at_s`` seconds of the trace."""
        found: Floats = np.histogram(np.clip(at_s, self.edges_s[0], self.edges_s[-1]), self.edges_s, weights=weights)[
            0
        ].astype(float)
        return found


def bins_of(span_s: float, *, told_every_s: float = 0.0) -> Bins:
    """Hours for a trace of hours; less for a shorter one, so that there is something to see, but never less than what
    the figures are told for at a time."""
    widths = [width for width in _WIDTHS if width[0] >= told_every_s]
    fitting = [width for width in widths if _MIN_BINS <= span_s / width[0] <= _MAX_BINS]
    hour = next((width for width in fitting if width[0] == 3600.0), None)
    width_s, name = hour or (fitting[-1] if fitting else widths[0] if span_s < 60 or told_every_s else widths[-1])
    n_bins = max(1, int(np.ceil(span_s / width_s - 1e-9)))
    unit_s, unit = (3600.0, "h") if span_s > 2 * 3600 else (60.0, "min") if span_s > 120 else (1.0, "s")
    return Bins(edges_s=np.arange(n_bins + 1, dtype=np.float64) * width_s, width_name=name, unit_s=unit_s, unit=unit)
