"""The experiment's client: look-aside, as FAST'20 section 5.2 replays its trace.

A GET that misses, or finds its object lost (a RESET), loads the object from the backing store and inserts it. Who asks
for an object that is just being loaded waits for that insert and then asks the cache, as an application does that
avoids loading the same object twice at once (:class:`workloads.lookaside.LookAside`).
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from infiniray.core import events as ev
from infiniray.core.ids import OpId
from infiniray.errors import InfiniRayError, KeyNotFound, ObjectLost
from infiniray.members import quick_members
from infiniray.sim.agenda import Agenda
from infiniray.sim.measures import Latencies, WorkingSet
from infiniray.sim.settings import SimulationSettings

__all__ = ["Asked", "Client", "Counts", "Outcome", "Served", "Shard"]


@quick_members
class Outcome(enum.Enum):
    """What came of a request."""

    HIT = "hit"
    MISS = "miss"
    RESET = "reset"  # a miss for an object that was stored and is lost
    STORED = "stored"  # of a PUT
    ERROR = "error"  # the cache refused or was late; loaded from the backing store
    SKIPPED = "skipped"  # larger than what is cached: the cache was not asked


class Asked(NamedTuple):
    """One request of the trace, at its time."""

    at_s: float
    key: str
    size_bytes: int
    is_get: bool


class Served(NamedTuple):
    """What came of it; ``insert_s`` is how long the insert took that followed, None if there was none or it failed."""

    asked: Asked
    outcome: Outcome
    latency_s: float
    insert_s: float | None
    error: str | None


class Shard(Protocol):
    """Whom a key's requests go to."""

    def feed(self, event: ev.Event) -> None: ...


@dataclass(slots=True)
class Counts:
    """What came of all requests so far. ``gets`` are those of the trace; skipped ones count among them."""

    gets: int = 0
    hits: int = 0
    misses: int = 0
    resets: int = 0
    errors: int = 0
    skipped: int = 0
    puts: int = 0
    inserts: int = 0
    inserts_failed: int = 0


@dataclass(slots=True, eq=False)
class _Flight:
    """One request under way. ``outcome`` of a GET once the cache has answered."""

    asked: Asked
    started_s: float  # when the operation began that is going on
    outcome: Outcome | None = None
    latency_s: float = 0.0
    error: str | None = None


