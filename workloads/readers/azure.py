"""Azure Functions blob accesses (Romero et al., SoCC'21): CSV, one read or write of a blob a line.

The key of an object is its anonymised name. A line that says both read and write counts as a read, which comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from workloads.errors import TraceError
from workloads.readers.fields import Malformed, Row, Skipped, csv_fields, key_of, size_of, time_of
from workloads.readers.following import follow
from workloads.readers.lines import numbered_lines
from workloads.trace import Method, Request, TraceProblems

__all__ = ["NEEDED", "read_azure"]

#: the time's column is ``Timestamp`` or ``Timestamp(ms)``; milliseconds in both
NEEDED = {"key": "AnonBlobName", "size": "BlobBytes", "read": "Read", "write": "Write"}
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


class _Places(NamedTuple):
    timestamp: int
    key: int
    size: int
    read: int
    write: int
    n_columns: int

    def parse(self, line: str) -> Row:
        fields = csv_fields(line)
        if len(fields) != self.n_columns:
            raise Malformed(f"{len(fields)} fields instead of {self.n_columns}")
        read, write = _truth(fields[self.read]), _truth(fields[self.write])
        if not read and not write:
            raise Skipped("neither read nor written")
        return Row(
            at_us=time_of(fields[self.timestamp], unit_us=1000),
            key=key_of(fields[self.key], "blob's name"),
            size_bytes=size_of(fields[self.size]),
            method=Method.GET if read else Method.PUT,
        )


def read_azure(path: Path, problems: TraceProblems) -> Iterator[Request]:
    """Requests of the trace at ``path``, plain or gzip, in constant memory.

    Raises (while iterating):
        TraceError: the header lacks a needed column, the file is truncated gzip or holds no request; in strict mode,
            any malformed line.
        OSError: the file cannot be read.
    """
    lines = numbered_lines(path)
    places = _header(path, lines)
    yield from follow(path, lines, places.parse, problems)


def _header(path: Path, lines: Iterator[tuple[int, str]]) -> _Places:
    _, line = next(lines, (0, ""))
    try:
        names = csv_fields(line)
    except Malformed as reason:
        raise TraceError(path=str(path), line=1, detail=f"not a CSV header: {reason}") from None
    times = [i for i, name in enumerate(names) if name in ("Timestamp", "Timestamp(ms)")]
    missing = [name for name in NEEDED.values() if name not in names] + ([] if times else ["Timestamp(ms)"])
    if missing:
        detail = f"not an Azure Functions blob trace: the header lacks {', '.join(missing)}"
        raise TraceError(path=str(path), line=1, detail=detail)
    places = {field: names.index(name) for field, name in NEEDED.items()}
    return _Places(timestamp=times[0], **places, n_columns=len(names))


def _truth(text: str) -> bool:
    try:
        return _TRUTH[text.strip().lower()]
    except KeyError:
        raise Malformed(f"neither true nor false: {text[:40]!r}") from None
