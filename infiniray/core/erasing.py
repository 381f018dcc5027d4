"""Making sure that what was replaced or deleted cannot come back.

After a crash a shard finds its objects by asking the nodes what they hold. An object that was deleted must not be among
them, nor an older version of one, though most chunks are deleted at leisure, and though instances that were not heard
of for long may still hold some. So nothing that replaces or deletes an object is acknowledged before what is left of
it is *harmless*: whatever is lost from then on, fewer than k of its chunks are on copies on record, or k of a later
version are, which counts instead (:mod:`~infiniray.core.recovery`).

A node that has chunks of two versions loses the older one first: it is told to delete it before it is told to delete
the newer, and whatever takes its memory takes both. So of a version that was replaced on the nodes that it was on,
fewer than k chunks are left whenever fewer than k are of its successor. It is harmless at once, without a word to any
node; that is why a write goes where the version before was (:class:`~infiniray.core.storing.Write`).
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import TYPE_CHECKING, NamedTuple

from infiniray.core.commands import Complete
from infiniray.core.ids import NodeId, OpId
from infiniray.core.operation import Operation, Timing
from infiniray.core.requests import Settled
from infiniray.core.table import ObjectRecord

if TYPE_CHECKING:
    from infiniray.core.node import Node
    from infiniray.core.shard import ShardState

__all__ = ["Delete", "Eraser", "Left", "Residue"]


class Left(NamedTuple):
    """Where chunks may still be of a record that is not in the table any more: a node for each of them."""

    bare: list[Node]
    shadowed: list[Node]  # which have a chunk of a later version, and lose that later

    def __len__(self) -> int:
        """Chunks."""
        return len(self.bare) + len(self.shadowed)


class Residue:
    """A record that is not in the table any more, and may still be on nodes."""

    __slots__ = ("_shadow", "_shadow_k", "record")

    def __init__(self, record: ObjectRecord) -> None:
        self.record = record
        self._shadow: frozenset[NodeId] = frozenset()  # nodes of a later version, and how many of these make it
        self._shadow_k = 1

    def replaced_by(self, later: ObjectRecord) -> None:
        """A later version is committed: now, when all of its chunks are on the copies on record of their nodes."""
        self._shadow = frozenset(place.node for _, place in later.placed())
        self._shadow_k = later.facts.scheme.k

    @property
    def nodes(self) -> Iterator[NodeId]:
        """Those that may still hold some of it."""
        yield from (place.node for _, place in self.record.placed())
        yield from (node for _, node in self.record.strays)

    def left(self, shard: ShardState) -> Left:
        """Chunks that are not known to be gone. What a node held that has left the pool is gone: nobody asks it any
        more. Strays may have come after the later version, and lie in nobody's shadow."""
        record, nodes = self.record, shard.nodes
        left = Left([], [])
        for index, place in record.placed():
            node = nodes.get(place.node)
            if node is not None and not node.is_gone(record.chunk_id(index)):
                (left.shadowed if place.node in self._shadow else left.bare).append(node)
        for index, name in record.strays:
            node = nodes.get(name)
            is_placed = record.places[index].node == name
            if node is not None and not is_placed and not node.is_gone(record.chunk_id(index)):
                left.bare.append(node)
        return left

    def is_harmless(self, left: Left) -> bool:
        """Whether what is left of it is too little to be taken for the object, or will be as soon as the later version
        is. Before it is dropped, nobody was told to delete it, and the order of deletions is not certain."""
        return self.record.is_dropped and self._n_too_many(len(left.bare), len(left.shadowed)) <= 0

    def hurry(self, left: Left) -> None:
        """Have as many nodes as necessary delete it now: those first that are awake anyway."""
        n_bare, n_shadowed = len(left.bare), len(left.shadowed)
        order = [*sorted(left.bare, key=_reluctance), *sorted(left.shadowed, key=_reluctance)]
        for node in order:
            if self._n_too_many(n_bare, n_shadowed) <= 0:
                return
            node.hurry()
            n_bare, n_shadowed = (n_bare - 1, n_shadowed) if n_bare else (0, n_shadowed - 1)

    def _n_too_many(self, n_bare: int, n_shadowed: int) -> int:
        """Chunks that could make the object, of so many: of those in the shadow fewer than the later version's k are
        left when that is lost."""
        return n_bare + min(n_shadowed, self._shadow_k - 1) - (self.record.facts.scheme.k - 1)


def _reluctance(node: Node) -> tuple[bool, bool]:
    return node.is_suspect, not node.is_awake


class Eraser:
    """I see to it that what was under a key before becomes harmless. Then the operation may be acknowledged."""

    def __init__(self, shard: ShardState, residues: list[Residue]) -> None:
        self._shard = shard
        self._residues = residues
        self._concerns: set[str] = {residue.record.facts.key for residue in residues}

    def waits_for(self, progressed: Set[str]) -> bool:
        """Whether what happened to these nodes, or under these keys, may change anything here."""
        return not self._concerns.isdisjoint(progressed)

    def look(self) -> bool:
        """Do what can be done now; whether all is harmless."""
        waiting = [(residue, residue.left(self._shard)) for residue in self._residues]
        waiting = [(residue, left) for residue, left in waiting if not residue.is_harmless(left)]
        self._residues = [residue for residue, _ in waiting]
        for residue, left in waiting:
            self._concerns.update(residue.nodes)
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
