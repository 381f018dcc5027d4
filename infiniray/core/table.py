"""The shard's object table: what is stored where, how recently it was used, and when it expires or is given up."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from infiniray.core.commands import ObjectFacts
from infiniray.core.ids import NodeId
from infiniray.core.policy import footprint_bytes
from infiniray.wire.describe import ChunkId

__all__ = ["NOWHERE", "ChunkPlace", "ObjectRecord", "ObjectTable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkPlace:
    """Where a chunk is: the node, the number of the insert that brought it there, the CRC-32 of its bytes."""

    node: NodeId
    seq: int
    crc: int


#: The place of a chunk that no node has.
NOWHERE = ChunkPlace(node=NodeId(""), seq=0, crc=0)


@dataclass(slots=True, kw_only=True)
class ObjectRecord:
    """One committed version of an object. ``places[i]`` is where chunk ``i`` is, perhaps :data:`NOWHERE`."""

    facts: ObjectFacts
    places: list[ChunkPlace]
    #: when it expires, Unix time, None for never; ``facts`` keep what the chunks say
    expires_s: float | None
    #: the CLOCK bit: used since it was written or the hand last passed. A new object has not been used: of the many
    #: that nobody ever asks for again, none shall push out one that somebody did.
    is_referenced: bool = False
    #: reads and repairs that are working on its chunks: they stay until the last one ends
    n_pins: int = 0
    #: no longer in the table; its chunks go when the last pin does
    is_retired: bool = False
    #: its nodes were told to delete its chunks, or will be
    is_dropped: bool = False
    #: when it was last read, or else written
    used_s: float = 0.0
    #: (index, node) of chunks that repairs and moves brought elsewhere: they may still be there
    strays: list[tuple[int, NodeId]] = field(default_factory=list)

    @property
    def name(self) -> tuple[str, int]:
        return self.facts.key, self.facts.version

    def placed(self) -> Iterator[tuple[int, ChunkPlace]]:
        """Chunks that are somewhere, by index."""
        return ((index, place) for index, place in enumerate(self.places) if place is not NOWHERE)

    def chunk_id(self, index: int) -> ChunkId:
        return ChunkId(self.facts.key, self.facts.version, index)

    def chunk_bytes(self, index: int) -> int:
        return self.facts.scheme.stored_bytes(index, self.facts.size_bytes)

    @property
    def stored_bytes(self) -> int:
        """Memory that its chunks take on their nodes."""
        return sum(footprint_bytes(self.chunk_bytes(index)) for index, _ in self.placed())

    def is_expired(self, now_s: float) -> bool:
        return self.expires_s is not None and self.expires_s <= now_s


class ObjectTable:
    """I know the current version of every object, and which object to give up first.

    Eviction is CLOCK (FAST'20 section 3.2): the hand clears the bits of objects used since it last passed and stops
    at the first one that was not. A dictionary in hand order is the clock face: passing an object moves it to the end.

    Memory that is there need not be used: functions that vanish make every byte cost, for it is copied again and again.
    So an object is over, too, when the memory that it has taken since its last use is worth more than a hit (the
    break-even rule of ski rental): large ones soon, small ones late. With as many hits, that keeps half of the bytes.

    Args:
        idle_byte_s: that memory, stored bytes times seconds; 0: objects are kept while there is room.
    """

    def __init__(self, *, idle_byte_s: float = 0.0) -> None:
        #: nothing is known of uses before
        self.uses_known_since_s = 0.0
        self.object_bytes = 0
        self._idle_byte_s = idle_byte_s
        self._records: OrderedDict[str, ObjectRecord] = OrderedDict()
        self._ends: list[tuple[float, str, int]] = []  # when to look at which record

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[ObjectRecord]:
        return iter(self._records.values())

    def lookup(self, key: str, now_s: float) -> ObjectRecord | None:
        """The live record under ``key``; expired ones are not live, though they may still be here."""
        record = self._records.get(key)
        return None if record is None or record.is_expired(now_s) else record

    def find(self, key: str) -> ObjectRecord | None:
        """The record under ``key``, expired or not."""
        return self._records.get(key)

    def used_s(self, chunk: ChunkId, now_s: float) -> float:
        """When the object that a chunk belongs to was last used; now, if it is not here: it is being written."""
        record = self._records.get(chunk.key)
        return record.used_s if record is not None and record.facts.version == chunk.version else now_s

    def insert(self, record: ObjectRecord) -> ObjectRecord | None:
        """Make ``record`` the current version; the one it replaces, which is now retired."""
        former = self.remove(record.facts.key)
        self._records[record.facts.key] = record
        self.object_bytes += record.facts.size_bytes
        self._watch(record)
        return former

    def remove(self, key: str) -> ObjectRecord | None:
        record = self._records.pop(key, None)
        if record is not None:
            record.is_retired = True
            self.object_bytes -= record.facts.size_bytes
        return record

    def set_expiry(self, record: ObjectRecord, expires_s: float | None) -> None:
        record.expires_s = expires_s
        self._watch(record)

    def next_end_s(self) -> float | None:
        """When something here may be over; None: never."""
        return self._ends[0][0] if self._ends else None

    def pop_over(self, now_s: float, limit: int) -> list[ObjectRecord]:
        """Take out up to ``limit`` records whose time has come: expired, or idle for longer than they are worth."""
        over: list[ObjectRecord] = []
        while self._ends and self._ends[0][0] <= now_s and len(over) < limit:
            _, key, version = heapq.heappop(self._ends)
            record = self._records.get(key)
            if record is None or record.facts.version != version:
                continue
            end_s = self._end_s(record)
            if end_s is not None and end_s <= now_s:
                self.remove(key)
                over.append(record)
            elif self._idle_byte_s:
                self._watch(record)  # it was used meanwhile
        return over

    def pop_victim(self, now_s: float) -> ObjectRecord | None:
        """Advance the hand to the next object to evict, and take it out. None if all are pinned."""
        for _ in range(2 * len(self._records)):
            key, record = next(iter(self._records.items()))
            if not record.n_pins and (not record.is_referenced or record.is_expired(now_s)):
                return self.remove(key)
            record.is_referenced = False
            self._records.move_to_end(key)
        return None

    def _end_s(self, record: ObjectRecord) -> float | None:
        """When it is over if nobody uses it; None: never."""
        if not self._idle_byte_s:
            return record.expires_s
        idle_s = self._idle_byte_s / max(record.stored_bytes, 1)
        end_s = max(record.used_s, self.uses_known_since_s) + idle_s
        return end_s if record.expires_s is None else min(end_s, record.expires_s)

    def _watch(self, record: ObjectRecord) -> None:
        end_s = self._end_s(record)
        if end_s is None:
            return
        heapq.heappush(self._ends, (end_s, record.facts.key, record.facts.version))
        if len(self._ends) > 2 * len(self._records) + 1024:  # mostly superseded: touch and replace leave them behind
            ends = ((self._end_s(record), record) for record in self._records.values())
            self._ends = [(end_s, r.facts.key, r.facts.version) for end_s, r in ends if end_s is not None]
            heapq.heapify(self._ends)
