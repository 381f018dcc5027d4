"""Seeded schedules: clients read and write while the platform misbehaves, and every promise is checked at every step.

What is promised (DESIGN sections 5 and 8): never wrong bytes, never a mix of versions; a read returns the last
acknowledged write, or one that overlaps it, or a miss that has a reason (it expired, was given up, a shard died), and
never what has expired; with at most r chunks lost it is a hit; chunks of an object are on distinct nodes; no instance
holds more than its memory; every operation ends once, by its deadline; the shard's books add up
(:mod:`~infiniray.sim.ledger`); once the platform has recovered all is served; afterwards nothing is left open, nothing
is left over on a node, and what is whole can be read.

In one schedule of four nothing worse happens than that connections break: there nothing fails but for want of room,
nothing takes long, nothing is lost and no node is started twice.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from infiniray.codec.schemes import Scheme, SchemePolicy
from infiniray.core.backup import BackupCounters
from infiniray.core.connection import Activity
from infiniray.core.ids import InstanceId, NodeId, OpId
from infiniray.core.operation import Timing
from infiniray.core.policy import Hedge, Policy, RepairMode, Warm, footprint_bytes
from infiniray.core.shard import Counters
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
from infiniray.sim.driver import Ending, SimDriver
from infiniray.sim.ledger import WitnessedShard, wrong_books
from infiniray.sim.platform import Instance, Kept, PlatformModel
from infiniray.sim.violation import Violation
from infiniray.wire.describe import ChunkId

__all__ = ["STEPS", "ScheduleResult", "replay_command", "run_schedule"]

#: What a schedule has, where nothing else is said.
STEPS = 150

_TIMEOUT_S = 20.0
#: With good luck every operation ends in this time: that of a cold start, and of moving a few objects.
_QUICK_S = 2.0
#: A node more than the widest scheme needs: a chunk has somewhere to go.
_FEWEST_NODES, _MOST_NODES = 8, 13
#: Of one node within a second. More than that nobody needs, and somebody pays for.
_MOST_INVOCATIONS = 40
_KEYS = [f"k{i}" for i in range(12)]
#: Operations that wait have ended so long after the platform has recovered and slow instances have caught up.
_RECOVERY_S = 10.0
#: A shard that has run for so long has ended the sessions that its recovery began.
_SETTLED_S = 5.0
#: Everything has ended after this: operations, repairs, backups.
_REST_S = 60.0
#: Keys that are given expiries; a miss of another one has to have another reason.
_MORTAL = _KEYS[:3]
_MAY_FAIL_WRITES = (DeadlineExceeded, PoolFull, WriteFailed, Overloaded, ShardRecovering, StaleEpoch)
#: Refused before anything was done. Any other failure leaves open whether the write took, or will take, effect.
_REFUSALS = (Overloaded, ShardRecovering)

#: How a shard counts reads that end so.
_COUNTED = {type(None): "hits", KeyNotFound: "misses", ObjectLost: "resets"}


@dataclass(slots=True)
class _Write:
    """A PUT, or a DELETE (value None). ``ended_s`` is None while it is under way, and for ever if it failed."""

    value: object
    began_s: float
    ended_s: float | None = None
    #: how often its key had been given up, or the shard replaced, when it began
    n_given_up: int = 0
    #: when it expires, as it was written; what touches have made of that is not known after a crash, nor when they met
    #: several writes: then it is between two times
    expires_s: float = math.inf
    expires_from_s: float = math.inf
    expires_by_s: float = math.inf

    def expires(self, at_s: float) -> None:
        self.expires_from_s, self.expires_by_s = min(self.expires_from_s, at_s), max(self.expires_by_s, at_s)


@dataclass(slots=True)
class _Read:
    key: str
    began_s: float
    version: int  # that was current then; 0 if none
    places: tuple[NodeId, ...] = ()  # of its chunks, when it was last in the table


@dataclass(slots=True)
class _Key:
    """What was written under a key."""

    writes: list[_Write] = field(default_factory=lambda: [_Write(None, 0.0, 0.0)])
    writing: dict[OpId, _Write] = field(default_factory=dict)

    def current(self, began_s: float) -> list[_Write]:
        """Writes whose value a read which began then, and ends now, may return: per-key linearizability.

        A write is out when another was acknowledged before the read began, and had begun after the first one ended.
        """
        acknowledged = [w for w in self.writes if w.ended_s is not None and w.ended_s < began_s]
        latest_s = max((w.began_s for w in acknowledged), default=0.0)
        return [w for w in self.writes if w.ended_s is None or w.ended_s >= latest_s]

    def allowed(self, began_s: float) -> set[object]:
        return {write.value for write in self.current(began_s)}

    def forget_old(self, before_s: float) -> None:
        """Keep the list short: what no read that is under way can see."""
        seen = self.allowed(before_s)
        self.writes = [w for w in self.writes if w.value in seen or w.ended_s is None or w.ended_s >= before_s]


@dataclass(slots=True, kw_only=True)
class ScheduleResult:
    """What happened under one seed: ``counters`` are the shard's; ``story`` is empty unless it was asked for."""

    seed: int
    n_steps: int
    is_lucky: bool
    n_events: int = 0
    hits: int = 0
    misses: int = 0
    resets: int = 0
    failures: int = 0
    recoveries: int = 0
    counters: Counters = field(default_factory=Counters)
    backups: BackupCounters = field(default_factory=BackupCounters)
    story: list[str] = field(default_factory=list)


