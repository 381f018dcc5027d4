"""Bringing chunks to nodes: a PUT brings all of an object's, a repair those that were lost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Set
from typing import TYPE_CHECKING

from infiniray.codec.schemes import SchemeKind
from infiniray.core.commands import Complete, Encode, ObjectFacts, ShareBuffers
from infiniray.core.erasing import Eraser
from infiniray.core.ids import NodeId, OpId
from infiniray.core.node import Node
from infiniray.core.operation import Operation, Timing
from infiniray.core.placement import choose_nodes
from infiniray.core.policy import footprint_bytes
from infiniray.core.requests import Outcome, RequestKind, Settled
from infiniray.core.table import ChunkPlace, ObjectRecord
from infiniray.errors import InfiniRayError, PoolFull, WriteFailed
from infiniray.wire.describe import ChunkId

if TYPE_CHECKING:
    from infiniray.core.shard import ShardState

__all__ = ["Repair", "Storing", "Write"]


class Storing(Operation):
    """I bring the chunks ``indices`` of an object to distinct nodes, and then hand over where they are.

    A chunk that one node does not take goes to another. If I end before all are stored, nothing of them stays behind.
    """

    def __init__(
        self, op: OpId, facts: ObjectFacts, shard: ShardState, deadline_s: float, indices: Iterable[int]
    ) -> None:
        super().__init__(op, facts, shard, deadline_s)
        self.indices = tuple(indices)
        self.stored: dict[int, ChunkPlace] = {}
        self._homes: dict[int, Node] = {}  # where each chunk is or goes; its memory is reserved there
        self._homeless: set[int] = set()
        self._refused_by: set[NodeId] = set()
        self._is_coded = not self._needs_coding()
        self._last_failure = ""

    def start(self) -> None:
        homes = self._choose(self.indices)
        if homes is None:
            self.fail(self._pool_full())
            return
        self.set_timer(Timing.DEADLINE, self.deadline_s - self.context.now_s)
        if not self._is_coded:
            self.context.out.append(Encode(op=self.id, facts=self.facts))
        for index, node in zip(self.indices, homes, strict=True):
            self._settle_at(index, node)

    def siblings(self) -> Collection[NodeId]:
        """Nodes that hold chunks of the object which I do not bring: mine must not join them."""
        return ()

    def favoured(self) -> Set[NodeId]:
        """Nodes that my chunks had better go to, where there is room."""
        return frozenset()

    def strays(self) -> list[tuple[int, NodeId]]:
        """Where I note what may be on nodes that it is not to stay on."""
        raise NotImplementedError

    def commit(self) -> None:
        """All chunks are stored: make them count."""
        raise NotImplementedError

    # ------------------------------------------------------------ what happens

    def on_coded(self, error: str | None) -> None:
        if error is not None:
            self.fail(WriteFailed(key=self.facts.key, stored=len(self.stored), need=len(self.indices), detail=error))
            return
        self._is_coded = True
        for index, node in list(self._homes.items()):
            if index >= self.facts.scheme.k:
                self.ask(RequestKind.STORE, index, node)

    def on_settled(self, settled: Settled) -> None:
        index, node = settled.request.index, self._homes[settled.request.index]
        if settled.outcome is Outcome.DONE:
            self.stored[index] = ChunkPlace(node=node.id, seq=settled.request.seq, crc=settled.request.crc)
            self._commit_if_stored()
            return
        self._last_failure = f"{node.id}: {settled.outcome.value}, {settled.detail}"
        self._refused_by.add(node.id)
        self._leave(index)
        self._rehome(index)

    def on_timer(self, timing: Timing) -> None:
        if timing is Timing.AGAIN:
            self._refused_by.clear()
            for index in sorted(self._homeless):
                self._rehome(index)
        else:
            detail = f"{len(self.stored)} of {len(self.indices)} chunks stored"
            if self._last_failure:
                detail += f"; last failure: {self._last_failure}"
            self.fail(self.too_late(detail))

    def settle_down(self) -> None:
        """The chunks are where they are to stay."""
        for index, node in self._homes.items():
            node.in_flight_bytes -= self._footprint(index)
        self._homes.clear()

    def reserved(self) -> list[tuple[NodeId, int]]:
        """Memory that is set aside on nodes for chunks on their way."""
        return [(node.id, self._footprint(index)) for index, node in self._homes.items()]

    def on_end(self, error: InfiniRayError | None) -> None:
        for index in list(self._homes):
            self._leave(index)

    def waits_for(self, progressed: Set[str]) -> bool:
        return len(self.stored) == len(self.indices)

    def look(self) -> None:
        self._commit_if_stored()

    # ------------------------------------------------------------ homes for chunks

    def _needs_coding(self) -> bool:
        scheme = self.facts.scheme
        return scheme.kind is not SchemeKind.MIRROR and any(index >= scheme.k for index in self.indices)

    def _footprint(self, index: int) -> int:
        return footprint_bytes(self.facts.scheme.stored_bytes(index, self.facts.size_bytes))

    def _choose(self, indices: Iterable[int]) -> list[Node] | None:
        """Nodes for chunks; evicts to make room."""
        footprints = [self._footprint(index) for index in indices]
        exclude = {*self.siblings(), *self._refused_by, *(node.id for node in self._homes.values())}
        salt, first = (self.facts.version, *indices), self.favoured()
        while True:
            nodes = choose_nodes(self.shard.nodes, footprints, exclude, self.context, *salt, first=first)
            if nodes is not None or not self._could_hold(footprints, exclude) or not self.shard.evict():
                return nodes

    def _could_hold(self, footprints: list[int], exclude: Collection[NodeId]) -> bool:
        """Whether eviction could help: there are enough nodes, whatever fills them but what is on its way."""
        need = max(footprints, default=0)
        nodes = (node for node in self.shard.nodes.values() if node.id not in exclude and not node.is_draining)
        able = [node for node in nodes if node.capacity_bytes - node.in_flight_bytes >= need]
        return len(able) >= len(footprints)

    def _settle_at(self, index: int, node: Node) -> None:
        self._homes[index] = node
        self._homeless.discard(index)
        node.used_bytes += self._footprint(index)
        node.in_flight_bytes += self._footprint(index)
        if self._is_coded or index < self.facts.scheme.k:
            self.ask(RequestKind.STORE, index, node)
        else:
            node.wake()

    def _leave(self, index: int) -> None:
        """Take a chunk back from its node, which may or may not have it."""
        node = self._homes.pop(index)
        self.stored.pop(index, None)
        node.used_bytes -= self._footprint(index)
        node.in_flight_bytes -= self._footprint(index)
        node.discard(ChunkId(self.facts.key, self.facts.version, index))
        if (index, node.id) not in self.strays():
            self.strays().append((index, node.id))

    def _rehome(self, index: int) -> None:
        nodes = self._choose((index,))
        if nodes is None:
            self._homeless.add(index)
            self.retry_later()
        else:
            self._settle_at(index, nodes[0])

    def _commit_if_stored(self) -> None:
        if len(self.stored) < len(self.indices):
            return
        # An instance that took over meanwhile may lack what its predecessor confirmed.
        gone = [index for index, place in self.stored.items() if self.shard.nodes[place.node].lacks(place.seq)]
        for index in gone:
            self._leave(index)
        for index in gone:
            self._rehome(index)
        if gone:
            return
        unregistered = [node for node in self._homes.values() if not node.is_registered]
        for node in unregistered:
            node.hurry()  # a copy took over that has not spoken yet
        if not unregistered:
            self.commit()

    def _pool_full(self) -> PoolFull:
        return PoolFull(
            need_bytes=sum(map(self._footprint, self.indices)),
            free_bytes=sum(node.free_bytes for node in self.shard.nodes.values()),
        )


class Write(Storing):
    """A PUT. The table flips to the new version when every chunk of it is stored, not before; it is acknowledged when
    the old one cannot come back."""

    name = "PUT"

    def __init__(
        self, op: OpId, facts: ObjectFacts, shard: ShardState, deadline_s: float, expires_s: float | None
    ) -> None:
        super().__init__(op, facts, shard, deadline_s, range(facts.scheme.n))
        self.expires_s = expires_s
        self._eraser: Eraser | None = None  # of what was there before, once the table has flipped
        self._record: ObjectRecord | None = None
        self._strays: list[tuple[int, NodeId]] = []

    def strays(self) -> list[tuple[int, NodeId]]:
        return self._strays

    def favoured(self) -> Set[NodeId]:
        """Where the version before is, or what is left of it: what it leaves behind there is harmless at once, no other
        node has to be woken to delete it, and its memory is there to be used again."""
        return self.shard.former_nodes(self.facts.key)

    def commit(self) -> None:
        record = ObjectRecord(
            facts=self.facts, places=[self.stored[index] for index in self.indices], expires_s=self.expires_s,
            used_s=self.context.now_s, strays=self._strays,
        )  # fmt: skip
        self.settle_down()
        self._eraser = Eraser(self.shard, self.shard.commit(record))
        self._record = record
        self.shard.pin(record)  # it is not evicted before it is acknowledged
        self.set_timer(Timing.AGAIN, self.context.policy.erase_patience_s)
        self.look()

    def waits_for(self, progressed: Set[str]) -> bool:
        return super().waits_for(progressed) if self._eraser is None else self._eraser.waits_for(progressed)

    def look(self) -> None:
        if self._eraser is None:
            super().look()
        elif self._eraser.look():
            assert self._record is not None
            self.shard.near.keep(self.id, self._record)
            self.end(lambda: self.context.out.append(Complete(op=self.id, facts=self.facts)))

    def on_timer(self, timing: Timing) -> None:
        if self._eraser is None:
            super().on_timer(timing)
        elif timing is Timing.AGAIN:
            self._eraser.insist()
            self.retry_later()
            self.look()
        else:
            self.fail(self.too_late(f"it is stored, but {self._eraser.describe()}"))

    def on_end(self, error: InfiniRayError | None) -> None:
        super().on_end(error)
        if self._record is not None:
            self.shard.unpin(self._record)
        self.shard.counters.puts_failed += error is not None


class Repair(Storing):
    """I rebuild chunks that a read found lost, from the bytes that the read put together.

    Nobody waits for me: if I fail, the next read of the object tries again.
    """

    name = "repair"

    def __init__(
        self, op: OpId, source: OpId, record: ObjectRecord, shard: ShardState, deadline_s: float, indices: Iterable[int]
    ) -> None:
        super().__init__(op, record.facts, shard, deadline_s, indices)
        self.record = record
        self._source = source

    def start(self) -> None:
        self.context.out.append(ShareBuffers(op=self.id, source=self._source))
        self.shard.pin(self.record)
        super().start()

    def strays(self) -> list[tuple[int, NodeId]]:
        return self.record.strays

    def siblings(self) -> Collection[NodeId]:
        return {place.node for index, place in self.record.placed() if index not in self.indices}

    def commit(self) -> None:
        if self.record.is_retired:
            self.fail(WriteFailed(key=self.facts.key, stored=0, need=0, detail="replaced meanwhile"))
            return
        self.settle_down()
        for index, place in self.stored.items():
            self.shard.move_chunk(self.record, index, place)
        self.shard.counters.repairs += len(self.stored)
        self.end(lambda: None)

    def on_end(self, error: InfiniRayError | None) -> None:
        super().on_end(error)
        self.shard.unpin(self.record)
        self.shard.repairs.ended(self.record, failed=error is not None)

    def _leave(self, index: int) -> None:
        node = self._homes[index]
        super()._leave(index)
        if self.record.places[index].node == node.id and not self.record.is_dropped:
            self.shard.give_up_chunk(self.record, index)  # what was to be replaced where it was is deleted with it

    def fail(self, error: InfiniRayError) -> None:
        self.shard.counters.repairs_failed += 1
        self.end(lambda: None, error)
