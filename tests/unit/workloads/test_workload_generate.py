from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from workloads.demo import sample_trace
from workloads.generate import REUSE_GAP_S, SIZE_BYTES, RegistryProfile, generate, main, write_registry
from workloads.readers import read_registry
from workloads.summary import summarize
from workloads.trace import Request

DAY = RegistryProfile(n_requests=24 * 3654, seed=5, n_layers=5_000)


@pytest.fixture(scope="module")
def day() -> list[Request]:
    return generate(DAY)


def test_the_same_profile_gives_the_same_trace_and_another_seed_another() -> None:
    assert generate(RegistryProfile(n_requests=500, seed=3)) == generate(RegistryProfile(n_requests=500, seed=3))
    assert generate(RegistryProfile(n_requests=500, seed=3)) != generate(RegistryProfile(n_requests=500, seed=4))


def test_times_rise_from_zero_over_the_span_with_poisson_like_gaps(day: list[Request]) -> None:
    times_s = np.array([r.timestamp_s for r in day])
    assert times_s[0] == 0
    assert (np.diff(times_s) >= 0).all()
    assert times_s[-1] == pytest.approx(24 * 3600, rel=0.01)
    gaps_s = np.diff(times_s)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1.0, abs=0.15)  # 1 for a Poisson process


@pytest.mark.parametrize(("limit", "share"), [p for p in SIZE_BYTES.points if 1e2 <= p[0] <= 1e8])
def test_sizes_follow_the_published_distribution(day: list[Request], limit: float, share: float) -> None:
    sizes = np.array(list({r.key: r.size_bytes for r in day}.values()))
    assert (sizes <= limit).mean() == pytest.approx(share, abs=0.03)


def test_nearly_all_bytes_are_in_large_objects(day: list[Request]) -> None:
    sizes = np.array(list({r.key: r.size_bytes for r in day}.values()))
    assert sizes[sizes <= 1e7].sum() / sizes.sum() == pytest.approx(0.034, abs=0.03)


@pytest.mark.parametrize(("top", "share"), [(0.01, 0.42), (0.02, 0.48), (0.05, 0.57), (0.1, 0.64), (0.2, 0.72)])
def test_popularity_follows_the_published_distribution(day: list[Request], top: float, share: float) -> None:
    counts = sorted(Counter(r.key for r in day).values(), reverse=True)
    assert sum(counts[: int(top * DAY.population)]) / len(day) == pytest.approx(share, abs=0.03)


def test_most_references_come_again_within_the_hour(day: list[Request]) -> None:
    assert summarize(day).reuse_within_hour > 0.9


def test_the_gap_distribution_is_the_published_one() -> None:
    shares = REUSE_GAP_S.share(np.array([60.0, 600.0, 3600.0]))
    assert shares.tolist() == pytest.approx([0.46, 0.80, 0.91])
    assert REUSE_GAP_S.quantile(shares).tolist() == pytest.approx([60, 600, 3600])


def test_each_key_has_one_size_and_keys_are_distinct(day: list[Request]) -> None:
    assert len({(r.key, r.size_bytes) for r in day}) == len({r.key for r in day})


def test_the_size_limit_is_kept() -> None:
    limited = generate(RegistryProfile(n_requests=2000, max_bytes=5_000_000))
    assert 1_000_000 < max(r.size_bytes for r in limited) <= 5_000_000


@pytest.mark.parametrize("n", [1, 2, 3])
def test_very_short_traces(n: int) -> None:
    assert len(generate(RegistryProfile(n_requests=n))) == n


@pytest.mark.parametrize(
    "bad",
    [{"n_requests": 0}, {"n_layers": 0}, {"max_bytes": 5}, {"requests_per_hour": 0.0}, {"seed": -1}],
)
def test_impossible_profiles_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        RegistryProfile(**{"n_requests": 10, **bad})


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_what_is_written_reads_back_and_is_the_same_each_time(tmp_path: Path, name: str) -> None:
    requests = generate(RegistryProfile(n_requests=300, seed=2))
    assert write_registry(requests, tmp_path / name) == 300
    assert list(read_registry(tmp_path / name, strict=True)) == requests
    first = (tmp_path / name).read_bytes()
    write_registry(requests, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Request]:
        yield Request(timestamp_s=0, key="a", size_bytes=1)
        raise RuntimeError("source failed")

    with pytest.raises(RuntimeError):
        write_registry(broken(), tmp_path / "t.csv.gz")
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "t.csv.gz"
    assert main(["--requests", "50", "--seed", "1", "--max-bytes", "1MB", str(out)]) == 0
    assert gzip.decompress(out.read_bytes()).count(b"\n") == 51
    assert "50 GETs" in capsys.readouterr().out


def test_the_command_reports_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--requests", "0", str(tmp_path / "t.csv")]) == 1
    assert main(["--requests", "5", str(tmp_path / "absent" / "t.csv")]) == 1
    assert capsys.readouterr().err.count("generate: ") == 2


def test_the_sample_in_the_repository_is_what_its_readme_says() -> None:
    sample = list(read_registry(sample_trace(), strict=True))
    assert sample == generate(RegistryProfile(n_requests=400, seed=381, max_bytes=180_000_000))
    figures = summarize(sample)
    assert (figures.n_gets, figures.n_objects, figures.n_large_objects) == (400, 132, 28)
    assert figures.unique_bytes < 1.2e9
    assert figures.total_bytes < 4e9
    assert "--seed 381" in (sample_trace().parent / "README.md").read_text()
