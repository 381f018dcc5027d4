"""A GET: first-d, with hedging and cancellation of stragglers (FAST'20 section 3.2)."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from infiniray.codec.schemes import SchemeKind
from infiniray.core.commands import Complete, Decode, Gauge
from infiniray.core.copies import Copy
from infiniray.core.ids import NodeId, OpId
from infiniray.core.operation import Operation, Timing
from infiniray.core.policy import Hedge
from infiniray.core.requests import Outcome, Request, RequestKind, Settled
from infiniray.core.table import NOWHERE, ChunkPlace, ObjectRecord
from infiniray.errors import InfiniRayError, ObjectLost, ObjectReplaced, SchemeError
from infiniray.members import quick_members

if TYPE_CHECKING:
    from infiniray.core.shard import ShardState

__all__ = ["ChunkState", "Read"]

#: A chunk is overdue when it takes this much longer than all but r of the others took.
OVERDUE_SHARE = 0.25
#: A read whose nodes answer others is hedged after so many times the delay.
MAX_QUEUED_DELAYS = 5
#: Chunks from here on take long enough for stragglers to be told by how far they have come.
GAUGED_CHUNK_BYTES = 1 << 20
MAX_GAUGES = 5
#: A straggler has less than this much of what all but r others have at least ...
STRAGGLER_SHARE = 0.4
#: ... and these have come no further than this: else it is not worth while, and they will soon tell by being complete.
GAUGED_SHARE = 0.4
#: An object that comes faster than this many times the slowest rate of a transfer is not overdue as a whole.
SLOW_RATE_FACTOR = 5


@quick_members
class ChunkState(enum.Enum):
    UNASKED = "unasked"
    PENDING = "pending"  # asked for
    COMPLETE = "complete"  # whole, in its place, checked
    MISSING = "missing"  # not there any more, or damaged: asking again will not help
    FAILED = "failed"  # its node could not be reached: asking again may help


class Read(Operation):
    """I collect any k of an object's chunks, and no more than needed.

    Data chunks are asked for first, because k of them need no decoding; parity comes in when some are lost or
    overdue (or at once, as the paper does, if the policy says so). When k are complete, the others are cancelled on
    the wire. Chunks found lost are handed to a repair together with the bytes.
    """

    name = "GET"

    def __init__(self, op: OpId, record: ObjectRecord, shard: ShardState, deadline_s: float) -> None:
        super().__init__(op, record.facts, shard, deadline_s)
        self.record = record
        self.states = [ChunkState.MISSING if place is NOWHERE else ChunkState.UNASKED for place in record.places]
        self._gauged: list[int] = []  # whose progress was asked about
        #: where each chunk was asked for; a repair may have brought it somewhere else since
        self._asked_at: dict[int, ChunkPlace] = dict.fromkeys(self._missing(), NOWHERE)
        #: the copy that did not have it, or not whole; its node may have turned to another since
        self._missed_by: dict[int, Copy | None] = {}

    def start(self) -> None:
        self.shard.pin(self.record)
        self.set_timer(Timing.DEADLINE, self.deadline_s - self.context.now_s)
        if self.context.policy.hedge is Hedge.ALL:
            for index in self._by_preference(ChunkState.UNASKED):
                self._ask(index)
        elif self.facts.scheme.r:
            self.set_timer(Timing.HEDGE, self._hedge_at_latest_s())
            chunk_bytes = self.facts.scheme.stored_bytes(0, self.facts.size_bytes)
            if self.facts.scheme.k > self.facts.scheme.r and chunk_bytes >= GAUGED_CHUNK_BYTES:
                self.set_timer(Timing.GAUGE, self.context.policy.hedge_delay_s)
        self._replace()  # of nothing yet: the first k

    # ------------------------------------------------------------ what happens

    def on_settled(self, settled: Settled) -> None:
        index = settled.request.index
        match settled.outcome:
            case Outcome.DONE:
                self.states[index] = ChunkState.COMPLETE
                self._expect_the_rest()
                self._finish_if_enough()
                return
            case Outcome.DAMAGED:
                self.shard.counters.chunks_damaged += 1
                self._miss(index, settled.request)
            case Outcome.MISSING:
                self._miss(index, settled.request)
            case Outcome.REFUSED | Outcome.UNREACHABLE:
                self.states[index] = ChunkState.FAILED
        self._replace()

    def on_timer(self, timing: Timing) -> None:
        if timing is not Timing.DEADLINE and self._count(ChunkState.COMPLETE) >= self.facts.scheme.k:
            return  # being decoded: a chunk that came now could overwrite one that is decoded already
        self._strike_given_up()
        if timing is Timing.HEDGE:
            self._hedge()
        elif timing is Timing.GAUGE:
            self._gauge()
        elif timing is Timing.AGAIN:
            for index in self._by_preference(ChunkState.FAILED):
                self._ask(index)
            self._replace()
        else:
            n, k = self._count(ChunkState.COMPLETE), self.facts.scheme.k
            detail = f"{n} of {k} chunks arrived, {self._count(ChunkState.MISSING)} are lost, the others did not answer"
            self.fail(self.too_late(detail))

    def on_coded(self, error: str | None) -> None:
        if error is None:
            self._complete()
        else:
            self.fail(SchemeError(detail=f"object {self.facts.key!r} could not be decoded: {error}"))

    def may_ask(self, node: NodeId) -> bool:
        return any(place.node == node for place in self.record.places)

    def on_end(self, error: InfiniRayError | None) -> None:
        self.shard.unpin(self.record)

    # ------------------------------------------------------------ which chunks

    def _by_preference(self, state: ChunkState) -> list[int]:
        """Chunks in ``state``, those first that are likely to come soon and need no decoding."""
        places, nodes = self.record.places, self.shard.nodes
        scheme, now_s = self.facts.scheme, self.context.now_s
        first_parity = scheme.n if scheme.kind is SchemeKind.MIRROR else scheme.k

        def rank(index: int) -> tuple[bool, bool, bool, bool]:
            place = places[index]
            node = nodes[place.node]
            is_suspect = node.suspect_until_s > now_s
            return node.lacks(place.seq), is_suspect, index >= first_parity, not node.is_awake

        return sorted((i for i, s in enumerate(self.states) if s is state), key=rank)

    def _hedge_at_latest_s(self) -> float:
        """When parity is asked for though too few chunks have come to tell what is normal."""
        policy, scheme = self.context.policy, self.facts.scheme
        if scheme.k <= scheme.r:
            return policy.hedge_delay_s  # no need to wait for others: this one should be here by now
        return policy.hedge_delay_s + self.facts.size_bytes / (SLOW_RATE_FACTOR * policy.min_bytes_per_s)

    def _gauge(self) -> None:
        """Ask how far the chunks have come that are on their way."""
        on_the_way = [(i, request.link, request.id) for i, request in self.open.items() if request.link is not None]
        self._gauged = [index for index, _, _ in on_the_way]
        self.context.out.append(Gauge(op=self.id, requests=tuple((link, id_) for _, link, id_ in on_the_way)))

    def on_gauged(self, shares: tuple[float, ...]) -> None:
        """Ask for parity in the place of stragglers, as early as they can be told: a chunk that takes ten times as long
        as the others is not waited for until these are complete, for then parity would take as long again.
        """
        scheme = self.facts.scheme
        if self._count(ChunkState.COMPLETE) >= scheme.k:
            return  # being decoded
        come = {i: 1.0 for i, state in enumerate(self.states) if state is ChunkState.COMPLETE}
        come |= dict(zip(self._gauged, shares, strict=True))
        usual = sorted((*come.values(), *[0.0] * scheme.k), reverse=True)[scheme.k - scheme.r - 1]
        if usual > GAUGED_SHARE:
            return
        slow = [i for i, n in come.items() if self.states[i] is ChunkState.PENDING and n < STRAGGLER_SHARE * usual]
        spare = self._by_preference(ChunkState.UNASKED)[: len(slow)]
        if not slow or not self._may_ask_more(spare):
            if self.context.now_s - self.started_s < MAX_GAUGES * self.context.policy.hedge_delay_s:
                self.set_timer(Timing.GAUGE, self.context.policy.hedge_delay_s)
            return
        self.shard.counters.reads_hedged += 1
        for index in spare:
            self._ask(index)

    def _hedge(self) -> None:
        """The first k are overdue: ask for parity, too, unless that would only make queues longer."""
        spare = self._by_preference(ChunkState.UNASKED)
        if self._is_only_queued():
            self.set_timer(Timing.HEDGE, self.context.policy.hedge_delay_s)
        elif not self._may_ask_more(spare):
            elapsed_s = self.context.now_s - self.started_s
            self.set_timer(Timing.HEDGE, max(self.context.policy.hedge_delay_s, OVERDUE_SHARE * elapsed_s))
        else:
            self.shard.counters.reads_hedged += 1
            for index in spare:
                self._ask(index)

    def _is_only_queued(self) -> bool:
        """Whether the nodes that were asked have just answered others: this read waits its turn behind many, at them
        or here, and would only make the queue longer by asking more nodes.

        Only where no other chunk tells what is normal, and not for ever: a slow node answers, too.
        """
        scheme, policy, now_s = self.facts.scheme, self.context.policy, self.context.now_s
        if scheme.k > scheme.r or now_s - self.started_s >= MAX_QUEUED_DELAYS * policy.hedge_delay_s:
            return False
        asked = [self.shard.nodes[request.node] for request in self.open.values()]
        return bool(asked) and all(node.answered_s > now_s - policy.hedge_delay_s for node in asked)

    def _may_ask_more(self, spare: list[int]) -> bool:
        """Whether more than k chunks may be asked for. Where nodes have others to answer, too, these get slower by it:
        so all such hedges together have no more than a share of what reads deliver (Dean and Barroso, "The tail at
        scale", CACM 2013), unless a node has said nothing for long.
        """
        policy, now_s = self.context.policy, self.context.now_s
        asked = [self.shard.nodes[request.node] for request in self.open.values()]
        n_bytes = sum(self.facts.scheme.stored_bytes(index, self.facts.size_bytes) for index in spare)
        if all(node.n_unsettled <= 1 for node in asked):
            return True
        if any(node.answered_s < now_s - policy.stall_s / 2 for node in asked):
            return True
        return self.shard.hedging.spend(n_bytes)

    def _expect_the_rest(self) -> None:
        """All but r of the first k chunks are here: the others are overdue if they take a quarter longer than these.

        However large the object and however slow the network, that tells stragglers from what is only on its way.
        """
        scheme, policy = self.facts.scheme, self.context.policy
        if Timing.HEDGE in self.timers and self._count(ChunkState.COMPLETE) == scheme.k - scheme.r:
            elapsed_s = self.context.now_s - self.started_s
            self.set_timer(Timing.HEDGE, max(policy.hedge_delay_s - elapsed_s, OVERDUE_SHARE * elapsed_s))

    def _ask(self, index: int) -> None:
        place = self._asked_at[index] = self.record.places[index]
        self.states[index] = ChunkState.PENDING
        self.ask(RequestKind.FETCH, index, self.shard.nodes[place.node], seq=place.seq, crc=place.crc)

    def _replace(self) -> None:
        """A chunk will not come: ask for another, or see that the object is lost."""
        k = self.facts.scheme.k
        for index in (*self._moved(), *self._come_back()):
            self.states[index] = ChunkState.UNASKED
        self._strike_given_up()
        have = len(self.states) - self._count(ChunkState.MISSING)
        if have < k:
            if self.may_hope():
                self.retry_later()
            else:
                self.give_up(have)
            return
        n_needed = k - len(self.open) - self._count(ChunkState.COMPLETE)
        spare = self._by_preference(ChunkState.UNASKED)[: max(0, n_needed)]
        for index in spare:
            self._ask(index)
        if len(spare) < n_needed:
            self.retry_later()

    def _strike_given_up(self) -> None:
        """Chunks that were somewhere when the read began, and are not any more: their node leaves and had lost them."""
        for index, place in enumerate(self.record.places):
            if place is NOWHERE and self.states[index] in (ChunkState.UNASKED, ChunkState.FAILED):
                self.states[index] = ChunkState.MISSING
                self._asked_at[index] = NOWHERE

    def _moved(self) -> list[int]:
        """Chunks that were missing where they were asked for, and have been rebuilt elsewhere since."""
        return [i for i in self._missing() if self.record.places[i] != self._asked_at[i]]

    def _miss(self, index: int, request: Request) -> None:
        self.states[index] = ChunkState.MISSING
        self._missed_by[index] = self.shard.nodes[request.node].copy

    def _come_back(self) -> list[int]:
        """Chunks that an instance did not have, where another has taken over since that has them."""
        return [
            index
            for index, copy in self._missed_by.items()
            if self.states[index] is ChunkState.MISSING
            and (place := self.record.places[index]) == self._asked_at[index]
            and not self.shard.is_lost(place)
            and self.shard.nodes[place.node].copy is not copy
        ]

    def _missing(self) -> list[int]:
        return [i for i, state in enumerate(self.states) if state is ChunkState.MISSING]

    def _lost(self) -> tuple[int, ...]:
        """Chunks that are to be rebuilt: missing where they were asked for, or not asked for because their nodes said
        at HELLO that they lack them."""
        gone = set(self._missing()).difference(self._moved())
        for index, place in enumerate(self.record.places):
            if self.states[index] is not ChunkState.COMPLETE and self.shard.is_lost(place):
                gone.add(index)
        return tuple(sorted(gone))

    def _count(self, state: ChunkState) -> int:
        return self.states.count(state)

    # ------------------------------------------------------------ the end

    def _finish_if_enough(self) -> None:
        scheme = self.facts.scheme
        if self.states.count(ChunkState.COMPLETE) < scheme.k:
            return
        have = tuple(i for i, state in enumerate(self.states) if state is ChunkState.COMPLETE)
        for index in list(self.open):
            self.withdraw(index)
            self.shard.counters.fetches_cancelled += 1
        want = tuple(index for index in range(scheme.k) if index not in have)
        if want:
            self.shard.counters.reads_decoded += 1
            crcs = tuple(None if (p := self.record.places[index]) is NOWHERE else p.crc for index in want)
            self.context.out.append(Decode(op=self.id, facts=self.facts, have=have, want=want, crcs=crcs))
        else:
            self._complete()

    def _complete(self) -> None:
        self.record.used_s = self.context.now_s
        self.deliver(self._lost())

    def deliver(self, lost: tuple[int, ...]) -> None:
        """The object is whole in the operation's buffer."""
        if lost:
            self.shard.counters.degraded_reads += 1
            self.shard.repairs.repair_from(self.record, lost, source=self.id)
        self.record.is_referenced = True
        self.shard.counters.hits += 1
        self.shard.hedging.earn(self.facts.size_bytes)
        self.shard.near.keep(self.id, self.record)
        self.end(lambda: self.context.out.append(Complete(op=self.id, facts=self.facts)))

    def may_hope(self) -> bool:
        """Whether what is missing is being rebuilt, or may come back with another instance of its node."""
        return self.shard.repairs.is_running(self.record) or self.may_come_back()

    def may_come_back(self) -> bool:
        """Whether another instance has what is missing: it is being copied from there, or that one is late."""
        return self.shard.is_being_copied(self.record) or self.shard.may_return(self.record)

    def give_up(self, have: int) -> None:
        """Too few chunks are left."""
        if self.record.is_retired:
            self.fail(ObjectReplaced(key=self.facts.key))
            return
        self.shard.lose(self.record)
        self.fail(ObjectLost(key=self.facts.key, have=have, need=self.facts.scheme.k))
