"""What the functions cost: one line for each invocation in the bill file, and sums over them.

AWS bills duration in steps of 1 ms, rounded up, times memory, plus a fee for each request; INIT is billed since August
2025. https://aws.amazon.com/lambda/pricing
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infiniray.faas.local.settings import LocalPlatformSettings

__all__ = ["Bill", "Meter"]


@dataclass(slots=True)
class Bill:
    """Sums by reason of invocation: count, seconds billed, GB-seconds, USD."""

    lines: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, reason: str, billed_s: float, gb_seconds: float, usd: float) -> None:
        line = self.lines.setdefault(reason, {"invocations": 0, "billed_s": 0.0, "gb_seconds": 0.0, "usd": 0.0})
        line["invocations"] += 1
        line["billed_s"] += billed_s
        line["gb_seconds"] += gb_seconds
        line["usd"] += usd

    @property
    def total_usd(self) -> float:
        return sum(line["usd"] for line in self.lines.values())

    @classmethod
    def read(cls, path: Path) -> Bill:
        """The sums over a bill file."""
        bill = cls()
        with path.open() as lines:
            for text in lines:
                line = json.loads(text)
                billed_s = line["billed_ms"] / 1000
                bill.add(line["reason"], billed_s, billed_s * line["memory_mb"] / 1024, line["usd"])
        return bill

    def to_json_dict(self) -> dict[str, Any]:
        return {"total_usd": self.total_usd, "by_reason": self.lines}


class Meter:
    """I write the bill file, and keep its sums."""

    def __init__(self, path: Path, settings: LocalPlatformSettings) -> None:
        self.path = path
        self.bill = Bill()
        self._settings = settings
        self._file = path.open("a", buffering=1)

    def note(
        self, *, function: str, instance: str, payload: bytes, init_s: float, duration_s: float, memory_mb: int
    ) -> int:
        """One invocation; ``init_s`` is 0 for a warm one. Returns the milliseconds billed."""
        settings = self._settings
        step_ms = settings.billing_step_ms
        billed_ms = math.ceil((init_s + duration_s) * 1000 / step_ms) * step_ms
        gb_seconds = billed_ms / 1000 * memory_mb / 1024
        usd = gb_seconds * settings.usd_per_gb_second + settings.usd_per_request
        reason = _reason(payload)
        self.bill.add(reason, billed_ms / 1000, gb_seconds, usd)
        line = {
            "time_s": round(time.time(), 3),
            "function": function,
            "instance": instance,
            "reason": reason,
            "init_ms": round(init_s * 1000, 3),
            "duration_ms": round(duration_s * 1000, 3),
            "billed_ms": billed_ms,
            "memory_mb": memory_mb,
            "request_usd": settings.usd_per_request,
            "usd": usd,
        }
        self._file.write(json.dumps(line) + "\n")
        return billed_ms

    def close(self) -> None:
        self._file.close()


def _reason(payload: bytes) -> str:
    """What the caller says the invocation is for."""
    try:
        reason = json.loads(payload).get("reason")
    except (ValueError, AttributeError):
        return "invoke"
    return reason if isinstance(reason, str) else "invoke"
