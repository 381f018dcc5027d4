"""The cost command: the paper's figures at the command line, a platform's bill, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from infiniray.cli.main import main
from infiniray.faas.local.metering import Meter
from infiniray.faas.local.settings import LocalPlatformSettings

PAPER = ("--prices", "2019", "--hedge", "all", "--object-size", "1MB", "--nodes", "400", "--memory", "1536")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["cost", *arguments])


def document(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert isinstance(found, dict)
    return found


@pytest.fixture
def bill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five invocations over two hours, as the embedded platform meters them."""
    times_s = iter([7200.0, 7201.0, 7202.0, 10_800.0, 10_801.0])
    monkeypatch.setattr("infiniray.faas.local.metering.time.time", lambda: next(times_s))
    meter = Meter(tmp_path / "bill.jsonl", LocalPlatformSettings())
    for reason in ("serve", "serve", "warm", "warm", "backup"):
        payload = json.dumps({"reason": reason}).encode()
        meter.note(function="f", instance="i", payload=payload, init_s=0.0, duration_s=0.002, memory_mb=1024)
    meter.close()
    return meter.path


def test_the_papers_figures() -> None:
    found = document(*PAPER, "--requests-per-hour", "750")
    assert found["closed_form"]["serving_usd_per_request"] == pytest.approx(3.24e-5, rel=1e-4)
    assert found["closed_form"]["warmup_usd_per_hour"] == pytest.approx(0.0648, rel=1e-4)
    elasticache = found["alternatives"][0]
    assert elasticache["name"] == "ElastiCache, 1 x cache.r5.24xlarge"
    assert elasticache["usd_per_hour"] * found["hours"] == pytest.approx(518.40)
    when = elasticache["infiniray_is_cheaper"]["closed_form"]
    assert (when["when"], round(when["requests_per_hour"], -3)) == ("below", 312_000)


def test_the_table_says_the_same() -> None:
    result = run(*PAPER, "--requests-per-hour", "750", "--hours", "50")
    assert result.exit_code == 0, result.output
    for words in ("$0.0648", "$3.24e-05", "$518.40", "below 312,192/h", "Valkey): not offered then, only since 2024"):
        assert words in result.stdout, words


def test_no_proxies_no_hosts() -> None:
    found = document("--proxies", "0")
    assert found["hosts"]["usd_per_hour"] == 0
    for other in found["alternatives"]:
        assert other["infiniray_is_cheaper"]["with_hosts"] == other["infiniray_is_cheaper"]["metered"]
    assert "hosts" not in run("--proxies", "0").stdout


def test_never_is_never() -> None:
    found = document("--warm-every", "never", "--backup-every", "0", "--requests-per-hour", "0")
    assert found["metered"]["cost_usd_per_hour"]["total"] == found["closed_form"]["cost_usd_per_hour"]["total"] == 0
    assert run("--warm-every", "never", "--backup-every", "never", "--requests-per-hour", "0").exit_code == 0


def test_a_bill_by_purpose_and_hour(bill: Path) -> None:
    found = document("--bill", str(bill))
    each_usd = 0.2e-6 + 0.002 * 1.66667e-5
    assert found["n_invocations"] == 5
    assert found["cost_usd"]["serving"] == pytest.approx(2 * each_usd)
    assert found["cost_usd"]["total"] == pytest.approx(found["platform_usd"]) == pytest.approx(5 * each_usd)
    first, second = found["by_hour"]
    assert (first["hour"], first["warmup"]["n_invocations"]) == ("1970-01-01T02:00Z", 1)
    assert (second["hour"], sorted(second)) == ("1970-01-01T03:00Z", ["backup", "hour", "warmup"])


def test_a_bill_as_tables_and_at_other_prices(bill: Path) -> None:
    result = run("--bill", str(bill), "--prices", "2019")
    assert result.exit_code == 0, result.output
    for words in ("By purpose", "late 2019", "USD by hour", "1970-01-01T03:00Z", "0.500 s", "the platform itself"):
        assert words in result.stdout, words


def test_a_bill_of_nothing_is_zero_and_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "bill.jsonl").touch()
    said = run("--bill", str(tmp_path / "bill.jsonl")).stderr
    assert "nothing was invoked" in " ".join(said.split())  # wherever the line was broken
    assert document("--bill", str(tmp_path / "bill.jsonl"))["cost_usd"]["total"] == 0


def test_a_damaged_bill_has_no_total(bill: Path) -> None:
    with bill.open("a") as file:
        file.write('{"time_s": 1')
    result = run("--bill", str(bill))
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{bill}, line 6: not JSON" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--scheme", "rs:ten+2"), "not a scheme"),
        (("--nodes", "11"), "12 chunks"),
        (("--object-size", "20GiB"), "do not fit"),
        (("--object-size", "huge"), "not a size"),
        (("--warm-every", "soon"), "not a duration"),
        (("--puts", "1.5"), "--puts"),
        (("--stored", "2TB"), "do not fit: the pool holds 500"),
        (("--requests-per-hour", "nan"), "nan is not a finite number"),
        (("--hours", "inf"), "inf is not a finite number"),
        (("--prices", "1999"), "price book 1999"),
        (("--proxy-type", "c5n.lorge"), "prices-2026.yaml has no entry 'ec2.c5n.lorge'"),
        (("--prices", "2019", "--arch", "arm"), "prices-2019.yaml has no entry 'lambda.gb_second.arm'"),
        (("--bill", __file__, "--nodes", "3"), "--nodes would change nothing"),
    ],
)
def test_what_is_refused(arguments: tuple[str, ...], reason: str) -> None:
    result = run(*arguments)
    assert result.exit_code in (1, 2), result.output
    assert reason in result.stderr
    assert result.stdout == ""
