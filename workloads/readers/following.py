"""From numbered records of a file to requests in order of time: what is done with those that hold none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from workloads.errors import TraceError
from workloads.readers.fields import Malformed, Row, Skipped
from workloads.trace import Request, TraceProblems

__all__ = ["follow"]

R = TypeVar("R")


def follow(
    path: Path, records: Iterable[tuple[int, R]], parse: Callable[[R], Row], found: TraceProblems
) -> Iterator[Request]:
    """The requests that ``parse`` finds in ``records`` (line number, record), their time counted from the first one.

    A malformed record is left out and counted; one that goes back in time is kept, at its predecessor's time, and
    counted; a good one that is no use to a cache is counted as skipped.

    Raises (while iterating):
        TraceError: there is no request at all; in strict mode, a malformed record or one that goes back in time.
    """
    start_us: int | None = None
    last_us = 0
    for number, record in records:
        try:
            row = parse(record)
        except Malformed as reason:
            found.malformed(str(path), number, str(reason))
            continue
        except Skipped as reason:
            found.skipped[str(reason)] += 1
            continue
        if start_us is None:
            start_us = found.first_us = row.at_us
        at_us = row.at_us - start_us
        if at_us < last_us:
            found.out_of_order(str(path), number, (last_us - at_us) / 1e6)
        last_us = max(last_us, at_us)
        yield Request(timestamp_s=last_us / 1e6, key=row.key, size_bytes=row.size_bytes, method=row.method)
    if start_us is None:
        raise TraceError(path=str(path), line=1, detail=_no_requests(found))


def _no_requests(found: TraceProblems) -> str:
    detail = f"the file holds no request ({found.n_malformed} malformed, {found.skipped.total()} skipped lines)"
    return detail + (f"; first problem, line {found.first[0].line}: {found.first[0].detail}" if found.first else "")
