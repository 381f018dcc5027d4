"""What is said to one node: in which order, under which numbers, and what becomes of it when connections break."""

from __future__ import annotations

from typing import Any

import pytest

from infiniray.codec.schemes import Scheme, SchemePolicy
from infiniray.core import commands as cmd
from infiniray.core import outbox as outboxes
from infiniray.core.context import Context
from infiniray.core.copies import Copy, Link
from infiniray.core.custody import Custody, Retention
from infiniray.core.ids import InstanceId, LinkId, NodeId, OpId
from infiniray.core.outbox import Outbox
from infiniray.core.policy import Policy
from infiniray.core.requests import Outcome, Request, RequestKind
from infiniray.wire.describe import ChunkId, SeqSpans

NODE = NodeId("n")
OP = OpId(7)
FACTS = cmd.ObjectFacts(
    key="k", version=1, size_bytes=100, scheme=Scheme.parse("mirror:1"), head="", expires_s=0.0
)  # fmt: skip


class Desk:
    """An outbox with two open links: what it says is in ``said``, by kind."""

    def __init__(self) -> None:
        self.context = Context(Policy(schemes=SchemePolicy.of([(None, "mirror:1")]), invoke_attempts=2), 1)
        self.context.now_s = 1000.0
        self.custody = Custody()
        self.links = {n: Link(LinkId(n), Copy(InstanceId(f"i{n}"), SeqSpans())) for n in (1, 2)}
        self.passed_on: list[cmd.DeleteChunks] = []
        self.registered: list[int] = []
        self.box = Outbox(
            NODE, self.context, self.custody, lambda link: self.links.get(link), self.registered.append,
            self.passed_on.append,
        )  # fmt: skip

    def request(self, kind: RequestKind, *, seq: int = 0, op: OpId = OP) -> Request:
        return Request(
            id=self.context.new_request_id(), kind=kind, node=NODE, op=op, index=0, facts=FACTS, seq=seq, crc=9
        )

    def queue(self, kind: RequestKind, *, seq: int = 0, op: OpId = OP) -> Request:
        request = self.request(kind, seq=seq, op=op)
        self.box.queue(request)
        return request

    def discard(self, *keys: str) -> None:
        for key in keys:
            self.custody.discard(ChunkId(key, 1, 0))

    def flush(self, link: int = 1) -> list[cmd.Command]:
        """What is said over a link now."""
        self.box.flush(self.links[link])
        return self.said()

    def said(self) -> list[cmd.Command]:
        said, self.context.out = self.context.out, []
        return said

    def settled(self) -> list[tuple[Request, Outcome]]:
        settled = [(s.request, s.outcome) for s in self.context.settled]
        self.context.settled.clear()
        return settled


@pytest.fixture
def desk() -> Desk:
    return Desk()


def kinds(commands: list[Any]) -> list[type]:
    return [type(command) for command in commands]


# ---------------------------------------------------------------- sending


def test_deletions_go_first_so_that_there_is_room(desk: Desk) -> None:
    desk.queue(RequestKind.STORE)
    desk.discard("old")
    assert kinds(desk.flush()) == [cmd.DeleteChunks, cmd.StoreChunk]


def test_all_that_was_queued_is_said_once_and_in_order(desk: Desk) -> None:
    desk.links[1].spans.add(5)
    desk.queue(RequestKind.STORE)
    desk.queue(RequestKind.FETCH, seq=5)
    desk.queue(RequestKind.LIST)
    assert desk.box.n_queued == 3
    assert kinds(desk.flush()) == [cmd.StoreChunk, cmd.FetchChunk, cmd.ListChunks]
    assert desk.flush() == []
    assert (desk.box.n_queued, desk.box.n_unsettled) == (0, 3)
    assert len(desk.registered) == 3


def test_what_the_copy_never_had_is_missing_without_being_asked_for(desk: Desk) -> None:
    desk.links[1].spans.add(1, 4)
    request = desk.queue(RequestKind.FETCH, seq=5)
    assert desk.flush() == []
    assert desk.settled() == [(request, Outcome.MISSING)]
    assert desk.box.n_unsettled == 0


