"""How chunks, and the part of a node's history that one instance has, are described on the wire."""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from infiniray.wire.frames import ProtocolError

__all__ = ["ChunkId", "ChunkInfo", "SeqSpans"]


class ChunkId(NamedTuple):
    """Which chunk: the ``index``-th of version ``version`` of the object under ``key``."""

    key: str
    version: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody wants of an id

    @classmethod
    def from_wire(cls, value: Any) -> ChunkId:
        """Raises: ProtocolError: not a chunk's id."""
        if type(value) is list and tuple(map(type, value)) == _ID_TYPES:  # as nodes and shards write it
            return cls._make(value)
        match value:
            case [str(key), int(version), int(index)]:
                return cls(key, version, index)
        raise ProtocolError(f"not a chunk id: {value!r:.80}")


class ChunkInfo(NamedTuple):
    """What a chunk says of itself, so that a shard that lost its table can rebuild it from its nodes.

    ``seq`` numbers the inserts and deletes of one node; ``expires_s`` is Unix time, 0 for never; ``head``
    tells the client how to turn the object's bytes back into a value; ``crc`` is the CRC-32 of this chunk's
    bytes.
    """

    key: str
    version: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody wants of an id
    seq: int
    scheme: str
    object_bytes: int
    chunk_bytes: int
    crc: int
    expires_s: float
    head: str

    @property
    def id(self) -> ChunkId:
        return ChunkId(self.key, self.version, self.index)

    @classmethod
    def from_wire(cls, value: Any) -> ChunkInfo:
        """Raises: ProtocolError: not a chunk's description."""
        if type(value) is list and tuple(map(type, value)) in _INFO_TYPES:  # as nodes and shards write it
            if 0 <= value[6] <= value[5] and value[2] >= 0:
                return cls._make(value)
            raise ProtocolError(f"not a chunk description: {value!r:.120}")
        match value:
            case [
                str(),
                int(),
                int(index),
                int(),
                str(),
                int(size),
                int(chunk_bytes),
                int(),
                int() | float(),
                str(),
            ] if 0 <= chunk_bytes <= size and index >= 0:
                return cls(*value)
        raise ProtocolError(f"not a chunk description: {value!r:.120}")

    @classmethod
    def page_from_wire(cls, value: Any) -> tuple[ChunkInfo, ...]:
        """A page of an inventory: descriptions of different chunks, in the order of their ids.

        Column by column, in a third of the time that :meth:`from_wire` takes for each: a shard that starts again
        reads as many as its nodes hold.

        Raises:
            ProtocolError: not a list of descriptions, or not in that order.
        """
        if not isinstance(value, list) or not set(map(type, value)) <= {list}:
            raise ProtocolError(f"not a page of chunk descriptions: {value!r:.120}")
        if not value:
            return ()
        if set(map(len, value)) != {len(cls._fields)}:
            raise ProtocolError(f"a page of chunk descriptions, one of which is none: {value!r:.120}")
        columns = list(zip(*value, strict=True))
        if not all(set(map(type, column)) <= types for column, types in zip(columns, _COLUMN_TYPES, strict=True)):
            raise ProtocolError(f"a page of chunk descriptions, one of which is none: {value!r:.120}")
        _, _, indices, _, _, object_bytes, chunk_bytes, *_ = columns
        ids = list(zip(*columns[:3], strict=True))
        in_range = min(indices) >= 0 and min(chunk_bytes) >= 0 and all(map(operator.le, chunk_bytes, object_bytes))
        if not in_range or not all(map(operator.lt, ids, ids[1:])):
            raise ProtocolError(f"a page of chunk descriptions that contradict themselves: {value!r:.120}")
        return tuple(map(cls._make, value))


#: What a :class:`ChunkId` is made of on the wire, and a :class:`ChunkInfo`: to compare types at once takes a fifth of
#: the time that a pattern takes.
_ID_TYPES = (str, int, int)
_INFO_TYPES = frozenset((str, int, int, int, str, int, int, int, expires, str) for expires in (int, float))
#: And what may be in each column of a page of these.
_COLUMN_TYPES: tuple[set[type], ...] = (
    {str}, {int}, {int}, {int}, {str}, {int}, {int}, {int}, {int, float}, {str},
)  # fmt: skip


