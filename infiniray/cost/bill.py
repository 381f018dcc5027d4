"""Reads a platform's metering file (one JSON object for each invocation) into a ledger.

The fields are those that :mod:`infiniray.faas.local.metering` writes; what that billed is kept beside what the given
rates make of it, so that one month's work can be priced by another year's book.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infiniray.cost.ledger import Ledger, Purpose
from infiniray.cost.price_book import FunctionRates
from infiniray.errors import BillDamaged

__all__ = ["Bill", "read_bill"]

#: The platform's word for why it invoked: ours. Whatever else it says is OTHER, and counted.
_PURPOSES = {
    "serve": Purpose.SERVING,
    "warm": Purpose.WARMUP,
    "backup": Purpose.BACKUP,
    "repair": Purpose.REPAIR,
}
_NUMBERS = ("time_s", "init_ms", "duration_ms", "billed_ms", "memory_mb", "usd")
_ROUNDED_MS = 0.001  # the file gives init_ms and duration_ms to this


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """``ledger``: by the given rates, in hours of Unix time. ``platform_usd``: what the platform itself asked."""

    ledger: Ledger
    platform_usd: float
    n_invocations: int


def read_bill(path: Path, rates: FunctionRates) -> Bill:
    """The ledger of a metering file.

    Raises:
        BillDamaged: a line is not the record of an invocation. Nothing is summed up around it.
        OSError: the file cannot be read.
    """
    ledger = Ledger(rates)
    platform_usd: list[float] = []
    with path.open("rb") as lines:
        for number, text in enumerate(lines, start=1):
            record = _record(text, file=str(path), line=number)
            _charge(ledger, record)
            platform_usd.append(record["usd"])
    return Bill(ledger=ledger, platform_usd=math.fsum(platform_usd), n_invocations=len(platform_usd))


def _record(text: bytes, *, file: str, line: int) -> dict[str, Any]:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BillDamaged(file=file, line=line, detail=f"not JSON: {error}") from None
    wrong = _what_is_wrong(record)
    if wrong is not None:
        raise BillDamaged(file=file, line=line, detail=wrong)
    assert isinstance(record, dict)
    return record


def _what_is_wrong(record: object) -> str | None:
    if not isinstance(record, dict):
        return "not the record of an invocation"
    if not isinstance(record.get("reason"), str):
        return "it does not say the invocation's 'reason'"
    for name in _NUMBERS:
        number = record.get(name)
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < math.inf:
            return f"{name!r} is {number!r}, not a number of at least 0"
    for name in ("memory_mb", "billed_ms"):
        if record[name] != int(record[name]):
            return f"{name!r} is {record[name]!r}, not a whole number"
    return None if record["memory_mb"] else "'memory_mb' is 0"


def _charge(ledger: Ledger, record: dict[str, Any]) -> None:
    """By the platform's own milliseconds where it rounded as the rates do: it knew the duration more exactly."""
    rates, billed_ms, duration_ms = ledger.rates, int(record["billed_ms"]), record["duration_ms"]
    purpose = _PURPOSES.get(record["reason"], Purpose.OTHER)
    memory_mb, at_s = int(record["memory_mb"]), record["time_s"]
    init_ms = record["init_ms"] if rates.init_billed else 0.0
    over_ms = billed_ms - init_ms - duration_ms
    if billed_ms % rates.step_ms == 0 and -2 * _ROUNDED_MS <= over_ms <= rates.step_ms + 2 * _ROUNDED_MS:
        init_billed_ms = max(0, billed_ms - rates.billed_ms(duration_ms)) if init_ms else 0
        ledger.charge_billed(purpose, billed_ms, memory_mb, init_billed_ms=init_billed_ms, at_s=at_s)
    else:
        ledger.charge(purpose, duration_ms, memory_mb, init_ms=init_ms, at_s=at_s)
