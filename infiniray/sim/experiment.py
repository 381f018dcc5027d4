"""The experiment: a trace, a configuration and a time line of reclaims, in virtual time; and what came of it.

What FAST'20 section 5.2 measured in 50 hours on AWS, with the decisions of :mod:`infiniray.core` as they serve users.
"""

from __future__ import annotations

import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from infiniray.config import Config
from infiniray.core import events as ev
from infiniray.core.ids import NodeId
from infiniray.core.policy import CHUNK_OVERHEAD_BYTES, PAGE_BYTES
from infiniray.core.ring import Ring
from infiniray.core.shard import ShardState
from infiniray.cost.ledger import Purpose
from infiniray.cost.price_book import load_price_book
from infiniray.policies import policy_of
from infiniray.sim.agenda import Agenda
from infiniray.sim.client import Asked, Client, Served
from infiniray.sim.fleet import Fleet
from infiniray.sim.meter import Meter
from infiniray.sim.reclaims import Reclaim, Sample, spread_out
from infiniray.sim.replay import ShardRun, Slots

__all__ = ["Experiment", "ExperimentResult", "HourRow", "run_experiment"]

START_S = 1_600_000_000.0  # the shards take times for Unix times; any will do
_EPOCH = 1
_HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HourRow:
    """What one hour of the trace added."""

    hour: int
    gets: int
    hits: int
    misses: int
    resets: int
    degraded_reads: int
    repairs: int
    evictions: int
    reclaims: int
    backups: int
    stored_bytes: int  #: on all nodes, at its end
    cost_usd: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentResult:
    """What came of an experiment. ``to_json_dict`` has the names that the command prints."""

    figures: dict[str, Any]
    #: of the machine that it ran on: left out where two runs are compared
    timings: dict[str, float]
    hours: tuple[HourRow, ...] = ()

    def to_json_dict(self, *, with_hours: bool = False) -> dict[str, Any]:
        hours = {"hours": [asdict(row) for row in self.hours]} if with_hours else {}
        return {**self.figures, **hours, **self.timings}


@dataclass(slots=True)
class _Tallies:
    """Sums over shards that hours are made of."""

    values: dict[str, int] = field(default_factory=dict)

    def since(self, now: dict[str, int]) -> dict[str, int]:
        """What was added since the last call."""
        added = {name: n - self.values.get(name, 0) for name, n in now.items()}
        self.values = now
        return added


