"""What clients saw: operations with their times and outcomes, recorded by threads and processes of one machine.

Times are of the machine's monotonic clock, which Linux shares among processes: histories of several can be joined.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

from stamps import Damaged

from infiniray.errors import InfiniRayError, KeyNotFound

__all__ = ["Operation", "Outcome", "Recorder", "Verb"]


class Verb(enum.Enum):
    PUT = "put"
    GET = "get"
    DELETE = "delete"


class Outcome(enum.Enum):
    OK = "ok"
    MISS = "miss"  # of a GET
    ERROR = "error"  # of a GET: it says nothing about the key
    INDETERMINATE = "indeterminate"  # of a PUT or DELETE: it may take effect at any later moment, or never


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call, as its caller saw it. ``value``: the id of what was written or read; None if what was read is none."""

    verb: Verb
    key: str
    invoked_ns: int
    returned_ns: int
    outcome: Outcome = Outcome.OK
    value: int | None = None
    worker: int = 0
    #: of a miss or an error: its type and message
    detail: str = ""
    #: of an error: whether it is one of the package's own, and says that the call may be made again
    is_retryable: bool = False

    @property
    def took_s(self) -> float:
        return (self.returned_ns - self.invoked_ns) / 1e9

    def __str__(self) -> str:
        what = f"{self.verb.value} {self.key}" + ("" if self.value is None else f" {self.value}")
        detail = f" ({self.detail})" if self.detail else ""
        times = f"{self.invoked_ns / 1e9:.6f}..{self.returned_ns / 1e9:.6f}"
        return f"[{times}] worker {self.worker}: {what} -> {self.outcome.value}{detail}"


class Recorder:
    """I am one worker's notebook: I make its calls one at a time, and keep what came of them. For one thread."""

    def __init__(self, worker: int = 0, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.worker = worker
        self.operations: list[Operation] = []
        self._clock_ns = clock_ns

    def put(self, key: str, value: int, act: Callable[[], object]) -> Operation:
        return self._record(Verb.PUT, key, act, value)

    def delete(self, key: str, act: Callable[[], object]) -> Operation:
        return self._record(Verb.DELETE, key, act, None)

    def get(self, key: str, act: Callable[[], int]) -> Operation:
        """``act`` returns the id of what it read, or raises :class:`~stamps.Damaged`."""
        return self._record(Verb.GET, key, act, None)

    def _record(self, verb: Verb, key: str, act: Callable[[], object], value: int | None) -> Operation:
        outcome, detail, is_retryable = Outcome.OK, "", False
        invoked_ns = self._clock_ns()
        try:
            answer = act()
        except Damaged as damage:
            returned_ns, detail = self._clock_ns(), str(damage)
        except Exception as error:
            returned_ns, outcome = self._clock_ns(), _outcome(verb, error)
            detail = f"{type(error).__name__}: {error}"
            is_retryable = isinstance(error, InfiniRayError) and error.retryable
        else:
            returned_ns = self._clock_ns()
            if verb is Verb.GET:
                assert isinstance(answer, int)
                value = answer
        operation = Operation(
            verb=verb, key=key, invoked_ns=invoked_ns, returned_ns=returned_ns, outcome=outcome, value=value,
            worker=self.worker, detail=detail, is_retryable=is_retryable,
        )  # fmt: skip
        self.operations.append(operation)
        return operation


def _outcome(verb: Verb, error: Exception) -> Outcome:
    if verb is not Verb.GET:
        return Outcome.INDETERMINATE
    return Outcome.MISS if isinstance(error, KeyNotFound) else Outcome.ERROR