class Client:
    """I ask at the trace's times, however long earlier requests take, and count what comes of it.

    Args:
        owner: the shard of a key.
        tell: called with every request that is over.
    """

    def __init__(
        self,
        agenda: Agenda,
        model: SimulationSettings,
        *,
        deadline_s: float,
        largest_bytes: int,
        owner: Callable[[str], Shard],
        tell: Callable[[Served], None] | None = None,
    ) -> None:
        self.counts = Counts()
        self.latencies = Latencies()
        self.hit_latencies = Latencies()
        self.working_set = WorkingSet()
        self.n_open = 0
        self._agenda = agenda
        self._backing = model.backing
        self._delay_s = model.network.delay_s
        self._deadline_s = deadline_s
        self._largest_bytes = largest_bytes
        self._owner = owner
        self._tell = tell
        self._op_ids = itertools.count(1)
        self._flights: dict[OpId, _Flight] = {}
        #: {key that is being loaded and inserted: who waits for that}
        self._loading: dict[str, list[_Flight]] = {}

    def ask(self, asked: Asked) -> None:
        """A request's time has come."""
        self.n_open += 1
        counts = self.counts
        if asked.is_get:
            counts.gets += 1
            self.working_set.add(asked.key, asked.size_bytes)
        else:
            counts.puts += 1
        flight = _Flight(asked, self._agenda.now_s)
        if asked.size_bytes > self._largest_bytes:
            counts.skipped += 1
            flight.outcome = Outcome.SKIPPED
            self._agenda.at(self._agenda.now_s + self._load_s(asked), self._skipped, flight)
        elif asked.key in self._loading:
            self._loading[asked.key].append(flight)
        else:
            self._begin(flight)

    # ------------------------------------------------------------ what the shards answer

    def on_complete(self, op: OpId) -> None:
        flight = self._flights.pop(op)
        now_s = self._agenda.now_s + self._delay_s
        if flight.outcome is not None:
            self._inserted(flight, now_s - flight.started_s)
        elif flight.asked.is_get:
            self.counts.hits += 1
            latency_s = now_s - flight.asked.at_s
            self.hit_latencies.add(latency_s)
            self._over(flight, Outcome.HIT, latency_s)
        else:
            self._stored(flight)

    def on_fail(self, op: OpId, error: InfiniRayError) -> None:
        flight = self._flights.pop(op)
        if flight.outcome is not None:
            self.counts.inserts_failed += 1
            self._inserted(flight, None)
        elif flight.asked.is_get:
            self._load(flight, error)
        else:
            self.counts.errors += 1
            self._loaded_all(flight.asked.key)
            self._over(flight, Outcome.ERROR, self._agenda.now_s - flight.asked.at_s, error=type(error).__name__)

    # ------------------------------------------------------------ one request

    def _begin(self, flight: _Flight) -> None:
        flight.started_s = now_s = self._agenda.now_s
        asked = flight.asked
        op = OpId(next(self._op_ids))
        self._flights[op] = flight
        if asked.is_get:
            get = ev.GetRequested(op=op, key=asked.key, deadline_s=now_s + self._deadline_s)
            self._agenda.at(now_s + self._delay_s, self._owner(asked.key).feed, get)
        else:
            self._loading[asked.key] = []
            self._put(op, asked, now_s)

    def _put(self, op: OpId, asked: Asked, now_s: float) -> None:
        put = ev.PutRequested(
            op=op, key=asked.key, size_bytes=asked.size_bytes, head="", expires_s=None,
            deadline_s=now_s + self._deadline_s,
        )  # fmt: skip
        self._agenda.at(now_s + self._delay_s, self._owner(asked.key).feed, put)

    def _load(self, flight: _Flight, error: InfiniRayError) -> None:
        """The cache has not got it: load it, unless somebody has begun to since we asked."""
        waiting = self._loading.get(flight.asked.key)
        if waiting is not None:
            waiting.append(flight)
            return
        self._loading[flight.asked.key] = []
        if isinstance(error, ObjectLost):
            self.counts.resets += 1
            flight.outcome = Outcome.RESET
        elif isinstance(error, KeyNotFound):
            self.counts.misses += 1
            flight.outcome = Outcome.MISS
        else:
            self.counts.errors += 1
            flight.outcome, flight.error = Outcome.ERROR, type(error).__name__
        self._agenda.at(self._agenda.now_s + self._delay_s + self._load_s(flight.asked), self._loaded, flight)

    def _loaded(self, flight: _Flight) -> None:
        now_s = self._agenda.now_s
        flight.latency_s = now_s - flight.asked.at_s
        if flight.outcome is Outcome.ERROR:
            self._inserted(flight, None)  # it is there already, or the cache has too much to do
            return
        flight.started_s = now_s
        op = OpId(next(self._op_ids))
        self._flights[op] = flight
        self.counts.inserts += 1
        self._put(op, flight.asked, now_s)

    def _inserted(self, flight: _Flight, insert_s: float | None) -> None:
        assert flight.outcome is not None
        self._loaded_all(flight.asked.key)
        self._over(flight, flight.outcome, flight.latency_s, insert_s=insert_s, error=flight.error)

    def _stored(self, flight: _Flight) -> None:
        self._loaded_all(flight.asked.key)
        self._over(flight, Outcome.STORED, self._agenda.now_s + self._delay_s - flight.asked.at_s)

    def _loaded_all(self, key: str) -> None:
        """Those who waited for a load may ask now."""
        waiting = self._loading.pop(key)
        for number, flight in enumerate(waiting):
            if key in self._loading:  # the one before is a PUT
                self._loading[key] += waiting[number:]
                return
            self._begin(flight)

    def _skipped(self, flight: _Flight) -> None:
        self._over(flight, Outcome.SKIPPED, self._agenda.now_s - flight.asked.at_s)

    def _over(
        self,
        flight: _Flight,
        outcome: Outcome,
        latency_s: float,
        *,
        insert_s: float | None = None,
        error: str | None = None,
    ) -> None:
        self.n_open -= 1
        if flight.asked.is_get:
            self.latencies.add(latency_s)
        if self._tell is not None:
            self._tell(Served(flight.asked, outcome, latency_s, insert_s, error))

    def _load_s(self, asked: Asked) -> float:
        return self._backing.first_byte_s + asked.size_bytes / self._backing.bytes_per_s
