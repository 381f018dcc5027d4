from __future__ import annotations

import gzip
import pickle
import random
from itertools import islice
from pathlib import Path

import pytest

from infiniray.errors import InfiniRayError
from workloads.errors import TraceError
from workloads.readers import read_registry
from workloads.readers.lines import MAX_LINE_BYTES
from workloads.readers.registry import COLUMNS
from workloads.summary import summarize
from workloads.trace import Method, Request, TraceProblems

HEADER = ",".join(COLUMNS)
TRACES = Path(__file__).resolve().parents[4] / "shared" / "traces"


def line(
    *,
    size: str = "123.0",
    when: str = "2017-06-20 00:00:03.589",
    uri: str = "v2/u/r/blobs/a",
    method: str = "GET",
    status: str = "200",
) -> str:
    return f"1,1,host,0.9,{method},addr,{uri},docker/1.1 \\(linux\\),{status},{size},id,{when}"


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join((HEADER, *lines)) + "\n")
    return path


def test_fields_become_requests(tmp_path: Path) -> None:
    trace = write(
        tmp_path / "t.csv",
        line(),
        line(size="0", when="2017-06-20 00:00:04", uri="b"),
        line(method="PUT", when="2017-06-20T00:01:03.589Z", status="201.0"),
    )
    assert list(read_registry(trace)) == [
        Request(timestamp_s=0.0, key="v2/u/r/blobs/a", size_bytes=123),
        Request(timestamp_s=0.411, key="b", size_bytes=0),
        Request(timestamp_s=60.0, key="v2/u/r/blobs/a", size_bytes=123, method=Method.PUT),
    ]


