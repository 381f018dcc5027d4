"""The experiment's functions: their instances, what these hold, how fast they move bytes, and who is reclaimed.

A leaner twin of :mod:`infiniray.sim.platform`, for fifty hours of four hundred functions. What is modelled twice means
the same in both: a busy function gets a new instance, the most recently used idle one serves, instances keep chunks and
the numbers of the changes that they have seen while they are frozen, connections outlive sessions, and requests to a
frozen instance wait in its connection. What the checks need is not here: epochs, payload, damage, hanging, closing
connections under a session. Instead there are prices, bandwidth that is used up, and time lines of reclaims.
"""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from infiniray.core.events import CopyReport
from infiniray.core.ids import InstanceId, LinkId, NodeId, SessionId
from infiniray.core.policy import footprint_bytes
from infiniray.cost.ledger import Purpose
from infiniray.sim.settings import NetworkModel, ReclaimModel
from infiniray.wire.describe import ChunkId, SeqSpans

if TYPE_CHECKING:
    from infiniray.sim.replay import ShardRun

__all__ = ["Fleet", "Instance", "Pipe"]

_is_busy = operator.attrgetter("is_busy")


class Pipe:
    """One direction of an instance's network: one transfer after the other, in the shape of a token bucket."""

    __slots__ = ("_bucket_bytes", "_burst", "_quiet_s", "_sustained", "_tokens", "free_s")

    def __init__(self, model: NetworkModel, speed: float) -> None:
        self.free_s = 0.0
        self._bucket_bytes = self._tokens = float(model.bucket_bytes)
        self._burst = model.burst_bytes_per_s * speed
        self._sustained = model.sustained_bytes_per_s * speed
        self._quiet_s = model.quiet_s

    def move(self, start_s: float, n_bytes: int) -> float:
        """When ``n_bytes`` that are there at ``start_s`` have gone through."""
        idle_s = start_s - self.free_s
        if idle_s < 0:
            start_s = self.free_s
        tokens = self._tokens
        if idle_s >= self._quiet_s and tokens < self._bucket_bytes:
            tokens = min(self._bucket_bytes, max(tokens, self._bucket_bytes / 2))
        if n_bytes <= tokens:
            self._tokens = tokens - n_bytes
            self.free_s = end_s = start_s + n_bytes / self._burst
        else:
            self._tokens = 0.0
            self.free_s = end_s = start_s + tokens / self._burst + (n_bytes - tokens) / self._sustained
        return end_s


class Instance:
    """One execution environment: what it holds, and the session that it is in, if any."""

    __slots__ = (
        "began_s", "busy_until_s", "chunks", "held_until_s", "host", "id", "inbox", "init_s", "inward", "is_busy",
        "is_gone", "is_let_go", "link", "looks_s", "n_requests", "node", "number", "outward", "place", "port",
        "purpose", "report", "seqs", "session", "spans", "stay_until_s", "used_bytes", "used_s",
    )  # fmt: skip

    def __init__(self, number: int, node: NodeId, port: ShardRun, host: int, network: NetworkModel, speed: float):
        self.number = number
        self.id = InstanceId(f"i{number}")
        self.node = node
        self.port = port
        self.host = host
        self.place = -1  # in the fleet's list of those that are there
        #: {chunk: (number of the insert that brought it, bytes)}, and the same by that number
        self.chunks: dict[ChunkId, tuple[int, int]] = {}
        self.seqs: dict[int, ChunkId] = {}
        self.spans = SeqSpans()
        #: what it says of itself, whenever it is asked: the shard copies what it keeps
        self.report = CopyReport(instance=self.id, spans=self.spans)
        self.used_bytes = 0
        self.inward = Pipe(network, speed)
        self.outward = Pipe(network, speed)
        self.link: LinkId | None = None
        self.inbox: list[Any] = []  # commands that came while it was frozen
        self.is_busy = False  # an invocation has it, from the request until the return
        self.is_gone = False
        self.used_s = 0.0
        self.init_s = 0.0  # of the start that is not billed yet
        # of the session
        self.session: SessionId | None = None
        self.purpose: Purpose | None = None
        self.began_s = 0.0
        self.busy_until_s = 0.0
        self.held_until_s = 0.0
        self.stay_until_s = 0.0
        self.looks_s = 0.0  # when it is next seen whether it is over
        self.is_let_go = False
        self.n_requests = 0

    def keep(self, chunk: ChunkId, seq: int, n_bytes: int, limit_bytes: int) -> bool:
        """Store a chunk; False if there is no room."""
        n_footprint = footprint_bytes(n_bytes)
        if self.used_bytes + n_footprint > limit_bytes:
            return False
        self.drop(chunk)
        self.chunks[chunk] = (seq, n_bytes)
        self.seqs[seq] = chunk
        self.used_bytes += n_footprint
        return True

    def drop(self, chunk: ChunkId) -> None:
        kept = self.chunks.pop(chunk, None)
        if kept is not None:
            del self.seqs[kept[0]]
            self.used_bytes -= footprint_bytes(kept[1])

    def retain(self, first: int, last: int, keep: Iterable[int]) -> None:
        """Of the chunks that came as numbers ``first`` to ``last``, those in ``keep`` stay."""
        for seq in sorted(self.seqs.keys() - keep):
            if first <= seq <= last:
                self.drop(self.seqs[seq])