class _Schedule:
    """I am one seeded run."""

    def __init__(
        self,
        seed: int,
        n_steps: int,
        *,
        emphasis: Mapping[str, int],
        keeps_story: bool,
        story_limit: int | None = None,
    ) -> None:
        self.emphasis = emphasis
        self.random = random.Random(seed)
        luck_is_bad = self.random.random() < 0.75
        ends = random.Random(f"ends {seed}")  # apart, so that schedules stay what they were
        self.apart = random.Random(f"near {seed}")  # the same of near copies
        policy = Policy(
            near_bytes=self.apart.choice([0, 0, 150_000, 1 << 20, 64 << 20]),
            near_max_bytes=self.apart.choice([1 << 16, 1 << 20]),
            idle_byte_s=ends.choice([0.0, 0.0, 3e6, 1e8]),
            sweep_interval_s=ends.choice([1.0, 10.0]),
            warm_replicas=ends.choice([False, True]),
            schemes=SchemePolicy.of([(1 << 16, "mirror:3"), (1 << 20, "rs:4+2"), (None, "rs:5+2")]),
            hedge=self.random.choice(list(Hedge)),
            connect_timeout_s=1.0,
            stall_s=1.0 if luck_is_bad else 10 * _QUICK_S,  # what is lost has to be missed at once, not when it stalls
            max_in_flight=self.random.choice([256, 256, 4]),
            warm=self.random.choice(list(Warm)),
            warm_interval_s=self.random.choice([2.0, 20.0]),
            backup_interval_s=self.random.choice([0.0, 3.0, 30.0]) if luck_is_bad else 0.0,
            backup_max_age_s=self.random.choice([5.0, 90.0]),
            backup_burst_bytes=self.random.choice([1 << 20, 150 << 20]),
            backup_window_bytes=self.random.choice([1, 32 << 20]),
            backup_retry_s=1.0,
            backup_timeout_s=5.0,
            repair=self.random.choice([RepairMode.ALWAYS, RepairMode.ALWAYS, RepairMode.READS, RepairMode.NONE]),
            repair_bytes_per_s=self.random.choice([1e6, 1e9]),
            repair_burst_bytes=self.random.choice([1e6, 1e9]),
            recovery_timeout_s=5.0,
            seed=seed,
        )
        self.policy = policy
        sizes_bytes = self.random.choice([[3 << 20, 8 << 20], [1_200_000, 3 << 20]])
        nodes = {NodeId(f"n{i}"): self.random.choice(sizes_bytes) for i in range(10)}
        #: how often objects of each key went without anybody asking for it
        self.given_up: Counter[str] = Counter()
        self.state = WitnessedShard(shard="s", epoch=1, nodes=nodes, policy=policy, given_up=self.given_up)
        model = PlatformModel(
            cold_start_s=self.random.choice([0.05, 0.3]),
            linger_s=self.random.choice([0.002, 0.05]),
            any_instance_seed=self.random.choice([None, seed]),
            function_timeout_s=40.0,
            codec_bytes_per_s=self.random.choice([10e9, 50e6]),
        )
        #: the nodes that there are to be
        self.pool = dict(nodes)
        self.driver = SimDriver(self.state, model, keeps_log=keeps_story, log_limit=story_limit)
        self.driver.supervisor.n_slots = self.random.choice([1, 3, 1000])
        self.driver.start()
        #: former incarnations that still work
        self.former: list[SimDriver] = []
        self.n_replaced = 0
        self.started_s = self.started_before_s = self.disturbed_s = 0.0
        self.on_record: dict[NodeId, InstanceId] = {}
        #: what instances held when the shard began, if nobody else was at work on them
        self.kept: dict[InstanceId, dict[ChunkId, Kept]] = {}
        self.slowed: set[NodeId] = set()
        self.keys = {key: _Key() for key in _KEYS}
        self.reads: dict[OpId, _Read] = {}
        #: through former incarnations
        self.late_reads: dict[OpId, tuple[SimDriver, _Read]] = {}
        self.deadlines: dict[OpId, float] = {}
        self.damaged: set[NodeId] = set()
        #: (key, version) of objects that a client was told are lost
        self.called_lost: set[tuple[str, int]] = set()
        self.n_values = 0
        self.n_done = 0  # steps that were begun
        self.tally: Counter[str] = Counter()  # of endings that the shard's present incarnation has announced
        self.is_healed = False
        self.result = ScheduleResult(seed=seed, n_steps=n_steps, is_lucky=not luck_is_bad)

    def story(self) -> list[str]:
        """Every event and command, if they were kept."""
        return [f"{time_s:.6f} {what}" for time_s, what in self.driver.log or ()]

    def run(self) -> ScheduleResult:
        use: list[tuple[Callable[[], None], int]] = [
            (self._put, 30), (self._get, 45), (self._walk_away, 2), (self._delete, 4), (self._touch, 4),
            (self._cut, 4), (self._cut_all, 1), (self._change_pool, 2),
        ]  # fmt: skip
        bad_luck: list[tuple[Callable[[], None], int]] = [
            (self._reclaim_one, 6), (self._reclaim_some, 2), (self._hang, 2), (self._slow, 2), (self._corrupt, 1),
            (self._throttle, 2), (self._fail_codec, 1), (self._recover, 3), (self._crash, 1), (self._succeed, 1),
            (self._deny_slot, 1), (self._lose_supervisor, 1), (self._lose_registry, 1), (self._spike, 1),
        ]  # fmt: skip
        actions, usual = zip(*use, *([] if self.result.is_lucky else bad_luck), strict=True)
        weights = [n * self.emphasis.get(act.__name__[1:], 1) for act, n in zip(actions, usual, strict=True)]
        for _ in range(self.result.n_steps):
            self.n_done += 1
            self.random.choices(actions, weights)[0]()
            self.driver.clock.run(self.driver.clock.now_s + self.random.choice([0.0, 0.001, 0.01, 0.05, 0.5, 3.0]))
            self._get_of_former()
            self._check()
        self._come_to_rest()
        self._read_all()
        self._come_to_rest()
        self._check_nodes()
        if self.driver.platform.n_invoked_most > _MOST_INVOCATIONS:
            raise Violation(f"a node was invoked {self.driver.platform.n_invoked_most} times in one second")
        self.result.n_events = self.driver.n_events
        self.result.counters = self.state.counters
        self.result.backups = self.state.backups.counters
        return self.result

    # ------------------------------------------------------------ clients

    def _put(self) -> None:
        key = self.random.choice(_KEYS)
        self.n_values += 1
        size_bytes = self.random.choice([0, 1, 1000, 1 << 16, 1 << 17, 1 << 20, (1 << 20) + 1, 5 << 20])
        ttl_s = self.random.choice([None, 5.0]) if key in _MORTAL else None
        now_s = self.driver.clock.now_s
        record = self.keys[key]
        expires_s = math.inf if ttl_s is None else now_s + ttl_s
        write = _Write(f"value {self.n_values}", now_s, None, self._n_given_up(key), expires_s, expires_s, expires_s)
        record.writes.append(write)
        op = self.driver.put(key, size_bytes, write.value, ttl_s=ttl_s, timeout_s=_TIMEOUT_S)
        record.writing[op] = write
        self.deadlines[op] = now_s + self._limit_s()

    def _limit_s(self) -> float:
        return _QUICK_S if self.result.is_lucky else _TIMEOUT_S

    def _get(self) -> None:
        self._get_key(self.random.choice(_KEYS))
        for _ in range(self.apart.choice([0, 0, 1, 4]) if self.policy.near_bytes else 0):
            self.driver.clock.run(self.driver.clock.now_s + self.apart.choice([0.0, 0.002, 0.05]))
            key = self.apart.choice(_KEYS)
            self._get_key(key)

    def _get_of_former(self) -> None:
        """A client that has not heard of the new incarnation asks a former one, which has not either: for what that may
        have without asking a node."""
        for driver in self.former:
            if driver.near_keys and not driver.is_dead and not driver.state.is_deposed:
                key = self.apart.choice(driver.near_keys)
                read = _Read(key, self.driver.clock.now_s, 0)
                self.late_reads[driver.get(key, timeout_s=_TIMEOUT_S)] = driver, read

    def _get_key(self, key: str) -> None:
        now_s = self.driver.clock.now_s
        record = self.state.table.find(key)
        version = record.facts.version if record is not None else 0
        places = tuple(place.node for place in record.places) if record is not None else ()
        self.reads[self.driver.get(key, timeout_s=_TIMEOUT_S)] = _Read(key, now_s, version, places)
        self.deadlines[max(self.reads)] = now_s + self._limit_s()

    def _delete(self) -> None:
        key = self.random.choice(_KEYS)
        now_s = self.driver.clock.now_s
        write = _Write(None, now_s)
        self.keys[key].writes.append(write)
        op = self.driver.delete(key, timeout_s=_TIMEOUT_S)
        self.keys[key].writing[op] = write
        self.deadlines[op] = now_s + self._limit_s()

    def _touch(self) -> None:
        key = self.random.choice(_KEYS)
        ttl_s = self.random.choice([None, 1.0]) if key in _MORTAL else None
        expires_s = math.inf if ttl_s is None else self.driver.clock.now_s + ttl_s
        if not self.driver.finish(self.driver.touch(key, ttl_s)).found:
            return
        writes = [write for write in self.keys[key].current(self.driver.clock.now_s) if write.value is not None]
        for write in writes:
            if len(writes) == 1:
                write.expires_from_s = write.expires_by_s = expires_s
            write.expires(expires_s)

    def _walk_away(self) -> None:
        """A caller stops waiting. If that was for a write, it may take effect or not."""
        running = [op for op in self.deadlines if op not in self.driver.endings]
        if not running:
            return
        op = self.random.choice(running)
        self.driver.cancel(op)
        del self.deadlines[op]
        self.reads.pop(op, None)
        for record in self.keys.values():
            record.writing.pop(op, None)

    def _change_pool(self) -> None:
        """A node joins, or one has to leave: perhaps one that has just come, or before it is empty."""
        name = NodeId(f"n{self.random.randrange(_MOST_NODES)}")
        if name in self.pool and len(self.pool) > _FEWEST_NODES:
            del self.pool[name]
        else:
            self.pool[name] = self.driver.platform.limits_bytes.get(name, min(self.pool.values()))
        self.driver.change_pool(self.pool)

    # ------------------------------------------------------------ bad luck

    def _some_instance(self) -> Instance | None:
        alive = self.driver.platform.alive()
        return self.random.choice(alive) if alive else None

    def _reclaim_one(self) -> None:
        instance = self._some_instance()
        if instance is not None:
            self.driver.platform.reclaim(instance, is_silent=self.random.random() < 0.3)

    def _reclaim_some(self) -> None:
        alive = self.driver.platform.alive()
        for instance in self.random.sample(alive, min(len(alive), self.random.choice([2, 3, 5, 100]))):
            self.driver.platform.reclaim(instance)

    def _spike(self) -> None:
        """Within two seconds the platform takes most instances away, perhaps those too that have just started."""

        def reclaim() -> None:
            instance = self._some_instance()
            if instance is not None:
                self.driver.platform.reclaim(instance)

        for _ in range(self.random.choice([8, 20])):
            self.driver.clock.after(self.random.uniform(0.0, 2.0), reclaim)

    def _hang(self) -> None:
        self.disturbed_s = self.driver.clock.now_s
        instance = self._some_instance()
        if instance is not None:
            self.driver.platform.hang(instance)

    def _slow(self) -> None:
        self.disturbed_s = self.driver.clock.now_s
        instance = self._some_instance()
        if instance is not None:
            instance.slowness = self.random.choice([1.0, 5.0, 100.0])
            self.slowed.add(instance.node)

    def _corrupt(self) -> None:
        instance = self._some_instance()
        if instance is not None:
            instance.is_corrupt = not instance.is_corrupt
            self.damaged.add(instance.node)

    def _cut(self) -> None:
        self.disturbed_s = self.driver.clock.now_s
        instance = self._some_instance()
        if instance is not None:
            self.driver.platform.cut(instance)

    def _cut_all(self) -> None:
        self.disturbed_s = self.driver.clock.now_s
        for instance in self.driver.platform.alive():
            self.driver.platform.cut(instance)

    def _recover(self) -> None:
        """The platform is as it should be again: what waits for it is served."""
        self.driver.platform.heal()
        self.driver.supervisor.restart()
        self.driver.registry.is_away = False
        self.driver.codec_failures = 0
        backlog_until_s = max((i.free_at_s for i in self.driver.platform.alive()), default=0.0)
        self.driver.clock.run(max(self.driver.clock.now_s, backlog_until_s) + _RECOVERY_S)
        self._check()
        if self.deadlines:
            raise Violation(f"{_RECOVERY_S:g} s after recovery these are not served: {sorted(self.deadlines)}")

    def _fail_codec(self) -> None:
        self.driver.codec_failures = 1

    def _throttle(self) -> None:
        self.disturbed_s = self.driver.clock.now_s
        self.driver.platform.throttle_next = self.random.choice([0, 1, 3, 10])

    def _deny_slot(self) -> None:
        self.driver.slots_denied = self.random.choice([0, 1, 5])

    def _lose_supervisor(self) -> None:
        """It crashes, and is restarted: clients and shards go on, and a shard that restarts waits for it."""
        self.driver.supervisor.crash()
        self.driver.clock.after(self.random.choice([0.5, 5.0]), self.driver.supervisor.restart)

    def _lose_registry(self) -> None:
        """For a while nothing can be written down."""
        registry = self.driver.registry
        registry.is_away = True
        self.driver.clock.after(self.random.choice([0.2, 3.0]), lambda: setattr(registry, "is_away", False))

    def _crash(self) -> None:
        """The shard dies, and is restarted after a while."""
        for op in self.driver.crash():
            self.deadlines.pop(op, None)
            self.reads.pop(op, None)
            for record in self.keys.values():
                record.writing.pop(op, None)
        self.driver.clock.run(self.driver.clock.now_s + self.random.choice([0.0, 0.1, 2.0]))
        self._wait_for_supervisor()
        self._replace_shard()

    def _succeed(self) -> None:
        """The shard is restarted although it has not died: for a while there are two."""
        driver = self.driver
        self._wait_for_supervisor()
        self.former.append(driver)
        self._replace_shard()

    def _wait_for_supervisor(self) -> None:
        while self.driver.supervisor.is_away:
            self.driver.clock.run(self.driver.clock.now_s + 0.1)

    def _replace_shard(self) -> None:
        self._check_endings()
        self.n_replaced += 1
        self.tally.clear()
        for write in (write for record in self.keys.values() for write in record.writes):
            write.expires(write.expires_s)
        limits_bytes = self.driver.platform.limits_bytes
        nodes = {name: limits_bytes[name] for name in (*self.state.nodes, *sorted(self._departed()))}
        epoch = self.driver.supervisor.enroll()
        self.state = WitnessedShard(shard="s", epoch=epoch, nodes=nodes, policy=self.policy, given_up=self.given_up)
        self.driver = SimDriver(self.state, before=self.driver)
        self.on_record = dict(self.driver.registry.copies)
        is_alone = all(driver.is_dead or driver.state.is_deposed for driver in self.former)
        self.kept = {i.id: dict(i.chunks) for i in self.driver.platform.alive()} if is_alone else {}
        self.started_before_s, self.started_s = self.started_s, self.driver.clock.now_s
        driver = self.driver
        driver.on_recovered = lambda: self._check_recovery() if driver is self.driver else None
        self.driver.start()
        self.driver.change_pool(self.pool)

    # ------------------------------------------------------------ promises

    def _check(self) -> None:
        self._check_endings()
        self._check_places()
        self._delete_functions()
        self._follow_repairs()
        for op, deadline_s in list(self.deadlines.items()):
            if self.driver.clock.now_s > deadline_s + 1e-6:
                raise Violation(f"operation {op} has not ended by its deadline: {self.state.operations.get(op)}")
        wrong = wrong_books(self.state, self.driver) or self._wrong_counters()
        if wrong is not None:
            raise Violation(wrong)

    def _wrong_counters(self) -> str | None:
        """What the shard says that it has done is what its clients were told."""
        counted = {name: getattr(self.state.counters, name) for name in _COUNTED.values()}
        told = {name: self.tally[name] for name in counted}
        return None if counted == told or self.state.is_deposed else f"counted {counted}, told {told}"

    def _delete_functions(self) -> None:
        """Of nodes that have left: at some time. Until then, a shard that is restarted has them once more."""
        for name in sorted(self._departed()):
            if self.random.random() < 0.2:
                self.driver.platform.delete(name)

    def _departed(self) -> set[NodeId]:
        return set(self.driver.platform.instances) - set(self.state.nodes)

    def _check_recovery(self) -> None:
        """When the shard has its table back, that has everything of which k chunks were on record, and are not lost."""
        self.result.recoveries += 1
        if any(not driver.state.is_deposed for driver in self.former):
            return  # it may keep copies busy that would answer otherwise
        if (
            self.started_s < max(self.started_before_s, self.disturbed_s) + _SETTLED_S
            or self.disturbed_s > self.started_s
        ):
            return  # so may sessions that the one before had begun, or that were broken
        found: dict[ChunkId, dict[int, Scheme]] = {}
        for node in self.state.nodes.values():
            for instance in self.driver.platform.instances.get(node.id, ()):
                if instance.id == self.on_record.get(node.id) and not instance.is_hung and node.id not in self.slowed:
                    for chunk, kept in self.kept.get(instance.id, instance.chunks).items():
                        versions = found.setdefault(ChunkId(chunk.key, chunk.version, 0), {})
                        versions[chunk.index] = Scheme.parse(kept.info.scheme)
        for (key, version, _), chunks in found.items():
            scheme = next(iter(chunks.values()))
            record = self.state.table.find(key)
            if (key, version) in self.called_lost or key in _MORTAL:
                continue  # whatever was copied since
            if len(chunks) >= scheme.k and (record is None or record.facts.version < version):
                raise Violation(f"{key!r} v{version} has chunks {sorted(chunks)} on record, but was not recovered")

    def _check_endings(self) -> None:
        for driver in (*self.former, self.driver):
            for key, record in self.keys.items():
                for op in [op for op in record.writing if op in driver.endings]:
                    del self.deadlines[op]
                    self._written(key, record.writing.pop(op), driver.endings.pop(op))
            for op in [op for op in self.reads if op in driver.endings]:
                del self.deadlines[op]
                ending = driver.endings.pop(op)
                if driver is self.driver:
                    self.tally[_COUNTED.get(type(ending.error), "")] += 1
                self._read(self.reads.pop(op), ending)
        self._check_late_reads()
        reads = (*self.reads.values(), *(read for _, read in self.late_reads.values()))
        oldest_s = min((read.began_s for read in reads), default=self.driver.clock.now_s)
        for record in self.keys.values():
            record.forget_old(oldest_s)

    def _check_late_reads(self) -> None:
        """A former incarnation may have lost sight of a key, or refuse; what it says is not out of date."""
        for op, (driver, read) in list(self.late_reads.items()):
            ending = driver.endings.pop(op, None)
            if ending is None and not driver.is_dead:
                continue
            del self.late_reads[op]
            if ending is not None and ending.error is None:
                allowed = self.keys[read.key].allowed(read.began_s)
                if ending.value not in allowed:
                    raise Violation(f"{read.key!r} was read as {ending.value!r} through a former incarnation")

    def _written(self, key: str, write: _Write, ending: Ending) -> None:
        if ending.error is None:
            write.ended_s = ending.at_s
            if write.value is not None:
                self._check_stored(key, write)
            return
        if not isinstance(ending.error, (PoolFull, Overloaded) if self.result.is_lucky else _MAY_FAIL_WRITES):
            raise Violation(f"a write failed with {ending.error!r}")
        if isinstance(ending.error, _REFUSALS):
            self.keys[key].writes.remove(write)  # nothing of it is kept
        self.result.failures += 1

    def _check_stored(self, key: str, write: _Write) -> None:
        """What is acknowledged is with its nodes, unless these were reclaimed since."""
        record = self.state.table.find(key)
        platform = self.driver.platform
        for index, place in record.placed() if record is not None else ():
            assert record is not None
            chunk = record.chunk_id(index)
            kept = [i.chunks[chunk][0] for i in platform.instances.get(place.node, ()) if chunk in i.chunks]
            if any(token[3] != write.value for token in kept):
                return  # another write has taken its place
            if not kept and platform.reclaimed_s.get(place.node, 0.0) < write.began_s:
                raise Violation(f"chunk {index} of {key!r} was acknowledged, but {place.node} does not have it")

    def _read(self, read: _Read, ending: Ending) -> None:
        allowed = self.keys[read.key].allowed(read.began_s)
        match ending.error:
            case None:
                if ending.value not in allowed:
                    raise Violation(f"{read.key!r} was read as {ending.value!r}; allowed: {sorted(map(str, allowed))}")
                self._check_fresh(read, ending.value)
                self.result.hits += 1
            case ObjectLost(have=have, need=need):
                self._check_lost(read, have, need)
                self.called_lost.add((read.key, read.version))
                self.result.resets += 1
            case KeyNotFound():
                self._check_miss(read, ending.at_s)
                self.result.misses += 1
            case Overloaded() | ShardRecovering():
                self.result.failures += 1
            case ObjectReplaced() if (
                not self.result.is_lucky or ending.at_s - read.began_s >= self.policy.erase_patience_s
            ):
                self.result.failures += 1
            case StaleEpoch() if not self.result.is_lucky:
                self.result.failures += 1
            case DeadlineExceeded() | SchemeError() if not self.is_healed and not self.result.is_lucky:
                self.result.failures += 1
            case InfiniRayError() as error:
                raise Violation(f"a GET failed with {error!r}")

    def _n_given_up(self, key: str) -> int:
        return self.given_up[key] + self.n_replaced

    def _check_fresh(self, read: _Read, value: object) -> None:
        for write in self.keys[read.key].writes:
            if write.value == value and write.expires_by_s <= read.began_s:
                raise Violation(f"{read.key!r} was read as {value!r}, which had expired")

    def _check_miss(self, read: _Read, at_s: float) -> None:
        """It was not there, or is gone for a reason: expired, given up, or lost with a shard."""
        current = self.keys[read.key].current(read.began_s)
        acknowledged = [write for write in current if write.ended_s is not None]
        is_given_up = self._n_given_up(read.key) > min((write.n_given_up for write in acknowledged), default=0)
        if not is_given_up and not any(write.value is None or write.expires_from_s <= at_s for write in current):
            raise Violation(f"{read.key!r} is a miss without a reason; allowed: {[write.value for write in current]}")

    def _check_lost(self, read: _Read, have: int, need: int) -> None:
        """A reset needs more than r chunks gone. Nodes that were damaged, or have several instances now, may count
        as gone: which copy the shard talked to is not known here."""
        if have >= need or self.result.is_lucky:
            raise Violation(f"{read.key!r} is called lost with {have} of {need} chunks")
        platform = self.driver.platform
        there = {
            chunk.index
            for instance in platform.alive()
            if len(platform.instances[instance.node]) == 1
            and instance.node not in self.damaged
            and platform.reclaimed_s.get(instance.node, 0.0) < read.began_s
            and not instance.is_hung
            for chunk in instance.chunks
            if (chunk.key, chunk.version) == (read.key, read.version) and read.places[chunk.index] == instance.node
        }
        if len(there) >= need:
            raise Violation(f"{read.key!r} is called lost, but chunks {sorted(there)} of it are there")

    def _follow_repairs(self) -> None:
        for read in self.reads.values():
            record = self.state.table.find(read.key)
            if record is not None and record.facts.version == read.version:
                read.places = tuple(place.node for place in record.places)

    def _check_places(self) -> None:
        for record in self.state.table:
            places = [place.node for _, place in record.placed()]
            if len(set(places)) != len(places):
                raise Violation(f"chunks of {record.facts.key!r} share a node: {places}")
        for instance in self.driver.platform.alive():
            if not 0 <= instance.used_bytes <= instance.limit_bytes:
                raise Violation(f"{instance.id}: {instance.used_bytes} of {instance.limit_bytes} bytes are in use")
        for node in self.state.nodes.values():
            if not 0 <= node.used_bytes <= node.capacity_bytes:
                raise Violation(f"{node.id}: {node.used_bytes} of {node.capacity_bytes} bytes are in use")
            if node.is_awake and node.link is None:
                raise Violation(f"{node.id} is {node.activity.value} without a connection")

    def _read_all(self) -> None:
        """What is whole can be read, and what is not is called lost."""
        self._recover()
        self.is_healed = True
        for key in _KEYS:
            self._get_key(key)
            while self.deadlines:
                self.driver.clock.run(self.driver.clock.now_s + 0.25)
                self._check()

    def _check_nodes(self) -> None:
        """What is on nodes is what the table says, or about to be deleted; nobody was sent more than fits. Of nodes
        that have had several instances, no copy need be complete or clean."""
        platform = self.driver.platform
        if self.result.is_lucky and platform.crowded:
            raise Violation(f"second instances were started of {sorted(platform.crowded)}")
        if platform.full - platform.crowded:
            raise Violation(f"more was sent to {sorted(platform.full - platform.crowded)} than they have room for")
        for node in self.state.nodes.values():
            if not node.is_registered:
                continue
            known = {*node.custody.holdings, *node.custody.garbage}
            for instance in platform.instances.get(node.id, ()):
                left = [chunk for chunk in instance.chunks if chunk not in known]
                if left and instance.id == node.custody.registered:
                    raise Violation(f"left over on {node.id}: {left}")
        for record in self.state.table:
            for index, place in record.placed():
                if record.chunk_id(index) not in self.state.nodes[place.node].custody.holdings:
                    raise Violation(f"chunk {index} of {record.facts.key!r} is not in the books of {place.node}")

    def _come_to_rest(self) -> None:
        """Let everything end; then nothing is open, and the memory in use is that of the objects."""
        self.driver.clock.run(self.driver.clock.now_s + _REST_S)
        for _ in range(int(_REST_S)):  # a repair may just have begun
            if not self.state.operations:
                break
            self.driver.clock.run(self.driver.clock.now_s + 1.0)
        self._check()
        if self.state.operations or self.driver.open_operations:
            raise Violation(f"left open: {self.state.operations}, {self.driver.open_operations}")
        requests = [n for n in self.driver.open_requests if n not in self.state.backups.copying]  # a backup may be on
        if requests:
            raise Violation(f"requests were neither answered nor cancelled: {requests}")
        unsettled = {node.id: n for node in self.state.nodes.values() if (n := node.n_unsettled)}
        if unsettled:
            raise Violation(f"requests were left with nodes: {unsettled}")
        timers = [timer for timer in self.driver.timers if timer[0] in {timing.value for timing in Timing}]
        if timers:
            raise Violation(f"left set: {timers}")
        used = dict.fromkeys(self.state.nodes, 0)
        for record in self.state.table:
            for index, place in record.placed():
                used[place.node] += footprint_bytes(record.chunk_bytes(index))
        accounted = {node.id: node.used_bytes for node in self.state.nodes.values()}
        if any(node.in_flight_bytes for node in self.state.nodes.values()):
            raise Violation(f"memory is called in flight: {self.state.nodes}")
        if used != accounted:
            raise Violation(f"memory in use {accounted} is not that of the objects {used}")
        if left := self.state.draining.left():
            raise Violation(f"left in the pool: {left}")
        self._see_all_asleep()

    def _see_all_asleep(self) -> None:
        """Nodes are kept warm and backed up, but between these they sleep, every one."""
        never_asleep = set(self.state.nodes)
        for _ in range(300):
            never_asleep -= {n.id for n in self.state.nodes.values() if n.activity is Activity.SLEEPING}
            if not never_asleep:
                return
            self.driver.clock.run(self.driver.clock.now_s + 0.1)
        raise Violation(f"left awake: {[self.state.nodes[node] for node in sorted(never_asleep)]}")


