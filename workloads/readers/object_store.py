"""IBM Object Store traces (SNIA IOTTA): ``milliseconds REST.METHOD.OBJECT key size [first_byte last_byte]``.

A range read counts as a GET of the whole object, which is what a cache of whole objects would fetch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from workloads.readers.fields import Malformed, Row, Skipped, key_of, size_of, time_of
from workloads.readers.following import follow
from workloads.readers.lines import MAX_LINE_BYTES, numbered_lines
from workloads.trace import Method, Request, TraceProblems

__all__ = ["looks_like_object_store", "read_object_store"]

_SHAPE = re.compile(r"\d+ +REST\.[A-Z]+\.[A-Z]+(?: |$)")
_OPERATION = re.compile(r"REST\.([A-Z]+)\.([A-Z]+)")
_METHODS = {"GET": Method.GET, "PUT": Method.PUT}


def looks_like_object_store(line: str) -> bool:
    """Whether a line has the shape of this format."""
    return _SHAPE.match(line) is not None


def read_object_store(path: Path, problems: TraceProblems) -> Iterator[Request]:
    """Requests of the trace at ``path``, plain or gzip, in constant memory.

    Operations other than GET and PUT of an object (HEAD, COPY, DELETE) are counted as skipped.

    Raises (while iterating):
        TraceError: the file is truncated gzip or holds no request; in strict mode, any malformed line.
        OSError: the file cannot be read.
    """
    yield from follow(path, numbered_lines(path), _parse, problems)


def _parse(line: str) -> Row:
    if len(line) >= MAX_LINE_BYTES:
        raise Malformed(f"longer than {MAX_LINE_BYTES} bytes")
    fields = line.split()
    if len(fields) < 3:
        raise Malformed(f"{len(fields)} fields instead of 4 or 6")
    operation = _OPERATION.fullmatch(fields[1])
    if operation is None:
        raise Malformed(f"not an operation: {fields[1][:40]!r}")
    method = _METHODS.get(operation[1])
    if method is None or operation[2] != "OBJECT":
        raise Skipped(f"operation {fields[1][:40]}")
    if len(fields) not in (4, 6):
        raise Malformed(f"{len(fields)} fields instead of 4 or 6")
    return Row(
        at_us=time_of(fields[0], unit_us=1000),
        key=key_of(fields[2], "key"),
        size_bytes=size_of(fields[3]),
        method=method,
    )
