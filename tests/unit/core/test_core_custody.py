"""The books of one node: what it is to hold, what a copy lacks, and which instance is on record."""

from __future__ import annotations

import itertools
import random

import pytest
from core_fleet import Fleet

from infiniray.core import commands as cmd
from infiniray.core import custody as books
from infiniray.core import events as ev
from infiniray.core.copies import Copy
from infiniray.core.custody import Custody, Retention
from infiniray.core.ids import InstanceId, NodeId
from infiniray.wire.describe import ChunkId, SeqSpans

A, B, C, D = (ChunkId(key, 1, 0) for key in "abcd")


def copy(*spans: tuple[int, int], instance: str = "i") -> Copy:
    return Copy(InstanceId(instance), SeqSpans(spans))


def holding(**chunks: int) -> Custody:
    """A node with chunks by the numbers under which they were stored, and nothing else seen."""
    custody = Custody()
    for key, seq in chunks.items():
        custody.hold(ChunkId(key, 1, 0), seq, 100)
        custody.seen.add(seq)
    return custody


def numbers(first: int = 1000) -> object:
    return itertools.count(first).__next__


def lacking(custody: Custody, of: Copy) -> set[str]:
    return {chunk.key for chunk, _ in custody.lacking(of)}


# ---------------------------------------------------------------- what a copy lacks


@pytest.mark.parametrize(
    ("spans", "lacks"),
    [
        ([], "abcd"),
        ([(1, 4)], ""),
        ([(1, 100)], ""),
        ([(2, 3)], "ad"),
        ([(1, 1), (3, 3)], "bd"),
        ([(4, 4), (9, 9)], "abc"),
        ([(5, 9)], "abcd"),
    ],
)
def test_a_copy_lacks_what_it_has_not_seen(spans: list[tuple[int, int]], lacks: str) -> None:
    custody = holding(a=1, b=2, c=3, d=4)
    assert lacking(custody, copy(*spans)) == set(lacks)


def test_what_a_copy_lacks_comes_with_its_number_and_size() -> None:
    custody = holding(a=7)
    assert custody.lacking(copy()) == [(A, books.Held(seq=7, n_bytes=100))]


def test_a_chunk_that_was_stored_again_counts_under_its_last_number() -> None:
    custody = holding(a=1)
    custody.hold(A, 5, 100)
    assert lacking(custody, copy((1, 4))) == {"a"}
    assert lacking(custody, copy((5, 5))) == set()


def test_numbers_need_not_come_in_order() -> None:
    """Answers overtake each other when a connection is replaced."""
    custody = holding(c=9, a=2, b=5)
    assert [held.seq for _, held in custody.lacking(copy())] == [2, 5, 9]
    custody.discard(B)
    assert [held.seq for _, held in custody.lacking(copy())] == [2, 9]


def test_any_history_leaves_the_books_in_order() -> None:
    rng = random.Random(3)
    custody, model = Custody(), dict[ChunkId, int]()
    for seq in rng.sample(range(1, 400), 300):
        chunk = ChunkId(rng.choice("abcdefgh"), 1, 0)
        if rng.random() < 0.3:
            custody.discard(chunk)
            model.pop(chunk, None)
        else:
            custody.hold(chunk, seq, 1)
            model[chunk] = seq
        spans = SeqSpans([(50, 120), (200, 210)])
        expected = {c for c, s in model.items() if s not in spans}
        assert {c for c, _ in custody.lacking(Copy(InstanceId("i"), spans))} == expected
        assert {c: held.seq for c, held in custody.holdings.items()} == model


# ---------------------------------------------------------------- what is to be deleted


def test_what_is_discarded_is_garbage_until_its_deletion_is_confirmed() -> None:
    custody = holding(a=1, b=2)
    custody.discard(A)
    assert (set(custody.garbage), set(custody.holdings)) == ({A}, {B})
    custody.deleted([A, C])
    assert set(custody.garbage) == set()


def test_a_chunk_is_gone_when_the_copy_on_record_has_dropped_it() -> None:
    custody = holding(a=1)
    current = copy((1, 1))
    custody.adopt(current)
    custody.enter(current.instance)
    custody.entered(current.instance)
    assert not custody.is_gone(A, current)
    custody.discard(A)
    assert not custody.is_gone(A, current)
    custody.deleted([A])
    assert custody.is_gone(A, current)