def test_gzip_is_told_by_content_whatever_the_name(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.csv.gz", line())
    packed = tmp_path / "packed.csv"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert list(read_registry(plain)) == list(read_registry(packed))


def test_columns_are_found_by_name_and_a_bom_is_borne(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    header = "http.request.uri,timestamp,http.response.written,http.request.method,http.response.status"
    trace.write_text(f"\ufeff{header}\r\nkey,2017-06-20 00:00:00,5,GET,200\r\n", encoding="utf-8")
    assert [(r.key, r.size_bytes) for r in read_registry(trace)] == [("key", 5)]


BAD_LINES = {
    "": "0 fields",
    "1,2,3": "3 fields",
    line() + ",extra": "13 fields",
    line(size="-1"): "cannot be -1",
    line(size="1.5"): "cannot be 1.5",
    line(size="nan"): "not a size",
    line(size="inf"): "not a size",
    line(size=""): "not a size",
    line(when="yesterday"): "not a time",
    line(when="2017-13-20 00:00:00"): "not a time",
    line(uri=""): "URI is empty",
    line(method="get it"): "not an HTTP method",
    line(status="abc"): "not an HTTP status",
    line(uri='"open'): "not CSV",
    line(uri="x" * MAX_LINE_BYTES): "longer than",
}


@pytest.mark.parametrize(("bad", "reason"), BAD_LINES.items(), ids=BAD_LINES.values())
def test_a_malformed_line_is_left_out_counted_and_named(tmp_path: Path, bad: str, reason: str) -> None:
    trace = write(tmp_path / "t.csv", line(), bad, line(uri="after"))
    problems = TraceProblems()
    assert [r.key for r in read_registry(trace, problems=problems)] == ["v2/u/r/blobs/a", "after"]
    assert problems.n_malformed == 1
    assert problems.first[0].line == 3
    assert reason in problems.first[0].detail

    with pytest.raises(TraceError, match=r"t\.csv, line 3: .*" + reason) as caught:
        list(read_registry(trace, strict=True))
    assert caught.value.line == 3


def test_bytes_that_are_not_utf8_spoil_only_their_line(tmp_path: Path) -> None:
    trace = write(tmp_path / "t.csv", line(), line(uri="b"))
    trace.write_bytes(trace.read_bytes().replace(b"/blobs/a", b"/blobs/\xff"))
    problems = TraceProblems()
    assert [r.key for r in read_registry(trace, problems=problems)] == ["b"]
    assert problems.n_malformed == 1


def test_only_the_first_problems_are_kept_but_all_are_counted(tmp_path: Path) -> None:
    trace = write(tmp_path / "t.csv", *["bad"] * 50, line())
    problems = TraceProblems(keep=3)
    assert len(list(read_registry(trace, problems=problems))) == 1
    assert problems.n_malformed == 50
    assert [p.line for p in problems.first] == [2, 3, 4]


def test_what_is_no_use_to_a_cache_is_skipped_by_reason(tmp_path: Path) -> None:
    trace = write(tmp_path / "t.csv", line(method="HEAD"), line(status="404"), line(), line(status="404"))
    problems = TraceProblems(strict=True)
    assert len(list(read_registry(trace, problems=problems))) == 1
    assert problems.skipped == {"method HEAD": 1, "status 404": 2}
    assert problems.n_malformed == 0


def test_time_that_goes_back_is_counted_and_held(tmp_path: Path) -> None:
    times = ["2017-06-20 00:00:05", "2017-06-20 00:00:09", "2017-06-20 00:00:01", "2017-06-20 00:00:10"]
    trace = write(tmp_path / "t.csv", *[line(when=t) for t in times])
    problems = TraceProblems()
    assert [r.timestamp_s for r in read_registry(trace, problems=problems)] == [0.0, 4.0, 4.0, 5.0]
    assert (problems.n_out_of_order, problems.n_malformed) == (1, 0)
    with pytest.raises(TraceError, match="line 4: time goes back"):
        list(read_registry(trace, strict=True))


def test_missing_columns_are_named(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("host,timestamp,http.request.method\n1,2,3\n")
    with pytest.raises(TraceError, match=r"lacks http\.request\.uri, http\.response\.status, http\.response\.written"):
        list(read_registry(trace))


@pytest.mark.parametrize("text", ["", "\n\n", HEADER + "\n", HEADER + "\nbad\n"])
def test_a_file_without_requests_is_an_error(tmp_path: Path, text: str) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text(text)
    with pytest.raises(TraceError, match=r"empty|holds no request"):
        list(read_registry(trace))


def test_a_truncated_gzip_gives_what_it_holds_and_then_an_error(tmp_path: Path) -> None:
    rng = random.Random(1)
    whole = gzip.compress("\n".join((HEADER, *[line(uri=f"{rng.random()}") for _ in range(5000)])).encode())
    trace = tmp_path / "t.csv.gz"
    trace.write_bytes(whole[: len(whole) // 2])
    requests = read_registry(trace)
    assert len(list(islice(requests, 1000))) == 1000
    with pytest.raises(TraceError, match="breaks off or is damaged") as caught:
        list(requests)
    assert caught.value.line > 1000


def test_a_damaged_gzip_is_an_error(tmp_path: Path) -> None:
    trace = tmp_path / "t.csv.gz"
    trace.write_bytes(gzip.compress(b"x" * 100)[:12] + b"\xff" * 50)
    with pytest.raises(TraceError, match="gzip"):
        list(read_registry(trace))


def test_the_error_is_one_of_ours_a_value_error_and_survives_pickling() -> None:
    error = TraceError(path="t.csv", line=7, detail="why")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(error, InfiniRayError)
    assert isinstance(error, ValueError)
    assert (str(again), again.line) == ("t.csv, line 7: why", 7)


@pytest.mark.skipif(not TRACES.is_dir(), reason="the real traces are not here")
def test_the_real_traces_have_the_published_figures() -> None:
    problems = TraceProblems()
    figures = summarize(read_registry(TRACES / "dal09_10mb_50h.csv.gz", strict=True, problems=problems))
    assert (figures.n_gets, figures.n_objects) == (37_474, 12_541)
    assert round(figures.infinite_hit_ratio, 4) == 0.6653
    assert round(figures.total_bytes / 1e12, 2) == 2.25
    assert round(figures.reuse_within_hour, 2) == 0.91
    assert not problems.skipped
    assert summarize(read_registry(TRACES / "dal09_blobs_sample.csv", strict=True)).n_gets == 999
