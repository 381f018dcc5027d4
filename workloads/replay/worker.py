"""One worker of a replay: it serves its part of the trace, on time, and says what came of each request.

A :class:`Worker` runs in any process; on a Ray cluster it is an actor (see :mod:`workloads.replay.fleet`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from infiniray.errors import InfiniRayError
from workloads.backing import DirectoryStore, GeneratedOrigin, Origin, Source
from workloads.lookaside import Kind, LookAside, Outcome
from workloads.replay.results import OutcomeName, Result, table_of
from workloads.replay.schedule import OpenLoop, Pace
from workloads.replay.targets import Target, TargetSpec
from workloads.replay.targets.s3 import S3Spec, S3Store
from workloads.trace import Request

__all__ = ["BackingSpec", "Worker", "WorkerSpec"]

WRONG_BYTES = "WrongBytes"  #: the ``error`` of a request whose value differed from what was stored


@dataclass(frozen=True, slots=True, kw_only=True)
class BackingSpec:
    """The backing store behind the cache: a directory that all workers see, a place in S3, or with neither of them
    bytes made up on the spot (:class:`workloads.backing.GeneratedOrigin`)."""

    directory: Path | None = None
    s3: S3Spec | None = None

    def open(self, seed: int) -> Source:
        """Raises OSError or TargetFailed if the store cannot be reached."""
        if self.directory is not None:
            return Origin(DirectoryStore(self.directory), seed=seed)
        if self.s3 is not None:
            return Origin(S3Store(self.s3), seed=seed)
        return GeneratedOrigin(seed=seed)

    def __str__(self) -> str:
        if self.directory is not None:
            return f"directory {self.directory}"
        return f"s3://{self.s3.bucket}/{self.s3.prefix}" if self.s3 is not None else "bytes made up on the spot"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSpec:
    """What every worker of a replay does. ``n_outstanding``: requests under way at once, in each worker.

    ``preload``: before the replay begins, store every object that the target does not have, so that there are no first
    misses; what a store (not a cache) is measured with.
    """

    target: TargetSpec
    backing: BackingSpec
    speed_up: float = 1.0
    n_outstanding: int = 32
    preload: bool = False
    seed: int = 0


class Worker:
    """I replay one part of a trace.

    Args:
        number: which worker I am; it stands in my results.
        clock_s: what latencies are measured by.
    """

    def __init__(self, spec: WorkerSpec, number: int, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        """Raises InfiniRayError or OSError if the target or the backing store cannot be reached."""
        self._spec = spec
        self._number = number
        self._clock_s = clock_s
        self._source = spec.backing.open(spec.seed)
        self._target: Target = spec.target.open()
        self._lookaside = LookAside(self._target, self._source, clock_s=clock_s)
        self._keys: set[str] = set()  # that may be stored
        self._loop: OpenLoop[Result] | None = None
        self._lock = threading.Lock()
        self._is_stopped = False

    def replay(self, requests: Iterable[Request], *, begins_in_s: float = 0.0) -> Iterator[pa.Table]:
        """Replay, beginning in so many seconds: tables of :data:`~workloads.replay.results.REQUESTS`, about one a
        second. An empty one says that time goes by.

        Raises:
            TraceError: the trace is damaged.
        """
        pace = Pace(began_s=self._clock_s() + begins_in_s, speed_up=self._spec.speed_up)
        loop = OpenLoop(
            pace,
            lambda request: self._serve(request, pace),
            n_outstanding=self._spec.n_outstanding,
            clock_s=self._clock_s,
        )
        with self._lock:
            self._loop = loop
            if self._is_stopped:
                loop.stop()
        for results in loop.results(requests):
            yield table_of(results)

    def stop(self) -> None:
        """No more requests; from another thread."""
        with self._lock:
            self._is_stopped = True
            if self._loop is not None:
                self._loop.stop()

    def preload(self, requests: Iterable[Request]) -> Iterator[int]:
        """Store every object of ``requests`` that the target does not have: the bytes of one after the other.

        Raises:
            InfiniRayError: the target failed.
            OSError: the backing store failed.
        """
        seen: set[str] = set()
        for request in requests:
            if self._is_stopped:
                return
            if request.key in seen:
                continue
            seen.add(request.key)
            outcome = self._lookaside.request(Request(timestamp_s=0.0, key=request.key, size_bytes=request.size_bytes))
            if outcome.faults:
                raise outcome.faults[0]
            self._keys.add(request.key)
            yield outcome.size_bytes

    def clear(self) -> int:
        """Delete what I have stored; how many objects that were. What the target refuses to delete stays."""
        n_deleted = 0
        while self._keys:
            try:
                self._target.delete(self._keys.pop())
                n_deleted += 1
            except InfiniRayError:
                continue
        return n_deleted

    def close(self) -> None:
        """Let go of connections."""
        self._target.close()

    def _serve(self, request: Request, pace: Pace) -> Result:
        self._keys.add(request.key)
        due_s = pace.due_s(request)
        began_s = self._clock_s()
        try:
            outcome = self._lookaside.request(request)
        except OSError as error:  # of the backing store: the caller got nothing, after so long
            ended_s = self._clock_s()
            return self._result(
                request, pace, ended_s - due_s, ended_s - began_s, OutcomeName.ERROR, error=type(error).__name__
            )
        return self._result(
            request,
            pace,
            outcome.began_s + outcome.latency_s - due_s,
            outcome.latency_s,
            _name(outcome),
            error=_error(outcome),
            insert_s=outcome.insert_s,
            size_bytes=outcome.size_bytes,
        )

    def _result(
        self,
        request: Request,
        pace: Pace,
        latency_s: float,
        service_s: float,
        outcome: OutcomeName,
        *,
        error: str | None,
        insert_s: float | None = None,
        size_bytes: int | None = None,
    ) -> Result:
        return Result(
            request_s=request.timestamp_s,
            intended_s=pace.intended_s(request),
            latency_s=latency_s,
            service_s=service_s,
            insert_s=insert_s,
            size_bytes=request.size_bytes if size_bytes is None else size_bytes,
            key=request.key,
            op=request.method.value.lower(),
            outcome=outcome,
            error=error,
            system=self._spec.target.system,
            worker=self._number,
        )


def _name(outcome: Outcome) -> OutcomeName:
    """A GET that the target failed is an error, though the backing store served it; a failed insert alone is not."""
    if outcome.wrong:
        return OutcomeName.ERROR
    if outcome.kind is Kind.PUT:
        return OutcomeName.ERROR if outcome.faults else OutcomeName.STORED
    n_insert_faults = 1 if outcome.kind is not Kind.HIT and outcome.insert_s is None else 0
    return OutcomeName.ERROR if len(outcome.faults) > n_insert_faults else OutcomeName(outcome.kind.value)


def _error(outcome: Outcome) -> str | None:
    if outcome.wrong:
        return WRONG_BYTES
    return type(outcome.faults[0]).__name__ if outcome.faults else None
