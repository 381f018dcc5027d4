"""One node as its shard sees it: connection, copy, memory, and the requests on their way to it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from infiniray.core.commands import CloseLink, DeleteChunks, Hold, Invoke, Ping, RegisterCopy
from infiniray.core.connection import AWAKE, WAITING, Action, Activity, Stimulus, Validity, step
from infiniray.core.context import Context
from infiniray.core.copies import Copy, Link
from infiniray.core.custody import Custody
from infiniray.core.events import CopyReport, InvokeOutcome
from infiniray.core.ids import InstanceId, LinkId, NodeId, RequestId, SessionId
from infiniray.core.outbox import Outbox
from infiniray.core.pairing import Pair
from infiniray.core.requests import Outcome, Request, RequestKind
from infiniray.wire.describe import ChunkId

if TYPE_CHECKING:
    from infiniray.core.backup import Backup

__all__ = ["Link", "Node"]

#: States that are looked for with every event: asleep, and invoked but not heard of.
_ASLEEP = (Activity.SLEEPING, Validity.UNVALIDATED)
_UNHEARD = (Activity.SLEEPING, Validity.VALIDATING)
#: Connections kept for one node. More than one lives while the platform runs several instances of a function.
MAX_LINKS = 4
#: Invocations of one node that may be out at the same time: a second one when the first is not heard of, no more.
MAX_INVOCATIONS = 2
#: How long a node that did not answer comes last in reads and writes.
SUSPECT_S = 2.0
#: After this the instance that a connection was handed over to lingers as it always does.
HAND_OVER_HOLD_S = 0.001


class Node:
    """I am responsible for getting requests to one function, whichever of its instances answers.

    I promise that every request submitted to me is settled exactly once, unless it is cancelled: done, missing,
    damaged, refused or unreachable. Settled requests go to ``context.settled``, for the operations that made them.
    When I learn that the current copy is another one, I put myself in ``context.turned``; when I have heard of my
    replica, or know that I shall not, in ``context.paired``.
    """

    def __init__(self, node: NodeId, capacity_bytes: int, context: Context) -> None:
        self.id = node
        self.capacity_bytes = capacity_bytes
        #: memory of the chunks placed here, those on their way included
        self.used_bytes = 0
        #: the share of it that is on its way: eviction cannot free it
        self.in_flight_bytes = 0
        #: takes no new chunks: it is to leave the pool
        self.is_draining = False
        self.activity = Activity.SLEEPING
        self.validity = Validity.UNVALIDATED
        #: the connection that requests go to; kept while the instance is frozen
        self.link: Link | None = None
        #: what the instance has that was last heard of; None before any was
        self.copy: Copy | None = None
        self.custody = Custody()
        self.pair = Pair()
        self.backup: Backup | None = None
        #: when it last answered a request
        self.answered_s = 0.0
        #: when a session of it last began or ended
        self.touched_s = 0.0
        self.n_invoked: dict[str, int] = {}
        self._context = context
        self._links: OrderedDict[LinkId, Link] = OrderedDict()
        self._session: SessionId | None = None  # the one that we talk to, or wait for
        self._invoked: set[SessionId] = set()  # ours, not returned yet
        self._n_sessions = 0
        self._n_failures = 0  # invocations in a row that brought no word
        self._retry_after_s = 0.0  # what the platform asked for, last time it refused
        self._is_backing_off = False
        self._is_hurried = False  # what is to be deleted is worth an invocation
        #: it did not answer just now: until then it comes last
        self.suspect_until_s = 0.0
        self._acts: dict[Action, Callable[[], None]] = {
            Action.INVOKE: self._call,
            Action.PING: self._ping,
            Action.FLUSH: self._flush,
            Action.AHEAD: self._send_ahead,
            Action.RESUME: self._resume,
            Action.SUSPECT: self._suspect,
            Action.WARM: self._call_to_warm,
        }
        self.outbox = Outbox(
            node, context, self.custody, self._links.get, lambda request: context.homes.update({request: self}),
            self._pass_on,
        )  # fmt: skip

    def __repr__(self) -> str:
        return (
            f"<Node {self.id} {self.activity.value}/{self.validity.value} link={self.link} "
            f"{self.outbox} garbage={len(self.custody.garbage)}>"
        )

    # ------------------------------------------------------------ what operations ask

    @property
    def free_bytes(self) -> int:
        return self.capacity_bytes - self.used_bytes

    @property
    def n_unsettled(self) -> int:
        """Requests that an operation waits for, queued, or sent and not answered."""
        return self.outbox.n_unsettled

    @property
    def is_awake(self) -> bool:
        return self.activity in AWAKE

    @property
    def is_suspect(self) -> bool:
        """It did not answer just now: prefer others."""
        return self._context.now_s < self.suspect_until_s

    @property
    def is_registered(self) -> bool:
        """Whether the current copy is on record as such: what it has, or has deleted, counts."""
        return self.custody.vouches_for(self.copy)

    @property
    def garbage(self) -> set[ChunkId]:
        """Chunks whose deletion is not confirmed yet: it waits for the next session, here or in a connection."""
        return set(self.custody.garbage)

    def lacks(self, seq: int) -> bool:
        """Whether the current copy is known not to have insert ``seq``. False if nothing is known."""
        return self.copy is not None and seq not in self.copy.spans

    def is_gone(self, chunk: ChunkId) -> bool:
        """Whether a chunk that was discarded here will not come back."""
        return self.custody.is_gone(chunk, self.copy)

    def elsewhere(self, seq: int) -> bool:
        """Whether another instance of this node, one that may still be there, has insert ``seq``."""
        return any(link.copy is not self.copy and seq in link.spans for link in self._links.values())

    def may_return(self, seq: int) -> bool:
        """Whether the instance that has insert ``seq`` may only be late: one of our invocations has not been heard of,
        and what answered since is another instance."""
        if not (self.lacks(seq) and self.elsewhere(seq)):
            return False
        heard_of = {link.session for link in self._links.values()}
        return not self._invoked <= heard_of

    def submit(self, request: Request) -> None:
        """Take a request of an operation: it is sent now, or when the node speaks."""
        self.outbox.queue(request)
        self._stimulate(Stimulus.REQUEST)

    def wake(self) -> None:
        """Something will be submitted soon: invoke the node now if it sleeps."""
        if self.activity is Activity.SLEEPING:
            self._stimulate(Stimulus.REQUEST)

    def warm(self) -> bool:
        """Keep the instance from being reclaimed as idle, and learn whether it was. False: it is not asleep."""
        if (self.activity, self.validity) != _ASLEEP or self._is_backing_off or self.pair.is_out:
            return False
        self._stimulate(Stimulus.WARM)
        return True

    def cancel(self, request: Request) -> None:
        """Forget a request: it will not be settled. What is on its way stops on the wire."""
        self.outbox.cancel(request)

    def note_stall(self) -> None:
        """A request here took too long."""
        self.suspect_until_s = self._context.now_s + SUSPECT_S

    def discard(self, chunk: ChunkId, *, at_leisure: bool = False) -> None:
        """Have a chunk deleted at the next opportunity: that alone is not worth an invocation.

        It goes out before anything that is sent later, so its memory is free when a new chunk needs it.

        Args:
            at_leisure: nor is it worth a frame of its own: it waits until something else is sent.
        """
        self.custody.discard(chunk)
        if self.backup is not None:
            self.backup.forget(chunk)
        if self.is_awake and not at_leisure:
            self._flush()

    def hurry(self) -> None:
        """Somebody waits until what is to be deleted here is deleted."""
        if not self._is_hurried and self._has_to_hear():
            self._is_hurried = True
            self._stimulate(Stimulus.REQUEST)

    # ------------------------------------------------------------ what happens to it

    def on_opened(self, link: Link, session: SessionId) -> None:
        """An instance said HELLO."""
        for old in [other for other in self._links.values() if other.instance == link.instance]:
            self._close(old)  # it dialled again: the old connection is dead
        self._links[link.id] = link
        if len(self._links) > MAX_LINKS:
            self._close(next(old for old in self._links.values() if old is not self.link))
        self.outbox.note_seq(link.spans.last)
        self._hear_or_pair(link, session)

    def on_pong(self, link_id: LinkId, session: SessionId) -> None:
        link = self._links.get(link_id)
        if link is None or (link is not self.link and link.session == session):
            return  # a late answer over a replaced connection is no news; a new session there is
        self._hear_or_pair(link, session)

    def on_bye(self, link_id: LinkId, session: SessionId) -> None:
        if self.link is None or link_id != self.link.id or session != self._session:
            if self.backup is not None:
                self.backup.on_peer_left(link_id)
            return
        self.touched_s = self._context.now_s
        if self._hand_over():
            return
        self._stimulate(Stimulus.BYE)
        self._leave_if_returned()

    def on_closed(self, link_id: LinkId) -> None:
        if self._links.pop(link_id, None) is None:
            return
        self._requeue(link_id)
        if self.link is not None and self.link.id == link_id:
            self.link = None
            if self._hand_over():
                return
            self._stimulate(Stimulus.CLOSED)
            self._leave_if_returned()
        elif self.backup is not None:
            self.backup.on_peer_left(link_id)

    def on_returned(
        self, session: SessionId, outcome: InvokeOutcome, retry_after_s: float, report: CopyReport | None
    ) -> None:
        """The platform answered one of our invocations."""
        self._invoked.discard(session)
        self.touched_s = self._context.now_s
        is_second = self.pair.returned(session)
        if report is not None and (is_second or (session == self._session and self.activity not in AWAKE)):
            self._meet(report)
        if is_second:
            self._context.note_paired(self)
            return
        if session != self._session:
            if self.backup is not None:
                self.backup.on_returned(session, outcome)
            return  # a former source, or one that was given up: another session has taken over
        if self._hand_over():
            return
        self._retry_after_s = retry_after_s
        if outcome is not InvokeOutcome.OK or (self.activity, self.validity) == _UNHEARD:
            self._n_failures += 1
        if self.activity is Activity.ACTIVE and outcome is InvokeOutcome.OK:
            self._stimulate(Stimulus.BYE)  # its BYE, and answers before it, are still to be read
        else:
            self._stimulate(Stimulus.RETURNED)

    def on_silence(self) -> None:
        """What was expected after a PING, an invocation or a BYE has not come in time."""
        self._stimulate(Stimulus.SILENCE)

    def on_retry(self) -> None:
        """The pause after a failed invocation is over."""
        self._is_backing_off = False
        if self._is_wanted():
            self._stimulate(Stimulus.REQUEST)

    def on_answer(self, request_id: RequestId, outcome: Outcome, *, crc: int = 0, detail: str = "") -> Request | None:
        """The node answered a request that is still open; that request."""
        answered = self.outbox.answered(request_id)
        if answered is None:
            return None
        request, link = answered
        self.answered_s = self._context.now_s
        if self.validity is Validity.UNVALIDATED and self.is_awake and link is not None and link is self.link:
            self._stimulate(Stimulus.ANSWERED)
        if request.kind is RequestKind.DELETE:
            self._on_deleted(request, link, outcome)
        elif request.kind is RequestKind.RETAIN:
            self._on_retained(request, link, outcome)
        else:
            if request.kind is RequestKind.STORE and outcome is Outcome.DONE:
                request.crc = crc
                assert request.facts is not None
                chunk = ChunkId(request.facts.key, request.facts.version, request.index)
                self.custody.hold(chunk, request.seq, request.chunk_bytes)
            self.outbox.settle(request, outcome, detail)
        return request

    def on_registered(self, instance: InstanceId) -> None:
        """It is on record which instance has the current copy."""
        self.custody.entered(instance)
        self._context.note_progress(self.id)

    # ------------------------------------------------------------ copies

    def resume_custody(self) -> None:
        """It is known again what this node is to hold: whoever is awake is told."""
        self.custody.is_paused = False
        if self.is_awake:
            assert self.link is not None
            self._align(self.link)
        elif self.copy is not None:
            self._register(self.copy)  # it may have been struck off, and nothing need wake it for long

    def _meet(self, report: CopyReport) -> None:
        """A warm-up's answer: of the current instance, or of its replica."""
        if self.pair.is_first() and self.activity not in AWAKE:
            self._learn(report)
        elif self.copy is not None and report.instance != self.copy.instance:
            self.outbox.note_seq(report.spans.last)
            link = self._link_of(report.instance)
            if link is not None:
                link.copy.learn(report.spans)
            self.pair.replica = Copy(report.instance, report.spans.copy()) if link is None else link.copy

    def _learn(self, report: CopyReport) -> None:
        """A warm-up told which instance it found, and what that has."""
        self.outbox.note_seq(report.spans.last)
        former, link = self.link, self._link_of(report.instance)
        if link is not None:
            link.copy.learn(report.spans)
            if link is not self.link:
                self.link = link
            self._turn_to(link.copy)
        elif self.copy is None or self.copy.instance != report.instance:
            self.link = None  # whoever had it is not who would be invoked now
            self._turn_to(Copy(report.instance, report.spans.copy()))
        if former is not None and former is not self.link:
            self._requeue(former.id)

    def _link_of(self, instance: InstanceId) -> Link | None:
        if self.link is not None and self.link.copy.instance == instance:
            return self.link
        for link in self._links.values():
            if link.copy.instance == instance:
                return link
        return None

    def _turn_to(self, copy: Copy) -> None:
        if self.copy is not copy:
            self.pair.turn(self.copy, copy)
            self.copy = copy
            self._context.note_turned(self)

    def _align(self, link: Link) -> None:
        """Tell a copy that takes over what it has missed, and have it put on record."""
        self.outbox.tell(link, self.custody.take_over(link.copy, self.outbox.new_number))
        self._register(link.copy)

    def _on_retained(self, request: Request, link: Link | None, outcome: Outcome) -> None:
        if link is None or outcome is not Outcome.DONE or request.seen is None:
            return
        self.custody.note_seen(link.copy, request.seen)
        if link.copy is self.copy and not self.custody.is_aligned(link.copy):
            self.custody.aligned(link.copy)
            self._context.note_progress(self.id)
            self._register(link.copy)
        if self.backup is not None:
            self.backup.on_retained(link)

    def _register(self, copy: Copy) -> None:
        if self.custody.is_aligned(copy) and not self.custody.is_paused and self.custody.enter(copy.instance):
            self._context.out.append(RegisterCopy(node=self.id, instance=copy.instance))

    def _on_deleted(self, request: Request, link: Link | None, outcome: Outcome) -> None:
        """Refused, it knows a newer epoch, and what it holds is another shard's business."""
        if outcome is Outcome.DONE and link is not None and link.copy is self.copy:
            self.custody.deleted(request.chunk_ids)
            self._is_hurried = self._is_hurried and bool(self.custody.garbage)
            self._context.note_progress(self.id)

    # ------------------------------------------------------------ backups

    def begin_backup(self, backup: Backup) -> None:
        """Wake the node for a backup, which hears of it when there is a session."""
        self.backup = backup
        if self.is_awake:
            assert self.link is not None
            backup.on_source(self.link)
        else:
            self._stimulate(Stimulus.REQUEST)

    def invoke_peer(self, *, n_others: int = 1) -> SessionId | None:
        """Invoke the function while it is busy, so that the platform serves with another instance; None: more than
        ``n_others`` invocations are out, beside those that requests may need."""
        if len(self._invoked) >= MAX_INVOCATIONS + n_others + self.pair.is_out:
            return None
        return self._send_invocation("backup")

    def hold(self, for_s: float) -> bool:
        """Keep the instance that answered busy; False if none is in a session."""
        if self.link is None or not self.is_awake:
            return False
        self._context.out.append(Hold(link=self.link.id, for_s=for_s))
        return True

    def end_backup(self, *, is_done: bool, has_source: bool) -> None:
        """Let both instances go. The connection is handed over to the peer if that has everything, or if the source is
        gone."""
        backup, self.backup = self.backup, None
        assert backup is not None
        source, peer = backup.source, backup.peer
        if source is not None and self._is_open(source):
            self._context.out.append(Hold(link=source.id, for_s=0.0))
        if peer is None or not self._is_open(peer):
            return
        self.pair.replica = peer.copy
        if is_done or not has_source:
            assert backup.session is not None
            self._context.out.append(Hold(link=peer.id, for_s=HAND_OVER_HOLD_S))
            self._hear(peer, backup.session)
            if not has_source:
                self.pair.replica = None
        else:
            self._context.out.append(Hold(link=peer.id, for_s=0.0))

    def _is_open(self, link: Link) -> bool:
        return link.id in self._links and not link.is_closing

    def close(self) -> None:
        """I leave the pool: no connection is wanted any more."""
        self._is_hurried = False
        for link in self._links.values():
            self._close(link)
        self._context.silence.call_off(self)
        self._context.cancel_timer(("retry", self.id))

    def _close(self, link: Link) -> None:
        link.is_closing = True
        self._context.out.append(CloseLink(link=link.id))

    def _hear_or_pair(self, link: Link, session: SessionId) -> None:
        if self.backup is not None and self.backup.is_peer(session):
            if self.link is None or link.instance != self.link.instance:
                link.session = session
                self.backup.on_peer(link)
                return
            self.backup.fail("the platform did not start a second instance")
        self._hear(link, session)

    def _hand_over(self) -> bool:
        """The session on the current connection is over: whether the peer of a backup goes on at once."""
        backup = self.backup
        if backup is None or backup.source is None:
            return False
        backup.fail("the source left", has_source=False)
        return self.link is not None and self.link is backup.peer

    # ------------------------------------------------------------ the machine

    def _hear(self, link: Link, session: SessionId) -> None:
        former, self.link, self._session = self.link, link, session
        link.session = session
        self.touched_s = self._context.now_s
        self.suspect_until_s = 0.0
        self._n_failures = 0
        if self._is_backing_off:
            self._is_backing_off = False
            self._context.cancel_timer(("retry", self.id))
        if former is not None and former.id != link.id:
            self._requeue(former.id)
        self._turn_to(link.copy)
        self._align(link)
        self._stimulate(Stimulus.HEARD if session in self._invoked else Stimulus.HEARD_OTHER)
        if self.backup is not None:
            self.backup.on_source(link)

    def _leave_if_returned(self) -> None:
        if self.activity is Activity.LEAVING and self._session not in self._invoked:
            self._stimulate(Stimulus.RETURNED)

    def _stimulate(self, stimulus: Stimulus) -> None:
        if self._is_backing_off and stimulus is Stimulus.REQUEST:
            return
        before = self.activity, self.validity
        after, actions = step(before, stimulus)
        self.activity, self.validity = after
        if after[0] is Activity.LEAVING:
            if before[0] is not Activity.LEAVING:  # the end of a departure is expected in time
                self._context.silence.set(self, self._context.policy.connect_timeout_s)
        elif before in WAITING and after not in WAITING:
            self._context.silence.call_off(self)
        for action in actions:
            self._acts[action]()

    def _call(self) -> None:
        self._invoke("backup" if self.backup is not None and not self.outbox.n_queued else "serve")

    def _call_to_warm(self) -> None:
        policy = self._context.policy
        self._session = self._send_invocation("warm")
        is_pair = policy.warm_replicas and policy.backup_interval_s > 0 and bool(self.custody.holdings)
        self.pair.begin(self._send_invocation("warm") if is_pair else None)

    def _invoke(self, reason: str) -> None:
        if len(self._invoked) >= MAX_INVOCATIONS + self.pair.is_out:
            self.validity = Validity.UNVALIDATED
            self._give_up(f"{len(self._invoked)} invocations are out and none has been heard of")
            return
        self._session = self._send_invocation(reason)
        self._context.silence.set(self, self._context.policy.connect_timeout_s)

    def _send_invocation(self, reason: str) -> SessionId:
        self._n_sessions += 1
        session = SessionId(f"{self.id}.{self._context.new_stamp()}")
        self._invoked.add(session)
        self.touched_s = self._context.now_s
        self.n_invoked[reason] = self.n_invoked.get(reason, 0) + 1
        self._context.out.append(Invoke(node=self.id, session=session, reason=reason))
        return session

    def _ping(self) -> None:
        assert self.link is not None
        self._context.out.append(Ping(link=self.link.id))
        self._context.silence.set(self, self._context.policy.ping_timeout_s)

    def _resume(self) -> None:
        """A session is over: start another if something waits for this node, after a pause if the last one failed."""
        if not self._is_wanted():
            return
        if not self._n_failures:
            self._stimulate(Stimulus.REQUEST)
        elif self._n_failures >= self._context.policy.invoke_attempts:
            self._give_up(f"{self._n_failures} invocations in a row failed")
            self._n_failures = 0
        else:
            self._is_backing_off = True
            pause_s = self._context.backoff_s(self._n_failures, self.id, self._n_sessions)
            self._context.set_timer(("retry", self.id), max(pause_s, self._retry_after_s))

    def _is_wanted(self) -> bool:
        if self._is_hurried:
            self._is_hurried = self._has_to_hear()
        is_backup_due = self.backup is not None and self.backup.source is None
        return self._is_hurried or is_backup_due or self.outbox.n_unsettled > 0

    def _has_to_hear(self) -> bool:
        """Whether a session would bring what is to be deleted nearer to being gone."""
        is_unaligned = self.copy is None or not self.custody.is_aligned(self.copy)
        return bool(self.custody.garbage) or (is_unaligned and not self.custody.is_paused)

    def _suspect(self) -> None:
        self.suspect_until_s = self._context.now_s + SUSPECT_S
        if self.activity is Activity.SLEEPING:
            self._give_up("invoked, but it did not connect in time")

    def _give_up(self, detail: str) -> None:
        self.suspect_until_s = self._context.now_s + SUSPECT_S
        self._is_hurried = False
        self.outbox.give_up(detail)
        if self.backup is not None:
            self.backup.fail(detail)

    def _requeue(self, link_id: LinkId) -> None:
        if self.outbox.requeue(link_id):
            self.suspect_until_s = self._context.now_s + SUSPECT_S

    def _flush(self) -> None:
        assert self.link is not None
        self.outbox.flush(self.link)

    def _send_ahead(self) -> None:
        """The connection is frozen with its instance: what is written into it now is there when that wakes."""
        if self.validity is Validity.VALIDATING:  # or it could not be invoked
            self.outbox.flush_reads(self.link)

    def _pass_on(self, delete: DeleteChunks) -> None:
        if self.backup is not None:
            self.backup.pass_on(delete)
