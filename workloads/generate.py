"""A generator of registry-like traces: sizes, popularity and reuse as published for the Dallas registry.

Sources: layer sizes and popularity from Anwar et al., FAST'18 (figures 6a and 10a, the latter digitised below 1%);
reuse from the large-object trace of Wang et al., FAST'20; requests per hour from its table 1. Between the published
points a distribution is a straight line over the logarithm of its variable.

A trace of n requests is n draws from a population of layers; which of them, and so how many distinct objects, follows
from their popularity. Sizes are spread evenly over their distribution (one per quantile), so that short traces keep to
it too. Only uniform random numbers are drawn, so that a seed means the same trace for every version of numpy.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from infiniray.units import format_bytes, parse_bytes
from workloads.generators.curves import Floats, LogCdf
from workloads.generators.datacenters import DATACENTERS
from workloads.readers.registry import COLUMNS
from workloads.summary import TraceSummary, summarize
from workloads.trace import Request
from workloads.whole_file import whole_file

__all__ = [
    "POPULARITY",
    "REUSE_GAP_S",
    "SIZE_BYTES",
    "RegistryProfile",
    "generate",
    "main",
    "registry_profile",
    "write_registry",
]

Ints = npt.NDArray[np.int64]


#: layer sizes of Dallas in bytes, nine orders of magnitude
SIZE_BYTES = DATACENTERS["dal"].size_bytes
#: share of requests that goes to the most popular share of layers; uniform among the first 0.032%
POPULARITY = LogCdf(
    (
        (0.000319, 0.245),
        (0.000929, 0.300),
        (0.00344, 0.357),
        (0.01, 0.42),
        (0.02, 0.48),
        (0.05, 0.57),
        (0.10, 0.64),
        (0.20, 0.72),
        (0.50, 0.90),
        (1.0, 1.0),
    )
)
#: no layer gets a larger share of the requests; the five hottest of the 50-hour trace get this much each, on average
HOTTEST_SHARE = 0.068
#: beyond this share of the objects, one request each or little more
_HEAD_AT_MOST = 0.2
#: successive multiples are spread evenly from 0 to 1, however many they are (Weyl's sequence)
_GOLDEN = (5**0.5 - 1) / 2
#: requests for a hot object come close together because they are many; the gaps of the others are drawn longer by this
#: exponent, so that both together have the published distribution (fitted: see docs/traces.md)
_LATER = 0.52
_DAY_S = 86400.0
_PEAK_DAY = 13 / 24
#: seconds between two requests for the same object
REUSE_GAP_S = LogCdf(((0.5, 0.0), (60, 0.46), (600, 0.80), (3600, 0.91), (6 * 3600, 0.967), (50 * 3600, 1.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryProfile:
    """What to generate.

    ``n_layers`` is the population that the requests draw from, not the number of distinct keys in the trace.
    With ``n_objects`` the trace holds just that many distinct keys, and the published popularity is that of the trace;
    this is what ``registry_profile`` asks for.
    ``max_bytes`` cuts the size distribution off: the rest of it is scaled up, nothing piles up at the limit.
    ``swing`` is the amplitude of a daily rhythm relative to the mean rate, with most requests at 13 h.

    Raises:
        ValueError: a number is out of range.
    """

    n_requests: int
    seed: int = 0
    n_layers: int | None = None
    n_objects: int | None = None
    datacenter: str = "dal"
    swing: float = 0.0
    max_bytes: int = 10**10
    requests_per_hour: float = 3654.0

    def __post_init__(self) -> None:
        if self.n_requests < 1 or self.population < 1:
            raise ValueError("a trace needs at least one request and one layer")
        if self.n_objects is not None and (self.n_layers is not None or not 1 <= self.n_objects <= self.n_requests):
            raise ValueError("objects number from 1 to the requests, and are given instead of the layers")
        if self.datacenter not in DATACENTERS:
            raise ValueError(f"no datacenter {self.datacenter!r}; there are {', '.join(DATACENTERS)}")
        if not 0 <= self.swing < 1:
            raise ValueError(f"the daily swing lies from 0 to below 1, not at {self.swing}")
        if self.seed < 0:
            raise ValueError(f"a seed cannot be negative: {self.seed}")
        if self.max_bytes < 100:
            raise ValueError(f"sizes cannot be limited to {self.max_bytes} bytes; the least limit is 100")
        if not self.requests_per_hour > 0:
            raise ValueError(f"requests per hour must be positive, not {self.requests_per_hour}")

    @property
    def population(self) -> int:
        """``n_layers``, or three for four requests: two thirds of the GETs are then re-references, as in Dallas."""
        if self.n_objects is not None:
            return self.n_objects
        return self.n_layers if self.n_layers is not None else max(1, self.n_requests * 3 // 4)

    @property
    def span_s(self) -> float:
        return self.n_requests / self.requests_per_hour * 3600.0


def registry_profile(datacenter: str = "dal", *, hours: float = 24.0, seed: int = 0) -> RegistryProfile:
    """``hours`` of a datacenter of the registry as published: its sizes and rate, a day's rhythm, two thirds of the
    GETs re-references.

    Raises:
        ValueError: no such datacenter, or not enough hours for a request.
    """
    if datacenter not in DATACENTERS:
        raise ValueError(f"no datacenter {datacenter!r}; there are {', '.join(DATACENTERS)}")
    published = DATACENTERS[datacenter]
    n_requests = round(hours * published.requests_per_hour)
    return RegistryProfile(
        n_requests=n_requests,
        n_objects=max(1, n_requests // 3),
        seed=seed,
        datacenter=datacenter,
        swing=published.swing,
        requests_per_hour=published.requests_per_hour,
    )


def generate(profile: RegistryProfile) -> list[Request]:
    """A registry-like trace of GETs in order of time, the first at 0 s; the same profile gives the same trace."""
    rng = np.random.Generator(np.random.PCG64(profile.seed))
    published = DATACENTERS[profile.datacenter].size_bytes
    if profile.n_objects is not None:
        layers = _share_out(profile.n_objects, profile.n_requests)
        sizes = _sizes_by_rank(rng, published, np.bincount(layers), profile.max_bytes)
        times_s = _times(rng, layers, profile.span_s, _LATER)
    else:
        sizes = _sizes(rng, published, profile.population, profile.max_bytes)
        layers = np.sort(_draw_layers(rng, profile.population, profile.n_requests))
        times_s = _times(rng, layers, profile.span_s)
    if profile.swing:
        times_s = _daily(times_s, profile.span_s, profile.swing)
    order = np.argsort(times_s, kind="stable")
    begin_s = times_s[order[0]]
    names = _Names(rng, profile.population)
    return [
        Request(
            timestamp_s=round(float(times_s[i] - begin_s), 3),
            key=names.uri(int(layers[i])),
            size_bytes=int(sizes[layers[i]]),
        )
        for i in order
    ]


def _sizes(rng: np.random.Generator, published: LogCdf, n: int, max_bytes: int) -> Ints:
    """One size from each of ``n`` equal slices of the distribution below ``max_bytes``, in random order."""
    limit = float(published.share(float(max_bytes)))
    shares = (np.arange(n) + rng.random(n)) / n * limit
    return np.rint(published.quantile(shares)).astype(np.int64)[np.argsort(rng.random(n))]


def _sizes_by_rank(rng: np.random.Generator, published: LogCdf, n_requests: Ints, max_bytes: int) -> Ints:
    """Sizes of objects with so many requests each, the most popular first.

    They follow the distribution among any run of neighbours in popularity, not among all alone, and of several such
    sequences the one is taken in which the share of large objects among the requests is nearest to that among the
    objects (published: 750 of 3,654 GETs, 20% of the objects): a handful of objects gets a quarter of the requests,
    and chance would make them all small in one trace and all large in the next.
    """
    limit = float(published.share(float(max_bytes)))
    small = float(published.share(1e7))
    steps = np.arange(len(n_requests)) * _GOLDEN
    begins = rng.random(16)
    missed = [
        abs(float(n_requests[(begin + steps) % 1.0 * limit <= small].sum()) - small / limit * n_requests.sum())
        for begin in begins
    ]
    shares: Floats = (begins[int(np.argmin(missed))] + steps) % 1.0 * limit
    return np.rint(published.quantile(shares)).astype(np.int64)


def _draw_layers(rng: np.random.Generator, n_layers: int, n_requests: int) -> Ints:
    """Which layer each request is for; layer 0 is the most popular one."""
    rank = np.arange(1, n_layers + 1)
    top = rank / n_layers
    first_x, first_share = POPULARITY.points[0]
    shares = np.where(top < first_x, first_share * top / first_x, POPULARITY.share(top))
    # a small population has less than one layer in its hottest 0.032%, and would send all of their requests to one
    shares = np.minimum(shares, HOTTEST_SHARE * rank)
    shares[-1] = 1.0
    return np.searchsorted(shares, rng.random(n_requests), side="right")


def _share_out(n_objects: int, n_requests: int) -> Ints:
    """Which object each request is for, sorted: the most popular ones get the published shares, the rest at least one
    request each, as evenly as can be. (The published curve is of 75 days; in a day nobody gets half a request.)"""
    ranks = np.arange(n_objects + 1)
    first_x, first_share = POPULARITY.points[0]
    top = np.maximum(ranks, 1) / n_objects
    shares = np.where(ranks / n_objects < first_x, first_share * ranks / n_objects / first_x, POPULARITY.share(top))
    # a small trace has less than one object in its hottest 0.032%, and would send all of their requests to one
    given = np.minimum(shares, HOTTEST_SHARE * ranks) * n_requests
    # the last rank after which enough is left for one request each
    head = int(np.flatnonzero(n_requests - given >= n_objects - ranks)[-1])
    head = min(head, int(np.searchsorted(ranks / n_objects, _HEAD_AT_MOST)))
    given[head:] = np.linspace(given[head], n_requests, n_objects - head + 1)
    given[-1] = n_requests
    return np.repeat(np.arange(n_objects), np.diff(np.rint(given).astype(np.int64)))


def _daily(times_s: Floats, span_s: float, swing: float) -> Floats:
    """Moves ``times_s``, even over ``span_s``, to where a day's rhythm has them: dense by day, sparse at night."""
    at_s = np.linspace(0.0, span_s, 10_001)
    angle = 2 * np.pi * (at_s / _DAY_S - _PEAK_DAY)
    passed = at_s + swing * _DAY_S / (2 * np.pi) * (np.sin(angle) - np.sin(angle[0]))
    return np.asarray(np.interp(times_s / span_s, passed / passed[-1], at_s), np.float64)


