"""Nodes that join the pool, and nodes that leave it: emptied first, chunk by chunk, while everything goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from infiniray.core.commands import RegisterCopy
from infiniray.core.custody import NOBODY
from infiniray.core.ids import NodeId
from infiniray.core.moving import Move
from infiniray.core.node import Node
from infiniray.wire.describe import ChunkId

if TYPE_CHECKING:
    from infiniray.core.shard import ShardState

__all__ = ["Draining"]

#: Chunks moved at a time: enough to keep both ends busy, few enough that reads hardly notice.
MAX_MOVES = 4
MOVE_DEADLINE_S = 30.0
#: How often it is looked for what has come to a draining node since, or could not be moved before.
LOOK_S = 0.5


class Draining:
    """I have the pool be what it is to be. A node that is not wanted any more takes no new chunks; what it holds is
    moved to others; when nothing refers to it, it is let go.

    Before that it is struck off the record. What it may still hold of objects that have moved must not be found by the
    shard's next incarnation, for nobody waits for its deletion any more.
    """

    def __init__(self, shard: ShardState) -> None:
        self._shard = shard
        self._context = shard.context
        self._wanted: Mapping[NodeId, int] | None = None  # told while the shard was recovering
        self._n_running = 0
        self._is_looking = False
        self._struck: set[NodeId] = set()  # nodes that are being struck off the record, or have been

    def change(self, wanted: Mapping[NodeId, int]) -> None:
        """From now on these nodes are the pool, of so many bytes each. Those that are not among them are drained."""
        if self._shard.is_recovering:  # which needs all nodes that may hold something
            self._wanted = wanted
            return
        for name, capacity_bytes in wanted.items():
            if name not in self._shard.nodes:
                self._shard.join(Node(name, capacity_bytes, self._context))
        for name, node in self._shard.nodes.items():
            node.is_draining = name not in wanted
            if not node.is_draining and name in self._struck:
                self._struck.discard(name)
                node.resume_custody()
        self._look()

    def resume(self) -> None:
        """The shard has recovered."""
        wanted, self._wanted = self._wanted, None
        if wanted is not None:
            self.change(wanted)

    def left(self) -> dict[NodeId, int]:
        """Of each node that has to leave: bytes of chunks still there."""
        if self._wanted is not None:
            return {name: node.used_bytes for name, node in self._shard.nodes.items() if name not in self._wanted}
        return {node.id: node.used_bytes for node in self._draining()}

    def on_moved(self, *, failed: bool) -> None:
        """A move is over. After a failure there is a pause."""
        self._n_running -= 1
        if not failed:
            self._move_more()

    def on_timer(self) -> None:
        self._is_looking = False
        for node in self._draining():
            if self._is_done_with(node):
                self._dismiss(node)
        self._look()

    def _draining(self) -> list[Node]:
        return [node for node in self._shard.nodes.values() if node.is_draining]

    def _look(self) -> None:
        if not self._is_looking and self._draining():
            self._is_looking = True
            self._context.set_timer(("drain", 0), LOOK_S)
            self._move_more()

    def _move_more(self) -> None:
        for node in self._draining():
            for chunk in list(node.custody.holdings):
                if self._n_running >= MAX_MOVES:
                    return
                self._take_away(chunk, node)

    def _take_away(self, chunk: ChunkId, node: Node) -> None:
        """Move a chunk, if it is an object's and nobody is at work on that."""
        record = self._shard.table.find(chunk.key)
        if record is None or record.facts.version != chunk.version or self._shard.repairs.is_running(record):
            return
        place = record.places[chunk.index]
        if place.node != node.id or record.is_expired(self._context.now_s):
            return
        if not self._shard.is_lost(place):
            self._n_running += 1
            op = self._shard.repairs.new_op()
            self._shard.begin(Move(op, record, chunk.index, self._shard, self._context.now_s + MOVE_DEADLINE_S))
        elif not (self._shard.backups.is_expected(node) and node.elsewhere(place.seq)):
            self._shard.give_up_chunk(record, chunk.index)
            self._shard.repairs.add(record)

    def _is_done_with(self, node: Node) -> bool:
        """Whether nothing refers to it: no chunk, none on its way, no request, no backup, no read of what was deleted
        under it."""
        if node.used_bytes or node.in_flight_bytes or node.custody.holdings or node.n_unsettled:
            return False
        is_read = any(operation.may_ask(node.id) for operation in self._shard.operations.values())
        return not is_read and not self._shard.backups.is_expected(node)

    def _dismiss(self, node: Node) -> None:
        if node.id not in self._struck:
            self._struck.add(node.id)
            node.custody.is_paused = True  # no copy of it is put on record any more
            node.custody.enter(NOBODY)
            self._context.out.append(RegisterCopy(node=node.id, instance=NOBODY))
        elif node.custody.registered == NOBODY:
            self._struck.discard(node.id)
            self._shard.leave(node)
