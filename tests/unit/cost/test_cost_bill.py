"""A platform's metering file, as the platform's own meter writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infiniray.cost.bill import read_bill
from infiniray.cost.ledger import Purpose
from infiniray.cost.price_book import load_price_book
from infiniray.errors import BillDamaged
from infiniray.faas.local.metering import Meter
from infiniray.faas.local.settings import LocalPlatformSettings

THEN, NOW = (load_price_book(year).function_rates() for year in ("2019", "2026"))


@pytest.fixture
def metered(tmp_path: Path) -> tuple[Path, float]:
    """A file, and what the meter that wrote it says it comes to."""
    meter = Meter(tmp_path / "bill.jsonl", LocalPlatformSettings())
    for reason, init_s, duration_s in (
        ("serve", 0.2501, 0.0123),
        ("serve", 0.0, 0.0050000004),  # 6 ms, though the file says 5.000
        ("warm", 0.0, 0.0004),
        ("warm", 0.0301, 0.0004),
        ("backup", 0.0, 1.56),
        ("repair", 0.0, 0.3),
        ("party", 0.0, 0.001),
    ):
        payload = json.dumps({"reason": reason}).encode()
        meter.note(function="f", instance="i", payload=payload, init_s=init_s, duration_s=duration_s, memory_mb=1536)
    meter.close()
    return meter.path, meter.bill.total_usd


def test_the_ledger_agrees_with_the_platform_to_the_cent_and_beyond(metered: tuple[Path, float]) -> None:
    path, platform_usd = metered
    bill = read_bill(path, NOW)
    assert bill.platform_usd == pytest.approx(platform_usd, rel=1e-12)
    assert bill.ledger.total_usd == pytest.approx(platform_usd, rel=1e-12)
    assert bill.n_invocations == bill.ledger.total.n_invocations == 7


def test_reasons_become_purposes_and_a_strange_one_is_counted(metered: tuple[Path, float]) -> None:
    lines = read_bill(metered[0], NOW).ledger.by_purpose()
    assert {purpose: line.n_invocations for purpose, line in lines.items()} == {
        Purpose.SERVING: 2,
        Purpose.WARMUP: 2,
        Purpose.BACKUP: 1,
        Purpose.REPAIR: 1,
        Purpose.OTHER: 1,
    }
    assert lines[Purpose.SERVING].billed_s == pytest.approx(0.263 + 0.006)
    assert lines[Purpose.SERVING].init_usd == pytest.approx(0.250 * 1.5 * 1.66667e-5)
    assert lines[Purpose.BACKUP].init_usd == 0


def test_another_years_prices_round_anew_and_forget_starts(metered: tuple[Path, float]) -> None:
    lines = read_bill(metered[0], THEN).ledger.by_purpose()
    assert [line.billed_s for line in lines.values()] == pytest.approx([0.2, 0.2, 1.6, 0.3, 0.1])
    assert {line.init_usd for line in lines.values()} == {0.0}


def test_an_empty_file_is_a_bill_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "bill.jsonl"
    path.touch()
    bill = read_bill(path, NOW)
    assert (bill.n_invocations, bill.platform_usd, bill.ledger.total_usd) == (0, 0.0, 0.0)


GOOD = {"time_s": 1.0, "function": "f", "instance": "i", "reason": "serve", "init_ms": 0.0, "duration_ms": 2.0,
        "billed_ms": 2, "memory_mb": 1536, "request_usd": 2e-7, "usd": 1e-6}  # fmt: skip


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (json.dumps(GOOD)[:40], "not JSON"),
        ("", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("7", "not the record"),
        (json.dumps(GOOD | {"duration_ms": -1}), "'duration_ms' is -1"),
        (json.dumps(GOOD | {"billed_ms": "2"}), "'billed_ms' is '2'"),
        (json.dumps(GOOD | {"billed_ms": 2.5}), "not a whole number"),
        (json.dumps(GOOD | {"memory_mb": 0}), "'memory_mb' is 0"),
        (json.dumps(GOOD | {"usd": float("nan")}), "'usd' is nan"),
        (json.dumps({name: GOOD[name] for name in GOOD if name != "usd"}), "'usd' is None"),
        (json.dumps(GOOD | {"reason": None}), "'reason'"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_summed_around_it(tmp_path: Path, line: str, complaint: str) -> None:
    path = tmp_path / "bill.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n{line}\n{json.dumps(GOOD)}\n")
    with pytest.raises(BillDamaged, match=complaint) as caught:
        read_bill(path, NOW)
    assert (caught.value.file, caught.value.line) == (str(path), 2)
