"""The supervisor as a shard sees it: it gives epochs, and slots for backups, and is away now and then."""

from __future__ import annotations

from infiniray.core.ids import NodeId

__all__ = ["SimSupervisor"]


class SimSupervisor:
    """I give each incarnation of a shard an epoch above all before, and so many slots at a time.

    An epoch is written down before it is given: my next process goes on from there. Who had slots it does not know.
    """

    def __init__(self, epoch: int, n_slots: int = 1000) -> None:
        self.n_slots = n_slots
        self.is_away = False
        self._epoch = self._written_epoch = epoch
        self._slots: set[NodeId] = set()

    def enroll(self) -> int:
        """The epoch of a shard's new process. The slots of the one before are free."""
        assert not self.is_away
        self._written_epoch = self._epoch + 1
        self._epoch = self._written_epoch
        self._slots.clear()
        return self._epoch

    def acquire_slot(self, node: NodeId) -> bool:
        if self.is_away or (node not in self._slots and len(self._slots) >= self.n_slots):
            return False
        self._slots.add(node)
        return True

    def release_slot(self, node: NodeId) -> None:
        if not self.is_away:
            self._slots.discard(node)

    def crash(self) -> None:
        self.is_away = True
        self._slots.clear()

    def restart(self) -> None:
        """My next process begins with what was written down."""
        self.is_away = False
        self._epoch = self._written_epoch