class Experiment:
    """I run a configuration's shards on modelled functions, under the requests of a trace.

    Args:
        config: whose ``simulation`` section says what is modelled.
        seed: of everything random.
        tell: called with every request that is over.
        tell_hour: called with every hour that is over, and with the last one.

    Raises:
        ConfigError: the price book lacks something.
    """

    def __init__(
        self,
        config: Config,
        *,
        seed: int = 0,
        tell: Callable[[Served], None] | None = None,
        tell_hour: Callable[[HourRow], None] | None = None,
    ) -> None:
        model = config.simulation
        rates = load_price_book(model.prices).function_rates(model.architecture)
        self.agenda = Agenda(START_S)
        self.meter = Meter(rates, config.pool.memory_mb, START_S)
        self._config = config
        self._seed = seed
        self._tell_hour = tell_hour
        self._ring, nodes = _membership(config)
        policy = policy_of(config, seed=seed)
        scheme = policy.schemes.rules[-1][1]
        largest_bytes = scheme.k * (config.pool.node_bytes // PAGE_BYTES * PAGE_BYTES - CHUNK_OVERHEAD_BYTES)
        self.client = Client(
            self.agenda,
            model,
            deadline_s=config.limits.deadline_s,
            largest_bytes=min(largest_bytes, model.client.max_object_bytes or largest_bytes),
            owner=self._owner,
            tell=tell,
        )
        slots = Slots(config.availability.backup_slots)
        self.shards = {
            name: ShardRun(
                ShardState(shard=name, epoch=_EPOCH, nodes=dict.fromkeys(mine, config.pool.node_bytes), policy=policy),
                self.agenda,
                model,
                linger_s=config.session.linger_s,
                meter=self.meter,
                slots=slots,
                answers=self.client,
                rng=random.Random(f"{seed}/{name}"),
            )
            for name, mine in nodes.items()
        }
        self.fleet = Fleet(
            {node: config.pool.node_bytes for mine in nodes.values() for node in mine},
            {node: self.shards[name] for name, mine in nodes.items() for node in mine},
            model.network,
            model.reclaims,
            random.Random(f"{seed}/fleet"),
        )
        for shard in self.shards.values():
            shard.fleet = self.fleet
        self._hour = 0
        self._hour_tallies = _Tallies()
        self._hours: list[HourRow] = []
        self._is_trace_over = False
        self._span_s = 0.0

    def _owner(self, key: str) -> ShardRun:
        return self.shards[self._ring.owner(key)]

    def run(self, requests: Iterable[Asked], reclaims: Iterable[Sample] = ()) -> ExperimentResult:
        """Everything, from the first request to the end of the last.

        ``requests`` and ``reclaims`` are taken one at a time, as their time comes; times count from the start.
        """
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        for shard in self.shards.values():
            shard.feed(ev.Started())
        self._plan_request(iter(requests))
        moments = spread_out(iter(reclaims), self._config.simulation.reclaims, random.Random(f"{self._seed}/reclaims"))
        self._plan_reclaim(moments)
        self.agenda.at(START_S + _HOUR_S, self._end_hour, None)
        with _collecting_seldom():
            self.agenda.run(self._goes_on)
        if self._span_s > self._hour * _HOUR_S or not self._hours:
            self._note_hour()
        wall_s = time.perf_counter() - began_s
        return self._result(wall_s, time.process_time() - began_cpu_s)

    def _goes_on(self) -> bool:
        return not self._is_trace_over or self.client.n_open > 0

    # ------------------------------------------------------------ what happens when

    def _plan_request(self, requests: Iterator[Asked]) -> None:
        asked = next(requests, None)
        if asked is None:
            self._is_trace_over = True
            return
        self._span_s = asked.at_s
        moved = asked._replace(at_s=START_S + asked.at_s)
        self.agenda.at(moved.at_s, self._ask, (moved, requests))

    def _ask(self, what: tuple[Asked, Iterator[Asked]]) -> None:
        asked, requests = what
        self.client.ask(asked)
        self._plan_request(requests)

    def _plan_reclaim(self, moments: Iterator[Reclaim]) -> None:
        moment = next(moments, None)
        if moment is not None:
            self.agenda.at(START_S + moment.at_s, self._reclaim, (moment.n, moments))

    def _reclaim(self, what: tuple[int, Iterator[Reclaim]]) -> None:
        n, moments = what
        for instance in self.fleet.reclaim(n):
            instance.port.lose(instance)
        self._plan_reclaim(moments)

    def _end_hour(self, _: None) -> None:
        self._note_hour()
        self.agenda.at(self.agenda.now_s + _HOUR_S, self._end_hour, None)

    def _note_hour(self) -> None:
        self.meter.settle()
        added = self._hour_tallies.since(self._tallies())
        lines = self.meter.ledger.by_hour().get(self._hour, {})
        row = HourRow(
            hour=self._hour,
            stored_bytes=sum(shard.state.stored_bytes for shard in self.shards.values()),
            cost_usd={purpose.value: line.usd for purpose, line in lines.items()},
            **added,
        )
        self._hours.append(row)
        self._hour += 1
        if self._tell_hour is not None:
            self._tell_hour(row)

    # ------------------------------------------------------------ what came of it

    def _tallies(self) -> dict[str, int]:
        counts = self.client.counts
        sums = {"gets": counts.gets, "hits": counts.hits, "misses": counts.misses, "resets": counts.resets}
        for name in ("degraded_reads", "repairs", "evictions"):
            sums[name] = sum(getattr(shard.state.counters, name) for shard in self.shards.values())
        sums["reclaims"] = self.fleet.n_reclaimed
        sums["backups"] = sum(shard.state.backups.counters.backups for shard in self.shards.values())
        return sums

    def _result(self, wall_s: float, cpu_s: float) -> ExperimentResult:
        self.meter.settle()
        client, counts = self.client, self.client.counts
        n_events = sum(shard.n_events for shard in self.shards.values())
        states = [shard.state for shard in self.shards.values()]
        costs = self.meter.ledger.cost_usd()
        figures = {
            "gets": counts.gets,
            "hits": counts.hits,
            "hit_ratio": counts.hits / counts.gets if counts.gets else None,
            "misses": counts.misses,
            "resets": counts.resets,
            "availability": 1 - counts.resets / counts.hits if counts.hits else None,
            "errors": counts.errors,
            "skipped": counts.skipped,
            "puts": counts.puts,
            "inserts": counts.inserts,
            "inserts_failed": counts.inserts_failed,
            "degraded_reads": sum(state.counters.degraded_reads for state in states),
            "repairs": sum(state.counters.repairs for state in states),
            "repairs_failed": sum(state.counters.repairs_failed for state in states),
            "evictions": sum(state.counters.evictions for state in states),
            "backups": sum(state.backups.counters.backups for state in states),
            "backups_failed": sum(state.backups.counters.backups_failed for state in states),
            "backup_bytes": sum(state.backups.counters.backup_bytes for state in states),
            "reclaims": self.fleet.n_reclaimed,
            "instances_started": self.fleet.n_started,
            "working_set_bytes": client.working_set.n_bytes,
            "working_set_objects": client.working_set.n_objects,
            "stored_bytes": sum(state.stored_bytes for state in states),
            "capacity_bytes": sum(state.capacity_bytes for state in states),
            "invocations": {
                purpose.value: line.n_invocations for purpose, line in self.meter.ledger.by_purpose().items()
            },
            "billed_s": {purpose.value: line.billed_s for purpose, line in self.meter.ledger.by_purpose().items()},
            "cost_usd": {name: costs[name] for name in (*_COSTS, "total")},
            "latency_s": client.latencies.to_json_dict(),
            "hit_latency_s": client.hit_latencies.to_json_dict(),
            "span_s": self._span_s,
            "seed": self._seed,
            "events": n_events,
        }
        timings = {"wall_s": wall_s, "cpu_s": cpu_s, "events_per_s": n_events / wall_s if wall_s else 0.0}
        return ExperimentResult(figures=figures, timings=timings, hours=tuple(self._hours))


_COSTS = tuple(purpose.value for purpose in Purpose if purpose is not Purpose.OTHER)


@contextlib.contextmanager
def _collecting_seldom() -> Iterator[None]:
    """Millions of small values come and go here, and next to none of them refer to each other in circles."""
    threshold = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        gc.unfreeze()


def _membership(config: Config) -> tuple[Ring, dict[str, tuple[NodeId, ...]]]:
    """Shards and their nodes, dealt out as :func:`infiniray.cluster.membership.plan` does."""
    shards = {f"shard-{i}": 1.0 for i in range(config.ring.shards)}
    ring = Ring(epoch=_EPOCH, shards=shards, virtual_nodes=config.ring.virtual_nodes)
    width = len(str(config.pool.nodes - 1))
    nodes = [NodeId(f"node-{i:0{width}}") for i in range(config.pool.nodes)]
    return ring, ring.assign(nodes, config.widest_scheme)


def run_experiment(
    config: Config, requests: Iterable[Asked], reclaims: Iterable[Sample] = (), *, seed: int = 0
) -> ExperimentResult:
    """One experiment with nobody watching."""
    return Experiment(config, seed=seed).run(requests, reclaims)
