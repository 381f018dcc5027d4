"""What a node is to hold, whichever of its instances does: the shard's side of the books."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from infiniray.core.copies import Copy, Lacks
from infiniray.core.ids import InstanceId
from infiniray.wire.describe import ChunkId, SeqSpans

__all__ = ["NOBODY", "Custody", "Held", "Retention"]

#: Numbers named in one RETAIN frame: well below what its meta may carry.
RETAIN_BATCH = 16_384
#: Changes of the books by which what is known of a copy may be behind: else it is found anew.
CHANGES_KEPT = 64
#: Registered as the current copy of a node that has none.
NOBODY = InstanceId("")


class Held(NamedTuple):
    """A chunk that the node is to hold: the number of the insert that brought it, and its bytes."""

    seq: int
    n_bytes: int


class Retention(NamedTuple):
    """One RETAIN: see :class:`~infiniray.core.commands.Retain`. ``seen`` is None if others follow."""

    first: int
    last: int
    keep: tuple[int, ...]
    seen: SeqSpans | None


class Custody:
    """I keep the books of one node: which chunks it is to hold, which it is to delete, and which of its instances is on
    record as having them.

    An instance that takes over after others may hold what they were told to delete, so it is *aligned* first: told what
    to keep. Then it is *registered*, where the shard's next incarnation will find it. Only then does anything count
    that is acknowledged on the strength of what it has or has deleted: a chunk that the registered instance does not
    hold is gone for good, whatever else comes back from the dead.
    """

    def __init__(self) -> None:
        self.holdings: dict[ChunkId, Held] = {}
        #: the same by number, and the numbers in order, so that what a copy lacks is found without looking at all
        self._chunks: dict[int, ChunkId] = {}
        self._seqs: list[int] = []
        #: to be deleted: not told, or not confirmed yet
        self.garbage: dict[ChunkId, None] = {}
        #: every number whose change was made, or never will be
        self.seen = SeqSpans()
        #: numbers about which something has changed, the latest: what was found of a copy before is brought up to date
        self._changed: list[int] = []
        self._n_noted = 0  # changes in all
        self._n_seen_changes = 0  # those of ``seen`` that are among them
        #: whose being on record is confirmed; None while another is being written down, for then it may be either
        self.registered: InstanceId | None = None
        self._entering: InstanceId | None = None
        #: while the shard finds out what its nodes hold, nobody is told to drop anything
        self.is_paused = False
        self._aligned: Copy | None = None
        self._told: dict[ChunkId, None] = {}  # garbage that the copy being aligned will have dropped
        self._number_told: int | None = None  # of its having been told

    # ------------------------------------------------------------ chunks

    def hold(self, chunk: ChunkId, seq: int, n_bytes: int) -> None:
        """The node has confirmed an insert."""
        self._let_go(chunk)
        self.holdings[chunk] = Held(seq, n_bytes)
        self._chunks[seq] = chunk
        insort(self._seqs, seq)
        self._note(seq)
        self.garbage.pop(chunk, None)

    def discard(self, chunk: ChunkId) -> None:
        """The node is not to hold the chunk any more; it may have it or not."""
        self._let_go(chunk)
        self.garbage[chunk] = None

    def _let_go(self, chunk: ChunkId) -> None:
        held = self.holdings.pop(chunk, None)
        if held is not None:
            del self._chunks[held.seq]
            del self._seqs[bisect_left(self._seqs, held.seq)]
            self._note(held.seq)

    def deleted(self, chunks: Iterable[ChunkId]) -> None:
        """The current copy has confirmed a deletion."""
        for chunk in chunks:
            self.garbage.pop(chunk, None)

    def lacking(self, copy: Copy) -> list[tuple[ChunkId, Held]]:
        """What ``copy`` is to hold and does not have."""
        return self._numbered(self._lacked_by(copy))

    def differing(self, one: Copy, other: Copy) -> tuple[list[tuple[ChunkId, Held]], list[tuple[ChunkId, Held]]]:
        """What only the first of two copies has of what both are to hold, and what only the second has."""
        lacks_one, lacks_other = self._lacked_by(one), self._lacked_by(other)
        return self._numbered(lacks_other - lacks_one), self._numbered(lacks_one - lacks_other)

    def has_more(self, one: Copy, other: Copy) -> bool:
        """Whether the first of two copies has anything that the second has not, of what both are to hold."""
        return not self._lacked_by(other) <= self._lacked_by(one)

    def differ(self, one: Copy, other: Copy) -> bool:
        """Whether one of two copies has anything that the other has not, of what both are to hold."""
        return self._lacked_by(one) != self._lacked_by(other)

    # ------------------------------------------------------------ numbers

    def close(self, seq: int) -> None:
        """The change of this number was made, or never will be."""
        is_in_step = self._n_seen_changes == self.seen.n_changes
        self.seen.add(seq)
        if is_in_step:
            self._n_seen_changes = self.seen.n_changes
            self._note(seq)

    def note_made(self, copy: Copy, seq: int) -> None:
        """``copy`` has made this change."""
        known = copy.lacks
        is_true = known is not None and known.is_of(copy.spans)
        copy.spans.add(seq)
        if is_true:
            assert known is not None
            known.n_spans_changes = copy.spans.n_changes
            if seq in known.seqs:
                known.seqs.discard(seq)
                if known.others is not None:
                    known.others.add(seq)

    def note_seen(self, copy: Copy, spans: SeqSpans | Sequence[tuple[int, int]]) -> None:
        """``copy`` has confirmed a RETAIN that ends with these spans. They leave out what it lacks, as then before."""
        known = self._lacks(copy)
        copy.spans.update(spans)
        known.n_spans_changes = copy.spans.n_changes

    def _numbered(self, seqs: Iterable[int]) -> list[tuple[ChunkId, Held]]:
        holdings, chunks = self.holdings, self._chunks
        return [(chunk := chunks[seq], holdings[chunk]) for seq in sorted(seqs)]

    def _lacked_by(self, copy: Copy) -> set[int]:
        """The numbers that ``copy`` is to have and does not have. Not to be changed."""
        return self._lacks(copy).seqs

    def _lacks(self, copy: Copy) -> Lacks:
        if self._n_seen_changes != self.seen.n_changes:
            self._forget()
        known = copy.lacks
        if known is None or known.n_noted < self._n_noted - len(self._changed) or not known.is_of(copy.spans):
            known = copy.lacks = Lacks(self._left_out(copy.spans), self._n_noted, copy.spans, copy.spans.n_changes)
        elif known.n_noted < self._n_noted:
            self._catch_up(known)
        return known

    def _catch_up(self, known: Lacks) -> None:
        """Look at the numbers about which something has changed since."""
        for seq in self._changed[known.n_noted - self._n_noted :]:
            if seq in self._chunks and seq not in known.spans:
                known.seqs.add(seq)
                if known.others is not None and seq in known.others:
                    known.others = None
            else:
                known.seqs.discard(seq)
                if known.others is not None and seq in self.seen:
                    known.others.add(seq)
        known.n_noted = self._n_noted

    def _note(self, seq: int) -> None:
        self._changed.append(seq)
        self._n_noted += 1
        if len(self._changed) > 2 * CHANGES_KEPT:
            del self._changed[:CHANGES_KEPT]

    def _forget(self) -> None:
        """More has changed than one number: what copies lack is found anew."""
        self._changed.clear()
        self._n_noted += 1
        self._n_seen_changes = self.seen.n_changes

    def _left_out(self, spans: SeqSpans) -> set[int]:
        """The numbers that ``spans`` leave out."""
        seqs, start = self._seqs, 0
        n = len(seqs)
        left_out: set[int] = set()
        if not n:
            return left_out
        for first, last in spans:
            if seqs[start] < first:
                stop = bisect_left(seqs, first, start)
                left_out.update(seqs[start:stop])
                start = stop
                if start == n:
                    return left_out
            if seqs[start] <= last:
                start = bisect_right(seqs, last, start)
                if start == n:
                    return left_out
        left_out.update(seqs[start:])
        return left_out

    def is_gone(self, chunk: ChunkId, copy: Copy | None) -> bool:
        """Whether the node's current copy, ``copy``, is on record and without the chunk."""
        return self.vouches_for(copy) and chunk not in self.holdings and chunk not in self.garbage

    # ------------------------------------------------------------ copies

    def needs_nothing(self, copy: Copy) -> bool:
        """Whether it has seen exactly what there was, or nothing at all: it holds nothing that it should not hold."""
        return not copy.spans.last or copy.spans == self.seen

    def is_aligned(self, copy: Copy) -> bool:
        """Whether it holds nothing that it should not hold."""
        return copy is self._aligned

    def vouches_for(self, copy: Copy | None) -> bool:
        """Whether this copy is aligned, and the one on record."""
        return copy is not None and copy is self._aligned and copy.instance == self.registered

    def enter(self, instance: InstanceId) -> bool:
        """Have an instance on record from here on: whether that has to be written down, or has been, or is being."""
        if instance == (self.registered if self._entering is None else self._entering):
            return False
        self._entering, self.registered = instance, None
        return True

    def entered(self, instance: InstanceId) -> None:
        """It was written down. If another is to be by now, that comes after it."""
        if instance == self._entering:
            self._entering, self.registered = None, instance

    def take_over(self, copy: Copy, new_number: Callable[[], int]) -> list[Retention]:
        """Another copy is current from here on: what it has to be told, empty if it is aligned already.

        That it was told has a number of its own, as every change has. Without it, a copy that was not told could not
        be distinguished from this one, for having seen the same.
        """
        if copy is self._aligned or self.is_paused:
            return []
        if self.needs_nothing(copy):
            self._aligned = copy
            return []
        self._aligned = None
        self._told = dict(self.garbage)
        self._number_told = new_number()
        return self.retentions(copy, number=self._number_told)

    def seen_by(self, copy: Copy) -> SeqSpans:
        """Every number, but those of chunks that the copy is to hold and does not have. Not to be changed."""
        known = self._lacks(copy)
        if known.others is None:
            known.others = self.seen.without(known.seqs)
        return known.others

    def retentions(self, copy: Copy, number: int | None = None) -> list[Retention]:
        """What makes a copy forget all that it should not have, and know that it has seen the rest, and ``number``.

        Only for a copy on which no STORE is open: one whose answer is on its way would be forgotten, too.
        """
        keep = self._seqs
        seen = self.seen_by(copy).copy()
        if number is not None:
            seen.add(number)
        batches = [tuple(keep[i : i + RETAIN_BATCH]) for i in range(0, len(keep), RETAIN_BATCH)] or [()]
        starts = [1, *(batch[0] for batch in batches[1:])]
        stops = [*(start - 1 for start in starts[1:]), max(self.seen.last, copy.spans.last, 1)]
        last = len(batches) - 1
        return [
            Retention(start, stop, batch, seen if i == last else None)
            for i, (start, stop, batch) in enumerate(zip(starts, stops, batches, strict=True))
        ]

    def adopt(self, copy: Copy) -> None:
        """This copy is on record, and all that it holds is in these books."""
        self.seen = copy.spans.copy()
        self._forget()
        self._aligned = copy

    def aligned(self, copy: Copy) -> None:
        """It has confirmed the last RETAIN."""
        self._aligned = copy
        if self._number_told is not None and self._number_told in copy.spans:
            self.close(self._number_told)
            self._number_told = None
        if not self.seen.covers(copy.spans):
            self.seen.update(copy.spans)  # of earlier incarnations of the shard
        self.deleted(self._told)
        self._told = {}