class Fleet:
    """I start instances, say which one serves, and take them away.

    Args:
        limits_bytes: what instances of each node may hold.
        ports: the shard that each node belongs to.
    """

    def __init__(
        self,
        limits_bytes: Mapping[NodeId, int],
        ports: Mapping[NodeId, ShardRun],
        network: NetworkModel,
        reclaims: ReclaimModel,
        rng: random.Random,
    ) -> None:
        self.limits_bytes = dict(limits_bytes)
        self.n_started = 0
        self.n_reclaimed = 0
        self.present: list[Instance] = []
        self._ports = ports
        self._of: dict[NodeId, list[Instance]] = {node: [] for node in limits_bytes}
        self._nodes = list(limits_bytes)
        self._network = network
        self._reclaims = reclaims
        self._rng = rng
        self._hosts: dict[int, list[Instance]] = {}

    # ------------------------------------------------------------ invocations

    def idle(self, node: NodeId) -> Instance | None:
        """The instance that serves an invocation now; None if all are busy."""
        best: Instance | None = None
        for instance in self._of[node]:
            if not instance.is_busy and (best is None or instance.used_s > best.used_s):
                best = instance
        return best

    def has_busy(self, node: NodeId) -> bool:
        return any(map(_is_busy, self._of[node]))

    def start(self, node: NodeId) -> Instance:
        """A new instance."""
        host = self.n_started // self._reclaims.instances_per_host
        self.n_started += 1
        sigma = self._network.speed_sigma
        speed = math.exp(self._rng.gauss(0.0, sigma)) if sigma else 1.0
        instance = Instance(self.n_started, node, self._ports[node], host, self._network, speed)
        self._of[node].append(instance)
        instance.place = len(self.present)
        self.present.append(instance)
        if self._reclaims.target == "host":
            self._hosts.setdefault(host, []).append(instance)
        return instance

    # ------------------------------------------------------------ reclaims

    def reclaim(self, n: int) -> list[Instance]:
        """Take about ``n`` instances away, none that is busy: those that went. Hosts go whole, so ``n`` may be
        exceeded."""
        gone: list[Instance] = []
        while len(gone) < n:
            victims = self._victims()
            if not victims:
                break
            for instance in victims:
                self._remove(instance)
            gone += victims
        self.n_reclaimed += len(gone)
        return gone

    def _victims(self) -> list[Instance]:
        instance = self._any_node() if self._reclaims.target == "node" else self._any()
        if instance is None:
            return []
        if self._reclaims.target == "host":
            return [other for other in self._hosts[instance.host] if not other.is_busy]
        return [instance]

    def _any(self) -> Instance | None:
        present = self.present
        for _ in range(64):
            if not present:
                return None
            instance = present[int(self._rng.random() * len(present))]
            if not instance.is_busy:
                return instance
        return next((instance for instance in present if not instance.is_busy), None)

    def _any_node(self) -> Instance | None:
        for _ in range(64):
            instance = self.idle(self._nodes[int(self._rng.random() * len(self._nodes))])
            if instance is not None:
                return instance
        return self._any()

    def _remove(self, instance: Instance) -> None:
        instance.is_gone = True
        self._of[instance.node].remove(instance)
        last = self.present.pop()
        if last is not instance:
            self.present[instance.place] = last
            last.place = instance.place
        if self._reclaims.target == "host":
            self._hosts[instance.host].remove(instance)
            if not self._hosts[instance.host]:
                del self._hosts[instance.host]
        instance.chunks = {}
        instance.seqs = {}
