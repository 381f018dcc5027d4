"""The seven datacenters of the IBM registry, as published: layer sizes of each, and how busy those are that say so.

Sources: layer sizes from Anwar et al., FAST'18, figure 6a, requests per minute from its figure 7 (Dallas and London
only), both read off the drawn curves. Popularity and reuse are published for Dallas and shared by all.
"""

from __future__ import annotations

from dataclasses import dataclass

from workloads.generators.curves import LogCdf

__all__ = ["DATACENTERS", "Datacenter"]

#: sizes in bytes at which the curves were read
_AT_BYTES = (1, 1e2, 3e2, 1e3, 3e3, 1e4, 1e5, 1e6, 3e6, 1e7, 3e7, 1e8, 3e8, 1e9, 1e10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Datacenter:
    """``requests_per_hour`` is the mean. ``swing`` is the amplitude of the daily rhythm, relative to that mean."""

    place: str
    size_bytes: LogCdf
    requests_per_hour: float
    swing: float


def _sizes(*shares: float) -> LogCdf:
    """The last share is 1 at 10 GB; so is the first 0, whatever the share of empty layers."""
    return LogCdf(tuple(zip(_AT_BYTES, (0.0, *shares, 1.0), strict=True)))


#: Dallas: rounder points, as its text gives them
_DALLAS_BYTES = LogCdf(
    (
        (1, 0.0),
        (1e2, 0.05),
        (1e3, 0.33),
        (1e4, 0.57),
        (1e5, 0.62),
        (1e6, 0.68),
        (1e7, 0.80),
        (1e8, 0.972),
        (1e9, 0.999),
        (1e10, 1.0),
    )
)
#: GETs an hour in the first 50 hours (Wang et al., FAST'20, table 1)
_DALLAS_PER_HOUR = 3654.0
#: London's requests per minute relative to Dallas's: medians of 62 and 177
_LONDON_RATIO = 62 / 177
#: first harmonic of the hours of the 50-hour trace, most at about 13 h UTC
_SWING = 0.37

DATACENTERS = {
    "dal": Datacenter(place="Dallas", size_bytes=_DALLAS_BYTES, requests_per_hour=_DALLAS_PER_HOUR, swing=_SWING),
    "lon": Datacenter(
        place="London",
        size_bytes=_sizes(0.127, 0.251, 0.342, 0.431, 0.531, 0.576, 0.668, 0.735, 0.800, 0.887, 0.9705, 0.9957, 0.9990),
        requests_per_hour=_DALLAS_PER_HOUR * _LONDON_RATIO,
        swing=_SWING,
    ),
    "fra": Datacenter(
        place="Frankfurt",
        size_bytes=_sizes(0.037, 0.175, 0.259, 0.369, 0.530, 0.604, 0.676, 0.758, 0.8325, 0.894, 0.987, 0.998, 0.9996),
        requests_per_hour=_DALLAS_PER_HOUR * _LONDON_RATIO,
        swing=_SWING,
    ),
    "syd": Datacenter(
        place="Sydney",
        size_bytes=_sizes(0.042, 0.186, 0.256, 0.383, 0.544, 0.625, 0.6845, 0.775, 0.848, 0.910, 0.992, 0.997, 0.9999),
        requests_per_hour=_DALLAS_PER_HOUR * _LONDON_RATIO,
        swing=_SWING,
    ),
    "stg": Datacenter(
        place="Staging",
        size_bytes=_sizes(0.038, 0.170, 0.260, 0.380, 0.532, 0.590, 0.651, 0.735, 0.8145, 0.887, 0.979, 0.993, 0.9993),
        requests_per_hour=_DALLAS_PER_HOUR * _LONDON_RATIO,
        swing=_SWING,
    ),
    "prs": Datacenter(
        place="Prestaging",
        size_bytes=_sizes(0.011, 0.409, 0.477, 0.551, 0.654, 0.698, 0.7145, 0.752, 0.866, 0.930, 0.983, 0.993, 0.9999),
        requests_per_hour=_DALLAS_PER_HOUR * _LONDON_RATIO,
        swing=_SWING,
    ),
    "dev": Datacenter(
        place="Development",
        size_bytes=_sizes(0.018, 0.143, 0.250, 0.378, 0.533, 0.5675, 0.601, 0.6645, 0.802, 0.891, 0.982, 0.994, 0.9999),
        requests_per_hour=_DALLAS_PER_HOUR * _LONDON_RATIO,
        swing=_SWING,
    ),
}
