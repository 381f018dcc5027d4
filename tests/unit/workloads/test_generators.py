"""A generated registry day has the published figures; mixes and bursts are what they say."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from workloads.describe import TraceDescription, describe
from workloads.generate import generate, registry_profile
from workloads.generators import MIXES, Bursts, YcsbMix
from workloads.generators.datacenters import DATACENTERS
from workloads.trace import Method

REFERENCE = Path(__file__).resolve().parents[4] / "shared" / "reference"

#: FAST'18 figures 6a and 10a, FAST'20 figures 1a and 1b, and the reuse of large objects in the 50-hour trace
PUBLISHED = {
    "dal": {"objects > 10 MB": 0.20, "bytes in them": 0.966, "reuse within 1 h": 0.912, "top 1%": 0.42},
    "lon": {"objects > 10 MB": 0.20, "bytes in them": 0.959, "reuse within 1 h": 0.912, "top 1%": 0.42},
}


def figures(day: TraceDescription) -> dict[str, float]:
    return {
        "objects > 10 MB": day.large_object_share,
        "bytes in them": day.large_byte_share,
        "reuse within 1 h": day.large_reuse_s.share_at_most(3600),
        "top 1%": day.popularity[0.01],
    }


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("datacenter", PUBLISHED)
def test_a_generated_registry_day_has_the_published_figures(datacenter: str, seed: int) -> None:
    day = describe(generate(registry_profile(datacenter, seed=seed)))
    assert figures(day) == pytest.approx(PUBLISHED[datacenter], abs=0.03)
    assert day.infinite_hit_ratio == pytest.approx(2 / 3, abs=0.01)
    assert day.seen_once_share == pytest.approx(0.77, abs=0.03)


@pytest.mark.parametrize("datacenter", DATACENTERS)
def test_sizes_of_each_datacenter_are_its_own(datacenter: str) -> None:
    day = describe(generate(registry_profile(datacenter, hours=4)))
    for limit, share in DATACENTERS[datacenter].size_bytes.points:
        assert day.object_sizes.share_at_most(limit) == pytest.approx(share, abs=0.02)


def published_curve(name: str) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """A cumulative curve as it was read off a figure: where, and the share at or below."""
    at, shares = np.loadtxt(REFERENCE / name, delimiter=",", skiprows=1).T
    return at, np.maximum.accumulate(shares)


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the curves read off the papers' figures are not here")
@pytest.mark.parametrize("datacenter", DATACENTERS)
def test_a_days_sizes_are_those_of_the_drawn_curve(datacenter: str) -> None:
    at, shares = published_curve(f"fast18_fig6a_layer_bytes_{datacenter}.csv")
    sizes = np.array(list({r.key: r.size_bytes for r in generate(registry_profile(datacenter, seed=3))}.values()))
    for limit in (1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9):
        drawn = float(np.interp(limit, at, shares))
        assert (sizes <= limit).mean() == pytest.approx(drawn, abs=0.03), f"{limit:.0f} bytes"


@pytest.mark.skipif(not REFERENCE.is_dir(), reason="the curves read off the papers' figures are not here")
def test_a_days_popularity_is_that_of_the_drawn_curve() -> None:
    percent, shares = published_curve("fast18_fig10a_layer_popularity_pct_dal.csv")
    counts = np.array(sorted(Counter(r.key for r in generate(registry_profile("dal", seed=3))).values(), reverse=True))
    for top in (1.0, 2.0, 5.0, 10.0, 20.0):
        drawn = float(np.interp(top, percent, shares))
        found = counts[: round(top / 100 * len(counts))].sum() / counts.sum()
        assert found == pytest.approx(drawn, abs=0.03), f"top {top}%"


def test_there_is_a_day_and_a_night() -> None:
    hourly = describe(generate(registry_profile("dal"))).hourly_gets
    assert len(hourly) == 24
    assert 10 <= int(np.argmax(hourly)) <= 16
    assert min(hourly) < 0.7 * np.mean(hourly) < 1.3 * np.mean(hourly) < max(hourly)


def test_a_registry_day_is_the_same_for_the_same_seed() -> None:
    assert generate(registry_profile("syd", hours=0.5, seed=4)) == generate(registry_profile("syd", hours=0.5, seed=4))
    assert generate(registry_profile("syd", hours=0.5, seed=4)) != generate(registry_profile("syd", hours=0.5, seed=5))


@pytest.mark.parametrize("hours", [0.001, 0.003, 0.01, 0.1])
def test_short_registry_traces_hold_what_they_should(hours: float) -> None:
    profile = registry_profile("dal", hours=hours)
    trace = generate(profile)
    assert len(trace) == profile.n_requests
    assert len({request.key for request in trace}) == profile.n_objects


def test_unknown_datacenters_are_refused() -> None:
    with pytest.raises(ValueError, match="no datacenter 'mars'; there are dal, lon"):
        registry_profile("mars")


@pytest.mark.parametrize("name", MIXES)
def test_a_mix_reads_and_writes_in_its_proportion(name: str) -> None:
    trace = list(YcsbMix(n_requests=20_000, read_share=MIXES[name], requests_per_s=50, seed=2).requests())
    assert sum(r.method is Method.GET for r in trace) / 20_000 == pytest.approx(MIXES[name], abs=0.02)
    assert 20_000 / trace[-1].timestamp_s == pytest.approx(50, rel=0.05)
    assert [r.timestamp_s for r in trace] == sorted(r.timestamp_s for r in trace)


def test_popularity_of_a_mix_follows_zipfs_law() -> None:
    trace = YcsbMix(n_requests=100_000, n_objects=100, theta=0.99, seed=1).requests()
    counts = np.array(sorted(Counter(r.key for r in trace).values(), reverse=True))
    expected = np.arange(1, 101) ** -0.99
    assert counts[:20] / 100_000 == pytest.approx((expected / expected.sum())[:20], rel=0.1)


def test_a_mix_is_loaded_first_and_the_same_each_time() -> None:
    mix = YcsbMix(n_requests=5, n_objects=3, preload=True)
    loaded = list(islice(mix.requests(), 3))
    assert {(r.method, r.timestamp_s) for r in loaded} == {(Method.PUT, 0.0)}
    assert len({r.key for r in loaded}) == 3
    assert list(mix.requests()) == list(mix.requests())
    assert list(mix.requests()) != list(YcsbMix(n_requests=5, n_objects=3, preload=True, seed=1).requests())


def test_bursts_come_at_the_end_of_each_period_and_ask_for_what_is_new() -> None:
    bursts = Bursts(span_s=3600, requests_per_s=2, period_s=600, burst_s=30, factor=20, n_hot=5, seed=3)
    trace = list(bursts.requests())
    assert trace == list(bursts.requests())
    assert [r.timestamp_s for r in trace] == sorted(r.timestamp_s for r in trace)
    hot = [r for r in trace if r.key.startswith("burst/")]
    assert all(r.timestamp_s % 600 >= 570 for r in hot)
    assert len({r.key for r in hot}) == 6 * 5
    assert len(hot) == pytest.approx(6 * 30 * 2 * 19, rel=0.06)
    assert len(trace) - len(hot) == pytest.approx(3600 * 2, rel=0.06)


@pytest.mark.parametrize("bad", [{"burst_s": 700.0}, {"factor": 0.5}, {"n_hot": 0}, {"span_s": 0.0}, {"seed": -1}])
def test_impossible_bursts_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Bursts(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"read_share": 1.5}, {"theta": -1.0}, {"requests_per_s": 0.0}, {"n_objects": 0}])
def test_impossible_mixes_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        YcsbMix(n_requests=1, **bad)  # type: ignore[arg-type]
