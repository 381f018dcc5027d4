"""What a schedule plays with: a shard and those before it, a pool, and what clients were told."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

from infiniray.codec.schemes import SchemePolicy
from infiniray.core.backup import BackupCounters
from infiniray.core.ids import InstanceId, NodeId, OpId
from infiniray.core.policy import Hedge, Policy, RepairMode, Warm
from infiniray.core.shard import Counters
from infiniray.sim.driver import SimDriver
from infiniray.sim.history import Key, Read
from infiniray.sim.ledger import WitnessedShard
from infiniray.sim.platform import Instance, Kept, PlatformModel
from infiniray.wire.describe import ChunkId

__all__ = ["KEYS", "MORTAL", "QUICK_S", "Scene", "ScheduleResult"]

#: With good luck every operation ends in this time: that of a cold start, and of moving a few objects.
QUICK_S = 2.0
KEYS = [f"k{i}" for i in range(12)]
#: Keys that are given expiries; a miss of another one has to have another reason.
MORTAL = KEYS[:3]


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


class Scene:
    """I hold what a seed has chosen, and what has come of it so far."""

    def __init__(self, seed: int, n_steps: int, *, keeps_story: bool, story_limit: int | None = None) -> None:
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
            stall_s=1.0 if luck_is_bad else 10 * QUICK_S,  # what is lost has to be missed at once, not when it stalls
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
        self.keys = {key: Key() for key in KEYS}
        self.reads: dict[OpId, Read] = {}
        #: through former incarnations
        self.late_reads: dict[OpId, tuple[SimDriver, Read]] = {}
        self.deadlines: dict[OpId, float] = {}
        self.damaged: set[NodeId] = set()
        #: (key, version) of objects that a client was told are lost
        self.called_lost: set[tuple[str, int]] = set()
        self.tally: Counter[str] = Counter()  # of endings that the shard's present incarnation has announced
        self.is_healed = False
        self.result = ScheduleResult(seed=seed, n_steps=n_steps, is_lucky=not luck_is_bad)

    def forget(self, op: OpId) -> None:
        """Nobody waits for an operation any more. If it is a write, it may take effect or not."""
        self.deadlines.pop(op, None)
        self.reads.pop(op, None)
        for record in self.keys.values():
            record.writing.pop(op, None)

    def n_given_up(self, key: str) -> int:
        return self.given_up[key] + self.n_replaced

    def some_instance(self) -> Instance | None:
        alive = self.driver.platform.alive()
        return self.random.choice(alive) if alive else None

    def departed(self) -> set[NodeId]:
        return set(self.driver.platform.instances) - set(self.state.nodes)
