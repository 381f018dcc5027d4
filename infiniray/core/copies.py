"""What the instances of a node have, and the connections to them."""

from __future__ import annotations

from dataclasses import dataclass

from infiniray.core.ids import InstanceId, LinkId, SessionId
from infiniray.wire.describe import SeqSpans

__all__ = ["Copy", "Lacks", "Link"]


@dataclass(slots=True, eq=False)
class Lacks:
    """Which numbers of a node's books a copy does not have, as of a number of changes of the books and of its spans.

    ``others``: all numbers but these, if that was asked for.
    """

    seqs: set[int]
    n_noted: int  # changes of the books that are in it
    spans: SeqSpans
    n_spans_changes: int
    others: SeqSpans | None = None

    def is_of(self, spans: SeqSpans) -> bool:
        return self.spans is spans and self.n_spans_changes == spans.n_changes


@dataclass(slots=True, eq=False)
class Copy:
    """Which of a node's inserts and deletes one of its instances has seen, as far as we know."""

    instance: InstanceId
    spans: SeqSpans
    #: for the node's books, which work it out
    lacks: Lacks | None = None

    def learn(self, spans: SeqSpans) -> None:
        """It says itself what it has seen."""
        if self.spans != spans:
            self.spans = spans.copy()


@dataclass(slots=True, eq=False)
class Link:
    """A connection to an instance. It outlives sessions, and may outlive the instance without our knowing."""

    id: LinkId
    copy: Copy
    #: the last session that was spoken of over it
    session: SessionId | None = None
    #: we hang up: nothing may be sent any more
    is_closing: bool = False

    @property
    def instance(self) -> InstanceId:
        return self.copy.instance

    @property
    def spans(self) -> SeqSpans:
        return self.copy.spans
