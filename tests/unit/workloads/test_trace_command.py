"""`infiniray trace`: what it prints and writes, its exit codes, and what it says of a damaged file."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from infiniray.cli.main import main
from workloads.describe.idling import idling
from workloads.readers import TraceFormat, open_trace, trace_format
from workloads.trace import Method, Request

OBJECT_STORE = "10 REST.PUT.OBJECT a 20000000\n500 REST.GET.OBJECT a 20000000 0 9\n700 REST.HEAD.OBJECT a 20000000\n"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["trace", *map(str, arguments)])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    (tmp_path / "small.txt").write_text(OBJECT_STORE)
    return tmp_path / "small.txt"


def test_describe_prints_a_table(small: Path) -> None:
    result = run("describe", small)
    assert result.exit_code == 0, result.output
    assert "1 GETs, 1 PUTs" in result.stdout
    assert "100.00% (hit ratio of an infinite cache)" in result.stdout
    assert "REST.HEAD.OBJECT: 1" in result.stderr


def test_describe_as_json_is_one_document_with_the_problems(small: Path) -> None:
    small.write_text(OBJECT_STORE + "garbage\n")
    document = json.loads(run("describe", small, "--json").stdout)
    assert document["format"] == TraceFormat.OBJECT_STORE.value
    assert (document["gets"], document["puts"], document["objects"]) == (1, 1, 1)
    assert document["problems"] == {
        "malformed_lines": 1,
        "out_of_order_lines": 0,
        "skipped_lines": {"operation REST.HEAD.OBJECT": 1},
        "first": [{"line": 4, "detail": "1 fields instead of 4 or 6"}],
    }


def test_strict_stops_at_the_first_malformed_line(small: Path) -> None:
    small.write_text(OBJECT_STORE + "garbage\n")
    result = run("describe", small, "--strict")
    assert result.exit_code == 1
    assert "line 4: 1 fields instead of 4 or 6" in result.stderr


@pytest.mark.parametrize("data", [b"", b"hello\n", gzip.compress(OBJECT_STORE.encode())[:-9]])
@pytest.mark.parametrize("verb", ["describe", "convert"])
def test_a_file_that_is_no_trace_ends_with_one_line_and_writes_nothing(tmp_path: Path, data: bytes, verb: str) -> None:
    trace = tmp_path / "t"
    trace.write_bytes(data)
    result = run(verb, trace, *([tmp_path / "out"] if verb == "convert" else []))
    assert result.exit_code == 1
    assert result.stderr.startswith("infiniray: ")
    assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["t"]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_statistics_are_drawn(tmp_path: Path, ending: str) -> None:
    trace, picture = tmp_path / "t.parquet", tmp_path / f"t.{ending}"
    assert run("generate", "registry", trace, "--hours", "0.2").exit_code == 0
    assert run("describe", trace, "--plot", picture).exit_code == 0
    assert picture.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml"}[ending])


@pytest.mark.parametrize(
    "text", [OBJECT_STORE, "5 REST.PUT.OBJECT a 0\n", "5 REST.GET.OBJECT a 0\n6 REST.GET.OBJECT a 0\n"]
)
def test_the_smallest_traces_can_be_drawn(tmp_path: Path, text: str) -> None:
    trace = tmp_path / "t"
    trace.write_text(text)
    result = run("describe", trace, "--plot", tmp_path / "t.png")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("out", ["no/such/folder.png", ""])
def test_a_place_that_cannot_be_written_to_is_refused_before_the_trace_is_read(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    small.write_text("no trace at all")  # reading it would be another error
    for arguments in (("describe", small, "--plot", out), ("convert", small, out), ("generate", "ycsb", out)):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert "no folder" in result.stderr or "cannot be empty" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["small.txt"]


def test_a_calendars_time_is_told_and_another_clocks_is_not(small: Path, tmp_path: Path) -> None:
    assert run("generate", "registry", tmp_path / "t.csv", "--hours", "0.1").exit_code == 0
    assert "2017-06-20 00:00:00 to 2017-06-20 00:0" in run("describe", tmp_path / "t.csv").stdout
    assert json.loads(run("describe", tmp_path / "t.csv", "--json").stdout)["begins"] == "2017-06-20T00:00:00+00:00"
    assert json.loads(run("describe", small, "--json").stdout)["begins"] is None


def test_pictures_of_other_kinds_are_a_matter_of_usage(small: Path) -> None:
    assert run("describe", small, "--plot", "t.docx").exit_code == 2


def test_convert_keeps_every_request(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("convert", small, out, "--json")
    assert json.loads(result.stdout)["requests"] == 2
    assert trace_format(out) is TraceFormat.PARQUET
    assert list(open_trace(out)) == list(open_trace(small))


def test_generated_traces_are_the_same_for_a_seed_in_either_format(tmp_path: Path) -> None:
    for kind, options in {
        "registry": ("--hours", "0.1", "--datacenter", "lon"),
        "ycsb": ("--requests", "200", "--mix", "a", "--size", "1MiB", "--preload"),
        "bursts": ("--hours", "0.2"),
    }.items():
        out = [tmp_path / name for name in ("a.parquet", "b.parquet", "c.csv.gz")]
        for file in out:
            result = run("generate", kind, file, "--seed", "7", *options)
            assert result.exit_code == 0, result.output
        assert out[0].read_bytes() == out[1].read_bytes()
        from_csv, from_parquet = list(open_trace(out[2])), list(open_trace(out[0]))
        assert [(r.key, r.size_bytes, r.method) for r in from_csv] == [
            (r.key, r.size_bytes, r.method) for r in from_parquet
        ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("registry", "--datacenter", "mars"),
        ("registry", "--hours", "0.00001"),
        ("ycsb", "--size", "big"),
        ("ycsb", "--mix", "z"),
        ("ycsb", "--rate", "nan"),
        ("registry", "--hours", "inf"),
        ("bursts", "--lasting", "900"),
    ],
)
def test_impossible_wishes_are_a_matter_of_usage(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    kind, *options = arguments
    assert run("generate", kind, tmp_path / "t.csv", *options).exit_code == 2
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- idle


def gets(*when: tuple[float, str, int]) -> list[Request]:
    return [Request(timestamp_s=3600 * hour, key=key, size_bytes=size_bytes) for hour, key, size_bytes in when]


def test_what_is_idle_is_given_up_by_its_bytes_and_its_last_use() -> None:
    """1 GB for 1 GB-h stays an hour from each use, 4 GB a quarter of one."""
    asked = gets((0, "a", 10**9), (0, "b", 4 * 10**9), (0.5, "a", 10**9), (0.5, "b", 4 * 10**9), (1.4, "a", 10**9))
    some, everything = idling(asked, [1.0, math.inf], overhead=1.0)
    assert some.hit_ratio == pytest.approx(2 / 5)  # "b" was gone, "a" was not
    assert everything.hit_ratio == pytest.approx(3 / 5)
    assert some.most_bytes == everything.most_bytes == 5e9
    assert everything.mean_bytes == pytest.approx(5e9)
    assert some.mean_bytes == pytest.approx((1.4 * 1 + 2 * 0.25 * 4) * 1e9 / 1.4)


def test_redundancy_counts_among_what_is_held() -> None:
    asked = gets((0, "a", 10**9), (0.7, "a", 10**9))
    assert idling(asked, [1.0], overhead=1.0)[0].hit_ratio == 0.5
    assert idling(asked, [1.0], overhead=2.0)[0].hit_ratio == 0.0


def test_too_large_is_not_kept_and_a_put_is_no_get() -> None:
    asked = [
        Request(timestamp_s=0.0, key="a", size_bytes=5, method=Method.PUT),
        *gets((1, "a", 5), (2, "b", 50), (3, "b", 50)),
    ]
    assert idling(asked, [math.inf], largest_bytes=10)[0].hit_ratio == pytest.approx(1 / 3)


def test_idle_prints_a_row_for_each_and_for_never(small: Path) -> None:
    result = run("idle", small, "--after", "0.5", "--after", "2")
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in ("0.5 GB-h", "2 GB-h", "never"))
    document = json.loads(run("idle", small, "--after", "2", "--json").stdout)
    assert [row["idle_gb_h"] for row in document["idle"]] == [2.0, None]
    assert document["idle"][1]["hit_ratio"] == 1.0
