"""Warm-ups in pairs: two at once, so that the platform has to answer with two instances of a node.

A node's replica answers nobody while the node's current instance is idle, so that it was reclaimed shows only in the
next backup, and a backup that finds it there and unchanged has kept two instances waiting for each other. Two warm-ups
that are out at the same time cost two request fees and say of both instances whether they are still the ones that were,
and what they hold.
"""

from __future__ import annotations

from infiniray.core.copies import Copy
from infiniray.core.ids import SessionId

__all__ = ["Pair"]


class Pair:
    """I know which of a node's warm-ups are out, and what was last heard of its replica.

    Of two answers the first says which instance is current, as a single warm-up's does, unless a session has begun by
    then; the other is the replica's. Which of the two was asked first means nothing: the platform chooses.
    """

    def __init__(self) -> None:
        #: the instance beside the current one, when last heard of; None: nothing is known of any
        self.replica: Copy | None = None
        self._second: SessionId | None = None
        self._has_heard = True

    @property
    def is_out(self) -> bool:
        """Whether the second warm-up has not returned."""
        return self._second is not None

    def begin(self, second: SessionId | None) -> None:
        """Warm-ups go out: the session of the second one, None if it is a single one."""
        self._second = second
        self._has_heard = False

    def returned(self, session: SessionId) -> bool:
        """Whether that was the second warm-up."""
        if self._second is None or session != self._second:
            return False
        self._second = None
        return True

    def is_first(self) -> bool:
        """Whether an answer is the first of its pair; it is, once."""
        had_heard, self._has_heard = self._has_heard, True
        return not had_heard

    def turn(self, former: Copy | None, current: Copy) -> None:
        """Another copy is current: the former one is its replica if these two were a pair."""
        were_pair = self.replica is not None and self.replica.instance == current.instance
        self.replica = former if were_pair else None
