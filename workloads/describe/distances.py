"""How many bytes of other objects have been asked for since an object was: what an LRU cache must hold to hit it.

Mattson's stack distances (IBM Systems Journal, 1970), weighted by bytes, over a Fenwick tree of the last accesses.
"""

from __future__ import annotations

__all__ = ["StackDistances"]

_FIRST_SLOTS = 1 << 12


class StackDistances:
    """I hold objects in the order of their last access. Memory and time grow with the objects, not the accesses."""

    def __init__(self) -> None:
        self._n_slots = _FIRST_SLOTS
        self._tree = [0] * (self._n_slots + 1)
        self._at: dict[str, tuple[int, int]] = {}  #: {key: (slot, size)}; later accesses have higher slots
        self._next = 1
        self._held_bytes = 0

    def access(self, key: str, size_bytes: int) -> int | None:
        """Bytes of the distinct objects accessed since ``key`` was, itself included; None at its first access."""
        distance = None
        if (before := self._at.pop(key, None)) is not None:
            slot, held = before
            distance = self._held_bytes - self._sum_to(slot) + held
            self._add(slot, -held)
        if self._next > self._n_slots:
            self._renumber()
        self._at[key] = (self._next, size_bytes)
        self._add(self._next, size_bytes)
        self._next += 1
        return distance

    def forget(self, key: str) -> None:
        """Takes ``key`` out as though it had never been accessed."""
        slot, held = self._at.pop(key)
        self._add(slot, -held)

    def _add(self, slot: int, n_bytes: int) -> None:
        self._held_bytes += n_bytes
        tree, n = self._tree, self._n_slots
        while slot <= n:
            tree[slot] += n_bytes
            slot += slot & -slot

    def _sum_to(self, slot: int) -> int:
        tree, total = self._tree, 0
        while slot:
            total += tree[slot]
            slot &= slot - 1
        return total

    def _renumber(self) -> None:
        """Closes the gaps that later accesses have left; grows if there are few."""
        order = sorted(self._at.items(), key=lambda item: item[1][0])
        if len(order) * 2 > self._n_slots:
            self._n_slots *= 2
        self._tree = [0] * (self._n_slots + 1)
        self._held_bytes = 0
        self._at = {key: (slot, held) for slot, (key, (_, held)) in enumerate(order, 1)}
        for slot, held in self._at.values():
            self._add(slot, held)
        self._next = len(order) + 1
