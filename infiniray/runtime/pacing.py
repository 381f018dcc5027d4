"""Shaping what a shard sends to a node, where the network in between does not: with the embedded platform.

What a node sends is shaped by the platform; this is the other direction, by the same token bucket.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from dataclasses import dataclass

from infiniray.runtime.streams import Stream

__all__ = ["Pacer", "Pacing"]

_SO_MAX_PACING_RATE = 47


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacing:
    """``bucket_bytes`` at ``burst_bytes_per_s``, the rest at ``sustained_bytes_per_s``; half of the bucket is back
    after ``quiet_s``."""

    bucket_bytes: int
    burst_bytes_per_s: int
    sustained_bytes_per_s: int
    quiet_s: float


class Pacer:
    """I keep one connection within a :class:`Pacing`: the kernel paces, I change the rate as the bucket empties."""

    def __init__(self, pacing: Pacing, connection: Stream) -> None:
        self._pacing = pacing
        self._connection = connection
        self._tokens_bytes = float(pacing.bucket_bytes)
        self._last_s = 0.0
        self._rate = 0

    def spend(self, n_bytes: int, now_s: float) -> None:
        """Take note of bytes handed to the kernel."""
        pacing, elapsed_s = self._pacing, now_s - self._last_s
        if elapsed_s >= pacing.quiet_s:
            self._tokens_bytes = max(self._tokens_bytes, pacing.bucket_bytes / 2)
            elapsed_s = 0.0
        income = pacing.sustained_bytes_per_s * elapsed_s
        self._tokens_bytes = max(0.0, self._tokens_bytes - max(0.0, n_bytes - income))
        self._last_s = now_s
        rate = pacing.burst_bytes_per_s if self._tokens_bytes > 0 else pacing.sustained_bytes_per_s
        if rate != self._rate:
            self._rate = rate
            with contextlib.suppress(OSError):  # closed meanwhile
                self._connection.setsockopt(socket.SOL_SOCKET, _SO_MAX_PACING_RATE, struct.pack("=Q", rate))
