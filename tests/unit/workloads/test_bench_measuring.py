"""Systems take turns, values are new in every round, and what comes back is compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from workloads.bench.measuring import MANY, Case, Conditions, measure
from workloads.bench.rows import BenchRow, Samples, render, with_ratios
from workloads.errors import TargetFailed

AWAKE = Conditions(scheme="rs:4+2")


@dataclass
class Recorder:
    """Keeps copies of what is put, and writes down who was asked for what."""

    name: str
    log: list[tuple[str, str, int]]
    values: dict[str, bytes] = field(default_factory=dict)
    is_stuck: bool = False

    def put(self, key: str, value: Any) -> None:
        self.log.append((self.name, "put", 1))
        self._store(key, value)

    def _store(self, key: str, value: Any) -> None:
        if not (self.is_stuck and key in self.values):
            self.values[key] = bytes(value)

    def get(self, key: str) -> Any:
        self.log.append((self.name, "get", 1))
        return self.values[key]

    def delete(self, key: str) -> None:
        del self.values[key]

    def close(self) -> None:
        pass


class ManyRecorder(Recorder):
    def put_many(self, values: Mapping[str, Any]) -> None:
        self.log.append((self.name, "put_many", len(values)))
        for key, value in values.items():
            self._store(key, value)

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        self.log.append((self.name, "get_many", len(keys)))
        return {key: self.values[key] for key in keys}


def test_systems_take_turns_in_every_round_and_the_first_round_does_not_count() -> None:
    log: list[tuple[str, str, int]] = []
    case = Case(size_bytes=8 << 20, rounds=3)
    rows = measure([Recorder("a", log), Recorder("b", log)], case, AWAKE, ops=("put", "get"))
    turn = [("a", "put", 1), ("a", "get", 1), ("b", "put", 1), ("b", "get", 1)]
    assert log == turn * 4
    assert [(row.system, row.op, row.n_calls) for row in rows] == [
        ("a", "put", 3), ("a", "get", 3), ("b", "put", 3), ("b", "get", 3),
    ]  # fmt: skip
    assert [row.scheme for row in rows] == ["rs:4+2", "rs:4+2", "", ""]
    assert {row.beside for row in rows} == {"rs:4+2"}


def test_every_client_makes_its_calls_and_what_was_stored_is_deleted() -> None:
    log: list[tuple[str, str, int]] = []
    recorder = Recorder("a", log)
    case = Case(size_bytes=1 << 20, clients=3, rounds=2)
    (row,) = measure([recorder], case, AWAKE, ops=("get",))
    assert case.calls_per_round(awake=True) == 8
    assert row.n_calls == 8 * 3 * 2
    assert log.count(("a", "put", 1)) == 8 * 3 * 3  # also where only GETs are reported
    assert recorder.values == {}


@pytest.mark.parametrize(
    ("size_bytes", "n_values", "awake", "calls"),
    [(4 << 10, 1, True, 100), (4 << 10, 1, False, 10), (100 << 20, 1, True, 1), (4 << 10, MANY, True, 5),
     (1 << 20, MANY, True, 1)],
)  # fmt: skip
def test_a_round_has_more_calls_of_small_values(size_bytes: int, n_values: int, awake: bool, calls: int) -> None:
    assert Case(size_bytes=size_bytes, n_values=n_values).calls_per_round(awake=awake) == calls


def test_a_value_of_an_earlier_round_is_not_taken_for_this_ones() -> None:
    stuck = Recorder("stuck", [], is_stuck=True)
    with pytest.raises(TargetFailed, match="stuck"):
        measure([stuck], Case(size_bytes=4096, rounds=1), AWAKE, ops=("get",))


@pytest.mark.parametrize("position", [0, 2048, 4095])
def test_one_wrong_byte_is_noticed(position: int) -> None:
    class Flipping(Recorder):
        def get(self, key: str) -> Any:
            value = bytearray(super().get(key))
            value[position] ^= 1
            return value

    with pytest.raises(TargetFailed, match="other bytes"):
        measure([Flipping("flips", [])], Case(size_bytes=4096, rounds=1), AWAKE, ops=("put",))


@pytest.mark.parametrize(("awake", "settled"), [(True, 2 * 2), (False, 2 * 2 * 4)])
def test_the_cache_alone_is_settled_before_every_stretch_and_before_every_call_that_is_to_find_it_asleep(
    awake: bool, settled: int
) -> None:
    log: list[tuple[str, str, int]] = []
    conditions = Conditions(scheme="default", awake=awake)
    measure(
        [Recorder("a", log), Recorder("b", log)], Case(size_bytes=2 << 20, rounds=1), conditions, ops=("put", "get"),
        settle=lambda: log.append(("settle", "", 0)),
    )  # fmt: skip
    assert log.count(("settle", "", 0)) == settled
    followed_by = {log[i + 1][0] for i, entry in enumerate(log) if entry[0] == "settle"}
    assert followed_by == {"a"}


def test_many_values_in_a_call_are_asked_only_of_systems_that_take_them() -> None:
    log: list[tuple[str, str, int]] = []
    case = Case(size_bytes=64 << 10, n_values=MANY, rounds=1)
    rows = measure([ManyRecorder("a", log), Recorder("b", log)], case, AWAKE, ops=("put_many", "get_many"))
    assert set(log) == {("a", "put_many", MANY), ("a", "get_many", MANY)}
    assert {row.system for row in rows} == {"a"}
    assert {row.n_values for row in rows} == {MANY}


def test_ratios_are_the_others_median_over_ones_own() -> None:
    rows = with_ratios([_row("infiniray", 0.010), _row("redis", 0.040), _row("loopback", 0.008)])
    assert [row.ratio_to_redis for row in rows] == [pytest.approx(4.0), 1.0, pytest.approx(5.0)]
    assert [row.ratio_to_loopback for row in rows] == [pytest.approx(0.8), pytest.approx(0.2), 1.0]
    assert with_ratios([_row("infiniray", 0.010)])[0].ratio_to_redis is None


def test_a_row_has_its_quantiles_and_says_what_it_is_about_in_json() -> None:
    row = _row("redis", 0.5)
    samples = Samples(calls_s=[*np.linspace(1.0, 2.0, 101)], bytes_per_s=[1e9, 3e9, 2e9])
    described = {**row.to_json_dict(), "system": "x"}
    for field_ in ("n_calls", "median_s", "p25_s", "p75_s", "p99_s", "min_s", "max_s", "bytes_per_s"):
        del described[field_]
    found = BenchRow.of(samples, **described).to_json_dict()
    assert (found["n_calls"], found["median_s"], found["p99_s"]) == (101, 1.5, pytest.approx(1.99))
    assert (found["p25_s"], found["p75_s"], found["min_s"], found["max_s"]) == (1.25, 1.75, 1.0, 2.0)
    assert found["bytes_per_s"] == 2e9
    assert {"system", "op", "size_bytes", "scheme", "clients", "median_s", "p99_s", "bytes_per_s", "ratio_to_redis",
            "ratio_to_loopback"} <= set(found)  # fmt: skip
    assert render([row]).row_count == 1


def _row(system: str, median_s: float) -> BenchRow:
    return BenchRow(
        system=system, op="get", size_bytes=4096, scheme="", beside="default", clients=1, awake=True, shaped=False,
        n_values=1, n_calls=3, rounds=3, median_s=median_s, p25_s=median_s, p75_s=median_s, p99_s=median_s,
        min_s=median_s, max_s=median_s, bytes_per_s=4096 / median_s,
    )  # fmt: skip
