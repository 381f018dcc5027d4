"""The workers of a replay as Ray actors: spread over the cluster, begun at one time, their results collected here."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

import pyarrow as pa
import ray
import ray.exceptions

from infiniray.errors import InfiniRayError
from workloads.errors import ReplayError
from workloads.replay.partition import Part, requests_of
from workloads.replay.worker import Worker, WorkerSpec

__all__ = ["Fleet", "n_ray_nodes"]

T = TypeVar("T")

#: Until every worker has a process, has imported what it needs and reached its target.
_READY_S = 120.0
#: Between the word to begin and the first request, so that the word reaches all in time.
_LEAD_S = 0.5
#: A worker says something every second, if only that it lives.
_SILENCE_S = 60.0
_CLEAR_S = 300.0


class _WorkerActor:
    """A :class:`Worker` in a process of its own. Its targets open in a method, whose errors come back typed."""

    def __init__(self, spec: WorkerSpec, number: int) -> None:
        self._spec = spec
        self._number = number
        self._worker: Worker | None = None

    def ready(self) -> None:
        self._worker = Worker(self._spec, self._number)

    def preload(self, tables: list[Any]) -> Iterator[int]:
        yield from self._opened.preload(requests_of(map(_fetched, tables)))

    def replay(self, tables: list[Any], begin_at_s: float) -> Iterator[pa.Table]:
        """``begin_at_s``: by the wall clock, which the nodes of a cluster share closely enough."""
        requests = requests_of(map(_fetched, tables))
        yield from self._opened.replay(requests, begins_in_s=begin_at_s - time.time())

    def stop(self) -> None:
        self._opened.stop()

    def pid(self) -> int:
        return os.getpid()

    def clear(self) -> int:
        return self._opened.clear()

    @property
    def _opened(self) -> Worker:
        assert self._worker is not None, "ready() comes first"
        return self._worker


def _fetched(ref: Any) -> pa.Table:
    return ray.get(ref, timeout=_SILENCE_S)


class Fleet:
    """I am responsible for the workers of one replay: they live as long as I am open.

    This process is connected to Ray already. Context manager; leaving it ends the workers, whatever they do.
    """

    def __init__(self, spec: WorkerSpec, n_workers: int) -> None:
        """Starts the workers and waits until they have reached their targets.

        Raises:
            InfiniRayError, OSError: a target or the backing store cannot be reached.
            ReplayError: a worker does not start.
        """
        # no CPUs: they wait most of the time; a thread besides the replay's hears stop()
        kind = ray.remote(_WorkerActor).options(num_cpus=0, max_concurrency=2, scheduling_strategy="SPREAD")
        self._actors: list[Any] = [kind.remote(spec, number) for number in range(n_workers)]
        try:
            self._gathered([actor.ready.remote() for actor in self._actors], _READY_S, "starting the workers")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def preload(self, parts: Sequence[Part[Any]]) -> Iterator[int]:
        """Store every object beforehand: the bytes of one after the other. Raises as :meth:`replay`."""
        streams = [
            actor.preload.options(num_returns="streaming").remote(part.tables)
            for actor, part in zip(self._actors, parts, strict=True)
        ]
        return _Streams(streams, "preloading")

    def replay(self, parts: Sequence[Part[Any]]) -> Iterator[pa.Table]:
        """Replay the parts: tables of results as they come in, from all workers.

        Raises:
            InfiniRayError, OSError: what a worker raised.
            ReplayError: a worker has died, or says nothing any more.
        """
        begin_at_s = time.time() + _LEAD_S
        streams = [
            actor.replay.options(num_returns="streaming").remote(part.tables, begin_at_s)
            for actor, part in zip(self._actors, parts, strict=True)
        ]
        return _Streams(streams, "replaying")

    def stop(self) -> None:
        """No more requests; the streams then end by themselves."""
        for actor in self._actors:
            actor.stop.remote()

    def clear(self) -> int:
        """Delete what the workers have stored; how many objects that were. Raises as :meth:`replay`."""
        return sum(self._gathered([actor.clear.remote() for actor in self._actors], _CLEAR_S, "clearing"))

    def worker_pids(self) -> list[int]:
        """Their process ids, each on its own node. Raises as :meth:`replay`."""
        return self._gathered([actor.pid.remote() for actor in self._actors], _READY_S, "asking the workers")

    def close(self) -> None:
        """End the workers."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _gathered(self, refs: list[Any], within_s: float, what: str) -> list[Any]:
        try:
            return list(ray.get(refs, timeout=within_s))
        except ray.exceptions.GetTimeoutError:
            raise ReplayError(detail=f"{what}: not done within {within_s:g} s") from None
        except (ray.exceptions.RayError, InfiniRayError, OSError) as error:
            raise _translated(error, what) from None


class _Streams(Iterator[T]):
    """What several streaming calls yield, as it comes. An object, not a generator: a Ctrl-C does not end it."""

    def __init__(self, streams: list[Any], what: str) -> None:
        self._streams = streams
        self._what = what

    def __next__(self) -> T:
        while self._streams:
            ready: list[Any] = ray.wait(self._streams, num_returns=1, timeout=_SILENCE_S)[0]
            if not ready:
                detail = f"{self._what}: {len(self._streams)} workers have said nothing for {_SILENCE_S:g} s"
                raise ReplayError(detail=detail)
            try:
                value: T = ray.get(next(ready[0]), timeout=_SILENCE_S)
                return value
            except StopIteration:
                self._streams.remove(ready[0])
            except (ray.exceptions.RayError, InfiniRayError, OSError) as error:
                raise _translated(error, self._what) from None
        raise StopIteration


def n_ray_nodes() -> int:
    """How many nodes of the Ray cluster live."""
    return sum(bool(node["Alive"]) for node in ray.nodes())  # type: ignore[no-untyped-call]


def _translated(error: BaseException, what: str) -> Exception:
    """What the worker itself raised, or a ReplayError."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, (InfiniRayError, OSError)) and not isinstance(cause, ray.exceptions.RayError):
        return cause
    text = str(cause).strip().splitlines() or [type(cause).__name__]
    return ReplayError(detail=f"{what}: {type(cause).__name__}: {text[-1]}")
