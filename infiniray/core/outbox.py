"""The requests on their way to one node, over whichever connection."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from infiniray.core.commands import AbortStore, CancelFetch, DeleteChunks, FetchChunk, ListChunks, Retain, StoreChunk
from infiniray.core.context import Context
from infiniray.core.copies import Link
from infiniray.core.custody import Custody, Retention
from infiniray.core.ids import LinkId, NodeId, OpId, RequestId
from infiniray.core.requests import Outcome, Request, RequestKind, Settled

__all__ = ["Outbox"]

#: Chunks named in one DELETE frame.
DELETE_BATCH = 512
#: Descriptions asked for in one LIST frame.
LIST_BATCH = 1024


class Outbox:
    """I hold what is to be said to a node until it is answered, number its changes, and say it again when a connection
    is lost under it.

    A request is queued, then sent over a link, then answered, cancelled or queued again. ``find_link`` knows the links
    that are open; ``pass_on`` is told of each DELETE that is sent.
    """

    def __init__(
        self,
        node: NodeId,
        context: Context,
        custody: Custody,
        find_link: Callable[[LinkId], Link | None],
        register: Callable[[RequestId], None],
        pass_on: Callable[[DeleteChunks], None],
    ) -> None:
        self._node = node
        self._context = context
        self._custody = custody
        self._find_link = find_link
        self._register = register
        self._pass_on = pass_on
        self._queued: dict[RequestId, Request] = {}
        self._reads: list[Request] = []  # queued, and not yet looked at by flush_reads
        self._sent: dict[RequestId, Request] = {}
        self._last_seq = 0  # given by us, or seen at an instance
        self._has_numbered = False

    def __repr__(self) -> str:
        return f"queued={len(self._queued)} sent={len(self._sent)}"

    def __iter__(self) -> Iterator[Request]:
        return iter([*self._queued.values(), *self._sent.values()])

    @property
    def n_queued(self) -> int:
        return len(self._queued)

    @property
    def n_unsettled(self) -> int:
        """Requests that an operation waits for, queued, or sent and not answered."""
        if not self._sent:
            return len(self._queued)
        return len(self._queued) + sum(request.is_awaited for request in self._sent.values())

    def note_seq(self, seq: int) -> None:
        """An instance has seen this number: those to come are higher."""
        if seq > self._last_seq:
            self._last_seq = seq

    # ------------------------------------------------------------ in and out

    def queue(self, request: Request) -> None:
        self._queued[request.id] = request
        if request.kind is RequestKind.FETCH:
            self._reads.append(request)

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

    def cancel_all(self, op: OpId) -> None:
        """Forget all requests of an operation."""
        for request in self:
            if request.op == op:
                self.cancel(request)

    def answered(self, request_id: RequestId) -> tuple[Request, Link | None] | None:
        """A request is answered: it, and the link that it was sent over. None if it is not open any more."""
        self._context.homes.pop(request_id, None)
        request = self._sent.pop(request_id, None)
        if request is None:
            return None
        self._close_number(request)
        return request, self._find_link(request.link) if request.link is not None else None

    def settle(self, request: Request, outcome: Outcome, detail: str) -> None:
        self._context.note_settled(Settled(request=request, outcome=outcome, detail=detail))

    def give_up(self, detail: str) -> None:
        """The node cannot be reached: whoever waits for an answer is told."""
        for request in self:
            if request.is_awaited:
                self.cancel(request)
                self.settle(request, Outcome.UNREACHABLE, detail)

    def requeue(self, link_id: LinkId) -> bool:
        """The link is gone or replaced: what was sent over it has to be sent again over another. True if that has
        happened to a request too often."""
        gave_up = False
        for request in [r for r in self._sent.values() if r.link == link_id]:
            self.cancel(request)  # if the link lives, its late answer must not be taken for the next one's
            if not request.is_awaited:
                continue  # what is to be deleted is still in the books, and who takes over is told what to retain
            if request.n_sent >= self._context.policy.invoke_attempts:
                gave_up = True
                self.settle(request, Outcome.UNREACHABLE, f"{request.n_sent} connections were lost under it")
            else:
                request.id = self._context.new_request_id()
                request.link = None
                self._queued[request.id] = request
        return gave_up

    # ------------------------------------------------------------ sending

    def flush(self, link: Link) -> None:
        """Send all that is queued, deletions first, so that there is room."""
        self._send_deletes(link)
        self._reads.clear()
        if not self._queued:
            return
        queued, self._queued = self._queued, {}
        for request in queued.values():
            match request.kind:
                case RequestKind.FETCH:
                    self._send_fetch(link, request)
                case RequestKind.LIST:
                    self._mark_sent(link, request)
                    self._context.out.append(
                        ListChunks(link=link.id, request=request.id, after=request.after, limit=LIST_BATCH)
                    )
                case _:
                    self._send_store(link, request)

    def flush_reads(self, link: Link | None) -> None:
        """Send the FETCHes that were queued since the last time and that this copy can answer, before it has spoken.

        No STORE: its bytes would be held for an instance that may never wake.
        """
        reads, self._reads = self._reads, []
        if link is None or link.is_closing:
            return
        for request in reads:
            if self._queued.get(request.id) is request and request.seq in link.spans:
                del self._queued[request.id]
                self._send_fetch(link, request)

    def tell(self, link: Link, retentions: list[Retention]) -> None:
        """Send RETAINs."""
        for retention in retentions:
            request = Request(
                id=self._context.new_request_id(), kind=RequestKind.RETAIN, node=self._node, seen=retention.seen
            )
            self._mark_sent(link, request)
            self._context.out.append(
                Retain(
                    link=link.id, request=request.id, first=retention.first, last=retention.last,
                    keep=retention.keep, seen=retention.seen or (),
                )
            )  # fmt: skip

    def _send_deletes(self, link: Link) -> None:
        if not self._custody.garbage:
            return
        on_their_way = {chunk for request in self._sent.values() for chunk in request.chunk_ids}
        garbage = [chunk for chunk in self._custody.garbage if chunk not in on_their_way]
        for start in range(0, len(garbage), DELETE_BATCH):
            request = Request(
                id=self._context.new_request_id(), kind=RequestKind.DELETE, node=self._node,
                chunk_ids=tuple(garbage[start : start + DELETE_BATCH]), seq=self.new_number(),
            )  # fmt: skip
            self._mark_sent(link, request)
            delete = DeleteChunks(link=link.id, request=request.id, seq=request.seq, chunk_ids=request.chunk_ids)
            self._context.out.append(delete)
            self._pass_on(delete)

    def _send_fetch(self, link: Link, request: Request) -> None:
        if request.seq not in link.spans:
            self.settle(request, Outcome.MISSING, "this copy never had it")
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
        request.seq = self.new_number()
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
        self._register(request.id)

    # ------------------------------------------------------------ numbers

    def _close_number(self, request: Request) -> None:
        """The change that a STORE or DELETE announced has been made, or never will be.

        Both count as seen: nobody asks for a number that no chunk was stored under. Left out, each would split the
        link's spans, and when these are too many the oldest are forgotten, with the chunks stored under them.
        """
        if request.kind not in (RequestKind.STORE, RequestKind.DELETE):
            return
        self._custody.close(request.seq)
        link = self._find_link(request.link) if request.link is not None else None
        if link is not None:
            self._custody.note_made(link.copy, request.seq)

    def new_number(self) -> int:
        """The next number, beginning above whatever an earlier incarnation of the shard can have given: a stale
        instance must not seem to have what it never got."""
        first = 0 if self._has_numbered else self._context.new_stamp()
        self._has_numbered = True
        self._last_seq = max(self._last_seq + 1, first)
        return self._last_seq