class SeqSpans:
    """Which of a node's sequence numbers one instance has seen: a set of integers as disjoint spans.

    Usually one span. A second instance of the same node, started empty or from a replica, has others;
    comparing spans tells a shard at HELLO which chunks that copy lacks, without an inventory.
    """

    __slots__ = ("_starts", "_stops", "n_changes")

    #: More spans than this are not kept: the oldest are forgotten, which can only understate what an instance
    #: has.
    MAX_SPANS = 256

    def __init__(self, spans: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []  # inclusive
        #: how often numbers have been added: what was derived from these spans holds as long as this stays
        self.n_changes = 0
        for first, last in spans:
            self.add(first, last)

    def __contains__(self, seq: int) -> bool:
        i = bisect_right(self._starts, seq) - 1
        return i >= 0 and seq <= self._stops[i]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._stops, strict=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeqSpans) and self._starts == other._starts and self._stops == other._stops

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"SeqSpans({list(self)})"

    @property
    def last(self) -> int:
        """The highest number seen, 0 if none."""
        return self._stops[-1] if self._stops else 0

    def add(self, first: int, last: int | None = None) -> None:
        """Add ``first`` to ``last``, inclusive; neighbours join."""
        self.n_changes += 1
        starts, stops = self._starts, self._stops
        last = first if last is None else last
        if not stops or first > stops[-1] + 1:  # the most
            starts.append(first)
            stops.append(last)
        elif first > stops[-1]:
            stops[-1] = last
        else:
            self._insert(first, last)
        if len(starts) > self.MAX_SPANS:
            del starts[0], stops[0]

    def _insert(self, first: int, last: int) -> None:
        starts, stops = self._starts, self._stops
        i = bisect_right(starts, first)
        if i and stops[i - 1] >= first - 1:
            i -= 1
            if last <= stops[i]:
                return
            first = starts[i]
        j = bisect_right(starts, last + 1, i)
        if j > i:
            last = max(last, stops[j - 1])
        starts[i:j] = [first]
        stops[i:j] = [last]

    def update(self, spans: SeqSpans | Sequence[tuple[int, int]]) -> None:
        """Add many spans, in order, at once."""
        self.n_changes += 1
        if isinstance(spans, SeqSpans):
            more_starts, more_stops = spans._starts, spans._stops
            if spans.covers(self):  # mostly
                self._starts, self._stops = more_starts.copy(), more_stops.copy()
                return
        else:
            more_starts, more_stops = [first for first, _ in spans], [last for _, last in spans]
        # With starts and stops each in order, a span of the union begins where a start lies behind all stops before.
        starts, stops = sorted(self._starts + more_starts), sorted(self._stops + more_stops)
        begins = [i for i, gap in enumerate(map(operator.sub, starts[1:], stops), 1) if gap > 1]
        begins = begins[-self.MAX_SPANS :] if len(begins) >= self.MAX_SPANS else [0, *begins]
        if starts:
            self._starts = [starts[i] for i in begins]
            self._stops = [*(stops[i - 1] for i in begins[1:]), stops[-1]]

    def covers(self, other: SeqSpans) -> bool:
        """Whether everything in ``other`` is here."""
        starts, stops = self._starts, self._stops
        if starts == other._starts and stops == other._stops:
            return True
        ends = [-1, *stops]  # by how many spans begin at or before a number, where the last of them ends
        found = [bisect_right(starts, first) for first in other._starts]
        return all(map(operator.le, other._stops, map(ends.__getitem__, found)))

    def without(self, seqs: Iterable[int]) -> SeqSpans:
        """These numbers but those in ``seqs``."""
        gone = sorted(set(seqs))
        starts: list[int] = []
        stops: list[int] = []
        start = 0
        for first, last in self:
            start = bisect_left(gone, first, start)
            stop = bisect_right(gone, last, start)
            starts.append(first)
            if stop > start:
                within = gone[start:stop]
                starts += [seq + 1 for seq in within]
                stops += [seq - 1 for seq in within]
                start = stop
            stops.append(last)
        if not all(map(operator.le, starts, stops)):  # neighbours are gone, or an end
            left = [i for i, (first, last) in enumerate(zip(starts, stops, strict=True)) if first <= last]
            starts, stops = [starts[i] for i in left], [stops[i] for i in left]
        rest = SeqSpans()
        rest._starts, rest._stops = starts, stops
        return rest

    def copy(self) -> SeqSpans:
        twin = SeqSpans.__new__(SeqSpans)
        twin._starts, twin._stops, twin.n_changes = self._starts.copy(), self._stops.copy(), 0
        return twin

    def to_wire(self) -> list[list[int]]:
        return [[first, last] for first, last in self]

    @classmethod
    def from_wire(cls, value: Any) -> SeqSpans:
        """Raises: ProtocolError: not a list of spans."""
        spans = cls()
        if not isinstance(value, list) or len(value) > cls.MAX_SPANS:
            raise ProtocolError(f"not a list of spans: {value!r:.80}")
        for span in value:
            match span:
                case [int(first), int(last)] if 0 < first <= last:
                    spans.add(first, last)
                case _:
                    raise ProtocolError(f"not a span: {span!r:.80}")
        return spans
