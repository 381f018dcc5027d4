"""How fast a function may get new instances.

AWS: up to 1,000 execution environments every 10 seconds, for each function by itself
(https://docs.aws.amazon.com/lambda/latest/dg/scaling-behavior.html).
"""

from __future__ import annotations

from collections import deque

__all__ = ["ScalingLimit"]


class ScalingLimit:
    """I promise that no window of ``window_s`` seconds sees more than ``n_instances`` starts of one function."""

    def __init__(self, *, n_instances: int, window_s: float) -> None:
        self._window_s = window_s
        self._started_s: deque[float] = deque(maxlen=n_instances)

    def wait_s(self, now_s: float) -> float:
        """How long until one more may start; 0 if it may now."""
        if len(self._started_s) < (self._started_s.maxlen or 0):
            return 0.0
        return max(0.0, self._started_s[0] + self._window_s - now_s)

    def note(self, now_s: float) -> None:
        """One starts."""
        self._started_s.append(now_s)
