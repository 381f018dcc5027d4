"""Variations of a configuration: how they are read, that each is simulated as it says, and what is told of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from infiniray.cli.main import main
from infiniray.config import Config
from infiniray.errors import ConfigError
from workloads.ablation import BASE, Varied, ablation_figure, frontier, read_variations

CONFIGS = Path(__file__).parents[3] / "configs"


def varied(name: str, usd: float, availability: float | None) -> Varied:
    return Varied(name, {"cost_usd": {"total": usd}, "availability": availability})


def written(folder: Path, text: str) -> Path:
    file = folder / "variations.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("config", ["modern", "fast20"])
def test_what_is_included_differs_from_its_configuration(config: str) -> None:
    base, *others = read_variations(Config.load(CONFIGS / f"{config}.yaml"), CONFIGS / "variations" / f"{config}.yaml")
    assert base.name == BASE
    assert base.config == Config.load(CONFIGS / f"{config}.yaml")
    assert len(others) > 10
    assert all(one.config != base.config for one in others)


def test_only_what_is_named_changes(tmp_path: Path) -> None:
    base = Config.load(None, {"availability": {"backup_interval_s": "2m", "warm": "holding"}}, environ={})
    [_, one] = read_variations(base, written(tmp_path, "seldom: {availability: {backup_interval_s: 10m}}"))
    assert one.name == "seldom"
    assert one.config.availability == base.availability.model_copy(update={"backup_interval_s": 600.0})
    assert one.config.pool == base.pool


@pytest.mark.parametrize("text", ["", "[1, 2]", "a: 3", "a: {pool: {nodes: none}}", "a: {nowhere: {b: 1}}", "a: {b: ["])
def test_what_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"variations\.yaml"):
        read_variations(Config.load(None, environ={}), written(tmp_path, text))


def test_the_frontier_is_what_nothing_beats() -> None:
    found = [varied("dear", 3.0, 0.99), varied("cheap", 1.0, 0.9), varied("worse", 2.0, 0.8), varied("good", 2.5, 0.99)]
    assert [one.name for one in frontier(found)] == ["cheap", "good"]


@pytest.mark.parametrize("losses", [[0.9, 1.0], [1.0, 1.0], [None, 0.5]])
def test_the_picture_shows_each(losses: list[float | None]) -> None:
    found = [varied(BASE, 1.0, losses[0]), varied("other", 2.0, losses[1])]
    made = ablation_figure(found, 50.0)
    [axes], [key] = made.axes, made.legends
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    assert [text.get_text().partition(":")[0] for text in key.get_texts()[-2:]] == [BASE, "other"]
    assert axes.get_xlabel() == "USD for 50 hours"


# ---------------------------------------------------------------- the command


def run(folder: Path, *options: str) -> Result:
    trace, reclaims = folder / "trace.csv", folder / "reclaims.csv"
    with trace.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["", "Unnamed: 0", "host", "http.request.duration", "http.request.method",
                       "http.request.remoteaddr", "http.request.uri", "http.request.useragent",
                       "http.response.status", "http.response.written", "id", "timestamp"])  # fmt: skip
        for i in range(60):
            when = f"2017-06-20 00:{i:02}:00.000"
            rows.writerow([i, i, "h", 0.1, "GET", "a", f"v2/u/r/blobs/{i % 6}", "ua", 200, 1_000_000.0, f"i{i}", when])
    reclaims.write_text("hour,count\n0,0\n0.5,20\n1,20\n")
    config = folder / "config.yaml"
    config.write_text(
        "pool: {nodes: 12}\nring: {shards: 1}\nredundancy: [{scheme: 'rs:4+2'}]\navailability: {warm: all}\n"
    )
    variations = written(folder, "no warm-up: {availability: {warm: none}}\nmore: {redundancy: [{scheme: 'rs:4+3'}]}")
    arguments = ["ablate", str(trace), str(variations), "--config", str(config), "--reclaims", str(reclaims)]
    return CliRunner().invoke(main, [*arguments, "--workers", "1", *options])


def figures(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return document


def test_each_variation_is_simulated_as_it_says(tmp_path: Path) -> None:
    found = figures(run(tmp_path, "--json"))["variations"]
    assert list(found) == [BASE, "no warm-up", "more"]
    assert found["no warm-up"]["cost_usd"]["warmup"] == 0 < found[BASE]["cost_usd"]["warmup"]
    assert found["more"]["stored_bytes"] > found[BASE]["stored_bytes"]
    assert {one["gets"] for one in found.values()} == {60}
    assert found == figures(run(tmp_path, "--json"))["variations"]  # the same each time


def test_some_of_them_on_a_part_of_the_trace(tmp_path: Path) -> None:
    document = figures(run(tmp_path, "--json", "--only", "more", "--hours", "0.5", "--plots", str(tmp_path / "plots")))
    assert list(document["variations"]) == [BASE, "more"]
    assert {one["gets"] for one in document["variations"].values()} == {31}
    assert document["hours"] == 0.5
    assert Path(document["picture"]).stat().st_size > 1000


def test_a_variation_that_is_not_there(tmp_path: Path) -> None:
    result = run(tmp_path, "--only", "nothing")
    assert result.exit_code == 2
    assert "nothing" in result.output


def test_a_table_for_people(tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.exit_code == 0
    assert all(name in result.output for name in (BASE, "no warm-up", "more", "availability"))
