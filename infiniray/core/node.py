"""One node as its shard sees it: connection, copy, memory, and the requests on their way to it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from infiniray.core.commands import (
    AbortStore,
    CancelFetch,
    CloseLink,
    DeleteChunks,
    FetchChunk,
    Invoke,
    Ping,
    StoreChunk,
)
from infiniray.core.connection import Action, Activity, Stimulus, Validity, step
from infiniray.core.context import Context
from infiniray.core.events import InvokeOutcome
from infiniray.core.ids import InstanceId, LinkId, NodeId, RequestId, SessionId
from infiniray.core.requests import Outcome, Request, RequestKind, Settled
from infiniray.wire.describe import ChunkId, SeqSpans

__all__ = ["Link", "Node"]

#: Connections kept for one node. More than one lives while the platform runs several instances of a function.
MAX_LINKS = 4
#: Invocations of one node that may be out at the same time: a second one when the first is not heard of, no more.
MAX_INVOCATIONS = 2
#: Chunks named in one DELETE frame.
DELETE_BATCH = 512
#: How long a node that did not answer comes last in reads and writes.
SUSPECT_S = 2.0


@dataclass(slots=True)
class Link:
    id: LinkId
    instance: InstanceId
    #: which of the node's inserts and deletes this instance has
    spans: SeqSpans
    #: the last session that it spoke of
    session: SessionId | None = None


class Node:
    """I am responsible for getting requests to one function, whichever of its instances answers.

    I promise that every STORE and FETCH submitted to me is settled exactly once, unless it is cancelled: done, missing,
    damaged, refused or unreachable. Settled requests go to ``context.settled``, for the operations that made them.
    """

    def __init__(self, node: NodeId, capacity_bytes: int, context: Context) -> None:
        self.id = node
        self.capacity_bytes = capacity_bytes
        #: memory of the chunks placed here, those on their way included
        self.used_bytes = 0
        #: the share of it that is on its way: eviction cannot free it
        self.in_flight_bytes = 0
        self.activity = Activity.SLEEPING
        self.validity = Validity.UNVALIDATED
        #: the connection that requests go to; kept while the instance is frozen
        self.link: Link | None = None
        self.n_invoked: dict[str, int] = {}
        self._context = context
        self._links: OrderedDict[LinkId, Link] = OrderedDict()
        self._session: SessionId | None = None  # the one that we talk to, or wait for
        self._invoked: set[SessionId] = set()  # ours, not returned yet
        self._n_sessions = 0
        self._n_failures = 0  # invocations in a row that brought no word
        self._retry_after_s = 0.0  # what the platform asked for, last time it refused
        self._is_backing_off = False
        self._suspect_until_s = 0.0
        self._queued: dict[RequestId, Request] = {}
        self._sent: dict[RequestId, Request] = {}
        self._garbage: list[ChunkId] = []
        self._last_seq = 0  # given by us, or seen at an instance
        self._has_numbered = False

    def __repr__(self) -> str:
        return (
            f"<Node {self.id} {self.activity.value}/{self.validity.value} link={self.link} "
            f"queued={len(self._queued)} sent={len(self._sent)} garbage={len(self._garbage)}>"
        )

    # ------------------------------------------------------------ what operations ask

    @property
    def free_bytes(self) -> int:
        return self.capacity_bytes - self.used_bytes

    @property
    def n_unsettled(self) -> int:
        """STOREs and FETCHes that are queued, or sent and not answered."""
        return len(self._queued) + sum(r.kind is not RequestKind.DELETE for r in self._sent.values())

    @property
    def is_awake(self) -> bool:
        return self.activity in (Activity.ACTIVE, Activity.MAYBE)

    @property
    def is_suspect(self) -> bool:
        """It did not answer just now: prefer others."""
        return self._context.now_s < self._suspect_until_s

    @property
    def garbage(self) -> set[ChunkId]:
        """Chunks whose deletion is not confirmed yet: it waits for the next session, here or in a connection."""
        return {*self._garbage, *(chunk for request in self._sent.values() for chunk in request.chunk_ids)}

    def lacks(self, seq: int) -> bool:
        """Whether the copy we are connected to is known not to have insert ``seq``. False if nothing is known."""
        return self.link is not None and seq not in self.link.spans

    def submit(self, request: Request) -> None:
        """Take a STORE or FETCH: it is sent now, or when the node speaks."""
        self._queued[request.id] = request
        self._stimulate(Stimulus.REQUEST)

    def wake(self) -> None:
        """Something will be submitted soon: invoke the node now if it sleeps."""
        if self.activity is Activity.SLEEPING:
            self._stimulate(Stimulus.REQUEST)

    def cancel(self, request: Request) -> None:
        """Forget a request: it will not be settled. What is on its way stops on the wire."""
        if self._queued.pop(request.id, None) is not None or self._sent.pop(request.id, None) is None:
            return
        self._context.homes.pop(request.id, None)
        assert request.link is not None
        self._close_number(request)
        if request.kind is RequestKind.FETCH:
            self._context.out.append(CancelFetch(link=request.link, request=request.id))
        elif request.kind is RequestKind.STORE:
            self._context.out.append(AbortStore(link=request.link, request=request.id))

    def note_stall(self) -> None:
        """A request here took too long."""
        self._suspect_until_s = self._context.now_s + SUSPECT_S

    def discard(self, chunk: ChunkId) -> None:
        """Have a chunk deleted at the next opportunity: that alone is not worth an invocation.

        It goes out before anything that is sent later, so its memory is free when a new chunk needs it.
        """
        self._garbage.append(chunk)
        if self.is_awake:
            self._flush()

    # ------------------------------------------------------------ what happens to it

    def on_opened(self, link: Link, session: SessionId) -> None:
        """An instance said HELLO."""
        for old in [other for other in self._links.values() if other.instance == link.instance]:
            self._context.out.append(CloseLink(link=old.id))  # it dialled again: the old connection is dead
        self._links[link.id] = link
        if len(self._links) > MAX_LINKS:
            self._context.out.append(CloseLink(link=next(iter(self._links))))
        self._last_seq = max(self._last_seq, link.spans.last)
        self._hear(link, session)

    def on_pong(self, link_id: LinkId, session: SessionId) -> None:
        link = self._links.get(link_id)
        # A late answer over a replaced connection is no news; a new session there is.
        if link is not None and (link is self.link or link.session != session):
            self._hear(link, session)

    def on_bye(self, link_id: LinkId, session: SessionId) -> None:
        if self.link is None or link_id != self.link.id or session != self._session:
            return
        self._stimulate(Stimulus.BYE)
        self._leave_if_returned()

    def on_closed(self, link_id: LinkId) -> None:
        if self._links.pop(link_id, None) is None:
            return
        self._requeue(link_id)
        if self.link is not None and self.link.id == link_id:
            self.link = None
            self._stimulate(Stimulus.CLOSED)
            self._leave_if_returned()

    def on_returned(self, session: SessionId, outcome: InvokeOutcome, retry_after_s: float) -> None:
        """The platform answered one of our invocations."""
        self._invoked.discard(session)
        if session != self._session:
            return  # a former source, or one that was given up: another session has taken over
        self._retry_after_s = retry_after_s
        unheard = (self.activity, self.validity) == (Activity.SLEEPING, Validity.VALIDATING)
        if outcome is not InvokeOutcome.OK or unheard:
            self._n_failures += 1
        if self.activity is Activity.ACTIVE and outcome is InvokeOutcome.OK:
            self._stimulate(Stimulus.BYE)  # its BYE, and answers before it, are still to be read
        else:
            self._stimulate(Stimulus.RETURNED)

    def on_silence(self) -> None:
        """The timer of a PING, an invocation or a departure ran out."""
        self._stimulate(Stimulus.SILENCE)

    def on_retry(self) -> None:
        """The pause after a failed invocation is over."""
        self._is_backing_off = False
        if self._is_wanted():
            self._stimulate(Stimulus.REQUEST)

    def on_answer(self, request_id: RequestId, outcome: Outcome, *, crc: int = 0, detail: str = "") -> None:
        """The node answered a request that is still open."""
        self._context.homes.pop(request_id, None)
        request = self._sent.pop(request_id, None)
        if request is None:
            return
        self._close_number(request)
        if request.kind is RequestKind.DELETE:
            return  # refused: it knows a newer epoch, so what it holds is another shard's business
        if request.kind is RequestKind.STORE:
            request.crc = crc
        self._settle(request, outcome, detail)

    # ------------------------------------------------------------ the machine

    def _hear(self, link: Link, session: SessionId) -> None:
        former, self.link, self._session = self.link, link, session
        link.session = session
        self._suspect_until_s = 0.0
        self._n_failures = 0
        if self._is_backing_off:
            self._is_backing_off = False
            self._context.cancel_timer(("retry", self.id))
        if former is not None and former.id != link.id:
            self._requeue(former.id)
        self._stimulate(Stimulus.HEARD if session in self._invoked else Stimulus.HEARD_OTHER)

    def _leave_if_returned(self) -> None:
        if self.activity is Activity.LEAVING and self._session not in self._invoked:
            self._stimulate(Stimulus.RETURNED)

    def _stimulate(self, stimulus: Stimulus) -> None:
        if stimulus is Stimulus.REQUEST and self._is_backing_off:
            return
        before = self.activity, self.validity
        (self.activity, self.validity), actions = step(before, stimulus)
        self._keep_silence_timer(before)
        for action in actions:
            match action:
                case Action.INVOKE:
                    self._invoke()
                case Action.PING:
                    self._ping()
                case Action.FLUSH:
                    self._flush()
                case Action.RESUME:
                    self._resume()
                case Action.SUSPECT:
                    self._suspect()

    def _keep_silence_timer(self, before: tuple[Activity, Validity]) -> None:
        """One timer a node: it runs while an answer is expected, or the end of a departure."""
        was_waiting = before[1] is Validity.VALIDATING or before[0] is Activity.LEAVING
        is_waiting = self.validity is Validity.VALIDATING or self.activity is Activity.LEAVING
        if self.activity is Activity.LEAVING and before[0] is not Activity.LEAVING:
            self._context.set_timer(("silence", self.id), self._context.policy.connect_timeout_s)
        elif was_waiting and not is_waiting:
            self._context.cancel_timer(("silence", self.id))

    def _invoke(self) -> None:
        if len(self._invoked) >= MAX_INVOCATIONS:
            self.validity = Validity.UNVALIDATED
            self._give_up(f"{len(self._invoked)} invocations are out and none has been heard of")
            return
        self._n_sessions += 1
        session = SessionId(f"{self.id}.{self._context.new_stamp()}")
        self._invoked.add(session)
        self._session = session
        self.n_invoked["serve"] = self.n_invoked.get("serve", 0) + 1
        self._context.out.append(Invoke(node=self.id, session=session, reason="serve"))
        self._context.set_timer(("silence", self.id), self._context.policy.connect_timeout_s)

    def _ping(self) -> None:
        assert self.link is not None
        self._context.out.append(Ping(link=self.link.id))
        self._context.set_timer(("silence", self.id), self._context.policy.ping_timeout_s)

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
        return self.n_unsettled > 0

    def _suspect(self) -> None:
        self._suspect_until_s = self._context.now_s + SUSPECT_S
        if self.activity is Activity.SLEEPING:
            self._give_up("invoked, but it did not connect in time")

    def _give_up(self, detail: str) -> None:
        self._suspect_until_s = self._context.now_s + SUSPECT_S
        for request in [*self._queued.values(), *self._sent.values()]:
            if request.kind is not RequestKind.DELETE:
                self.cancel(request)
                self._settle(request, Outcome.UNREACHABLE, detail)

    def _requeue(self, link_id: LinkId) -> None:
        """The link is gone or replaced: what was sent over it has to be sent again over another."""
        for request in [r for r in self._sent.values() if r.link == link_id]:
            self.cancel(request)  # if the link lives, its late answer must not be taken for the next one's
            if request.kind is RequestKind.DELETE:
                self._garbage.extend(request.chunk_ids)
            elif request.n_sent >= self._context.policy.invoke_attempts:
                self._suspect_until_s = self._context.now_s + SUSPECT_S
                self._settle(request, Outcome.UNREACHABLE, f"{request.n_sent} connections were lost under it")
            else:
                request.id = self._context.new_request_id()
                request.link = None
                self._queued[request.id] = request

    def _settle(self, request: Request, outcome: Outcome, detail: str) -> None:
        self._context.settled.append(Settled(request=request, outcome=outcome, detail=detail))

    # ------------------------------------------------------------ sending

    def _flush(self) -> None:
        assert self.link is not None
        self._send_deletes(self.link)
        queued, self._queued = self._queued, {}
        for request in queued.values():
            if request.kind is RequestKind.FETCH:
                self._send_fetch(self.link, request)
            else:
                self._send_store(self.link, request)

    def _send_deletes(self, link: Link) -> None:
        garbage, self._garbage = self._garbage, []
        for start in range(0, len(garbage), DELETE_BATCH):
            request = Request(
                id=self._context.new_request_id(), kind=RequestKind.DELETE, node=self.id,
                chunk_ids=tuple(garbage[start : start + DELETE_BATCH]), seq=self._take_seq(),
            )  # fmt: skip
            self._mark_sent(link, request)
            self._context.out.append(
                DeleteChunks(link=link.id, request=request.id, seq=request.seq, chunk_ids=request.chunk_ids)
            )

    def _send_fetch(self, link: Link, request: Request) -> None:
        if request.seq not in link.spans:
            self._settle(request, Outcome.MISSING, "this copy never had it")
            return
        assert request.facts is not None
        self._mark_sent(link, request)
        self._context.out.append(
            FetchChunk(
                link=link.id, request=request.id, op=request.op, index=request.index, crc=request.crc,
                facts=request.facts,
            )
        )  # fmt: skip

    def _send_store(self, link: Link, request: Request) -> None:
        assert request.facts is not None
        request.seq = self._take_seq()
        self._mark_sent(link, request)
        self._context.out.append(
            StoreChunk(
                link=link.id, request=request.id, op=request.op, index=request.index, seq=request.seq,
                facts=request.facts,
            )
        )  # fmt: skip

    def _mark_sent(self, link: Link, request: Request) -> None:
        request.link = link.id
        request.n_sent += 1
        self._sent[request.id] = request
        self._context.homes[request.id] = self

    def _close_number(self, request: Request) -> None:
        """The change that a STORE or DELETE announced has been made, or never will be.

        Both count as seen: nobody asks for a number that no chunk was stored under. Left out, each would split the
        link's spans, and when these are too many the oldest are forgotten, with the chunks stored under them.
        """
        link = self._links.get(request.link) if request.link is not None else None
        if link is not None and request.kind is not RequestKind.FETCH:
            link.spans.add(request.seq)

    def _take_seq(self) -> int:
        """The next number, beginning above whatever an earlier incarnation of the shard can have given: a stale
        instance must not seem to have what it never got."""
        first = 0 if self._has_numbered else self._context.new_stamp()
        self._has_numbered = True
        self._last_seq = max(self._last_seq + 1, first)
        return self._last_seq
