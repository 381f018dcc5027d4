"""Slots for backups: so many at a time in a whole cache, so that they never gather."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Slots"]


class Slots:
    """I grant slots and take them back. One that nobody releases comes free after ``expiry_s``: its shard is gone."""

    def __init__(self, n_slots: int, expiry_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._n_slots = n_slots
        self._expiry_s = expiry_s
        self._clock = clock
        self._granted_s: dict[tuple[str, str], float] = {}

    @property
    def n_taken(self) -> int:
        self._expire()
        return len(self._granted_s)

    def acquire(self, shard: str, node: str) -> bool:
        """Whether ``node`` may be backed up now. Asked again, the answer is the same."""
        self._expire()
        if (shard, node) not in self._granted_s and len(self._granted_s) >= self._n_slots:
            return False
        self._granted_s[shard, node] = self._clock()
        return True

    def release(self, shard: str, node: str) -> None:
        self._granted_s.pop((shard, node), None)

    def release_all(self, shard: str) -> None:
        """The shard has crashed: none of its backups goes on."""
        self._granted_s = {who: at_s for who, at_s in self._granted_s.items() if who[0] != shard}

    def _expire(self) -> None:
        oldest_s = self._clock() - self._expiry_s
        self._granted_s = {who: at_s for who, at_s in self._granted_s.items() if at_s > oldest_s}
