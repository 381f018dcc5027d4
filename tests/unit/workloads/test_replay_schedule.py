from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from workloads.replay.schedule import OpenLoop, Pace
from workloads.trace import Request


class Clock:
    """Time that goes on only when somebody sleeps or says so."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self._lock = threading.Lock()

    def __call__(self) -> float:
        with self._lock:
            return self.now_s

    def advance(self, seconds: float) -> None:
        with self._lock:
            self.now_s += seconds


def at(*times_s: float) -> list[Request]:
    return [Request(timestamp_s=t, key=f"k{i}", size_bytes=1) for i, t in enumerate(times_s)]


def collect(loop: OpenLoop[tuple[str, float]], requests: list[Request]) -> dict[str, float]:
    return {key: started_s for batch in loop.results(requests, every_s=0.05) for key, started_s in batch}


def test_requests_start_at_their_times_divided_by_the_speed_up() -> None:
    clock = Clock()
    pace = Pace(began_s=100.0, speed_up=4.0)
    served = threading.Event()

    def serve(request: Request) -> tuple[str, float]:
        started_s = clock()
        served.set()
        return request.key, started_s

    def sleep(seconds: float) -> None:
        assert served.wait(30)
        served.clear()
        clock.advance(seconds)

    loop = OpenLoop(pace, serve, n_outstanding=1, clock_s=clock, sleep=sleep)
    assert collect(loop, at(0, 4, 10)) == {"k0": 100.0, "k1": 101.0, "k2": 102.5}
    assert pace.intended_s(at(10)[0]) == 2.5


def test_what_waits_for_a_slow_answer_is_late_by_the_whole_wait() -> None:
    clock = Clock()
    pace = Pace(began_s=100.0)

    def serve(request: Request) -> tuple[str, float]:
        late_s = clock() - pace.due_s(request)
        if request.key == "k0":
            clock.advance(10.0)  # the system stalls
        return request.key, late_s

    loop = OpenLoop(pace, serve, n_outstanding=1, clock_s=clock, sleep=clock.advance)
    late = collect(loop, at(0, 1, 2, 20))
    assert late["k0"] == 0
    assert late["k1"] >= 9.0  # due at 1, began at 10 or later
    assert late["k2"] >= 8.0
    assert late["k3"] == 0  # the system has caught up


def test_no_more_than_so_many_are_under_way_and_the_trace_is_not_read_ahead() -> None:
    read, running, most = [], [], []
    lock, go, two_run = threading.Lock(), threading.Event(), threading.Event()

    def trace() -> Iterator[Request]:
        for request in at(*[0.0] * 10):
            read.append(request.key)
            yield request

    def serve(request: Request) -> str:
        with lock:
            running.append(request.key)
            most.append(len(running))
            if len(running) == 2:
                two_run.set()
        assert go.wait(30)
        with lock:
            running.remove(request.key)
        return request.key

    loop = OpenLoop(Pace(began_s=0.0), serve, n_outstanding=2)
    results = loop.results(trace(), every_s=0.05)
    first = next(results)
    assert first == []
    assert two_run.wait(30)
    assert len(read) <= 3  # two under way, one that waits
    go.set()
    done = [key for batch in results for key in batch]
    assert sorted(done) == sorted(f"k{i}" for i in range(10))
    assert max(most) == 2


def test_an_error_ends_the_replay() -> None:
    def serve(request: Request) -> str:
        if request.key == "k1":
            raise OSError("the disk is full")
        return request.key

    loop = OpenLoop(Pace(began_s=0.0), serve, n_outstanding=1)
    with pytest.raises(OSError, match="disk is full"):
        list(loop.results(at(0, 0, 0, 10**9)))  # the last would be due in thirty years


def test_a_trace_that_breaks_off_ends_the_replay() -> None:
    def trace() -> Iterator[Request]:
        yield from at(0)
        raise ValueError("truncated")

    with pytest.raises(ValueError, match="truncated"):
        list(OpenLoop(Pace(began_s=0.0), lambda r: r.key, n_outstanding=1).results(trace()))


def test_stopping_finishes_what_is_under_way() -> None:
    loop = OpenLoop(Pace(began_s=0.0), lambda r: r.key, n_outstanding=4)
    done = []
    for batch in loop.results(at(0, 0, 10**9), every_s=0.05):
        done += batch
        if len(done) == 2:
            loop.stop()
    assert sorted(done) == ["k0", "k1"]


def test_closing_the_iterator_leaves_no_thread() -> None:
    loop = OpenLoop(Pace(began_s=0.0), lambda r: r.key, n_outstanding=4)
    results = loop.results(at(0, 10**9), every_s=0.05)
    next(results)
    results.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("replay-")]


@pytest.mark.parametrize("speed_up", [0.0, -1.0, float("inf"), float("nan")])
def test_a_speed_up_is_a_positive_number(speed_up: float) -> None:
    with pytest.raises(ValueError, match="positive factor"):
        Pace(began_s=0.0, speed_up=speed_up)


def test_at_least_one_request_is_under_way() -> None:
    with pytest.raises(ValueError, match="at least one"):
        OpenLoop(Pace(began_s=0.0), lambda r: r, n_outstanding=0)