@pytest.mark.parametrize("who", ["nobody", "another one", "one that is not on record"])
def test_nothing_is_gone_on_the_word_of(who: str) -> None:
    custody = holding(a=1)
    current = copy((1, 1))
    custody.adopt(current)
    if who != "one that is not on record":
        custody.enter(current.instance)
        custody.entered(current.instance)
    custody.discard(A)
    custody.deleted([A])
    asked = {"nobody": None, "another one": copy((1, 1)), "one that is not on record": current}[who]
    assert not custody.is_gone(A, asked)


# ---------------------------------------------------------------- on record


def test_an_instance_is_on_record_when_that_is_confirmed() -> None:
    custody = Custody()
    assert custody.enter(InstanceId("i"))
    assert custody.registered is None
    custody.entered(InstanceId("i"))
    assert custody.registered == "i"


def test_it_is_written_down_once() -> None:
    custody = Custody()
    assert custody.enter(InstanceId("i"))
    assert not custody.enter(InstanceId("i"))  # on its way
    custody.entered(InstanceId("i"))
    assert not custody.enter(InstanceId("i"))  # there


def test_while_another_is_being_written_down_nobody_is_on_record() -> None:
    """A crash now may find either: what either has does not count."""
    custody = Custody()
    custody.enter(InstanceId("i"))
    custody.entered(InstanceId("i"))
    custody.enter(InstanceId("j"))
    assert custody.registered is None


def test_who_comes_back_while_another_is_being_written_down_is_written_down_again() -> None:
    custody = Custody()
    custody.enter(InstanceId("i"))
    custody.entered(InstanceId("i"))
    custody.enter(InstanceId("j"))
    assert custody.enter(InstanceId("i"))
    custody.entered(InstanceId("j"))  # late: it is about to be replaced
    assert custody.registered is None
    custody.entered(InstanceId("i"))
    assert custody.registered == "i"


def test_a_node_writes_down_again_who_comes_back_before_the_other_one_is_confirmed() -> None:
    """And acknowledges nothing meanwhile: the record is about to name an instance that does not have it."""
    fleet = Fleet(n_nodes=1, scheme="mirror:1", backup_interval_s=0.0)
    node = NodeId("n0")
    fleet.put("a")
    first, second = fleet.nodes[node], fleet.peers[node]
    fleet.holds_registry = True
    fleet.asleep()
    fleet.swap(node)
    fleet.get("a")  # the other instance serves
    fleet.asleep()
    fleet.swap(node)
    put = fleet.put("b")  # the first one again
    written = [command.instance for command in fleet.said(cmd.RegisterCopy)]
    assert written == [first.instance.id, second.instance.id, first.instance.id]
    assert fleet.is_open(put)
    fleet.tell(ev.CopyRegistered(node=node, instance=second.instance.id))
    assert fleet.is_open(put)
    fleet.tell(ev.CopyRegistered(node=node, instance=first.instance.id))
    assert fleet.facts(put).key == "b"


# ---------------------------------------------------------------- taking over


def test_an_empty_copy_needs_to_be_told_nothing() -> None:
    custody = holding(a=1)
    new = copy()
    assert custody.take_over(new, numbers()) == []
    assert custody.is_aligned(new)


def test_a_copy_that_has_seen_exactly_what_there_was_needs_to_be_told_nothing() -> None:
    custody = holding(a=1, b=2)
    same = copy((1, 2))
    assert custody.take_over(same, numbers()) == []
    assert custody.is_aligned(same)


@pytest.mark.parametrize("spans", [[(1, 1)], [(1, 3)], [(2, 2)]])
def test_any_other_copy_is_told_what_to_keep_before_it_counts(spans: list[tuple[int, int]]) -> None:
    custody = holding(a=1, b=2)
    other = copy(*spans)
    told = custody.take_over(other, numbers())
    assert told
    assert not custody.is_aligned(other)
    custody.aligned(other)
    assert custody.is_aligned(other)
    assert custody.take_over(other, numbers()) == []


def test_that_a_copy_was_told_has_a_number_of_its_own() -> None:
    """Or another one that has seen the same, and was not told, would count as one that was."""
    custody = holding(a=1)
    custody.seen.add(2)
    told, untold = copy((1, 3)), copy((1, 3), instance="j")
    *_, last = custody.take_over(told, numbers(1000))
    assert last.seen is not None
    for first, stop in last.seen:
        told.spans.add(first, stop)
    custody.aligned(told)
    assert 1000 in custody.seen
    assert custody.needs_nothing(told)
    assert not custody.needs_nothing(untold)


