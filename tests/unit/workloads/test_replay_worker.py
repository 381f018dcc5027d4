from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from workload_fakes import MISBEHAVIOURS, FakeCache

from infiniray.errors import Overloaded
from workloads.content import content
from workloads.errors import TargetFailed
from workloads.generate import RegistryProfile, generate
from workloads.replay.partition import Limits, limited, partition, requests_of, worker_of
from workloads.replay.results import REQUESTS
from workloads.replay.worker import BackingSpec, Worker, WorkerSpec
from workloads.summary import summarize
from workloads.trace import Method, Request


@dataclass
class FakeTarget(FakeCache):
    is_closed: bool = False

    def delete(self, key: str) -> None:
        if self.refuse_puts:
            raise Overloaded(in_flight=9, limit=9, retry_after_s=1.0)
        self.values.pop(key, None)

    def close(self) -> None:
        self.is_closed = True


@dataclass
class FakeSpec:
    target: FakeTarget = field(default_factory=FakeTarget)
    system: str = "fake"

    def open(self) -> FakeTarget:
        return self.target


def worker(spec: FakeSpec, **more: Any) -> Worker:
    options: dict[str, Any] = {"backing": BackingSpec(), "speed_up": 1e9, "n_outstanding": 1, **more}
    return Worker(WorkerSpec(target=spec, **options), 3)


def replay(it: Worker, requests: list[Request]) -> list[dict[str, Any]]:
    table = pa.concat_tables(it.replay(requests))
    assert table.schema.equals(REQUESTS)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def gets(*keys: str, size_bytes: int = 1000) -> list[Request]:
    return [Request(timestamp_s=float(i), key=key, size_bytes=size_bytes) for i, key in enumerate(keys)]


def outcomes(rows: list[dict[str, Any]]) -> list[str]:
    return [row["outcome"] for row in rows]


def test_each_request_has_a_row_that_says_what_came_of_it() -> None:
    spec = FakeSpec()
    rows = replay(worker(spec), gets("a", "b", "a"))
    assert outcomes(rows) == ["miss", "miss", "hit"]
    assert [row["request_s"] for row in rows] == [0, 1, 2]
    assert [row["intended_s"] for row in rows] == [0, 1e-9, 2e-9]
    assert {(row["size_bytes"], row["op"], row["system"], row["worker"]) for row in rows} == {(1000, "get", "fake", 3)}
    assert [row["insert_s"] is None for row in rows] == [False, False, True]
    assert all(row["latency_s"] >= row["service_s"] > 0 for row in rows)
    assert spec.target.values["a"] == content("a", 1000).tobytes()


def test_a_reset_an_error_and_a_put_have_names_of_their_own() -> None:
    spec = FakeSpec(FakeTarget(script=["lost", "busy", "ok"]))
    requests = [*gets("a", "a", "a", "a"), Request(timestamp_s=9, key="p", size_bytes=5, method=Method.PUT)]
    rows = replay(worker(spec), requests)
    assert outcomes(rows) == ["miss", "reset", "error", "hit", "stored"]
    assert [row["error"] for row in rows] == [None, None, "Overloaded", None, None]
    assert rows[-1]["op"] == "put"


def test_an_insert_that_fails_leaves_a_miss_and_a_put_that_fails_is_an_error() -> None:
    spec = FakeSpec(FakeTarget(refuse_puts=True))
    requests = [*gets("a"), Request(timestamp_s=9, key="p", size_bytes=5, method=Method.PUT)]
    rows = replay(worker(spec), requests)
    assert outcomes(rows) == ["miss", "error"]
    assert [row["error"] for row in rows] == ["Overloaded", "Overloaded"]
    assert rows[0]["insert_s"] is None


@pytest.mark.parametrize("act", MISBEHAVIOURS)
def test_wrong_bytes_are_no_hit(act: str) -> None:
    rows = replay(worker(FakeSpec(FakeTarget(script=[act]))), gets("a", "a", "a"))
    assert outcomes(rows) == ["miss", "error", "hit"]
    assert rows[1]["error"] == "WrongBytes"


def test_a_backing_store_that_fails_is_an_error_and_the_replay_goes_on(tmp_path: Path) -> None:
    it = worker(FakeSpec(), backing=BackingSpec(directory=tmp_path / "store"))
    (tmp_path / "store").rmdir()
    (tmp_path / "store").write_text("in the way")
    rows = replay(it, gets("a", "b"))
    assert outcomes(rows) == ["error", "error"]
    assert [row["error"] for row in rows] == ["NotADirectoryError"] * 2
    assert [row["size_bytes"] for row in rows] == [1000, 1000]


