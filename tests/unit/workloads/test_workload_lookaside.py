from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from workload_fakes import MISBEHAVIOURS, FakeCache

from infiniray.errors import Overloaded
from workloads.backing import DirectoryStore, Origin
from workloads.content import content
from workloads.lookaside import Kind, LookAside
from workloads.trace import Method, Request

A = Request(timestamp_s=0, key="a", size_bytes=1000)


@pytest.fixture
def origin(tmp_path: Path) -> Origin:
    return Origin(DirectoryStore(tmp_path))


def test_a_miss_loads_and_inserts_and_then_it_is_a_hit(origin: Origin) -> None:
    cache = FakeCache()
    lookaside = LookAside(cache, origin)
    miss, hit = lookaside.request(A), lookaside.request(A)
    assert (miss.kind, hit.kind) == (Kind.MISS, Kind.HIT)
    assert miss.insert_s is not None
    assert hit.insert_s is None
    assert not hit.wrong
    assert cache.values["a"] == content("a", 1000).tobytes()


def test_a_lost_object_is_a_reset_and_is_stored_again(origin: Origin) -> None:
    lookaside = LookAside(FakeCache(script=["lost"]), origin)
    assert [lookaside.request(A).kind for _ in range(3)] == [Kind.MISS, Kind.RESET, Kind.HIT]


def test_a_get_that_fails_is_a_miss_with_its_fault(origin: Origin) -> None:
    lookaside = LookAside(FakeCache(script=["busy"]), origin)
    lookaside.request(A)
    failed = lookaside.request(A)
    assert failed.kind is Kind.MISS
    assert [type(f) for f in failed.faults] == [Overloaded]
    assert failed.insert_s is not None


def test_an_insert_that_fails_is_an_uncached_miss(origin: Origin) -> None:
    lookaside = LookAside(FakeCache(refuse_puts=True), origin)
    outcomes = [lookaside.request(A) for _ in range(2)]
    assert [o.kind for o in outcomes] == [Kind.MISS, Kind.MISS]
    assert all(o.insert_s is None and len(o.faults) == 1 for o in outcomes)


@pytest.mark.parametrize("act", MISBEHAVIOURS)
def test_wrong_bytes_are_caught(origin: Origin, act: str) -> None:
    lookaside = LookAside(FakeCache(script=[act]), origin)
    lookaside.request(A)
    wrong = lookaside.request(A)
    assert wrong.kind is Kind.HIT
    assert wrong.wrong
    assert 1 <= wrong.wrong_bytes <= 1000
    assert not lookaside.request(A).wrong


def test_a_cache_that_returns_another_objects_value_is_caught(origin: Origin) -> None:
    cache = FakeCache()
    lookaside = LookAside(cache, origin)
    lookaside.request(A)
    lookaside.request(Request(timestamp_s=0, key="b", size_bytes=1000))
    cache.values["a"] = cache.values["b"]
    assert lookaside.request(A).wrong_bytes > 900


def test_a_put_of_the_trace_writes_both(origin: Origin) -> None:
    cache = FakeCache()
    put = LookAside(cache, origin).request(Request(timestamp_s=0, key="a", size_bytes=5, method=Method.PUT))
    assert (put.kind, put.size_bytes) == (Kind.PUT, 5)
    assert origin.load("a").tobytes() == cache.values["a"]


def test_a_later_size_of_a_known_key_does_not_change_the_object(origin: Origin) -> None:
    lookaside = LookAside(FakeCache(), origin)
    lookaside.request(A)
    again = lookaside.request(Request(timestamp_s=1, key="a", size_bytes=10))
    assert (again.kind, again.size_bytes, again.wrong) == (Kind.HIT, 1000, False)


def test_latencies_leave_out_what_the_cache_and_the_store_did_not_do(origin: Origin) -> None:
    ticks = iter(range(100))
    lookaside = LookAside(FakeCache(), origin, clock_s=lambda: float(next(ticks)))
    miss = lookaside.request(A)  # asked 0-1, loaded 2-3, inserted 3-4
    assert (miss.latency_s, miss.insert_s) == (2.0, 1.0)
    assert lookaside.request(A).latency_s == 1.0


def test_two_clients_do_not_load_one_object_twice(origin: Origin) -> None:
    entered, release = threading.Event(), threading.Event()

    class Slow(FakeCache):
        def put(self, key: str, value: object) -> None:
            entered.set()
            assert release.wait(10)
            super().put(key, value)

    lookaside = LookAside(Slow(), origin)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lookaside.request, A)
        assert entered.wait(10)
        second = pool.submit(lookaside.request, A)
        release.set()
        assert [first.result(10).kind, second.result(10).kind] == [Kind.MISS, Kind.HIT]