def _times(rng: np.random.Generator, layers: Ints, span_s: float, later: float = 1.0) -> Floats:
    """When each request comes, for ``layers`` sorted: per layer a uniform start, then gaps from the reuse distribution.

    A time beyond the end goes on from the beginning, which keeps the number of requests; the sum over many layers with
    independent starts is close to a Poisson process. An exponent ``later`` below 1 makes for longer gaps.
    """
    n = len(layers)
    first = np.flatnonzero(np.r_[True, layers[1:] != layers[:-1]])
    longest_share = float(REUSE_GAP_S.share(span_s))
    steps = REUSE_GAP_S.quantile(rng.random(n) ** later * longest_share)
    steps[first] = rng.random(len(first)) * span_s
    total = np.cumsum(steps)
    before = np.repeat(total[first] - steps[first], np.diff(np.r_[first, n]))
    return np.asarray((total - before) % span_s, np.float64)


class _Names:
    """URIs as the anonymised trace has them: users own repositories, repositories layers, all eight hex digits."""

    def __init__(self, rng: np.random.Generator, n_layers: int) -> None:
        self._n_repositories = max(1, n_layers // 16)
        self._salt = int(rng.random() * 2**32)

    def uri(self, layer: int) -> str:
        repository = layer % self._n_repositories
        user = repository // 4
        return f"v2/{self._hex(user)}/{self._hex(repository + 2**30)}/blobs/{self._hex(layer + 2**31)}"

    def _hex(self, number: int) -> str:
        # an odd multiplier permutes the 32-bit numbers, so distinct layers have distinct names
        return f"{((number ^ self._salt) * 2654435761) % 2**32:08x}"


# ---------------------------------------------------------------- writing


def write_registry(requests: Iterable[Request], path: str | Path, *, begin: datetime = datetime(2017, 6, 20)) -> int:
    """Writes ``requests`` as registry CSV, gzip if ``path`` ends in ``.gz``; returns their number.

    The same requests give the same bytes. The file appears when it is complete, or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(path)
    n = 0
    with whole_file(path) as partial, partial.open("wb") as raw:
        packed = gzip.GzipFile("", "wb", 9, raw, mtime=0) if path.suffix == ".gz" else raw
        with io.TextIOWrapper(packed, "utf-8", newline="") as text:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(COLUMNS)
            for row in _rows(requests, begin):
                writer.writerow(row)
                n += 1
    return n


_AGENTS = ("docker/17.03.1-ce go/go1.7.5 os/linux arch/amd64", "docker/1.12.1 go/go1.6.3 os/linux arch/amd64")
_HOSTS = ("dc118836", "79634854", "260f35e1")


def _rows(requests: Iterable[Request], begin: datetime) -> Iterator[Sequence[object]]:
    for i, request in enumerate(requests):
        when = begin + timedelta(seconds=request.timestamp_s)
        yield (
            i,
            i,
            _HOSTS[i % len(_HOSTS)],
            round(0.3 + request.size_bytes / 2.5e6, 2),  # a registry's pace: some 2.5 MB/s a client
            request.method.value,
            f"{i % 23:08x}",
            request.key,
            _AGENTS[i % len(_AGENTS)],
            200,
            float(request.size_bytes),
            f"{i:010x}",
            when.isoformat(" ", "milliseconds"),
        )


# ---------------------------------------------------------------- command line


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m workloads.generate --requests N OUT``: writes a trace and prints its figures."""
    args = _parser().parse_args(argv)
    try:
        profile = RegistryProfile(
            n_requests=args.requests,
            seed=args.seed,
            n_layers=args.layers,
            max_bytes=args.max_bytes,
            requests_per_hour=args.requests_per_hour,
        )
        requests = generate(profile)
        write_registry(requests, args.out)
    except (OSError, ValueError) as error:
        print(f"generate: {error}", file=sys.stderr)
        return 1
    print(_describe(summarize(requests)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m workloads.generate", description="Write a registry-like trace as CSV."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="file to write; gzip if its name ends in .gz")
    parser.add_argument("--requests", type=int, required=True, metavar="N")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--layers", type=int, metavar="N", help="layers to draw from (default: 3/4 of the requests)")
    parser.add_argument(
        "--max-bytes", type=parse_bytes, default=10**10, metavar="SIZE", help='largest layer, e.g. "200MB"'
    )
    parser.add_argument(
        "--requests-per-hour", type=float, default=3654.0, metavar="RATE", help="default 3654, as in Dallas"
    )
    return parser


def _describe(figures: TraceSummary) -> str:
    return (
        f"{figures.n_gets} GETs of {figures.n_objects} objects over {figures.span_s:.0f} s, "
        f"{figures.n_large_objects} objects larger than 10 MB, largest {format_bytes(figures.largest_bytes)}; "
        f"{format_bytes(figures.unique_bytes)} unique, {format_bytes(figures.total_bytes)} in all; "
        f"an infinite cache hits {figures.infinite_hit_ratio:.1%}"
    )


if __name__ == "__main__":
    sys.exit(main())
