"""A point in time by which an operation ends, one way or another."""

from __future__ import annotations

import time
from dataclasses import dataclass

from infiniray.errors import DeadlineExceeded

__all__ = ["Deadline"]


@dataclass(frozen=True, slots=True)
class Deadline:
    """``timeout_s`` is what the caller granted, ``at_s`` when that is over on the monotonic clock."""

    timeout_s: float
    at_s: float

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        return cls(timeout_s, time.monotonic() + timeout_s)

    def left_s(self) -> float:
        return max(0.0, self.at_s - time.monotonic())

    def exceeded(self, operation: str, key: str, detail: str) -> DeadlineExceeded:
        return DeadlineExceeded(operation=operation, key=key, deadline_s=self.timeout_s, detail=detail)
