"""What is promised to clients, and of nodes, the books and the end of everything: checked, not assumed."""

from __future__ import annotations

from infiniray.codec.schemes import Scheme
from infiniray.core.connection import Activity
from infiniray.core.operation import Timing
from infiniray.core.policy import footprint_bytes
from infiniray.errors import (
    DeadlineExceeded,
    InfiniRayError,
    KeyNotFound,
    ObjectLost,
    ObjectReplaced,
    Overloaded,
    PoolFull,
    SchemeError,
    ShardRecovering,
    StaleEpoch,
    WriteFailed,
)
from infiniray.sim.driver import Ending
from infiniray.sim.history import Read, Write
from infiniray.sim.ledger import wrong_books
from infiniray.sim.scene import MORTAL, Scene
from infiniray.sim.violation import Violation
from infiniray.wire.describe import ChunkId

__all__ = ["Promises"]

#: A shard that has run for so long has ended the sessions that its recovery began.
_SETTLED_S = 5.0
#: Everything has ended after this: operations, repairs, backups.
_REST_S = 60.0
_MAY_FAIL_WRITES = (DeadlineExceeded, PoolFull, WriteFailed, Overloaded, ShardRecovering, StaleEpoch)
#: Refused before anything was done. Any other failure leaves open whether the write took, or will take, effect.
_REFUSALS = (Overloaded, ShardRecovering)

#: How a shard counts reads that end so.
_COUNTED = {type(None): "hits", KeyNotFound: "misses", ObjectLost: "resets"}


