"""Open-loop scheduling: requests start when the trace says, however slow the answers to earlier ones are.

A closed loop waits for an answer before it sends the next request, so a system that stalls is asked less while it is
slow, and the stall hides. Here every latency counts from the *intended* start: time that a request spends waiting for
its turn, because too many others are under way, is part of it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from workloads.trace import Request

__all__ = ["OpenLoop", "Pace"]

R = TypeVar("R")

_MAX_WAITING_RESULTS = 10_000  #: then requests wait, and their lateness shows


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """When requests are due: one at time ``t`` of the trace, ``t / speed_up`` seconds after ``began_s``.

    Raises:
        ValueError: the factor is not positive.
    """

    began_s: float  #: by the clock that the schedule goes by
    speed_up: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.speed_up < float("inf"):
            raise ValueError(f"a replay can be sped up by a positive factor, not by {self.speed_up}")

    def intended_s(self, request: Request) -> float:
        """Seconds from the start of the replay."""
        return request.timestamp_s / self.speed_up

    def due_s(self, request: Request) -> float:
        """The same as a reading of the clock."""
        return self.began_s + self.intended_s(request)


class _End:
    """Nothing comes after this."""


class OpenLoop(Generic[R]):
    """I start requests at their times, ``n_outstanding`` at once at most, and hand out what came of them.

    What is due while so many are under way waits for its turn; it is not dropped, and nothing queues up: the trace is
    read no further than the one request that waits.

    Args:
        serve: serves one request, in a thread of mine. What it raises ends the replay.
        clock_s, sleep: the clock, and how to let it go on; ``sleep`` may return early.
    """

    def __init__(
        self,
        pace: Pace,
        serve: Callable[[Request], R],
        *,
        n_outstanding: int,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        if n_outstanding < 1:
            raise ValueError(f"at least one request must be under way at a time, not {n_outstanding}")
        self._pace = pace
        self._serve = serve
        self._n_outstanding = n_outstanding
        self._turns = threading.Semaphore(n_outstanding)
        self._stopped = threading.Event()
        self._clock_s = clock_s
        self._sleep = sleep or self._stopped.wait
        self._done: queue.Queue[R | BaseException | _End] = queue.Queue(_MAX_WAITING_RESULTS)
        self._ended = False

    def stop(self) -> None:
        """No more requests start; those under way are finished and handed out. Safe to call from any thread."""
        self._stopped.set()

    def results(self, requests: Iterable[Request], *, every_s: float = 1.0) -> Iterator[list[R]]:
        """What came of the requests, as they end: a list about every ``every_s`` seconds, an empty one if nothing has.

        Closing the iterator stops the replay and waits for the requests under way.

        Raises:
            whatever ``serve`` or the iteration over ``requests`` raised first.
        """
        feeder = threading.Thread(target=self._feed, args=(requests,), name="replay-schedule")
        feeder.start()
        try:
            while not self._ended:
                yield self._taken(every_s)
        finally:
            self.stop()
            while not self._ended:  # somebody must take the results, or those who serve would wait for ever
                self._drain(1.0)
            feeder.join()

    def _taken(self, within_s: float) -> list[R]:
        batch: list[R] = []
        for one in self._drain(within_s):
            if isinstance(one, BaseException):
                raise one
            batch.append(one)
        return batch

    def _drain(self, within_s: float) -> list[R | BaseException]:
        """What is there, and what comes in the next ``within_s`` seconds or until the end of the replay."""
        until_s = time.monotonic() + within_s
        batch: list[R | BaseException] = []
        while len(batch) < _MAX_WAITING_RESULTS:
            try:
                one = self._done.get(timeout=max(0.0, until_s - time.monotonic()))
            except queue.Empty:
                break
            if isinstance(one, _End):
                self._ended = True
                break
            batch.append(one)
        return batch

    # ------------------------------------------------------------ in the schedule's own thread

    def _feed(self, requests: Iterable[Request]) -> None:
        try:
            with ThreadPoolExecutor(self._n_outstanding, thread_name_prefix="replay-client") as clients:
                for request in requests:
                    if not self._wait_for_turn(self._pace.due_s(request)):
                        break
                    clients.submit(self._serve_one, request)
        except BaseException as error:
            self._done.put(error)
        finally:
            self._done.put(_End())

    def _wait_for_turn(self, due_s: float) -> bool:
        """False if the replay has been stopped meanwhile."""
        while not self._stopped.is_set() and (left_s := due_s - self._clock_s()) > 0:
            self._sleep(left_s)
        while not self._stopped.is_set():
            if self._turns.acquire(timeout=0.5):
                return True
        return False

    def _serve_one(self, request: Request) -> None:
        try:
            self._done.put(self._serve(request))
        except BaseException as error:
            self.stop()
            self._done.put(error)
        finally:
            self._turns.release()
