"""Tables of what came of a run, live or simulated, and the folder of Parquet files that they are kept in.

A run is a folder: ``run.json`` (what was run), ``requests.parquet``, and where they are known ``costs.parquet`` and
``events.parquet``. The report reads nothing else, so whoever writes these tables gets the same plots.
"""

from __future__ import annotations

import contextlib
import enum
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from workloads.errors import ResultsError
from workloads.whole_file import whole_file

__all__ = [
    "COSTS",
    "EVENTS",
    "REQUESTS",
    "OutcomeName",
    "Result",
    "Run",
    "RunInfo",
    "RunWriter",
    "TableWriter",
    "read_run",
    "read_table",
    "renamed",
    "table_of",
]

_ROWS_PER_GROUP = 20_000
_INFO, _REQUESTS, _COSTS, _EVENTS = "run.json", "requests.parquet", "costs.parquet", "events.parquet"


class OutcomeName(str, enum.Enum):
    """What came of a request."""

    HIT = "hit"
    MISS = "miss"
    RESET = "reset"  #: a miss for an object that was stored and is lost
    STORED = "stored"  #: of a PUT
    ERROR = "error"  #: the system failed or gave back other bytes than were stored; ``error`` names it


#: One row per request. Times in seconds: ``request_s`` since the trace's first request, ``intended_s`` and
#: ``latency_s`` of the replay (the latter from the intended start until the caller has the bytes), ``service_s`` the
#: part of it that the systems took, ``insert_s`` the insert after a miss (null: none, or it failed).
REQUESTS = pa.schema(
    [
        pa.field("request_s", pa.float64(), nullable=False),
        pa.field("intended_s", pa.float64(), nullable=False),
        pa.field("latency_s", pa.float64(), nullable=False),
        pa.field("service_s", pa.float64(), nullable=False),
        pa.field("insert_s", pa.float64()),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("op", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("system", pa.string(), nullable=False),
        pa.field("worker", pa.int32(), nullable=False),
    ]
)

#: What was spent: ``usd`` more for ``purpose`` at ``request_s`` (seconds of the trace).
COSTS = pa.schema(
    [
        pa.field("request_s", pa.float64(), nullable=False),
        pa.field("purpose", pa.string(), nullable=False),
        pa.field("usd", pa.float64(), nullable=False),
        pa.field("system", pa.string(), nullable=False),
    ]
)

#: What happened inside: ``n`` more of ``kind`` (repair, degraded read, reclaim) at ``request_s``.
EVENTS = pa.schema(
    [
        pa.field("request_s", pa.float64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("n", pa.int64(), nullable=False),
        pa.field("system", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One row of :data:`REQUESTS`."""

    request_s: float
    intended_s: float
    latency_s: float
    service_s: float
    size_bytes: int
    key: str
    op: str
    outcome: OutcomeName
    system: str
    worker: int
    insert_s: float | None = None
    error: str | None = None


def table_of(results: Iterable[Result]) -> pa.Table:
    """The rows as a table of schema :data:`REQUESTS`."""
    rows = list(results)
    columns = {name: [getattr(row, name) for row in rows] for name in REQUESTS.names}
    columns["outcome"] = [outcome.value for outcome in columns["outcome"]]
    columns["key"] = [_as_text(key) for key in columns["key"]]
    return pa.Table.from_pydict(columns, REQUESTS)


def _as_text(key: str) -> str:
    """A trace may hold what is no Unicode; Parquet holds nothing else."""
    return key.encode("utf-8", "backslashreplace").decode("utf-8")


class TableWriter:
    """I write tables of one schema to a Parquet file, in groups of rows, so that memory stays flat.

    Context manager. The file is whole once I am closed, also where an error closes me: what was there by then is in it.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self.n_rows = 0

    def __enter__(self) -> TableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, table: pa.Table) -> None:
        """Raises ValueError if the table has another schema."""
        if not table.schema.equals(self._schema):
            raise ValueError(f"a table of columns {table.schema.names} does not fit {self._schema.names}")
        self._waiting.append(table)
        self.n_rows += table.num_rows
        if sum(waiting.num_rows for waiting in self._waiting) >= _ROWS_PER_GROUP:
            self._flush()

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """The same, of rows as dictionaries."""
        self.write(pa.Table.from_pylist(rows, self._schema))

    def close(self) -> None:
        """Writes what is waiting, and the end of the file."""
        try:
            self._flush()
        finally:
            self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting.clear()


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """The table in a Parquet file.

    Raises:
        ResultsError: it is no Parquet file, or lacks columns of ``schema``, or they have other types.
        OSError: it cannot be read.
    """
    try:
        table = pq.read_table(path)
    except pa.ArrowInvalid as error:
        raise ResultsError(path=str(path), detail=f"not a Parquet file: {error}") from None
    if lacking := [name for name in schema.names if name not in table.schema.names]:
        raise ResultsError(path=str(path), detail=f"columns are lacking: {', '.join(lacking)}")
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise ResultsError(path=str(path), detail=f"a column has another type: {error}") from None


# ---------------------------------------------------------------- a run


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What was run. ``speed_up``: seconds of the trace per second of the run (a simulation that takes each request at
    its time says 1). ``notes`` are figures and remarks for people, shown in the report as they are."""

    system: str
    trace: str
    speed_up: float = 1.0
    kind: str = "live"  #: or "simulated"
    told_every_s: float = 0.0  #: how much of the trace one row of costs and events stands for
    notes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's tables; those that it does not have are empty."""

    info: RunInfo
    requests: pa.Table
    costs: pa.Table = field(default_factory=COSTS.empty_table)
    events: pa.Table = field(default_factory=EVENTS.empty_table)


class RunWriter:
    """I write a run's folder. Context manager; a run that breaks off leaves what it had, readable."""

    def __init__(self, folder: Path, info: RunInfo) -> None:
        """Makes the folder if need be. Raises OSError if that fails."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._info = info
        with contextlib.ExitStack() as stack:
            self.requests = stack.enter_context(TableWriter(folder / _REQUESTS, REQUESTS))
            self.costs = stack.enter_context(TableWriter(folder / _COSTS, COSTS))
            self.events = stack.enter_context(TableWriter(folder / _EVENTS, EVENTS))
            self._stack = stack.pop_all()
        self._write_info({})

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        if kind is not None:
            self.note({"broke off": f"{kind.__name__}: what came after is not in these figures"})

    def note(self, notes: Mapping[str, str]) -> None:
        """Adds to the run's notes."""
        self._write_info(notes)

    def _write_info(self, more: Mapping[str, str]) -> None:
        self._info.notes.update(more)
        with whole_file(self.folder / _INFO) as partial:
            partial.write_text(json.dumps(asdict(self._info), indent=1) + "\n")


def read_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        ResultsError: the folder does not hold a run, or a file of it is damaged.
        OSError: a file cannot be read.
    """
    if not (folder / _REQUESTS).is_file():
        raise ResultsError(path=str(folder), detail=f"not a run: there is no {_REQUESTS} in it")
    tables = {}
    for name, file, schema in (("costs", _COSTS, COSTS), ("events", _EVENTS, EVENTS)):
        if (folder / file).exists():
            tables[name] = read_table(folder / file, schema)
    return Run(info=_read_info(folder / _INFO), requests=read_table(folder / _REQUESTS, REQUESTS), **tables)


def renamed(run: Run, system: str) -> Run:
    """The same run under another name, so that it can stand beside one of the same system."""

    def with_name(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("system")
        return table.set_column(at, table.schema.field(at), pa.array([system] * table.num_rows, pa.string()))

    return Run(
        info=replace(run.info, system=system),
        requests=with_name(run.requests),
        costs=with_name(run.costs),
        events=with_name(run.events),
    )


def _read_info(path: Path) -> RunInfo:
    try:
        document = json.loads(path.read_text())
        known = {field.name for field in fields(RunInfo)}
        return RunInfo(**{name: value for name, value in document.items() if name in known})
    except FileNotFoundError:
        raise ResultsError(path=str(path), detail="the file is lacking") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ResultsError(path=str(path), detail=f"does not describe a run: {error}") from None