def test_nobody_is_told_anything_before_it_is_known_what_is_to_be_kept() -> None:
    custody = holding(a=1)
    custody.is_paused = True
    stale = copy((1, 9))
    assert custody.take_over(stale, numbers()) == []
    assert not custody.is_aligned(stale)


def test_what_a_copy_was_told_to_forget_needs_no_deletion_any_more() -> None:
    custody = holding(a=1, b=2)
    custody.discard(A)
    stale = copy((1, 1))
    custody.take_over(stale, numbers())
    custody.discard(B)  # it has not been told of this
    custody.aligned(stale)
    assert set(custody.garbage) == {B}


def test_numbers_of_an_earlier_incarnation_count_as_seen() -> None:
    custody = holding(a=1)
    stale = copy((500, 510))
    custody.take_over(stale, numbers())
    custody.aligned(stale)
    assert 505 in custody.seen


def test_a_copy_is_not_said_to_have_seen_what_it_lacks() -> None:
    custody = holding(a=1, b=2, c=3)
    assert custody.seen_by(copy((2, 2))) == SeqSpans([(2, 2)])
    custody.discard(C)
    assert custody.seen_by(copy((2, 2))) == SeqSpans([(2, 3)])  # of a deletion there is nothing to have


# ---------------------------------------------------------------- RETAIN


def after(retentions: list[Retention], chunks: set[int]) -> set[int]:
    """What an instance with chunks of these numbers has when it was told."""
    for told in retentions:
        chunks = {seq for seq in chunks if not told.first <= seq <= told.last or seq in told.keep}
    return chunks


def test_a_copy_forgets_all_that_it_is_not_to_hold() -> None:
    custody = holding(a=2, c=5)
    custody.seen.add(1, 6)
    stale = copy((1, 9))
    assert after(custody.retentions(stale), set(range(1, 10))) == {2, 5}


def test_a_node_that_is_to_hold_nothing_forgets_everything() -> None:
    stale = copy((1, 9))
    [told] = Custody().retentions(stale)
    assert after([told], set(range(1, 10))) == set()


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_long_lists_come_in_parts_that_together_say_the_same(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "RETAIN_BATCH", batch)
    custody = Custody()
    keep = {3, 4, 9, 20, 21, 22, 40}
    for seq in keep:
        custody.hold(ChunkId(f"k{seq}", 1, 0), seq, 1)
    custody.seen.add(1, 45)
    told = custody.retentions(copy((1, 60)))
    assert after(told, set(range(1, 61))) == keep
    assert all(len(part.keep) <= batch for part in told)
    assert [part.seen is None for part in told] == [True] * (len(told) - 1) + [False]
    spans = sorted((part.first, part.last) for part in told)
    assert spans[0][0] == 1
    assert spans[-1][1] >= 60
    assert all(last + 1 == first for (_, last), (first, _) in itertools.pairwise(spans))


def test_what_a_copy_lacks_is_brought_up_to_date_as_it_would_be_found_anew() -> None:
    """Whatever happens to the books and to the copy, and however often it is asked."""
    lots = random.Random(5)
    for _ in range(40):
        custody, copy, seq = Custody(), Copy(InstanceId("i"), SeqSpans()), 0
        for _ in range(200):
            seq += 1
            custody.close(seq)
            if lots.random() < 0.5:
                custody.note_made(copy, seq)
            chance = lots.random()
            if chance < 0.6:
                custody.hold(ChunkId(f"k{lots.randrange(30)}", 1, 0), seq, 1)
            elif chance < 0.7 and custody.holdings:
                custody.discard(lots.choice(list(custody.holdings)))
            elif chance < 0.8 and custody.lacking(copy):
                custody.note_made(copy, custody.lacking(copy)[-1][1].seq)
            elif chance < 0.85:
                custody.note_seen(copy, custody.retentions(copy)[-1].seen or ())
            elif chance < 0.87:
                copy.spans = copy.spans.without([lots.randrange(seq)])
            elif chance < 0.89:
                seq += 1
                custody.seen.add(seq)
            if lots.random() < 0.5:
                twin = Copy(copy.instance, copy.spans.copy())
                assert custody.lacking(copy) == custody.lacking(twin)
                assert custody.seen_by(copy) == custody.seen_by(twin)
                held = {held.seq for held in custody.holdings.values()}
                assert {h.seq for _, h in custody.lacking(copy)} == {n for n in held if n not in copy.spans}
                assert custody.seen_by(copy) == custody.seen.without({n for n in held if n not in copy.spans})
