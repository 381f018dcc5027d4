"""What one invocation costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from infiniray.faas.local.metering import Bill, Meter
from infiniray.faas.local.settings import LocalPlatformSettings


@pytest.fixture
def meter(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Meter]:
    meter = Meter(tmp_path / "bill.jsonl", LocalPlatformSettings(billing_step_ms=getattr(request, "param", 1)))
    yield meter
    meter.close()


def note(meter: Meter, *, init_s: float = 0.0, duration_s: float, payload: bytes = b"{}", memory_mb: int = 1024) -> int:
    return meter.note(
        function="f", instance="i", payload=payload, init_s=init_s, duration_s=duration_s, memory_mb=memory_mb
    )


@pytest.mark.parametrize(
    ("meter", "init_s", "duration_s", "billed_ms"),
    [
        (1, 0.0, 0.0004, 1),
        (1, 0.0, 0.002, 2),
        (1, 0.0, 0.0021, 3),
        (1, 0.0305, 0.0021, 33),  # one sum, rounded once
        (100, 0.0, 0.0021, 100),
        (100, 0.05, 0.0501, 200),
    ],
    indirect=["meter"],
)
def test_rounded_up_to_the_step(meter: Meter, init_s: float, duration_s: float, billed_ms: int) -> None:
    assert note(meter, init_s=init_s, duration_s=duration_s) == billed_ms


def test_pings_of_a_pool_for_a_month() -> None:
    """400 nodes of 1.5 GB, pinged each minute for 30 days: $3.89 at 1 ms, $46.66 at 100 ms billing."""
    settings = LocalPlatformSettings()
    for billed_s, total_usd in ((0.001, 3.89), (0.1, 46.66)):
        usd = billed_s * 1.5 * settings.usd_per_gb_second * 400 * 60 * 24 * 30
        requests_usd = 400 * 60 * 24 * 30 * settings.usd_per_request
        assert usd + requests_usd == pytest.approx(total_usd, abs=0.01)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"reason": "warm"}', "warm"),
        (b'{"reason": 1}', "invoke"),
        (b"[]", "invoke"),
        (b"{}", "invoke"),
        (b"3", "invoke"),
    ],
)
def test_the_reason_is_the_callers_word(meter: Meter, payload: bytes, reason: str) -> None:
    note(meter, duration_s=0.1, payload=payload)
    assert list(meter.bill.lines) == [reason]


def test_a_bill_file_gives_the_same_sums(meter: Meter) -> None:
    for payload in (b'{"reason": "warm"}', b"{}", b"{}"):
        note(meter, init_s=0.02, duration_s=0.5, payload=payload)
    read = Bill.read(meter.path)
    assert read.to_json_dict() == meter.bill.to_json_dict()
    line = read.lines["invoke"]
    assert (line["invocations"], line["billed_s"], line["gb_seconds"]) == (2, 1.04, 1.04)
    assert line["usd"] == pytest.approx(1.04 * 0.0000166667 + 2 * 0.20e-6)
    assert read.total_usd == pytest.approx(sum(json.loads(text)["usd"] for text in meter.path.read_text().splitlines()))
