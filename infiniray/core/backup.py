"""Delta-sync backup of a node to a peer replica (FAST'20 section 4.3, Fig. 10).

What the paper does, and where it is done here:

====  =====================================================  =======================================================
step  FAST'20 Fig. 10                                        here
====  =====================================================  =======================================================
1     the node asks for a backup, the proxy starts a relay   a timer, staggered, and a slot from the supervisor; the
2-4   the relay's address and the backup command             shard holds the source in its session
5-8   the node invokes itself and both connect to the relay  the shard invokes the function while it is busy, so the
                                                             platform serves with a second instance; both keep their
                                                             connections to the shard, which relays what they exchange
9-10  hello; the proxy drops the source                      HELLO tells what the peer has; it is told what to drop
11    keys from most to least recently used                  the shard knows what is used: the same order
12    the destination pulls what it lacks                    the shard copies what either lacks from the other
      PUTs are forwarded, GET misses served by the source    the source goes on serving; what is written to it
                                                             meanwhile is copied, what is deleted is deleted at both
      the proxy's connection is the destination's now        hand-over, when the peer has everything, or the source goes
====  =====================================================  =======================================================

That the shard, not the function, makes the second invocation spares functions a way and a permission to invoke
anything, and leaves each step to be decided, and tested, where all others are.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from infiniray.core.alarm import Alarm
from infiniray.core.commands import AcquireSlot, CancelCopy, CopyChunk, DeleteChunks, Hold, ReleaseSlot
from infiniray.core.copies import Link
from infiniray.core.custody import Held, Retention
from infiniray.core.events import InvokeOutcome
from infiniray.core.ids import InstanceId, LinkId, NodeId, RequestId, SessionId
from infiniray.members import quick_members
from infiniray.wire.describe import ChunkId, SeqSpans

if TYPE_CHECKING:
    from infiniray.core.node import Node
    from infiniray.core.shard import ShardState

__all__ = ["Backup", "BackupCounters", "Backups", "Phase"]

#: The pause before a slot that was refused is asked for again.
SLOT_RETRY_S = 5.0
#: How often chunks that were written during the backup are looked for before what is still coming is left to the next.
MAX_ROUNDS = 8
#: Nodes that are due within this share of an interval are looked at together.
EARLY_SHARE = 0.01
#: A backup waits so long at most for a warm-up that the replica has not answered yet, a cold start included.
PAIR_PATIENCE_S = 1.0


@quick_members
class Phase(enum.Enum):
    """Where a backup is. Each ends with what the next begins with; whatever else happens ends the backup."""

    SOURCE = "source"  # waiting for the node to be in a session
    PEER = "peer"  # waiting for the second instance to speak
    ALIGNING = "aligning"  # the peer drops what it should not hold
    COPYING = "copying"  # what either lacks comes from the other
    SEALING = "sealing"  # both are told that they have seen all
    OVER = "over"


@dataclass(slots=True)
class BackupCounters:
    """What backups have done since the shard started."""

    backups: int = 0
    backups_failed: int = 0
    backup_chunks: int = 0
    backup_bytes: int = 0


class Backup:
    """I am one backup of one node. I begin with a slot and end once, with both instances let go.

    Nothing that was there before is lost by my failing at any point: I only add chunks to instances, and delete those
    that were deleted already.
    """

    def __init__(self, node: Node, shard: ShardState) -> None:
        self.node = node
        self.shard = shard
        self.context = shard.context
        self.phase = Phase.SOURCE
        self.source: Link | None = None
        self.peer: Link | None = None
        #: of the second instance
        self.session: SessionId | None = None
        #: stopped by the allowance: what is left waits for the next one
        self.is_partial = False
        self._todo: list[tuple[ChunkId, Held, Link, Link]] = []  # most recently used last
        self._copying: dict[RequestId, tuple[ChunkId, Held, Link, Link]] = {}
        self._window_bytes = 0
        self._moved_bytes = 0
        self._n_rounds = 0
        self._unconfirmed: set[LinkId] = set()

    def __repr__(self) -> str:
        return f"<Backup of {self.node.id} {self.phase.value}, {self._moved_bytes} bytes>"

    def is_peer(self, session: SessionId) -> bool:
        return session == self.session and self.peer is None

    # ------------------------------------------------------------ what happens

    def on_source(self, link: Link) -> None:
        """The node is in a session."""
        if self.phase is not Phase.SOURCE:
            if link is not self.source:
                self.fail("another instance took over")
            return
        self.source = link
        self.phase = Phase.PEER
        self._hold(link)
        self.session = self.node.invoke_peer()
        if self.session is None:
            self.fail("too many invocations are out")

    def on_peer(self, link: Link) -> None:
        """The second instance is in a session."""
        self.peer = link
        self._hold(link)
        self.phase = Phase.ALIGNING
        if self.node.custody.needs_nothing(link.copy):
            self._copy()
        else:
            self._unconfirmed = {link.id}
            self.node.outbox.tell(link, self.node.custody.retentions(link.copy))

    def on_peer_left(self, link: LinkId) -> None:
        if self.peer is not None and link == self.peer.id:
            self.fail("the peer left")

    def on_returned(self, session: SessionId, outcome: InvokeOutcome) -> None:
        if session == self.session:
            self.fail(f"the peer's invocation returned: {outcome.value}")

    def on_retained(self, link: Link) -> None:
        self._unconfirmed.discard(link.id)
        if self._unconfirmed:
            return
        if self.phase is Phase.ALIGNING:
            self._copy()
        elif self.phase is Phase.SEALING:
            self._end(is_done=True)

    def on_copied(self, request: RequestId) -> None:
        _, held, _, target = self._settle(request)
        self.node.custody.note_made(target.copy, held.seq)
        self.shard.backups.counters.backup_chunks += 1
        self.shard.backups.counters.backup_bytes += held.n_bytes
        self._copy_more()

    def on_copy_failed(self, request: RequestId, *, is_missing: bool, detail: str) -> None:
        _, held, source, _ = self._settle(request)
        if not is_missing:
            self.fail(detail)
            return
        source.copy.spans = source.spans.without([held.seq])  # it only seemed to have it
        self._copy_more()

    def forget(self, chunk: ChunkId) -> None:
        """A chunk is to be deleted: what is on its way of it must not arrive after that."""
        for request, (copied, *_) in list(self._copying.items()):
            if copied == chunk:
                self._settle(request)
                self.context.out.append(CancelCopy(request=request))
                self.shard.backups.stir(self)

    def pass_on(self, delete: DeleteChunks) -> None:
        """What is deleted at the source is deleted at the peer, as the same change."""
        if self.peer is not None and self.source is not None and delete.link == self.source.id:
            request = self.context.new_request_id()  # nobody waits for the answer: the order of a connection is kept
            self.context.out.append(replace(delete, link=self.peer.id, request=request))
            self.node.custody.note_made(self.peer.copy, delete.seq)

    def go_on(self) -> None:
        """A copy was given up from outside."""
        if self.phase is Phase.COPYING:
            self._copy_more()

    def fail(self, detail: str, *, has_source: bool = True) -> None:
        """It cannot go on; the next one will. ``has_source``: the node is still in the session that was its source."""
        if self.phase is not Phase.OVER:
            self._end(is_done=False, has_source=has_source)

    # ------------------------------------------------------------ copying

    def _copy(self) -> None:
        """Find what either instance lacks and the other has."""
        self.phase = Phase.COPYING
        self._n_rounds += 1
        source, peer = self.source, self.peer
        assert source is not None
        assert peer is not None
        only_source, only_peer = self.node.custody.differing(source.copy, peer.copy)
        self._todo = [(chunk, held, source, peer) for chunk, held in only_source]
        self._todo += [(chunk, held, peer, source) for chunk, held in only_peer]
        used_s, now_s = self.shard.table.used_s, self.context.now_s
        self._todo.sort(key=lambda job: used_s(job[0], now_s))
        self._copy_more()

    def _copy_more(self) -> None:
        policy = self.context.policy
        while self._todo and (not self._copying or self._window_bytes < policy.backup_window_bytes):
            job = chunk, held, give, take = self._todo.pop()
            if self.node.custody.holdings.get(chunk) != held or held.seq in take.spans:
                continue
            if self._moved_bytes and self._moved_bytes + held.n_bytes > policy.backup_burst_bytes:
                self.is_partial = True
                self._todo.clear()
                break
            request = self.context.new_request_id()
            self._copying[request] = job
            self._window_bytes += held.n_bytes
            self._moved_bytes += held.n_bytes
            self.shard.backups.copying[request] = self
            self.context.out.append(
                CopyChunk(
                    source=give.id, target=take.id, request=request, chunk=chunk, seq=held.seq,
                    chunk_bytes=held.n_bytes,
                )
            )  # fmt: skip
        if not self._copying and not self._todo:
            self._seal()

    def _settle(self, request: RequestId) -> tuple[ChunkId, Held, Link, Link]:
        job = self._copying.pop(request)
        del self.shard.backups.copying[request]
        self._window_bytes -= job[1].n_bytes
        return job

    # ------------------------------------------------------------ the end

    def _seal(self) -> None:
        """All that was there to copy is copied: have both instances know it."""
        source, peer, custody = self.source, self.peer, self.node.custody
        assert source is not None
        assert peer is not None
        if not self.is_partial and self._n_rounds < MAX_ROUNDS and custody.has_more(source.copy, peer.copy):
            self._copy()
            return
        self.phase = Phase.SEALING
        if not source.spans.covers(seen := custody.seen_by(source.copy)):
            self._unconfirmed.add(source.id)
            self.node.outbox.tell(
                source, [Retention(1, 0, (), seen.copy())]
            )  # the empty range: STOREs may be open here
        if not peer.spans.covers(custody.seen_by(peer.copy)):
            self._unconfirmed.add(peer.id)
            self.node.outbox.tell(peer, custody.retentions(peer.copy))  # a DELETE may have gone out just before it came
        if not self._unconfirmed:
            self._end(is_done=True)

    def _end(self, *, is_done: bool, has_source: bool = True) -> None:
        self.phase = Phase.OVER
        for request in list(self._copying):
            self._settle(request)
            self.context.out.append(CancelCopy(request=request))
        self.node.end_backup(is_done=is_done, has_source=has_source)
        self.shard.backups.ended(self, is_done=is_done)

    def _hold(self, link: Link) -> None:
        self.context.out.append(Hold(link=link.id, for_s=self.context.policy.backup_timeout_s))


class Backups:
    """I see to it that every node is backed up in time, and that backups do not gather."""

    def __init__(self, shard: ShardState) -> None:
        self.counters = BackupCounters()
        #: by the number of a CopyChunk that is under way
        self.copying: dict[RequestId, Backup] = {}
        self._shard = shard
        self._context = shard.context
        self._next: Alarm[Node] = Alarm(shard.context, "backup", self._on_time, early_share=EARLY_SHARE)
        self._limits: Alarm[Node] = Alarm(shard.context, "backup-limit", self._on_limit)
        self._done_s: dict[NodeId, float] = {}  # when a backup was last completed
        self._done_seen: dict[NodeId, SeqSpans] = {}  # and what the node had seen then
        self._asked: set[NodeId] = set()  # for a slot
        self._wanted: set[NodeId] = set()  # wait for a warm-up to return
        self._done_with: dict[NodeId, set[InstanceId]] = {}  # between which instances the last complete one was
        #: backups to be looked at when the event is handled
        self.stirred: list[Backup] = []
        #: nodes whose backup has ended, to be looked at then
        self.over: list[Node] = []

    def stir(self, backup: Backup) -> None:
        """A backup is to be looked at when the event is handled."""
        self.stirred.append(backup)
        self._context.is_unsettled = True

    def on_next(self) -> None:
        self._next.ring()

    def on_limits(self) -> None:
        self._limits.ring()

    def ends_at_s(self, node: Node) -> float | None:
        """When the backup that goes on of a node is given up at the latest; None: none does."""
        return self._limits.due_s(node)

    @property
    def is_on(self) -> bool:
        return self._context.policy.backup_interval_s > 0

    def watch(self, node: Node) -> None:
        if self.is_on:
            self._next.set(node, self._context.fraction("backup", node.id) * self._context.policy.backup_interval_s)

    def age_s(self, node: Node) -> float | None:
        """How long ago the last complete backup was; None if there was none."""
        done_s = self._done_s.get(node.id)
        return None if done_s is None else self._context.now_s - done_s

    def ages_s(self) -> list[float | None]:
        """Of each node that holds anything."""
        return [self.age_s(node) for node in self._shard.nodes.values() if node.custody.holdings]

    def request(self, node: Node) -> bool:
        """Have a node backed up now: the instance that took over lacks what another one still has. False if backups
        are off."""
        if self.is_on and not self.is_expected(node):
            if node.pair.is_out:  # the replica is busy: another one would be started
                self._wanted.add(node.id)
                self._next.set(node, PAIR_PATIENCE_S)
            else:
                self._ask(node)
        return self.is_on

    def request_all(self) -> None:
        """Have every node backed up that holds anything."""
        for node in self._shard.nodes.values():
            if node.custody.holdings:
                self.request(node)

    def is_expected(self, node: Node) -> bool:
        """Whether a backup of the node is going on, or about to."""
        return node.backup is not None or node.id in self._asked or node.id in self._wanted

    def on_paired(self, node: Node) -> None:
        """It is known what there is of a replica. One that has not been backed up to is, at once."""
        if node.id in self._wanted:
            self._ask(node)
        elif not self.is_expected(node) and node.copy is not None and (replica := node.pair.replica) is not None:
            instances = {node.copy.instance, replica.instance}
            if self._done_with.get(node.id) != instances:
                if self._is_due(node):
                    self._ask(node)
                else:
                    self._done_with[node.id] = instances

    def _on_time(self, node: Node) -> None:
        """It may be time for the next one."""
        if node.backup is not None or node.id in self._asked:
            return
        if node.id in self._wanted:
            self._ask(node)
        elif node.pair.is_out:
            self._next.set(node, PAIR_PATIENCE_S)
        elif self._is_due(node):
            self._ask(node)
        else:
            self._next.set(node, self._context.policy.backup_interval_s)

    def on_slot(self, node: Node, *, granted: bool) -> None:
        self._asked.discard(node.id)
        if not granted:
            self._next.set(node, SLOT_RETRY_S * (0.5 + self._context.fraction("slot", node.id, self._context.now_s)))
            self._shard.repairs.inspect(node, may_copy=False)
            return
        self._limits.set(node, self._context.policy.backup_timeout_s)
        node.begin_backup(Backup(node, self._shard))

    def _on_limit(self, node: Node) -> None:
        if node.backup is not None:
            node.backup.fail("it took too long")

    def ended(self, backup: Backup, *, is_done: bool) -> None:
        node, policy = backup.node, self._context.policy
        self._limits.call_off(node)
        self._context.out.append(ReleaseSlot(node=node.id))
        if is_done:
            self.counters.backups += 1
            if not backup.is_partial:
                self._done_s[node.id] = self._context.now_s
                self._done_seen[node.id] = node.custody.seen.copy()
                assert backup.source is not None
                assert backup.peer is not None
                self._done_with[node.id] = {backup.source.instance, backup.peer.instance}
        else:
            self.counters.backups_failed += 1
        goes_on = backup.is_partial or not is_done
        self._next.set(node, policy.backup_retry_s if goes_on else policy.backup_interval_s)
        self.over.append(node)
        self._context.is_unsettled = True

    def forget(self, node: Node) -> None:
        """The node has left."""
        self._next.call_off(node)
        self._done_s.pop(node.id, None)
        self._done_seen.pop(node.id, None)
        self._done_with.pop(node.id, None)
        self._asked.discard(node.id)
        self._wanted.discard(node.id)

    def _is_due(self, node: Node) -> bool:
        if not node.custody.holdings:
            return False
        if self._context.policy.warm_replicas and node.copy is not None and node.pair.replica is not None:
            return node.custody.differ(node.copy, node.pair.replica)
        policy, age_s = self._context.policy, self.age_s(node)
        changed = self._done_seen.get(node.id) != node.custody.seen
        old_s = policy.backup_max_age_s - EARLY_SHARE * policy.backup_interval_s  # it may have been its turn early
        return changed or age_s is None or age_s >= old_s

    def _ask(self, node: Node) -> None:
        self._wanted.discard(node.id)
        self._asked.add(node.id)
        self._context.out.append(AcquireSlot(node=node.id))