def run_schedule(
    seed: int,
    n_steps: int = STEPS,
    *,
    emphasis: Mapping[str, int] | None = None,
    keeps_story: bool = False,
    story_limit: int | None = None,
) -> ScheduleResult:
    """Run one seeded schedule.

    Args:
        emphasis: how many times as often as else an action is taken, by its name, like ``{"crash": 5}``.
        story_limit: keep only so much of the story's end.

    Raises:
        Violation: a promise was broken, or an assumption of the code itself; the message begins with the seed.
    """
    schedule = _Schedule(seed, n_steps, emphasis=emphasis or {}, keeps_story=keeps_story, story_limit=story_limit)
    try:
        result = schedule.run()
    except Exception as error:
        what = str(error) if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
        how = f"run_schedule({seed}, {n_steps}, emphasis={emphasis})" if emphasis else replay_command(seed, n_steps)
        again = Violation(f"seed {seed}, step {schedule.n_done}: {what}\nreplay: {how}")
        again.seed, again.n_steps, again.story = seed, schedule.n_done, schedule.story()
        raise again from error
    result.story = schedule.story()
    return result


def replay_command(seed: int, n_steps: int = STEPS) -> str:
    """What a person types to see a schedule's story."""
    steps = "" if n_steps == STEPS else f" --steps {n_steps}"
    return f"infiniray soak --replay {seed}{steps}"
