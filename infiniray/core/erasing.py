"""Making sure that what was replaced or deleted cannot come back.

After a crash a shard finds its objects by asking the nodes what they hold. An object that was deleted must not be among
them, nor an older version of one, though most chunks are deleted at leisure, and though instances that were not heard
of for long may still hold some. So nothing that replaces or deletes an object is acknowledged before so many of its
chunks are gone from the copies on record that fewer than k are left; and fewer than k never count
(:mod:`~infiniray.core.recovery`).
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import TYPE_CHECKING

from infiniray.core.commands import Complete
from infiniray.core.ids import NodeId, OpId
from infiniray.core.operation import Operation, Timing
from infiniray.core.requests import Settled
from infiniray.core.table import ObjectRecord

if TYPE_CHECKING:
    from infiniray.core.node import Node
    from infiniray.core.shard import ShardState

__all__ = ["Delete", "Eraser", "Residue"]


class Residue:
    """A record that is not in the table any more, and may still be on nodes."""

    __slots__ = ("_chunks", "_n_harmless", "record")

    def __init__(self, record: ObjectRecord) -> None:
        self.record = record
        places = [*((index, place.node) for index, place in record.placed()), *record.strays]
        self._chunks = [(node, record.chunk_id(index)) for index, node in places]
        self._n_harmless = record.facts.scheme.k - 1

    @property
    def nodes(self) -> Iterator[NodeId]:
        """Those that may still hold some of it."""
        return (node for node, _ in self._chunks)

    def left(self, shard: ShardState) -> list[Node]:
        """For each chunk that is not known to be gone, its node. What a node held that has left the pool is gone:
        nobody asks it any more."""
        return [
            node
            for name, chunk in self._chunks
            if (node := shard.nodes.get(name)) is not None and not node.is_gone(chunk)
        ]

    def is_harmless(self, left: list[Node]) -> bool:
        """Whether what is left of it is too little to be taken for the object."""
        return self.record.is_dropped and len(left) <= self._n_harmless

    def hurry(self, left: list[Node]) -> None:
        """Have as many nodes as necessary delete it now: those first that are awake anyway."""
        left.sort(key=lambda node: (node.is_suspect, not node.is_awake))
        for node in left[: len(left) - self._n_harmless]:
            node.hurry()


class Eraser:
    """I see to it that what was under a key before becomes harmless. Then the operation may be acknowledged."""

    def __init__(self, shard: ShardState, residues: list[Residue]) -> None:
        self._shard = shard
        self._residues = residues
        self._concerns = {residue.record.facts.key for residue in residues}.union(*(r.nodes for r in residues))

    def waits_for(self, progressed: Set[str]) -> bool:
        """Whether what happened to these nodes, or under these keys, may change anything here."""
        return not self._concerns.isdisjoint(progressed)

    def look(self) -> bool:
        """Do what can be done now; whether all is harmless."""
        waiting = [(residue, residue.left(self._shard)) for residue in self._residues]
        waiting = [(residue, left) for residue, left in waiting if not residue.is_harmless(left)]
        self._residues = [residue for residue, _ in waiting]
        for residue, left in waiting:
            if residue.record.is_dropped:
                residue.hurry(left)
        return not self._residues

    def insist(self) -> None:
        """Reads of what is to go have had their time: they will have to begin again."""
        for residue in self._residues:
            self._shard.drop(residue.record)

    def describe(self) -> str:
        n_left = sum(len(residue.left(self._shard)) for residue in self._residues)
        return f"{n_left} chunks of what was there before are on nodes that did not answer"


class Delete(Operation):
    """A DELETE. Readers miss the object at once; it is acknowledged when it cannot come back."""

    name = "DELETE"
    has_buffers = False

    def __init__(
        self, op: OpId, record: ObjectRecord, shard: ShardState, deadline_s: float, *, found: bool, eraser: Eraser
    ) -> None:
        super().__init__(op, record.facts, shard, deadline_s)
        self._found = found
        self._eraser = eraser

    def start(self) -> None:
        self.set_timer(Timing.DEADLINE, self.deadline_s - self.context.now_s)
        self.set_timer(Timing.AGAIN, self.context.policy.erase_patience_s)
        self.look()

    def waits_for(self, progressed: Set[str]) -> bool:
        return self._eraser.waits_for(progressed)

    def look(self) -> None:
        if self._eraser.look():
            self.end(lambda: self.context.out.append(Complete(op=self.id, found=self._found)))

    def on_timer(self, timing: Timing) -> None:
        if timing is Timing.AGAIN:
            self._eraser.insist()
            self.retry_later()
            self.look()
        else:
            self.fail(self.too_late(self._eraser.describe()))

    def on_settled(self, settled: Settled) -> None:
        raise AssertionError(f"a DELETE asks nodes for nothing of its own: {settled}")

    def on_coded(self, error: str | None) -> None:
        raise AssertionError("a DELETE codes nothing")
