"""The IBM Container Registry trace as CSV: two unnamed index columns, then the ten fields of its JSON records.

Format and statistics: Anwar et al., FAST'18; the CSV form is the one that the InfiniCache authors replay. The key of
an object is the request's URI, as in their replayer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from workloads.errors import TraceError
from workloads.readers.fields import Malformed, Row, check_status, csv_fields, key_of, method_of, size_of, utc_us
from workloads.readers.following import follow
from workloads.readers.lines import numbered_lines
from workloads.trace import Request, TraceProblems

__all__ = ["COLUMNS", "NEEDED", "read_registry"]

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
NEEDED = {
    "method": "http.request.method",
    "uri": "http.request.uri",
    "status": "http.response.status",
    "written": "http.response.written",
    "timestamp": "timestamp",
}


class _Places(NamedTuple):
    """Column numbers of the needed fields, and how many columns a line has."""

    method: int
    uri: int
    status: int
    written: int
    timestamp: int
    n_columns: int

    def parse(self, line: str) -> Row:
        fields = csv_fields(line)
        if len(fields) != self.n_columns:
            raise Malformed(f"{len(fields)} fields instead of {self.n_columns}")
        method = method_of(fields[self.method])
        check_status(fields[self.status])
        return Row(
            at_us=utc_us(fields[self.timestamp]),
            key=key_of(fields[self.uri], "URI"),
            size_bytes=size_of(fields[self.written]),
            method=method,
        )


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
    yield from follow(path, lines, places.parse, found)


def _header(path: Path, lines: Iterator[tuple[int, str]]) -> _Places:
    _, line = next(lines, (0, ""))
    if not line.strip():
        raise TraceError(path=str(path), line=1, detail="the file is empty, or begins with an empty line")
    try:
        names = csv_fields(line)
    except Malformed as reason:
        raise TraceError(path=str(path), line=1, detail=f"not a CSV header: {reason}") from None
    if missing := [name for name in NEEDED.values() if name not in names]:
        detail = f"not a registry trace: the header lacks {', '.join(missing)}"
        raise TraceError(path=str(path), line=1, detail=detail)
    return _Places(**{field: names.index(name) for field, name in NEEDED.items()}, n_columns=len(names))
