"""Whether a shard's books add up: after every event, not only when everything has come to rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from infiniray.core.ids import NodeId
from infiniray.core.policy import Policy, footprint_bytes
from infiniray.core.shard import ShardState
from infiniray.core.storing import Storing
from infiniray.core.table import ObjectRecord
from infiniray.wire.describe import ChunkId

if TYPE_CHECKING:
    from infiniray.sim.driver import SimDriver

__all__ = ["WitnessedShard", "wrong_books"]


class WitnessedShard(ShardState):
    """I am a shard, and note whose object I give up without having been asked: evicted, idle for longer than it is
    worth, or too much of it lost."""

    def __init__(
        self, *, shard: str, epoch: int, nodes: Mapping[NodeId, int], policy: Policy, given_up: Counter[str]
    ) -> None:
        super().__init__(shard=shard, epoch=epoch, nodes=nodes, policy=policy)
        self.given_up = given_up

    def lose(self, record: ObjectRecord) -> None:
        self.given_up[record.facts.key] += 1
        super().lose(record)

    def evict(self) -> bool:
        before = {record.facts.key for record in self.table}
        is_done = super().evict()
        self.given_up.update(before - {record.facts.key for record in self.table})
        return is_done

    def _sweep(self) -> None:
        idle = {record.facts.key for record in self.table if self._is_idle(record)}
        super()._sweep()
        self.given_up.update(idle - {record.facts.key for record in self.table})

    def _is_idle(self, record: ObjectRecord) -> bool:
        """What :class:`~infiniray.core.table.ObjectTable` promises, computed anew."""
        allowed_byte_s = self.context.policy.idle_byte_s
        idle_s = self.context.now_s - max(record.used_s, self.table.uses_known_since_s)
        return 0 < allowed_byte_s <= (idle_s + 1e-6) * record.stored_bytes


def wrong_books(state: ShardState, driver: SimDriver) -> str | None:
    """What does not add up; None if everything does."""
    if state.is_deposed or driver.is_dead:
        return None
    return (
        _memory(state)
        or _custody(state)
        or _invocations(state, driver)
        or _backups(state, driver)
        or _operations(state)
        or _near(state, driver)
    )


def _memory(state: ShardState) -> str | None:
    """Each byte that is counted on a node is a chunk's: of an object in the table, of one that is replaced but still
    read, or of one that is on its way."""
    used = dict.fromkeys(state.nodes, 0)
    in_flight = dict.fromkeys(state.nodes, 0)
    for record in _records(state):
        for index, place in record.placed():
            used[place.node] += footprint_bytes(record.chunk_bytes(index))
    for operation in state.operations.values():
        if isinstance(operation, Storing):
            for node, n_bytes in operation.reserved():
                used[node] += n_bytes
                in_flight[node] += n_bytes
    counted = {node.id: node.used_bytes for node in state.nodes.values()}
    if counted != used:
        return f"memory in use {counted} is not that of the objects {used}"
    counted = {node.id: node.in_flight_bytes for node in state.nodes.values()}
    if counted != in_flight:
        return f"memory in flight {counted} is not that of the writes {in_flight}"
    n_bytes = sum(record.facts.size_bytes for record in state.table)
    if state.table.object_bytes != n_bytes:
        return f"{state.table.object_bytes} bytes of objects are counted, but there are {n_bytes}"
    return None


def _records(state: ShardState) -> list[ObjectRecord]:
    """Of objects whose chunks are wanted: those in the table, and those that are replaced but still read."""
    replaced = [residue.record for left in state.residues.values() for residue in left]
    return [*state.table, *(record for record in replaced if not record.is_dropped)]


def _custody(state: ShardState) -> str | None:
    """Each chunk of an object is in its node's books, and nothing else is, but what is being brought there."""
    wanted = {(place.node, record.chunk_id(index)) for record in _records(state) for index, place in record.placed()}
    held = {(node.id, chunk) for node in state.nodes.values() for chunk in node.custody.holdings}
    if wanted - held:
        return f"these chunks are not in the books of their nodes: {sorted(wanted - held)}"
    coming = {
        (node, ChunkId(operation.facts.key, operation.facts.version, index))
        for operation in state.operations.values()
        if isinstance(operation, Storing)
        for index in operation.indices
        for node, _ in operation.reserved()
    }
    extra = held - wanted - coming
    return f"nobody wants these chunks, and nobody has them deleted: {sorted(extra)}" if extra else None


def _invocations(state: ShardState, driver: SimDriver) -> str | None:
    """What the platform will bill is what the shard says that it asked for."""
    counted = state.stats()["invocations"]
    if counted != driver.n_invoked:
        return f"invocations are counted as {counted}, and were {dict(driver.n_invoked)}"
    return None


def _backups(state: ShardState, driver: SimDriver) -> str | None:
    """A backup has a slot, and an end."""
    running = {node.id for node in state.nodes.values() if node.backup is not None}
    if running != driver.slots:
        return f"backups of {sorted(running)} are under way, with slots for {sorted(driver.slots)}"
    endless = [node for node in running if state.backups.ends_at_s(state.nodes[node]) is None]
    return f"backups without an end: {sorted(endless)}" if endless else None


def _operations(state: ShardState) -> str | None:
    """What nobody waits for, repairs and moves, ends too."""
    late = [op for op in state.operations.values() if op.deadline_s < state.context.now_s - 1e-6]
    return f"these have not ended by their deadline: {late}" if late else None


def _near(state: ShardState, driver: SimDriver) -> str | None:
    """Near copies are of what is in the table, within their limit, and the driver has the same."""
    keys = [key for key in driver.near_keys if (record := state.table.find(key)) is None or not state.near.has(record)]
    if keys or len(state.near) != len(driver.near_keys):
        return f"near copies {driver.near_keys} are kept, of which {keys} are not of what their keys hold"
    if state.near.n_bytes > state.context.policy.near_bytes:
        return f"near copies take {state.near.n_bytes} of {state.context.policy.near_bytes} bytes"
    return None
