"""What a trace is made of, whatever file it came from."""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from workloads.errors import TraceError

__all__ = ["Method", "Problem", "Request", "TraceProblems"]

#: 1990 and 2100 in microseconds since 1970: what lies outside counts from something else
_CALENDAR_US = (631_152_000_000_000, 4_102_444_800_000_000)


class Method(enum.Enum):
    """What a request asks for."""

    GET = "GET"
    PUT = "PUT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request of a trace.

    ``timestamp_s`` counts from the first request of the trace and never decreases from one request to the next.
    """

    timestamp_s: float
    key: str
    size_bytes: int
    method: Method = Method.GET


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One line of a trace that could not be taken as it stands; ``line`` counts from 1."""

    line: int
    detail: str


@dataclass(slots=True, kw_only=True)
class TraceProblems:
    """I collect what a reader found wrong with a trace.

    All problems are counted; only the first ``keep`` are kept, so that my size does not grow with the trace.
    Lines that are in order but no use to a cache (a HEAD, a 404) are counted by reason in ``skipped``. ``first_us`` is
    what the file's own clock says at the first request, since requests themselves count from there.
    """

    strict: bool = False
    keep: int = 20
    n_malformed: int = 0
    n_out_of_order: int = 0
    first: list[Problem] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    first_us: int | None = None

    @property
    def begins(self) -> datetime | None:
        """The first request's time, UTC; None where the file's clock is no calendar's."""
        if self.first_us is None or not _CALENDAR_US[0] <= self.first_us < _CALENDAR_US[1]:
            return None
        return datetime.fromtimestamp(self.first_us / 1e6, timezone.utc)

    def malformed(self, path: str, line: int, detail: str) -> None:
        """A line that the reader leaves out.

        Raises:
            TraceError: in strict mode.
        """
        self.n_malformed += 1
        self._note(path, line, detail)

    def out_of_order(self, path: str, line: int, back_s: float) -> None:
        """A line whose time lies ``back_s`` before its predecessor's; the reader keeps it, at its predecessor's time.

        Raises:
            TraceError: in strict mode.
        """
        self.n_out_of_order += 1
        self._note(path, line, f"time goes back by {back_s:.3f} s")

    def to_json_dict(self) -> dict[str, Any]:
        """The counts, and the first problems with their line numbers."""
        return {
            "malformed_lines": self.n_malformed,
            "out_of_order_lines": self.n_out_of_order,
            "skipped_lines": dict(sorted(self.skipped.items())),
            "first": [{"line": problem.line, "detail": problem.detail} for problem in self.first],
        }

    def _note(self, path: str, line: int, detail: str) -> None:
        if self.strict:
            raise TraceError(path=path, line=line, detail=detail)
        if len(self.first) < self.keep:
            self.first.append(Problem(line=line, detail=detail))
