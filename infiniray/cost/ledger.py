"""What invocations cost, by purpose and hour.

AWS rounds each invocation's duration up to the billing step, multiplies it by the memory size, and adds a fee for the
request. https://aws.amazon.com/lambda/pricing/
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass

from infiniray.cost.price_book import FunctionRates
from infiniray.members import quick_members

__all__ = ["Ledger", "LedgerLine", "Purpose"]


@quick_members
class Purpose(str, enum.Enum):
    """What a function was invoked for."""

    SERVING = "serving"
    WARMUP = "warmup"
    BACKUP = "backup"
    REPAIR = "repair"
    OTHER = "other"

    __hash__ = str.__hash__


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLine:
    """``n_invocations`` and what was billed for them: ``usd = requests_usd + duration_usd + init_usd``.

    ``billed_s`` and ``gb_seconds`` include the starts of instances where those are billed.
    """

    n_invocations: int
    billed_s: float
    gb_seconds: float
    requests_usd: float
    duration_usd: float
    init_usd: float

    @property
    def usd(self) -> float:
        return self.requests_usd + self.duration_usd + self.init_usd


@dataclass(slots=True)
class _Sum:
    """Whole numbers, so that a sum does not depend on the order of its parts."""

    n_invocations: int = 0
    billed_ms: int = 0
    billed_mb_ms: int = 0  #: starts of instances included
    init_mb_ms: int = 0

    def add(self, other: _Sum) -> None:
        self.n_invocations += other.n_invocations
        self.billed_ms += other.billed_ms
        self.billed_mb_ms += other.billed_mb_ms
        self.init_mb_ms += other.init_mb_ms


class Ledger:
    """I add up invocations, and say in dollars what they came to.

    Charging is a few additions of whole numbers; dollars are computed when they are asked for. The same charges in any
    order give the same figures, to the last bit.
    """

    def __init__(self, rates: FunctionRates) -> None:
        self.rates = rates
        self._sums: dict[tuple[int, Purpose], _Sum] = {}

    def charge(
        self,
        purpose: Purpose,
        duration_ms: float,
        memory_mb: int,
        n_invocations: int = 1,
        *,
        init_ms: float = 0.0,
        at_s: float = 0.0,
    ) -> None:
        """``n_invocations`` alike, that ended at ``at_s``, each of ``duration_ms`` after a start of ``init_ms``
        (0 for a warm one).

        Raises:
            ValueError: something is negative or not a number.
        """
        if not (0 <= duration_ms < math.inf and 0 <= init_ms < math.inf and memory_mb > 0 and n_invocations >= 0):
            raise ValueError(
                f"cannot charge {n_invocations} invocations of {duration_ms} ms after {init_ms} ms, {memory_mb} MB"
            )
        billed_ms = work_ms = self.rates.billed_ms(duration_ms)
        if init_ms and self.rates.init_billed:
            billed_ms = self.rates.billed_ms(duration_ms + init_ms)
        self.charge_billed(purpose, billed_ms, memory_mb, n_invocations, init_billed_ms=billed_ms - work_ms, at_s=at_s)

    def charge_billed(
        self,
        purpose: Purpose,
        billed_ms: int,
        memory_mb: int,
        n_invocations: int = 1,
        *,
        init_billed_ms: int = 0,
        at_s: float = 0.0,
    ) -> None:
        """As :meth:`charge`, of invocations that have been metered: ``billed_ms`` each is rounded already, and
        ``init_billed_ms`` of it went into the start."""
        key = (int(at_s // 3600), purpose)
        found = self._sums.get(key)
        if found is None:
            found = self._sums[key] = _Sum()
        mb_ms = memory_mb * n_invocations
        found.n_invocations += n_invocations
        found.billed_ms += billed_ms * n_invocations
        found.billed_mb_ms += billed_ms * mb_ms
        found.init_mb_ms += init_billed_ms * mb_ms

    @property
    def total(self) -> LedgerLine:
        """Everything."""
        return self._line(self._sums.values())

    @property
    def total_usd(self) -> float:
        """The sum of :meth:`cost_usd`'s parts."""
        return sum(line.usd for line in self.by_purpose().values())

    def by_purpose(self) -> dict[Purpose, LedgerLine]:
        """A line for each purpose that was charged, in the order of :class:`Purpose`."""
        return self._by_purpose(self._sums)

    def by_hour(self) -> dict[int, dict[Purpose, LedgerLine]]:
        """The same for each hour in which something was charged (``at_s // 3600``), in order."""
        hours = sorted({hour for hour, _ in self._sums})
        return {hour: self._by_purpose([key for key in self._sums if key[0] == hour]) for hour in hours}

    def cost_usd(self) -> dict[str, float]:
        """USD by purpose, and ``total``. The four purposes are always there, ``other`` only where it was charged."""
        lines = self.by_purpose()
        costs = {
            purpose.value: lines[purpose].usd if purpose in lines else 0.0
            for purpose in Purpose
            if purpose in lines or purpose is not Purpose.OTHER
        }
        return costs | {"total": self.total_usd}

    def _by_purpose(self, keys: Iterable[tuple[int, Purpose]]) -> dict[Purpose, LedgerLine]:
        sums: dict[Purpose, list[_Sum]] = {}
        for key in keys:
            sums.setdefault(key[1], []).append(self._sums[key])
        return {purpose: self._line(sums[purpose]) for purpose in Purpose if purpose in sums}

    def _line(self, sums: Iterable[_Sum]) -> LedgerLine:
        total = _Sum()
        for one in sums:
            total.add(one)
        return LedgerLine(
            n_invocations=total.n_invocations,
            billed_s=total.billed_ms / 1000,
            gb_seconds=_gb_seconds(total.billed_mb_ms),
            requests_usd=total.n_invocations * self.rates.usd_per_request,
            duration_usd=_gb_seconds(total.billed_mb_ms - total.init_mb_ms) * self.rates.usd_per_gb_second,
            init_usd=_gb_seconds(total.init_mb_ms) * self.rates.usd_per_gb_second,
        )


def _gb_seconds(mb_ms: int) -> float:
    return mb_ms / (1024 * 1000)
