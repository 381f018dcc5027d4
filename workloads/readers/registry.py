"""The IBM Container Registry trace as CSV: two unnamed index columns, then the ten fields of its JSON records.

Format and statistics: Anwar et al., FAST'18; the CSV form is the one that the InfiniCache authors replay. The key of
an object is the request's URI, as in their replayer.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from workloads.errors import TraceError
from workloads.readers.lines import MAX_LINE_BYTES, numbered_lines
from workloads.trace import Method, Request, TraceProblems

__all__ = ["COLUMNS", "read_registry"]

#: the header as published; only five of these are needed
COLUMNS = (
    "",
    "Unnamed: 0",
    "host",
    "http.request.duration",
    "http.request.method",
    "http.request.remoteaddr",
    "http.request.uri",
    "http.request.useragent",
    "http.response.status",
    "http.response.written",
    "id",
    "timestamp",
)


class _Malformed(Exception):
    """A line that does not hold a request; the message says why."""


class _Skipped(Exception):
    """A good line that is no use to a cache; the message is the reason it is counted under."""


class _Places(NamedTuple):
    """Column numbers of the needed fields, and how many columns a line has."""

    method: int
    uri: int
    status: int
    written: int
    timestamp: int
    n_columns: int


class _Row(NamedTuple):
    when: datetime
    key: str
    size_bytes: int
    method: Method


def read_registry(
    path: str | Path, *, strict: bool = False, problems: TraceProblems | None = None
) -> Iterator[Request]:
    """Requests of the registry trace at ``path``, ``.csv`` or gzip by content, in constant memory.

    Malformed lines are left out and lines that go back in time are kept at their predecessor's time; both are
    counted in ``problems``, with their line numbers. Other methods than GET and PUT and other answers than 2xx are
    left out and counted as skipped.

    Raises (while iterating):
        TraceError: the file is empty, lacks a needed column, is truncated gzip or holds no request; with ``strict``,
            any malformed line.
        OSError: the file cannot be read.
    """
    path = Path(path)
    found = problems if problems is not None else TraceProblems()
    found.strict = found.strict or strict
    lines = numbered_lines(path)
    places = _header(path, lines)
    start: datetime | None = None
    last_s = 0.0
    for number, line in lines:
        try:
            row = _parse(line, places)
        except _Malformed as reason:
            found.malformed(str(path), number, str(reason))
            continue
        except _Skipped as reason:
            found.skipped[str(reason)] += 1
            continue
        start = start or row.when
        timestamp_s = (row.when - start).total_seconds()
        if timestamp_s < last_s:
            found.out_of_order(str(path), number, last_s - timestamp_s)
        last_s = max(last_s, timestamp_s)
        yield Request(timestamp_s=last_s, key=row.key, size_bytes=row.size_bytes, method=row.method)
    if start is None:
        raise TraceError(path=str(path), line=1, detail=_no_requests(found))


def _no_requests(found: TraceProblems) -> str:
    detail = f"no request follows the header ({found.n_malformed} malformed, {found.skipped.total()} skipped lines)"
    return detail + (f"; first problem, line {found.first[0].line}: {found.first[0].detail}" if found.first else "")


def _header(path: Path, lines: Iterator[tuple[int, str]]) -> _Places:
    _, line = next(lines, (0, ""))
    if not line.strip():
        raise TraceError(path=str(path), line=1, detail="the file is empty, or begins with an empty line")
    try:
        names = _split(line)
    except _Malformed as reason:
        raise TraceError(path=str(path), line=1, detail=f"not a CSV header: {reason}") from None
    needed = {
        "method": "http.request.method",
        "uri": "http.request.uri",
        "status": "http.response.status",
        "written": "http.response.written",
        "timestamp": "timestamp",
    }
    if missing := [name for name in needed.values() if name not in names]:
        detail = f"not a registry trace: the header lacks {', '.join(missing)}"
        raise TraceError(path=str(path), line=1, detail=detail)
    return _Places(**{field: names.index(name) for field, name in needed.items()}, n_columns=len(names))


def _split(line: str) -> list[str]:
    """The fields of one line. Line by line, so that a stray quote spoils its own line and not those that follow."""
    if len(line) >= MAX_LINE_BYTES:
        raise _Malformed(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error as error:
        raise _Malformed(f"not CSV: {error}") from None


def _parse(line: str, places: _Places) -> _Row:
    fields = _split(line)
    if len(fields) != places.n_columns:
        raise _Malformed(f"{len(fields)} fields instead of {places.n_columns}")
    method = _method(fields[places.method])
    _check_status(fields[places.status])
    key = fields[places.uri]
    if not key or "\ufffd" in key:
        raise _Malformed("the URI is empty or not UTF-8")
    return _Row(_when(fields[places.timestamp]), key, _size(fields[places.written]), method)


def _method(text: str) -> Method:
    try:
        return Method(text)
    except ValueError:
        pass
    if text.isalpha() and text.isupper():
        raise _Skipped(f"method {text}")
    raise _Malformed(f"not an HTTP method: {text[:40]!r}")


def _check_status(text: str) -> None:
    digits = text.removesuffix(".0")  # pandas writes integer columns with gaps as floats
    if len(digits) != 3 or not digits.isascii() or not digits.isdigit():
        raise _Malformed(f"not an HTTP status: {text[:40]!r}")
    if digits[0] != "2":
        raise _Skipped(f"status {digits}")


def _size(text: str) -> int:
    try:
        size = float(text)
        n_bytes = int(size)
    except (ValueError, OverflowError):
        raise _Malformed(f"not a size in bytes: {text[:40]!r}") from None
    if size != n_bytes or size < 0:
        raise _Malformed(f"a size cannot be {text[:40]}")
    return n_bytes


def _when(text: str) -> datetime:
    """Python 3.10 reads neither ``Z`` nor fractions of other than three or six digits, hence the care."""
    whole, dot, fraction = text.removesuffix("Z").partition(".")
    try:
        when = datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}" if dot else whole)
    except ValueError:
        raise _Malformed(f"not a time: {text[:40]!r}") from None
    return when if when.tzinfo is None else when.astimezone(timezone.utc).replace(tzinfo=None)