def test_a_preloaded_target_has_no_first_misses() -> None:
    spec = FakeSpec()
    it = worker(spec)
    assert list(it.preload(gets("a", "b", "a"))) == [1000, 1000]
    assert outcomes(replay(it, gets("a", "b", "a"))) == ["hit", "hit", "hit"]


def test_preloading_does_not_hide_that_the_target_refuses() -> None:
    with pytest.raises(Overloaded):
        list(worker(FakeSpec(FakeTarget(refuse_puts=True))).preload(gets("a")))


def test_a_worker_clears_what_it_stored_and_nothing_else() -> None:
    spec = FakeSpec()
    spec.target.values["other"] = b"theirs"
    it = worker(spec)
    replay(it, gets("a", "b", "a"))
    assert it.clear() == 2
    assert set(spec.target.values) == {"other"}
    assert it.clear() == 0
    it.close()
    assert spec.target.is_closed


def test_clearing_goes_on_where_the_target_refuses() -> None:
    spec = FakeSpec(FakeTarget(refuse_puts=True))
    it = worker(spec)
    replay(it, gets("a", "b"))
    assert it.clear() == 0


def test_a_stopped_worker_starts_nothing() -> None:
    it = worker(FakeSpec())
    it.stop()
    assert replay(it, gets("a")) == []
    assert list(it.preload(gets("a"))) == []


def test_a_replay_hits_every_re_reference_whatever_is_under_way_at_once() -> None:
    trace = list(generate(RegistryProfile(n_requests=300, seed=5, max_bytes=50_000)))
    rows = replay(worker(FakeSpec(), n_outstanding=16), trace)
    figures = summarize(trace)
    assert len(rows) == 300
    assert outcomes(rows).count("hit") == figures.n_gets - figures.n_objects
    assert outcomes(rows).count("miss") == figures.n_objects


def test_what_the_backing_store_made_once_it_has_from_then_on(tmp_path: Path) -> None:
    backing = BackingSpec(directory=tmp_path)
    replay(worker(FakeSpec(), backing=backing), gets("a", size_bytes=500))
    rows = replay(worker(FakeSpec(), backing=backing), gets("a", size_bytes=900))
    assert [row["size_bytes"] for row in rows] == [500]


# ---------------------------------------------------------------- parts


def test_parts_hold_the_whole_trace_in_order_and_a_key_is_in_one_of_them() -> None:
    trace = list(generate(RegistryProfile(n_requests=500, seed=2, max_bytes=10_000)))
    cut = partition(trace, 3, place=lambda table: table)
    parts = [list(requests_of(part.tables)) for part in cut.parts]
    assert (cut.n_requests, cut.n_bytes) == (500, sum(r.size_bytes for r in trace))
    assert cut.span_s == trace[-1].timestamp_s
    for number, part in enumerate(parts):
        assert part == [r for r in trace if worker_of(r.key, 3) == number]


def test_a_key_that_is_no_unicode_survives() -> None:
    odd = Request(timestamp_s=0, key="v2/\udcff", size_bytes=1, method=Method.PUT)
    cut = partition([odd], 1, place=lambda table: table)
    assert list(requests_of(cut.parts[0].tables)) == [odd]
    rows = replay(worker(FakeSpec()), [odd])
    assert rows[0]["key"] == "v2/\\udcff"


def test_limits() -> None:
    trace = [Request(timestamp_s=float(i), key=f"{i}", size_bytes=i) for i in range(10)]
    large = Limits(max_object_bytes=6)
    assert [r.size_bytes for r in limited(trace, large)] == list(range(7))
    assert large.n_skipped == 3
    assert len(list(limited(trace, Limits(max_requests=4)))) == 4
    assert len(list(limited(trace, Limits(max_requests=0)))) == 0
    assert len(list(limited(trace, Limits(max_trace_s=4.5)))) == 5
    assert list(limited(trace, Limits())) == trace


def test_a_target_that_cannot_be_reached_is_an_error_of_the_replay() -> None:
    class Unreachable(FakeSpec):
        def open(self) -> FakeTarget:
            raise TargetFailed(system="fake", detail="nobody there")

    with pytest.raises(TargetFailed, match="fake: nobody there"):
        worker(Unreachable())