class Promises:
    """I look whether a scene is as it was promised to be.

    Raises:
        Violation: from each of my methods: it is not.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def check(self) -> None:
        scene = self.scene
        self.check_endings()
        self._check_places()
        self._delete_functions()
        self._follow_repairs()
        for op, deadline_s in list(scene.deadlines.items()):
            if scene.driver.clock.now_s > deadline_s + 1e-6:
                raise Violation(f"operation {op} has not ended by its deadline: {scene.state.operations.get(op)}")
        wrong = wrong_books(scene.state, scene.driver) or self._wrong_counters()
        if wrong is not None:
            raise Violation(wrong)

    def _wrong_counters(self) -> str | None:
        """What the shard says that it has done is what its clients were told."""
        scene = self.scene
        counted = {name: getattr(scene.state.counters, name) for name in _COUNTED.values()}
        told = {name: scene.tally[name] for name in counted}
        return None if counted == told or scene.state.is_deposed else f"counted {counted}, told {told}"

    def _delete_functions(self) -> None:
        """Of nodes that have left: at some time. Until then, a shard that is restarted has them once more."""
        scene = self.scene
        for name in sorted(scene.departed()):
            if scene.random.random() < 0.2:
                scene.driver.platform.delete(name)

    def check_recovery(self) -> None:
        """When the shard has its table back, that has everything of which k chunks were on record, and are not lost."""
        scene = self.scene
        scene.result.recoveries += 1
        if any(not driver.state.is_deposed for driver in scene.former):
            return  # it may keep copies busy that would answer otherwise
        if (
            scene.started_s < max(scene.started_before_s, scene.disturbed_s) + _SETTLED_S
            or scene.disturbed_s > scene.started_s
        ):
            return  # so may sessions that the one before had begun, or that were broken
        found: dict[ChunkId, dict[int, Scheme]] = {}
        for node in scene.state.nodes.values():
            for instance in scene.driver.platform.instances.get(node.id, ()):
                if instance.id == scene.on_record.get(node.id) and not instance.is_hung and node.id not in scene.slowed:
                    for chunk, kept in scene.kept.get(instance.id, instance.chunks).items():
                        versions = found.setdefault(ChunkId(chunk.key, chunk.version, 0), {})
                        versions[chunk.index] = Scheme.parse(kept.info.scheme)
        for (key, version, _), chunks in found.items():
            scheme = next(iter(chunks.values()))
            record = scene.state.table.find(key)
            if (key, version) in scene.called_lost or key in MORTAL:
                continue  # whatever was copied since
            if len(chunks) >= scheme.k and (record is None or record.facts.version < version):
                raise Violation(f"{key!r} v{version} has chunks {sorted(chunks)} on record, but was not recovered")

    def check_endings(self) -> None:
        scene = self.scene
        for driver in (*scene.former, scene.driver):
            for key, record in scene.keys.items():
                for op in [op for op in record.writing if op in driver.endings]:
                    del scene.deadlines[op]
                    self._written(key, record.writing.pop(op), driver.endings.pop(op))
            for op in [op for op in scene.reads if op in driver.endings]:
                del scene.deadlines[op]
                ending = driver.endings.pop(op)
                if driver is scene.driver:
                    scene.tally[_COUNTED.get(type(ending.error), "")] += 1
                self._read(scene.reads.pop(op), ending)
        self._check_late_reads()
        reads = (*scene.reads.values(), *(read for _, read in scene.late_reads.values()))
        oldest_s = min((read.began_s for read in reads), default=scene.driver.clock.now_s)
        for record in scene.keys.values():
            record.forget_old(oldest_s)

    def _check_late_reads(self) -> None:
        """A former incarnation may have lost sight of a key, or refuse; what it says is not out of date."""
        scene = self.scene
        for op, (driver, read) in list(scene.late_reads.items()):
            ending = driver.endings.pop(op, None)
            if ending is None and not driver.is_dead:
                continue
            del scene.late_reads[op]
            if ending is not None and ending.error is None:
                allowed = scene.keys[read.key].allowed(read.began_s)
                if ending.value not in allowed:
                    raise Violation(f"{read.key!r} was read as {ending.value!r} through a former incarnation")

    def _written(self, key: str, write: Write, ending: Ending) -> None:
        scene = self.scene
        if ending.error is None:
            write.ended_s = ending.at_s
            if write.value is not None:
                self._check_stored(key, write)
            return
        if not isinstance(ending.error, (PoolFull, Overloaded) if scene.result.is_lucky else _MAY_FAIL_WRITES):
            raise Violation(f"a write failed with {ending.error!r}")
        if isinstance(ending.error, _REFUSALS):
            scene.keys[key].writes.remove(write)  # nothing of it is kept
        scene.result.failures += 1

    def _check_stored(self, key: str, write: Write) -> None:
        """What is acknowledged is with its nodes, unless these were reclaimed since."""
        record = self.scene.state.table.find(key)
        platform = self.scene.driver.platform
        for index, place in record.placed() if record is not None else ():
            assert record is not None
            chunk = record.chunk_id(index)
            kept = [i.chunks[chunk][0] for i in platform.instances.get(place.node, ()) if chunk in i.chunks]
            if any(token[3] != write.value for token in kept):
                return  # another write has taken its place
            if not kept and platform.reclaimed_s.get(place.node, 0.0) < write.began_s:
                raise Violation(f"chunk {index} of {key!r} was acknowledged, but {place.node} does not have it")

    def _read(self, read: Read, ending: Ending) -> None:
        scene = self.scene
        allowed = scene.keys[read.key].allowed(read.began_s)
        match ending.error:
            case None:
                if ending.value not in allowed:
                    raise Violation(f"{read.key!r} was read as {ending.value!r}; allowed: {sorted(map(str, allowed))}")
                self._check_fresh(read, ending.value)
                scene.result.hits += 1
            case ObjectLost(have=have, need=need):
                self._check_lost(read, have, need)
                scene.called_lost.add((read.key, read.version))
                scene.result.resets += 1
            case KeyNotFound():
                self._check_miss(read, ending.at_s)
                scene.result.misses += 1
            case Overloaded() | ShardRecovering():
                scene.result.failures += 1
            case ObjectReplaced() if (
                not scene.result.is_lucky or ending.at_s - read.began_s >= scene.policy.erase_patience_s
            ):
                scene.result.failures += 1
            case StaleEpoch() if not scene.result.is_lucky:
                scene.result.failures += 1
            case DeadlineExceeded() | SchemeError() if not scene.is_healed and not scene.result.is_lucky:
                scene.result.failures += 1
            case InfiniRayError() as error:
                raise Violation(f"a GET failed with {error!r}")

    def _check_fresh(self, read: Read, value: object) -> None:
        for write in self.scene.keys[read.key].writes:
            if write.value == value and write.expires_by_s <= read.began_s:
                raise Violation(f"{read.key!r} was read as {value!r}, which had expired")

    def _check_miss(self, read: Read, at_s: float) -> None:
        """It was not there, or is gone for a reason: expired, given up, or lost with a shard."""
        current = self.scene.keys[read.key].current(read.began_s)
        acknowledged = [write for write in current if write.ended_s is not None]
        is_given_up = self.scene.n_given_up(read.key) > min((write.n_given_up for write in acknowledged), default=0)
        if not is_given_up and not any(write.value is None or write.expires_from_s <= at_s for write in current):
            raise Violation(f"{read.key!r} is a miss without a reason; allowed: {[write.value for write in current]}")

    def _check_lost(self, read: Read, have: int, need: int) -> None:
        """A reset needs more than r chunks gone. Nodes that were damaged, or have several instances now, may count
        as gone: which copy the shard talked to is not known here."""
        scene = self.scene
        if have >= need or scene.result.is_lucky:
            raise Violation(f"{read.key!r} is called lost with {have} of {need} chunks")
        platform = scene.driver.platform
        there = {
            chunk.index
            for instance in platform.alive()
            if len(platform.instances[instance.node]) == 1
            and instance.node not in scene.damaged
            and platform.reclaimed_s.get(instance.node, 0.0) < read.began_s
            and not instance.is_hung
            for chunk in instance.chunks
            if (chunk.key, chunk.version) == (read.key, read.version) and read.places[chunk.index] == instance.node
        }
        if len(there) >= need:
            raise Violation(f"{read.key!r} is called lost, but chunks {sorted(there)} of it are there")

    def _follow_repairs(self) -> None:
        for read in self.scene.reads.values():
            record = self.scene.state.table.find(read.key)
            if record is not None and record.facts.version == read.version:
                read.places = tuple(place.node for place in record.places)

    def _check_places(self) -> None:
        scene = self.scene
        for record in scene.state.table:
            places = [place.node for _, place in record.placed()]
            if len(set(places)) != len(places):
                raise Violation(f"chunks of {record.facts.key!r} share a node: {places}")
        for instance in scene.driver.platform.alive():
            if not 0 <= instance.used_bytes <= instance.limit_bytes:
                raise Violation(f"{instance.id}: {instance.used_bytes} of {instance.limit_bytes} bytes are in use")
        for node in scene.state.nodes.values():
            if not 0 <= node.used_bytes <= node.capacity_bytes:
                raise Violation(f"{node.id}: {node.used_bytes} of {node.capacity_bytes} bytes are in use")
            if node.is_awake and node.link is None:
                raise Violation(f"{node.id} is {node.activity.value} without a connection")

    def check_nodes(self) -> None:
        """What is on nodes is what the table says, or about to be deleted; nobody was sent more than fits. Of nodes
        that have had several instances, no copy need be complete or clean."""
        scene = self.scene
        platform = scene.driver.platform
        if scene.result.is_lucky and platform.crowded:
            raise Violation(f"second instances were started of {sorted(platform.crowded)}")
        if platform.full - platform.crowded:
            raise Violation(f"more was sent to {sorted(platform.full - platform.crowded)} than they have room for")
        for node in scene.state.nodes.values():
            if not node.is_registered:
                continue
            known = {*node.custody.holdings, *node.custody.garbage}
            for instance in platform.instances.get(node.id, ()):
                left = [chunk for chunk in instance.chunks if chunk not in known]
                if left and instance.id == node.custody.registered:
                    raise Violation(f"left over on {node.id}: {left}")
        for record in scene.state.table:
            for index, place in record.placed():
                if record.chunk_id(index) not in scene.state.nodes[place.node].custody.holdings:
                    raise Violation(f"chunk {index} of {record.facts.key!r} is not in the books of {place.node}")

    def come_to_rest(self) -> None:
        """Let everything end; then nothing is open, and the memory in use is that of the objects."""
        scene = self.scene
        scene.driver.clock.run(scene.driver.clock.now_s + _REST_S)
        for _ in range(int(_REST_S)):  # a repair may just have begun
            if not scene.state.operations:
                break
            scene.driver.clock.run(scene.driver.clock.now_s + 1.0)
        self.check()
        if scene.state.operations or scene.driver.open_operations:
            raise Violation(f"left open: {scene.state.operations}, {scene.driver.open_operations}")
        requests = [n for n in scene.driver.open_requests if n not in scene.state.backups.copying]  # a backup may be on
        if requests:
            raise Violation(f"requests were neither answered nor cancelled: {requests}")
        unsettled = {node.id: n for node in scene.state.nodes.values() if (n := node.n_unsettled)}
        if unsettled:
            raise Violation(f"requests were left with nodes: {unsettled}")
        timers = [timer for timer in scene.driver.timers if timer[0] in {timing.value for timing in Timing}]
        if timers:
            raise Violation(f"left set: {timers}")
        used = dict.fromkeys(scene.state.nodes, 0)
        for record in scene.state.table:
            for index, place in record.placed():
                used[place.node] += footprint_bytes(record.chunk_bytes(index))
        accounted = {node.id: node.used_bytes for node in scene.state.nodes.values()}
        if any(node.in_flight_bytes for node in scene.state.nodes.values()):
            raise Violation(f"memory is called in flight: {scene.state.nodes}")
        if used != accounted:
            raise Violation(f"memory in use {accounted} is not that of the objects {used}")
        if left := scene.state.draining.left():
            raise Violation(f"left in the pool: {left}")
        self._see_all_asleep()

    def _see_all_asleep(self) -> None:
        """Nodes are kept warm and backed up, but between these they sleep, every one."""
        scene = self.scene
        never_asleep = set(scene.state.nodes)
        for _ in range(300):
            never_asleep -= {n.id for n in scene.state.nodes.values() if n.activity is Activity.SLEEPING}
            if not never_asleep:
                return
            scene.driver.clock.run(scene.driver.clock.now_s + 0.1)
        raise Violation(f"left awake: {[scene.state.nodes[node] for node in sorted(never_asleep)]}")