def test_a_deletion_is_not_said_twice_while_it_is_on_its_way(desk: Desk) -> None:
    desk.discard("a")
    [first] = desk.flush()
    desk.discard("b")
    [second] = desk.flush()
    assert isinstance(first, cmd.DeleteChunks)
    assert isinstance(second, cmd.DeleteChunks)
    assert [chunk.key for chunk in first.chunk_ids + second.chunk_ids] == ["a", "b"]
    assert desk.passed_on == [first, second]


def test_a_deletion_that_was_not_confirmed_is_said_again_over_the_next_link(desk: Desk) -> None:
    desk.discard("a")
    desk.flush()
    desk.box.requeue(LinkId(1))
    desk.said()
    assert kinds(desk.flush(2)) == [cmd.DeleteChunks]


def test_many_deletions_come_in_several_frames(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "DELETE_BATCH", 2)
    desk.discard("a", "b", "c", "d", "e")
    frames = desk.flush()
    assert [len(frame.chunk_ids) for frame in frames if isinstance(frame, cmd.DeleteChunks)] == [2, 2, 1]


def test_retentions_are_told_at_once(desk: Desk) -> None:
    desk.box.tell(desk.links[2], [Retention(1, 5, (2,), None), Retention(6, 9, (7,), SeqSpans([(1, 9)]))])
    first, last = desk.said()
    assert first == cmd.Retain(link=LinkId(2), request=first.request, first=1, last=5, keep=(2,), seen=())  # type: ignore[union-attr]
    assert last == cmd.Retain(link=LinkId(2), request=last.request, first=6, last=9, keep=(7,), seen=SeqSpans([(1, 9)]))  # type: ignore[union-attr]
    assert desk.box.n_unsettled == 0  # no operation waits for the answer


# ---------------------------------------------------------------- numbers


def test_changes_are_numbered_upwards_from_above_any_number_of_an_earlier_incarnation(desk: Desk) -> None:
    desk.discard("old")
    desk.queue(RequestKind.STORE)
    desk.queue(RequestKind.STORE)
    numbers = [command.seq for command in desk.flush() if isinstance(command, (cmd.DeleteChunks, cmd.StoreChunk))]
    assert numbers[0] >= 1000 * 10**6
    assert numbers == [numbers[0], numbers[0] + 1, numbers[0] + 2]


def test_a_number_that_an_instance_has_seen_is_not_given_again(desk: Desk) -> None:
    desk.box.note_seq(5 * 10**15)
    desk.box.note_seq(3)
    desk.queue(RequestKind.STORE)
    [store] = desk.flush()
    assert isinstance(store, cmd.StoreChunk)
    assert store.seq == 5 * 10**15 + 1


@pytest.mark.parametrize("end", ["answered", "cancelled", "lost with its link"])
def test_a_number_counts_as_seen_once_its_change_is_made_or_never_will_be(desk: Desk, end: str) -> None:
    """Each that was left out would split the spans."""
    request = desk.queue(RequestKind.STORE)
    desk.flush()
    number = request.seq
    assert number not in desk.custody.seen
    if end == "answered":
        desk.box.answered(request.id)
    elif end == "cancelled":
        desk.box.cancel(request)
    else:
        desk.box.requeue(LinkId(1))
    assert number in desk.custody.seen
    assert number in desk.links[1].spans


def test_a_number_that_ends_after_its_link_counts_as_seen_by_the_node(desk: Desk) -> None:
    request = desk.queue(RequestKind.STORE)
    desk.flush()
    link = desk.links.pop(1)
    desk.box.requeue(LinkId(1))
    assert len(list(desk.custody.seen)) == 1
    assert list(link.spans) == []
    assert request.link is None


# ---------------------------------------------------------------- answers


def test_an_answer_finds_its_request_and_link_once(desk: Desk) -> None:
    request = desk.queue(RequestKind.STORE)
    desk.flush()
    assert desk.box.answered(request.id) == (request, desk.links[1])
    assert desk.box.answered(request.id) is None
    assert desk.box.n_unsettled == 0


