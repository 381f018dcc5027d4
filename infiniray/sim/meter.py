"""Counts billed invocations for a ledger, cheaply."""

from __future__ import annotations

from collections import Counter

from infiniray.cost.ledger import Ledger, Purpose
from infiniray.cost.price_book import FunctionRates

__all__ = ["Meter"]


class Meter:
    """I round each invocation as the platform bills it, and hand the ledger those that are alike together.

    ``start_s`` is when hour 0 begins.
    """

    def __init__(self, rates: FunctionRates, memory_mb: int, start_s: float) -> None:
        self.ledger = Ledger(rates)
        self._rates = rates
        self._memory_mb = memory_mb
        self._start_s = start_s
        self._hour = 0
        self._hour_ends_s = start_s + 3600.0
        #: of this hour, by purpose, billed milliseconds, and those of them that went into a start
        self._alike: Counter[tuple[Purpose, int, int]] = Counter()

    def charge(self, purpose: Purpose, duration_s: float, init_s: float, at_s: float) -> None:
        """An invocation that ended at ``at_s`` and lasted ``duration_s`` after a start of ``init_s`` (0: none)."""
        if at_s >= self._hour_ends_s:
            self.settle()
            self._hour = int((at_s - self._start_s) // 3600)
            self._hour_ends_s = self._start_s + 3600.0 * (self._hour + 1)
        rates = self._rates
        billed_ms = work_ms = rates.billed_ms(duration_s * 1000)
        if init_s and rates.init_billed:
            billed_ms = rates.billed_ms((duration_s + init_s) * 1000)
        self._alike[purpose, billed_ms, billed_ms - work_ms] += 1

    def settle(self) -> None:
        """Have everything in the ledger."""
        for (purpose, billed_ms, init_ms), n in self._alike.items():
            at_s = self._hour * 3600.0
            self.ledger.charge_billed(purpose, billed_ms, self._memory_mb, n, init_billed_ms=init_ms, at_s=at_s)
        self._alike.clear()
