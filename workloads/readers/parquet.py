"""The project's own compact format: Parquet with one row a request, written and read batch by batch.

Columns: ``timestamp_us`` (int64, from the first request), ``key`` (string), ``size_bytes`` (int64) and ``method``
(string, GET or PUT). Rows stand in order of time. What a batch holds bounds the memory; the length does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from workloads.errors import TraceError
from workloads.readers.fields import Malformed, Row, key_of, method_of, size_of
from workloads.readers.following import follow
from workloads.trace import Request, TraceProblems
from workloads.whole_file import whole_file

__all__ = ["PARQUET_MAGIC", "read_parquet", "write_parquet"]

PARQUET_MAGIC = b"PAR1"
_COLUMNS = ("timestamp_us", "key", "size_bytes", "method")
_ROWS_PER_GROUP = 1 << 16
_ROWS_PER_BATCH = 1 << 13


def read_parquet(path: Path, problems: TraceProblems) -> Iterator[Request]:
    """Requests of the trace at ``path``; a row that holds none is counted like a malformed line, rows from 1.

    Raises (while iterating):
        TraceError: the file is damaged or truncated, lacks a column or holds no request; in strict mode, any
            malformed row.
        OSError: the file cannot be read.
    """
    with path.open("rb") as raw:
        yield from follow(path, _rows(path, raw), _parse, problems)


def _rows(path: Path, raw: Any) -> Iterator[tuple[int, tuple[object, ...]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        file = pq.ParquetFile(raw, pre_buffer=False)
        if missing := [name for name in _COLUMNS if name not in file.schema_arrow.names]:
            raise TraceError(path=str(path), line=1, detail=f"not a trace: it lacks column {', '.join(missing)}")
        for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=list(_COLUMNS), use_threads=False):
            columns = [batch.column(batch.schema.get_field_index(name)).to_pylist() for name in _COLUMNS]
            for row in zip(*columns, strict=True):
                number += 1
                yield number, row
    except (pa.ArrowException, EOFError) as error:
        detail = f"damaged or truncated Parquet: {str(error).splitlines()[0]}"
        raise TraceError(path=str(path), line=number, detail=detail) from error
    except OSError as error:
        if error.errno is not None:
            raise
        # Arrow reports damage inside a page as an error of input without a number
        detail = f"damaged Parquet: {str(error).splitlines()[0]}"
        raise TraceError(path=str(path), line=number, detail=detail) from error


def _parse(row: tuple[object, ...]) -> Row:
    at_us, key, size_bytes, method = row
    if not isinstance(at_us, int):
        raise Malformed(f"not a time in whole microseconds: {at_us!r}")
    return Row(at_us=at_us, key=key_of(key, "key"), size_bytes=size_of(size_bytes), method=method_of(method))


def write_parquet(requests: Iterable[Request], path: str | Path) -> int:
    """Writes ``requests`` in the compact format and returns their number; holds no more than a row group of them.

    Times are rounded to microseconds. The file appears when it is complete, or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [("timestamp_us", pa.int64()), ("key", pa.string()), ("size_bytes", pa.int64()), ("method", pa.string())]
    )
    n = 0
    with (
        whole_file(path) as partial,
        partial.open("wb") as raw,
        pq.ParquetWriter(raw, schema, compression="zstd", **_ENCODINGS) as writer,
    ):
        coming = iter(requests)
        while group := list(islice(coming, _ROWS_PER_GROUP)):
            writer.write_table(pa.table(_columns(group), schema=schema))
            n += len(group)
    return n


#: times rise by little, which the delta encoding turns into a byte or two; the rest repeats, which a dictionary does
_ENCODINGS: dict[str, Any] = {
    "use_dictionary": ["key", "size_bytes", "method"],
    "column_encoding": {"timestamp_us": "DELTA_BINARY_PACKED"},
}


def _columns(group: list[Request]) -> dict[str, list[Any]]:
    return {
        "timestamp_us": [round(request.timestamp_s * 1e6) for request in group],
        "key": [request.key for request in group],
        "size_bytes": [request.size_bytes for request in group],
        "method": [request.method.value for request in group],
    }
