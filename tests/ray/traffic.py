"""Readers and writers that keep at a cache while things happen to it, and write down all they see."""

from __future__ import annotations

import itertools
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from history import Operation, Recorder
from stamps import identify, stamped

from infiniray import Cache

__all__ = ["TEST", "Load", "Traffic", "traffic", "work"]

#: The test itself, beside workers 1, 2, ...
TEST = 0
#: Ids of values: a worker's number times this, and a count.
_IDS_PER_WORKER = 1 << 20
#: An end for every worker, whatever happens to whoever is to stop it.
_MOST_OPERATIONS = 20_000
_WAIT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What each worker does: any verb on any key, at random."""

    keys: tuple[str, ...]
    #: of these, keys that are deleted too
    deleted: tuple[str, ...] = ()
    #: of values: some travel in the call, some through Ray's store
    sizes_bytes: tuple[int, ...] = (2_000, 200_000)
    #: of each operation
    deadline_s: float = 20.0
    seed: int = 0
    #: its appearance ends the work, in all processes
    stop: Path

    def marker(self, worker: int) -> Path:
        """Appears when the worker begins."""
        return self.stop.with_name(f"worker-{worker}")


def work(cache: Cache, worker: int, load: Load, *, on_operation: Callable[[], None] = lambda: None) -> list[Operation]:
    """One worker's life."""
    load.marker(worker).touch()
    recorder, rng = Recorder(worker), random.Random(f"{load.seed}/{worker}")
    ids = itertools.count(worker * _IDS_PER_WORKER)
    for _ in range(_MOST_OPERATIONS):
        if load.stop.exists():
            break
        _act(cache, recorder, rng, load, ids)
        on_operation()
    return recorder.operations


def _act(cache: Cache, recorder: Recorder, rng: random.Random, load: Load, ids: Iterator[int]) -> None:
    key, dice = rng.choice(load.keys), rng.random()
    if dice < 0.3:
        value = next(ids)
        words = stamped(value, rng.choice(load.sizes_bytes))
        recorder.put(key, value, lambda: cache.put(key, words, timeout=load.deadline_s))
    elif dice < 0.5 and key in load.deleted:
        recorder.delete(key, lambda: cache.delete(key, timeout=load.deadline_s))
    else:
        _read(cache, recorder, key, load.deadline_s)


def _read(cache: Cache, recorder: Recorder, key: str, deadline_s: float) -> None:
    recorder.get(key, lambda: identify(cache.get(key, timeout=deadline_s)))


def _start_task(cache: Cache, worker: int, load: Load) -> Any:
    """:func:`work` in a Ray task. Ray's workers do not know the folders of tests: what is sent is a local function, by
    value, which adds them."""
    folders, fields = list(sys.path), asdict(load)

    def run(cache: Cache) -> list[Operation]:
        sys.path += [folder for folder in folders if folder not in sys.path]
        import traffic

        return traffic.work(cache, worker, traffic.Load(**fields))

    return ray.remote(num_cpus=0.5, max_retries=0)(run).remote(cache)


class Traffic:
    """Workers in threads of this process and in Ray tasks."""

    def __init__(self, cache: Cache, load: Load, *, n_threads: int, n_tasks: int) -> None:
        self.load = load
        self._cache = cache
        self._n_operations = 0
        self._moved = threading.Condition()
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="traffic")
        self._working: list[Future[list[Operation]]] = [
            self._threads.submit(work, cache, 1 + i, load, on_operation=self._count) for i in range(n_threads)
        ]
        in_tasks = range(1 + n_threads, 1 + n_threads + n_tasks)
        self._tasks = [_start_task(cache, worker, load) for worker in in_tasks]
        self._markers = [load.marker(worker) for worker in in_tasks]
        self._wait_for_tasks()

    def proceed(self, n: int) -> None:
        """Wait until the threads have ended ``n`` more operations."""
        with self._moved:
            goal = self._n_operations + n
            moved = self._moved.wait_for(lambda: self._n_operations >= goal, timeout=_WAIT_S)
        assert moved, f"{n} operations did not end in {_WAIT_S:g} s"

    def end(self) -> list[Operation]:
        """Stop all workers and read every key once more, as worker 0: the whole history. Call it once."""
        self.load.stop.touch()
        histories = [future.result(_WAIT_S) for future in self._working]
        histories += ray.get(self._tasks, timeout=_WAIT_S)
        self._threads.shutdown()
        return list(itertools.chain(*histories, self._read_all()))

    def _read_all(self) -> list[Operation]:
        recorder = Recorder(TEST)
        for key in self.load.keys:
            _read(self._cache, recorder, key, self.load.deadline_s)
        return recorder.operations

    def _wait_for_tasks(self) -> None:
        """They begin seconds later than the threads, when Ray has started processes for them."""
        give_up_s = time.monotonic() + _WAIT_S
        while not all(marker.exists() for marker in self._markers):
            ray.get(ray.wait(self._tasks, timeout=0.05)[0])  # one that failed says why
            assert time.monotonic() < give_up_s, f"tasks did not begin within {_WAIT_S:g} s"

    def _count(self) -> None:
        with self._moved:
            self._n_operations += 1
            self._moved.notify_all()


@contextmanager
def traffic(cache: Cache, load: Load, *, n_threads: int = 4, n_tasks: int = 2) -> Iterator[Traffic]:
    """Traffic that has begun, in every worker; what is not stopped by the end is stopped then."""
    going = Traffic(cache, load, n_threads=n_threads, n_tasks=n_tasks)
    try:
        yield going
    finally:
        load.stop.touch()
