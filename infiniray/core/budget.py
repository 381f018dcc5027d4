"""What may be spent: bytes or dollars in a time, or a share of what is earned."""

from __future__ import annotations

__all__ = ["Allowance", "Budget"]


class Budget:
    """A token bucket that may run into debt: what is begun is never refused in the middle, the next one waits.

    Args:
        per_s: what comes back each second.
        burst: the most that is saved up; it is full at the start.
    """

    def __init__(self, per_s: float, burst: float) -> None:
        self.spent = 0.0
        self._per_s = per_s
        self._burst = burst
        self._left = burst
        self._counted_s: float | None = None

    def wait_s(self, now_s: float) -> float:
        """How long until anything may be spent; 0 if now, infinite if never."""
        self._count(now_s)
        if self._left > 0:
            return 0.0
        return float("inf") if self._per_s <= 0 else -self._left / self._per_s + 1e-3

    def spend(self, amount: float, now_s: float) -> None:
        self._count(now_s)
        self._left -= amount
        self.spent += amount

    def _count(self, now_s: float) -> None:
        if self._counted_s is not None:
            self._left = min(self._burst, self._left + (now_s - self._counted_s) * self._per_s)
        self._counted_s = now_s


class Allowance:
    """What may be spent on the side is a share of what was earned, saved up to ``burst``; it is full at the start."""

    def __init__(self, share: float, burst: float) -> None:
        self._share = share
        self._burst = burst
        self._left = burst

    def earn(self, amount: float) -> None:
        self._left = min(self._burst, self._left + self._share * amount)

    def spend(self, amount: float) -> bool:
        """Whether there was enough."""
        if amount > self._left:
            return False
        self._left -= amount
        return True
