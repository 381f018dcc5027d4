"""Small values that a shard keeps a copy of, so that reading them asks no node.

The chunks on the nodes remain the object: a near copy is dropped with the record that it is of, and is never what an
object is recovered or repaired from. It is coherent because all writes of a key pass the shard that owns it, and only
while no other incarnation of that shard can have written: a near copy asks no node, so no node would refuse one that
has been replaced. That is what :class:`Lead` is for.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

from infiniray.core.commands import Complete, ConfirmLead, DropNear, KeepNear, ObjectFacts, ReadNear, Release
from infiniray.core.context import Context
from infiniray.core.ids import OpId

if TYPE_CHECKING:
    from infiniray.core.table import ObjectRecord

__all__ = ["LEAD_S", "NEAR_OVERHEAD_BYTES", "Lead", "NearCopies"]

#: For so long after it was asked for, the answer that there is no later incarnation may be relied on.
LEAD_S = 0.25
#: What a near copy takes beside its bytes and its head.
NEAR_OVERHEAD_BYTES = 1024
#: Of the limit, the share that values keep which nobody has asked for twice.
FRESH_SHARE = 0.25


class Lead:
    """Whether this incarnation of the shard is the only one that answers clients.

    I am sure for :data:`LEAD_S` after asking; a later incarnation answers nobody for so long after it began, which was
    after it had made that question be answered with no (:mod:`~infiniray.core.recovery`). Clocks need not agree, only
    run at about the same speed.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._until_s = -math.inf
        self._asked_s: float | None = None

    @property
    def is_sure(self) -> bool:
        return self._context.now_s < self._until_s

    def renew(self) -> None:
        """Somebody relies on me: ask again before I am not sure any more."""
        now_s = self._context.now_s
        if self._asked_s is None and self._until_s - now_s < LEAD_S / 2:
            self._asked_s = now_s
            self._context.out.append(ConfirmLead())

    def on_confirmed(self, is_sure: bool) -> None:
        """The answer came; ``is_sure`` is False if nobody could be asked."""
        asked_s, self._asked_s = self._asked_s, None
        if is_sure and asked_s is not None:
            self._until_s = asked_s + LEAD_S


class NearCopies:
    """I know which values the driver keeps a near copy of: at most ``policy.near_bytes`` together, none larger than
    ``policy.near_max_bytes``.

    What was written or read goes in; what is read again stays longest (2Q, Johnson and Shasha, VLDB 1994, without its
    queue of ghosts): a scan, or many writes that nobody reads, push out no value that is asked for again and again.
    """

    def __init__(self, context: Context) -> None:
        self.lead = Lead(context)
        self.n_bytes = 0
        self._context = context
        self._limit_bytes = context.policy.near_bytes
        self._max_bytes = min(context.policy.near_max_bytes, self._limit_bytes)
        #: {key: the version that is kept}, the one to go first in front
        self._fresh: OrderedDict[str, ObjectFacts] = OrderedDict()  # not asked for since it was kept
        self._used: OrderedDict[str, ObjectFacts] = OrderedDict()
        self._fresh_bytes = 0

    def __len__(self) -> int:
        return len(self._fresh) + len(self._used)

    def has(self, record: ObjectRecord) -> bool:
        """Whether there is a near copy of this version."""
        kept = self._find(record.facts.key)
        return kept is not None and kept.version == record.facts.version

    def answer(self, op: OpId, record: ObjectRecord) -> bool:
        """Have a read of a record answered from its near copy, now; False if it cannot be."""
        facts, key = record.facts, record.facts.key
        if not self.has(record):
            return False
        self.lead.renew()
        if not self.lead.is_sure:
            return False
        if key in self._fresh:
            del self._fresh[key]
            self._fresh_bytes -= _footprint(facts)
            self._used[key] = facts
        else:
            self._used.move_to_end(key)
        self._context.out += [ReadNear(op=op, key=key), Complete(op=op, facts=facts), Release(op=op)]
        return True

    def keep(self, op: OpId, record: ObjectRecord) -> None:
        """An operation is about to end whose buffer has a record's value: keep a copy, if it is small enough."""
        facts = record.facts
        if facts.size_bytes > self._max_bytes or not self._limit_bytes or record.is_retired:
            return
        if self._find(facts.key) is not None:
            return  # of this version: that of another went with its record
        self._fresh[facts.key] = facts
        self._fresh_bytes += _footprint(facts)
        self.n_bytes += _footprint(facts)
        self._context.out.append(KeepNear(op=op, facts=facts))
        self.lead.renew()  # what was written, or read for the first time, is likely to be read now
        self._make_room()

    def drop(self, facts: ObjectFacts) -> None:
        """This version is not what its key holds any more."""
        kept = self._find(facts.key)
        if kept is not None and kept.version == facts.version:
            self._forget(facts.key)

    def _find(self, key: str) -> ObjectFacts | None:
        return self._used.get(key) or self._fresh.get(key)

    def _make_room(self) -> None:
        while self.n_bytes > self._limit_bytes:
            has_much_fresh = len(self._fresh) > 1 and self._fresh_bytes > FRESH_SHARE * self._limit_bytes
            self._forget(next(iter(self._fresh if has_much_fresh or not self._used else self._used)))

    def _forget(self, key: str) -> None:
        facts = self._fresh.pop(key, None)
        if facts is not None:
            self._fresh_bytes -= _footprint(facts)
        else:
            facts = self._used.pop(key)
        self.n_bytes -= _footprint(facts)
        self._context.out.append(DropNear(key=key))


def _footprint(facts: ObjectFacts) -> int:
    return facts.size_bytes + len(facts.head) + NEAR_OVERHEAD_BYTES
