"""The bill: a line for each invocation, and sums that agree with the lines."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from platform_harness import Lambda

from infiniray.faas.local.metering import Bill


@pytest.fixture
def bill_lines(tmp_path: Path) -> Callable[[], list[dict[str, Any]]]:
    return lambda: [json.loads(line) for line in (tmp_path / "platform-0" / "bill.jsonl").read_text().splitlines()]


def test_lines_add_up(
    own_lambda: Callable[..., Lambda], bill_lines: Callable[[], list[dict[str, Any]]], tmp_path: Path
) -> None:
    functions = own_lambda()
    name = functions.deploy("echo", MemorySize=1536)
    for reason in ("serve", "serve", "warm", 7):
        functions.call(name, {"reason": reason})
    lines = bill_lines()
    assert [line["reason"] for line in lines] == ["serve", "serve", "warm", "invoke"]
    assert {(line["function"], line["memory_mb"]) for line in lines} == {(name, 1536)}
    assert {line["instance"] for line in lines} == {functions.instance(name)["id"]}
    assert [line["init_ms"] > 0 for line in lines] == [True, False, False, False]
    for line in lines:
        assert line["billed_ms"] == math.ceil(line["init_ms"] + line["duration_ms"])
        gb_seconds = line["billed_ms"] / 1000 * 1.5
        assert line["usd"] == pytest.approx(gb_seconds * 0.0000166667 + 0.20e-6)
    bill = functions.admin.bill()
    assert bill["total_usd"] == pytest.approx(sum(line["usd"] for line in lines))
    assert {reason: line["invocations"] for reason, line in bill["by_reason"].items()} == {
        "serve": 2, "warm": 1, "invoke": 1
    }  # fmt: skip
    assert functions.admin.stats()["bill_usd"] == pytest.approx(bill["total_usd"])
    read = Bill.read(tmp_path / "platform-0" / "bill.jsonl")
    assert read.total_usd == pytest.approx(bill["total_usd"])


def test_billing_by_100_ms(own_lambda: Callable[..., Lambda], bill_lines: Callable[[], list[dict[str, Any]]]) -> None:
    functions = own_lambda(billing_step_ms=100)
    functions.call(functions.deploy("echo"))
    (line,) = bill_lines()
    assert line["billed_ms"] % 100 == 0
    assert 0 <= line["billed_ms"] - (line["init_ms"] + line["duration_ms"]) < 100


def test_failures_are_billed_and_refusals_are_not(
    own_lambda: Callable[..., Lambda], bill_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    functions = own_lambda()
    functions.error(functions.deploy("fail"))
    functions.error(functions.deploy("too_long", Timeout=1))
    functions.admin.throttle(1)
    name = functions.deploy("echo")
    with pytest.raises(functions.boto.exceptions.TooManyRequestsException):
        functions.call(name)
    _, timed_out = bill_lines()
    assert timed_out["duration_ms"] >= 1000


def test_an_init_that_fails_is_billed(
    own_lambda: Callable[..., Lambda], bill_lines: Callable[[], list[dict[str, Any]]]
) -> None:
    functions = own_lambda()
    functions.error(functions.deploy("echo", source="raise KeyError"))
    (line,) = bill_lines()
    assert line["duration_ms"] == 0
    assert line["billed_ms"] == math.ceil(line["init_ms"]) > 0
