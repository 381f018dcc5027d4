"""Every format is told by its content, and gives the same requests; what is wrong with a file is named and counted."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from workloads.errors import TraceError
from workloads.readers import TraceFormat, open_trace, trace_format
from workloads.readers.lines import MAX_LINE_BYTES
from workloads.readers.parquet import write_parquet
from workloads.readers.registry import COLUMNS
from workloads.trace import Method, Request, TraceProblems

REQUESTS = [
    Request(timestamp_s=0.0, key="v2/u/r/blobs/a", size_bytes=100),
    Request(timestamp_s=1.5, key="v2/u/r/blobs/b", size_bytes=20_000_000),
    Request(timestamp_s=61.25, key="v2/u/r/blobs/a", size_bytes=100, method=Method.PUT),
]


def stamp(request: Request) -> str:
    return f"2017-06-20T00:{int(request.timestamp_s) // 60:02d}:{request.timestamp_s % 60:06.3f}Z"


def record(request: Request, **changed: Any) -> dict[str, Any]:
    return {
        "host": "dc118836",
        "http.request.duration": 0.87,
        "http.request.method": request.method.value,
        "http.request.remoteaddr": "c95a4a5a",
        "http.request.uri": request.key,
        "http.request.useragent": 'docker/1.8.1 {"odd"}',
        "http.response.status": 200,
        "http.response.written": request.size_bytes,
        "id": "9f63984318",
        "timestamp": stamp(request),
        **changed,
    }


def registry_csv(requests: list[Request]) -> str:
    rows = [f"1,1,host,0.9,{r.method.value},addr,{r.key},docker,200,{r.size_bytes}.0,id,{stamp(r)}" for r in requests]
    return "\n".join([",".join(COLUMNS), *rows]) + "\n"


def json_lines(requests: list[Request]) -> str:
    return "".join(json.dumps(record(r)) + "\n" for r in requests)


def json_array(requests: list[Request]) -> str:
    return "[\n" + ",\n".join(json.dumps(record(r)) for r in requests) + "\n]\n"


def json_one_line(requests: list[Request]) -> str:
    return json.dumps([record(r) for r in requests])


def json_pretty(requests: list[Request]) -> str:
    return json.dumps([record(r) for r in requests], indent=2)


def object_store(requests: list[Request]) -> str:
    lines = []
    for r in requests:
        ranged = f" 0 {r.size_bytes - 1}" if r.method is Method.GET else ""
        lines.append(
            f"{1_219_008 + int(r.timestamp_s * 1000)} REST.{r.method.value}.OBJECT {r.key} {r.size_bytes}{ranged}"
        )
    return "\n".join(lines) + "\n"


AZURE_HEADER = (
    "Timestamp(ms),AnonRegion,AnonUserId,AnonAppName,AnonFunctionInvocationId,AnonBlobName,BlobType,AnonBlobETag,"
    "BlobBytes,Read,Write,Datetime"
)


def azure(requests: list[Request]) -> str:
    rows = []
    for r in requests:
        is_read = r.method is Method.GET
        at_ms = 1_605_000_000_000 + int(r.timestamp_s * 1000)
        rows.append(f"{at_ms},reg,user,app,call,{r.key},BlockBlob,tag,{r.size_bytes}.0,{is_read},{not is_read},when")
    return "\n".join([AZURE_HEADER, *rows]) + "\n"


TEXTS: dict[str, tuple[Callable[[list[Request]], str], TraceFormat]] = {
    "registry csv": (registry_csv, TraceFormat.REGISTRY_CSV),
    "json lines": (json_lines, TraceFormat.REGISTRY_JSON),
    "json array": (json_array, TraceFormat.REGISTRY_JSON),
    "json in one line": (json_one_line, TraceFormat.REGISTRY_JSON),
    "json over several lines": (json_pretty, TraceFormat.REGISTRY_JSON),
    "object store": (object_store, TraceFormat.OBJECT_STORE),
    "azure": (azure, TraceFormat.AZURE_BLOBS),
}


@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("name", TEXTS)
def test_each_format_is_known_by_its_content_and_gives_the_same_requests(
    tmp_path: Path, name: str, is_packed: bool
) -> None:
    text, shape = TEXTS[name]
    trace = tmp_path / "misleading.parquet"
    data = text(REQUESTS).encode()
    trace.write_bytes(gzip.compress(data) if is_packed else data)
    assert trace_format(trace) is shape
    assert list(open_trace(trace, strict=True)) == REQUESTS


def test_our_own_format_gives_back_what_was_written_in_few_bytes(tmp_path: Path) -> None:
    many = [Request(timestamp_s=i / 1000, key=f"v2/u/r/blobs/{i % 500:08x}", size_bytes=i % 500) for i in range(70_000)]
    trace = tmp_path / "misleading.csv"
    assert write_parquet(many, trace) == 70_000
    assert trace_format(trace) is TraceFormat.PARQUET
    assert list(open_trace(trace, strict=True)) == many
    assert trace.stat().st_size < 8 * len(many)
    assert [p.name for p in tmp_path.iterdir()] == [trace.name]


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    damaged = tmp_path / "t.csv.gz"
    damaged.write_bytes(gzip.compress(registry_csv(REQUESTS).encode())[:-9])
    with pytest.raises(TraceError):
        write_parquet(open_trace(damaged), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv.gz"]


def broken(text: str, line: int, by: str) -> str:
    lines = text.splitlines()
    lines[line - 1] = by
    return "\n".join(lines) + "\n"


DAMAGE = [
    ("object store", 2, "garbage", "1 fields"),
    ("object store", 2, "12 REST.GET.OBJECT key -5", "cannot be -5"),
    ("object store", 2, "soon REST.GET.OBJECT key 5", "not a time"),
    ("object store", 2, "12 REST.GET.OBJECT key", "3 fields"),
    ("object store", 2, "12 GET key 5", "not an operation"),
    ("object store", 2, "12 REST.GET.OBJECT key 5 " + "x" * MAX_LINE_BYTES, "longer than"),
    ("azure", 3, "1,2", "2 fields"),
    ("azure", 3, "7,reg,user,app,call,key,BlockBlob,tag,-1,True,False,when", "cannot be -1"),
    ("azure", 3, "7,reg,user,app,call,key,BlockBlob,tag,5,maybe,False,when", "neither true nor false"),
    ("azure", 3, "inf,reg,user,app,call,key,BlockBlob,tag,5,True,False,when", "not a time"),
    ("azure", 3, "7,reg,user,app,call,,BlockBlob,tag,5,True,False,when", "blob's name is empty"),
    ("json lines", 2, '{"host": "dc11', "not JSON"),
    ("json lines", 2, '{"host": "dc11"', "not JSON"),
    ("json lines", 2, "}}", "not JSON"),
    ("json lines", 2, '{"host": 1}', "lacks http.request.method"),
    ("json lines", 2, json.dumps(record(REQUESTS[1], **{"http.response.written": -3})), "cannot be -3"),
    ("json lines", 2, json.dumps(record(REQUESTS[1], **{"http.response.written": None})), "not a size"),
    ("json lines", 2, json.dumps(record(REQUESTS[1], timestamp=17)), "not a time"),
    ("json lines", 2, '{"a":' * 10_000, "not JSON"),
    ("json lines", 2, '{"a": "' + "x" * 3 * MAX_LINE_BYTES + '"}', "not JSON|lacks"),
]


@pytest.mark.parametrize(("name", "line", "by", "reason"), DAMAGE)
def test_a_damaged_line_is_named_counted_and_costs_only_itself(
    tmp_path: Path, name: str, line: int, by: str, reason: str
) -> None:
    trace = tmp_path / "t"
    trace.write_text(broken(TEXTS[name][0](REQUESTS), line, by))
    problems = TraceProblems()
    assert [r.key for r in open_trace(trace, problems=problems)] == [REQUESTS[0].key, REQUESTS[2].key]
    assert problems.n_malformed == 1
    assert problems.first[0].line == line
    with pytest.raises(TraceError, match=rf"line {line}: .*({reason})"):
        list(open_trace(trace, strict=True))


def test_json_damage_inside_a_line_of_many_records_costs_only_its_record(tmp_path: Path) -> None:
    trace = tmp_path / "t"
    trace.write_text(json_one_line(REQUESTS).replace('"http.response.written": 20000000', '"http.response.written": x'))
    problems = TraceProblems()
    assert len(list(open_trace(trace, problems=problems))) == 2
    assert problems.n_malformed == 1


@pytest.mark.parametrize("shift", range(0, 60, 7))
def test_json_records_may_lie_across_the_edges_of_what_is_read_at_once(tmp_path: Path, shift: int) -> None:
    many = [Request(timestamp_s=i / 100, key=f"k{i}", size_bytes=i) for i in range(5900)]
    trace = tmp_path / "t"
    trace.write_text("[" + " " * shift + json_one_line(many)[1:])
    assert list(open_trace(trace, strict=True)) == many


@pytest.mark.parametrize("name", TEXTS)
def test_time_that_goes_back_is_counted_and_stops_only_a_strict_run(tmp_path: Path, name: str) -> None:
    trace = tmp_path / "t"
    trace.write_text(TEXTS[name][0]([REQUESTS[0], REQUESTS[2], REQUESTS[1]]))
    problems = TraceProblems()
    assert [r.timestamp_s for r in open_trace(trace, problems=problems)] == [0.0, 61.25, 61.25]
    assert problems.n_out_of_order == 1
    with pytest.raises(TraceError, match=r"time goes back by 59\.750 s"):
        list(open_trace(trace, strict=True))


def test_what_is_no_use_to_a_cache_is_skipped_by_reason(tmp_path: Path) -> None:
    trace = tmp_path / "t"
    trace.write_text("1 REST.HEAD.OBJECT a 5\n2 REST.DELETE.OBJECT a\n3 REST.GET.OBJECT a 5\n4 REST.GET.BUCKET a 5\n")
    problems = TraceProblems(strict=True)
    assert len(list(open_trace(trace, problems=problems))) == 1
    assert problems.skipped == {
        "operation REST.HEAD.OBJECT": 1,
        "operation REST.DELETE.OBJECT": 1,
        "operation REST.GET.BUCKET": 1,
    }


HEADERS = {
    "timestamp,http.request.method,host": "header lacks http.request.uri, http.response.status, http.response.written",
    "Timestamp(ms),AnonBlobName,Read,Write": "header lacks BlobBytes",
    "AnonBlobName,BlobBytes,Read,Write": "header lacks Timestamp",
}


@pytest.mark.parametrize(("header", "reason"), HEADERS.items())
def test_missing_columns_are_named(tmp_path: Path, header: str, reason: str) -> None:
    trace = tmp_path / "t"
    trace.write_text(header + "\n1,2,3\n")
    with pytest.raises(TraceError, match=reason):
        list(open_trace(trace))


def test_a_foreign_parquet_file_is_refused_by_its_columns(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    trace = tmp_path / "t"
    pq.write_table(pa.table({"key": ["a"], "when": [1]}), trace)
    with pytest.raises(TraceError, match="lacks column timestamp_us, size_bytes, method"):
        list(open_trace(trace))


def test_bad_rows_of_a_parquet_file_are_counted(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    trace = tmp_path / "t"
    columns = {
        "timestamp_us": [0, 1, None, 3],
        "key": ["a", "b", "c", "d"],
        "size_bytes": [5, -1, 5, 5],
        "method": ["GET"] * 4,
    }
    pq.write_table(pa.table(columns), trace)
    problems = TraceProblems()
    assert [r.key for r in open_trace(trace, problems=problems)] == ["a", "d"]
    assert [p.line for p in problems.first] == [2, 3]


@pytest.mark.parametrize("kept", [10, 1000, -3])
def test_a_truncated_parquet_file_is_an_error(tmp_path: Path, kept: int) -> None:
    trace = tmp_path / "t"
    write_parquet([Request(timestamp_s=i, key=str(i * i), size_bytes=i) for i in range(1000)], trace)
    trace.write_bytes(trace.read_bytes()[:kept])
    with pytest.raises(TraceError, match="damaged or truncated"):
        list(open_trace(trace))


def test_damage_inside_a_parquet_file_is_an_error(tmp_path: Path) -> None:
    trace = tmp_path / "t"
    write_parquet([Request(timestamp_s=i, key=str(i * i), size_bytes=i) for i in range(1000)], trace)
    data = bytearray(trace.read_bytes())
    data[4:1500] = b"\xff" * 1496
    trace.write_bytes(bytes(data))
    with pytest.raises(TraceError, match=r"[Dd]amaged"):
        list(open_trace(trace))


@pytest.mark.parametrize("name", TEXTS)
def test_a_truncated_gzip_is_an_error_whatever_it_holds(tmp_path: Path, name: str) -> None:
    many = [Request(timestamp_s=i, key=f"{i * 7919 % 100_003:x}", size_bytes=i * i) for i in range(2000)]
    packed = gzip.compress(TEXTS[name][0](many).encode())
    trace = tmp_path / "t"
    trace.write_bytes(packed[: len(packed) * 2 // 3])
    with pytest.raises(TraceError, match="gzip stream breaks off"):
        list(open_trace(trace))


NO_TRACES = {
    b"": "empty",
    b"\n\n": "empty lines",
    b"what is this\n": "not a trace of a known format",
    b"\x28\xb5\x2f\xfd rest": "packed by zstd",
    b"BZh91AY": "packed by bzip2",
    b"[]": "holds no request",
    b"\x1f\x8b": "gzip",
    bytes(257) + b"ustar" + bytes(300): "tar archive",
    gzip.compress(b"ab" + bytes(255) + b"ustar\n" + bytes(300)): "tar archive",
}


@pytest.mark.parametrize(("data", "reason"), NO_TRACES.items(), ids=NO_TRACES.values())
def test_what_is_no_trace_is_refused_with_advice(tmp_path: Path, data: bytes, reason: str) -> None:
    trace = tmp_path / "t.csv"
    trace.write_bytes(data)
    with pytest.raises(TraceError, match=reason):
        list(open_trace(trace))


@pytest.mark.parametrize("name", [*TEXTS, "parquet"])
def test_memory_does_not_grow_with_the_length(tmp_path: Path, name: str) -> None:
    trace = tmp_path / "t"
    block = [Request(timestamp_s=0, key=f"k{i}", size_bytes=i) for i in range(12_000)]
    if name == "parquet":
        write_parquet(block, trace)
    else:
        trace.write_text(TEXTS[name][0](block))
    del block
    requests = open_trace(trace)
    assert len(list(islice(requests, 3_000))) == 3_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in requests) == 9_000
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1_500_000  # were they kept: 1,640,000 at least
