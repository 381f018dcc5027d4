"""Seeded schedules: clients read and write while the platform misbehaves, and every promise is checked at every step.

What is promised (DESIGN sections 5 and 8): never wrong bytes, never a mix of versions; a read returns the last
acknowledged write, or one that overlaps it, or a miss that has a reason; with at most r chunks lost it is a hit;
chunks of an object are on distinct nodes; no instance holds more than its memory; every operation ends once, by its
deadline; afterwards nothing is left open.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from infiniray.codec.schemes import SchemePolicy
from infiniray.core.connection import Activity
from infiniray.core.ids import NodeId, OpId
from infiniray.core.policy import Hedge, Policy, footprint_bytes
from infiniray.core.shard import ShardState
from infiniray.errors import (
    DeadlineExceeded,
    InfiniRayError,
    KeyNotFound,
    ObjectLost,
    Overloaded,
    PoolFull,
    WriteFailed,
)
from infiniray.sim.driver import Ending, SimDriver, Violation
from infiniray.sim.platform import Instance, PlatformModel

__all__ = ["ScheduleResult", "run_schedule"]

_TIMEOUT_S = 20.0
_KEYS = [f"k{i}" for i in range(8)]
_MAY_FAIL_WRITES = (DeadlineExceeded, PoolFull, WriteFailed, Overloaded)


@dataclass(slots=True)
class _Key:
    """What may be under a key: values that a read may return now. None stands for a miss with a reason."""

    allowed: set[object] = field(default_factory=lambda: {None})
    writing: dict[OpId, object] = field(default_factory=dict)
    expires_s: float | None = None
    #: instances were lost since the value was written: an ObjectLost is a reason
    may_be_lost: bool = False


@dataclass(slots=True, kw_only=True)
class ScheduleResult:
    """What happened under one seed; ``story`` is empty unless it was asked for."""

    seed: int
    n_steps: int
    n_events: int
    hits: int = 0
    misses: int = 0
    resets: int = 0
    failures: int = 0
    story: list[str] = field(default_factory=list)


class _Schedule:
    """I am one seeded run."""

    def __init__(self, seed: int, n_steps: int, *, keeps_story: bool) -> None:
        self.random = random.Random(seed)
        policy = Policy(
            schemes=SchemePolicy.of([(1 << 16, "mirror:3"), (1 << 20, "rs:4+2"), (None, "rs:5+2")]),
            hedge=self.random.choice(list(Hedge)),
            connect_timeout_s=1.0,
            stall_s=1.0,
            seed=seed,
        )
        nodes = {NodeId(f"n{i}"): self.random.choice([6 << 20, 24 << 20]) for i in range(10)}
        self.capacity = nodes
        self.state = ShardState(shard="s", epoch=1, nodes=nodes, policy=policy)
        model = PlatformModel(cold_start_s=self.random.choice([0.05, 0.3]), linger_s=self.random.choice([0.002, 0.05]))
        self.driver = SimDriver(self.state, model, keeps_log=keeps_story)
        self.keys = {key: _Key() for key in _KEYS}
        self.reads: dict[OpId, tuple[str, set[object]]] = {}
        self.deadlines: dict[OpId, float] = {}
        self.n_values = 0
        self.result = ScheduleResult(seed=seed, n_steps=n_steps, n_events=0)

    def story(self) -> list[str]:
        """Every event and command, if they were kept."""
        return [f"{time_s:.6f} {what}" for time_s, what in self.driver.log or ()]

    def run(self) -> ScheduleResult:
        steps: list[tuple[Callable[[], None], int]] = [
            (self._put, 30), (self._get, 45), (self._delete, 4), (self._touch, 4), (self._reclaim_one, 6),
            (self._reclaim_some, 2), (self._hang, 2), (self._slow, 2), (self._corrupt, 1), (self._throttle, 2),
        ]  # fmt: skip
        actions, weights = zip(*steps, strict=True)
        for _ in range(self.result.n_steps):
            self.random.choices(actions, weights)[0]()
            self.driver.clock.run(self.driver.clock.now_s + self.random.choice([0.0, 0.001, 0.01, 0.05, 0.5, 3.0]))
            self._check()
        self._come_to_rest()
        self.result.n_events = self.driver.n_events
        return self.result

    # ------------------------------------------------------------ clients

    def _put(self) -> None:
        key = self.random.choice(_KEYS)
        self.n_values += 1
        size_bytes = self.random.choice([0, 1, 1000, 1 << 16, 1 << 17, 1 << 20, (1 << 20) + 1, 5 << 20])
        ttl_s = self.random.choice([None, None, None, 5.0])
        # Until it ends, a read may see the old value or the new one.
        now_s = self.driver.clock.now_s
        value = f"value {self.n_values}"
        record = self.keys[key]
        record.allowed.add(value)
        op = self.driver.put(key, size_bytes, value, ttl_s=ttl_s, timeout_s=_TIMEOUT_S)
        record.writing[op] = value
        self.deadlines[op] = now_s + _TIMEOUT_S
        if ttl_s is not None:
            record.allowed.add(None)  # may have expired whenever it is read

    def _get(self) -> None:
        key = self.random.choice(_KEYS)
        op = self.driver.get(key, timeout_s=_TIMEOUT_S)
        self.reads[op] = (key, set(self.keys[key].allowed))
        self.deadlines[op] = self.driver.clock.now_s + _TIMEOUT_S

    def _delete(self) -> None:
        key = self.random.choice(_KEYS)
        self.driver.finish(self.driver.delete(key))
        record = self.keys[key]
        record.allowed = {None, *record.writing.values()}

    def _touch(self) -> None:
        key = self.random.choice(_KEYS)
        self.driver.finish(self.driver.touch(key, self.random.choice([None, 1.0])))
        self.keys[key].allowed.add(None)

    # ------------------------------------------------------------ bad luck

    def _some_instance(self) -> Instance | None:
        alive = self.driver.platform.alive()
        return self.random.choice(alive) if alive else None

    def _reclaim_one(self) -> None:
        instance = self._some_instance()
        if instance is not None:
            self.driver.platform.reclaim(instance)

    def _reclaim_some(self) -> None:
        alive = self.driver.platform.alive()
        for instance in self.random.sample(alive, min(len(alive), self.random.choice([2, 3, 5, 100]))):
            self.driver.platform.reclaim(instance)

    def _hang(self) -> None:
        instance = self._some_instance()
        if instance is not None:
            self.driver.platform.hang(instance)

    def _slow(self) -> None:
        instance = self._some_instance()
        if instance is not None:
            instance.slowness = self.random.choice([1.0, 5.0, 100.0])

    def _corrupt(self) -> None:
        instance = self._some_instance()
        if instance is not None:
            instance.is_corrupt = not instance.is_corrupt

    def _throttle(self) -> None:
        self.driver.platform.throttle_next = self.random.choice([0, 1, 3, 10])

    # ------------------------------------------------------------ promises

    def _check(self) -> None:
        self._check_endings()
        self._check_places()
        for op, deadline_s in list(self.deadlines.items()):
            if self.driver.clock.now_s > deadline_s + 1e-6:
                raise Violation(f"operation {op} has not ended by its deadline: {self.state.operations.get(op)}")

    def _check_endings(self) -> None:
        for key, record in self.keys.items():
            for op in [op for op in record.writing if op in self.driver.endings]:
                self._written(record, op, self.driver.endings[op])
            # what is being written may have become visible while these reads went on
            for read_key, allowed in self.reads.values():
                if read_key == key:
                    allowed |= record.allowed
        for op in [op for op in self.reads if op in self.driver.endings]:
            key, allowed = self.reads.pop(op)
            del self.deadlines[op]
            self._read(key, allowed, self.driver.endings[op])

    def _written(self, record: _Key, op: OpId, ending: Ending) -> None:
        value = record.writing.pop(op)
        del self.deadlines[op]
        if ending.error is not None:
            if not isinstance(ending.error, _MAY_FAIL_WRITES):
                raise Violation(f"a PUT failed with {ending.error!r}")
            record.allowed.discard(value)
            self.result.failures += 1
        elif not record.writing:
            # Acknowledged, with no other under way: this one, or one that overlapped it.
            misses = {None} & record.allowed
            record.allowed = {value, *misses, *self._overlapping(record)}

    @staticmethod
    def _overlapping(record: _Key) -> set[object]:
        return {value for value in record.allowed if value is not None}

    def _read(self, key: str, allowed: set[object], ending: Ending) -> None:
        match ending.error:
            case None:
                if ending.value not in allowed:
                    raise Violation(f"{key!r} was read as {ending.value!r}; allowed were {sorted(map(str, allowed))}")
                self.result.hits += 1
            case ObjectLost(have=have, need=need):
                if have >= need:
                    raise Violation(f"{key!r} is called lost with {have} of {need} chunks")
                self.result.resets += 1
            case KeyNotFound():
                self._miss(key, allowed)
            case DeadlineExceeded() | Overloaded():
                self.result.failures += 1
            case InfiniRayError() as error:
                raise Violation(f"a GET failed with {error!r}")

    def _miss(self, key: str, allowed: set[object]) -> None:
        counters = self.state.counters
        has_reason = None in allowed or counters.evictions or counters.resets or counters.expired
        if not has_reason:
            raise Violation(f"{key!r} is a miss without a reason; allowed were {sorted(map(str, allowed))}")
        self.result.misses += 1

    def _check_places(self) -> None:
        for record in self.state.table:
            places = [place.node for place in record.places]
            if len(set(places)) != len(places):
                raise Violation(f"chunks of {record.facts.key!r} share a node: {places}")
        for node in self.state.nodes.values():
            if not 0 <= node.used_bytes <= node.capacity_bytes:
                raise Violation(f"{node.id}: {node.used_bytes} of {node.capacity_bytes} bytes are in use")
            if node.is_awake and node.link is None:
                raise Violation(f"{node.id} is {node.activity.value} without a connection")

    def _come_to_rest(self) -> None:
        """Let everything end; then nothing is open, and the memory in use is that of the objects."""
        self.driver.clock.run(self.driver.clock.now_s + 200.0)
        self._check()
        if self.state.operations or self.driver.open_operations:
            raise Violation(f"left open: {self.state.operations}, {self.driver.open_operations}")
        timers = [timer for timer in self.driver.timers if timer[0] != "sweep"]
        awake = [node for node in self.state.nodes.values() if node.activity is not Activity.SLEEPING]
        if timers or awake:
            raise Violation(f"left set: {timers}; left awake: {awake}")
        used = dict.fromkeys(self.state.nodes, 0)
        for record in self.state.table:
            for index, place in enumerate(record.places):
                used[place.node] += footprint_bytes(record.chunk_bytes(index))
        accounted = {node.id: node.used_bytes for node in self.state.nodes.values()}
        if used != accounted:
            raise Violation(f"memory in use {accounted} is not that of the objects {used}")


def run_schedule(seed: int, n_steps: int = 150, *, keeps_story: bool = False) -> ScheduleResult:
    """Run one seeded schedule.

    Raises:
        Violation: a promise was broken; the message begins with the seed.
    """
    schedule = _Schedule(seed, n_steps, keeps_story=keeps_story)
    try:
        result = schedule.run()
    except Violation as violation:
        again = Violation(f"seed {seed}: {violation}\nreplay: python -m infiniray.sim --seed {seed}")
        again.story = schedule.story()
        raise again from violation
    result.story = schedule.story()
    return result
