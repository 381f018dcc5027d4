"""Which format a trace has, told by what is in the file and never by its name, and the one way to open it."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from workloads.errors import TraceError
from workloads.readers import azure, registry
from workloads.readers.azure import read_azure
from workloads.readers.fields import Malformed, csv_fields
from workloads.readers.lines import decompressed, numbered_lines
from workloads.readers.object_store import looks_like_object_store, read_object_store
from workloads.readers.parquet import PARQUET_MAGIC, read_parquet
from workloads.readers.registry import read_registry
from workloads.readers.registry_json import read_registry_json
from workloads.trace import Request, TraceProblems

__all__ = ["TraceFormat", "open_trace", "trace_format"]

#: a trace without a header may begin with this many lines that are damaged
_N_FIRST_LINES = 20
#: first bytes of what people take for a trace, and what to do about it
_NOT_TRACES = {
    b"\x28\xb5\x2f\xfd": "it is packed by zstd; unpack it first",
    b"BZh": "it is packed by bzip2; unpack it first",
    b"\xfd7zXZ": "it is packed by xz; unpack it first",
    b"PK\x03\x04": "it is a ZIP archive; unpack it first",
}
_TAR_MAGIC_AT = 257


class TraceFormat(enum.Enum):
    """The formats that are read; the values are for people."""

    REGISTRY_CSV = "IBM Container Registry, CSV"
    REGISTRY_JSON = "IBM Container Registry, JSON"
    OBJECT_STORE = "IBM Object Store"
    AZURE_BLOBS = "Azure Functions blob accesses, CSV"
    PARQUET = "InfiniRay compact trace, Parquet"


def open_trace(path: str | Path, *, strict: bool = False, problems: TraceProblems | None = None) -> Iterator[Request]:
    """Requests of the trace at ``path`` in order of time, in constant memory, whichever known format it has.

    What is wrong with the file is counted in ``problems``, with line numbers; lines that hold no request are left out.

    Raises (while iterating):
        TraceError: the file is empty, of no known format, lacks a needed column, is truncated or damaged or holds no
            request; with ``strict``, any malformed line or one that goes back in time.
        OSError: the file cannot be read.
    """
    path = Path(path)
    found = problems if problems is not None else TraceProblems()
    found.strict = found.strict or strict
    shape = trace_format(path)
    if shape is TraceFormat.REGISTRY_CSV:
        yield from read_registry(path, problems=found)
    elif shape is TraceFormat.REGISTRY_JSON:
        yield from read_registry_json(path, found)
    elif shape is TraceFormat.OBJECT_STORE:
        yield from read_object_store(path, found)
    elif shape is TraceFormat.AZURE_BLOBS:
        yield from read_azure(path, found)
    else:
        yield from read_parquet(path, found)


def trace_format(path: str | Path) -> TraceFormat:
    """The format of the trace at ``path``, from its first bytes and lines.

    Raises:
        TraceError: the file is empty, of no known format, or gzip that breaks off at once.
        OSError: the file cannot be read.
    """
    path = Path(path)
    with path.open("rb") as raw:
        magic = raw.read(8)
    if magic.startswith(PARQUET_MAGIC):
        return TraceFormat.PARQUET
    first = [line for _, line in islice(numbered_lines(path), _N_FIRST_LINES)]
    if not any(line.strip() for line in first):
        what = "is empty" if not first else "begins with empty lines"
        raise TraceError(path=str(path), line=1, detail=f"the file {what}")
    shape = _of_text(first)
    if shape is None:
        raise TraceError(path=str(path), line=1, detail=_unknown(path))
    return shape


def _of_text(first: list[str]) -> TraceFormat | None:
    if next(line for line in first if line.strip()).lstrip()[0] in "[{":
        return TraceFormat.REGISTRY_JSON
    header = _header(first[0])
    # as many columns as needed, so that a header that lacks one is refused by its reader, which says which
    if sum(name in header for name in registry.NEEDED.values()) >= 2:
        return TraceFormat.REGISTRY_CSV
    if sum(name in header for name in azure.NEEDED.values()) >= 2:
        return TraceFormat.AZURE_BLOBS
    if any(looks_like_object_store(line) for line in first):
        return TraceFormat.OBJECT_STORE
    return None


def _header(line: str) -> list[str]:
    try:
        return csv_fields(line)
    except Malformed:
        return []


def _unknown(path: Path) -> str:
    with path.open("rb") as raw:
        beginning = decompressed(raw).read(_TAR_MAGIC_AT + 5)
    for magic, advice in _NOT_TRACES.items():
        if beginning.startswith(magic):
            return f"not a trace: {advice}"
    if beginning[_TAR_MAGIC_AT:] == b"ustar":
        return "not a trace: it is a tar archive; unpack it first"
    return f"not a trace of a known format; known are: {'; '.join(shape.value for shape in TraceFormat)}"