def test_an_answer_whose_link_is_gone_by_now(desk: Desk) -> None:
    request = desk.queue(RequestKind.STORE)
    desk.flush()
    del desk.links[1]
    assert desk.box.answered(request.id) == (request, None)


@pytest.mark.parametrize(
    ("kind", "says"),
    [(RequestKind.FETCH, [cmd.CancelFetch]), (RequestKind.STORE, [cmd.AbortStore]), (RequestKind.LIST, [])],
)
def test_what_is_cancelled_is_stopped_on_the_wire_and_its_answer_ignored(
    desk: Desk, kind: RequestKind, says: list[type]
) -> None:
    desk.links[1].spans.add(5)
    request = desk.queue(kind, seq=5)
    desk.flush()
    desk.box.cancel(request)
    assert kinds(desk.said()) == says
    assert desk.box.answered(request.id) is None
    assert desk.settled() == []


def test_what_was_not_said_yet_is_cancelled_silently(desk: Desk) -> None:
    request = desk.queue(RequestKind.STORE)
    desk.box.cancel(request)
    desk.box.cancel(request)
    assert desk.said() == desk.flush() == []


def test_all_requests_of_an_operation_are_cancelled_and_no_others(desk: Desk) -> None:
    desk.queue(RequestKind.STORE)
    desk.flush()
    desk.queue(RequestKind.STORE)
    other = desk.queue(RequestKind.STORE, op=OpId(8))
    desk.box.cancel_all(OP)
    assert list(desk.box) == [other]


# ---------------------------------------------------------------- connections that break


def test_what_was_said_over_a_lost_link_is_said_again_as_another_request(desk: Desk) -> None:
    """A late answer over the old link, if that lives, must not be taken for the new one's."""
    request = desk.queue(RequestKind.STORE)
    desk.flush(1)
    former = request.id
    assert not desk.box.requeue(LinkId(1))
    assert desk.box.answered(former) is None
    [store] = [command for command in desk.flush(2) if isinstance(command, cmd.StoreChunk)]
    assert store.link == 2
    assert store.request == request.id != former


def test_only_what_was_said_over_that_link(desk: Desk) -> None:
    desk.queue(RequestKind.STORE)
    desk.flush(1)
    request = desk.queue(RequestKind.STORE)
    desk.flush(2)
    desk.box.requeue(LinkId(1))
    assert request.link == 2
    assert desk.box.n_queued == 1


def test_after_too_many_lost_links_the_node_counts_as_unreachable(desk: Desk) -> None:
    request = desk.queue(RequestKind.STORE)
    desk.flush(1)
    assert not desk.box.requeue(LinkId(1))
    desk.flush(2)
    assert desk.box.requeue(LinkId(2))
    assert desk.settled() == [(request, Outcome.UNREACHABLE)]
    assert list(desk.box) == []


def test_what_nobody_waits_for_is_not_said_again_as_it_was(desk: Desk) -> None:
    """Deletions are in the books, and an instance that takes over is told what to retain."""
    desk.discard("a")
    desk.flush()
    desk.box.tell(desk.links[1], [Retention(1, 5, (), None)])
    desk.box.requeue(LinkId(1))
    assert list(desk.box) == []


def test_when_the_node_is_given_up_whoever_waits_is_told(desk: Desk) -> None:
    sent = desk.queue(RequestKind.STORE)
    desk.discard("a")
    desk.flush()
    queued = desk.queue(RequestKind.LIST)
    desk.box.give_up("it does not answer")
    assert sorted(request.id for request, _ in desk.settled()) == [sent.id, queued.id]
    [left] = desk.box  # the deletion
    assert left.kind is RequestKind.DELETE
    assert desk.box.n_unsettled == 0


def test_how_much_is_open_can_be_seen(desk: Desk) -> None:
    desk.queue(RequestKind.STORE)
    assert repr(desk.box) == "queued=1 sent=0"
    assert desk.box.n_unsettled == 1
    desk.flush()
    assert repr(desk.box) == "queued=0 sent=1"
    assert desk.box.n_unsettled == 1
