"""The judge of histories: hand-made ones, ones that a model made, and a comparison with a search through all orders."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from history import Operation, Outcome, Verb
from hypothesis import given, settings
from hypothesis import strategies as st
from linearize import Flaw, Span, check, unexcused_misses
from orders import has_order

KEY = "k"


def put(value: int, begin: int, end: int, outcome: Outcome = Outcome.OK) -> Operation:
    return Operation(verb=Verb.PUT, key=KEY, invoked_ns=begin, returned_ns=end, outcome=outcome, value=value)


def get(value: int | None, begin: int, end: int) -> Operation:
    return Operation(verb=Verb.GET, key=KEY, invoked_ns=begin, returned_ns=end, value=value)


def miss(begin: int, end: int) -> Operation:
    return Operation(verb=Verb.GET, key=KEY, invoked_ns=begin, returned_ns=end, outcome=Outcome.MISS)


def delete(begin: int, end: int, outcome: Outcome = Outcome.OK) -> Operation:
    return Operation(verb=Verb.DELETE, key=KEY, invoked_ns=begin, returned_ns=end, outcome=outcome)


def failed_put(value: int, begin: int, end: int) -> Operation:
    return put(value, begin, end, Outcome.INDETERMINATE)


def failed_delete(begin: int, end: int) -> Operation:
    return delete(begin, end, Outcome.INDETERMINATE)


ALLOWED = {
    "nothing at all": [],
    "read what was written": [put(1, 0, 1), get(1, 2, 3), get(1, 4, 5)],
    "either value while one replaces the other": [put(1, 0, 1), put(2, 2, 9), get(1, 3, 4), get(2, 5, 6), get(2, 7, 8)],
    "the new value before its writer knows": [put(1, 0, 9), get(1, 1, 2), get(1, 3, 4)],
    "concurrent readers that overlap the change see either": [put(1, 0, 1), put(2, 2, 9), get(2, 3, 8), get(1, 4, 7)],
    "lost right after it was written": [put(1, 0, 1), miss(2, 3), miss(4, 5)],
    "lost between two reads, and written again": [put(1, 0, 1), get(1, 2, 3), miss(4, 5), put(2, 6, 7), get(2, 8, 9)],
    "a miss beside a read": [put(1, 0, 1), get(1, 2, 6), miss(3, 7)],
    "a failed write that took effect late": [put(1, 0, 1), failed_put(2, 2, 3), get(1, 4, 5), get(2, 6, 7)],
    "a failed write after a delete": [failed_put(1, 0, 1), delete(2, 3), miss(4, 5), get(1, 6, 7)],
    "a failed write that never took effect": [put(1, 0, 1), failed_put(2, 2, 3), get(1, 4, 5)],
    "a failed delete that never took effect": [put(1, 0, 1), failed_delete(2, 3), get(1, 4, 5)],
    "a failed delete that took effect late": [put(1, 0, 1), failed_delete(2, 3), get(1, 4, 5), miss(6, 7)],
    "a read that began before the delete": [put(1, 0, 1), get(1, 2, 6), delete(3, 4)],
    "two writers, the first in time wins": [put(1, 0, 9), put(2, 1, 2), get(1, 10, 11), get(1, 12, 13)],
    "one value ends at the moment at which the next one begins": [
        put(1, 0, 1),
        put(2, 2, 4),
        get(1, 4, 5),
        get(2, 6, 7),
    ],
    "a failed read says nothing": [
        put(1, 0, 1),
        Operation(verb=Verb.GET, key=KEY, invoked_ns=2, returned_ns=3, outcome=Outcome.ERROR),
        get(1, 4, 5),
    ],
}  # fmt: skip

FORBIDDEN = {
    "stale read": ([put(1, 0, 1), put(2, 2, 3), get(1, 4, 5)], Flaw.STALE),
    "new, then old, to one reader": ([put(1, 0, 1), put(2, 2, 9), get(2, 3, 4), get(1, 5, 6)], Flaw.STALE),
    "new, then old, to two readers": ([put(1, 0, 1), put(2, 2, 19), get(2, 3, 6), get(1, 7, 8)], Flaw.STALE),
    "lost update: the loser of a race comes back": (
        [put(1, 0, 9), put(2, 1, 8), get(1, 10, 11), get(2, 12, 13), get(1, 14, 15)],
        Flaw.STALE,
    ),
    "an old write is made again by a retry": (
        [put(1, 0, 9), get(1, 1, 2), put(2, 3, 4), get(2, 5, 6), get(1, 10, 11)],
        Flaw.STALE,
    ),
    "back from a delete": ([put(1, 0, 1), delete(2, 3), get(1, 4, 5)], Flaw.UNDELETED),
    "back from a loss": ([put(1, 0, 1), miss(2, 3), get(1, 4, 5)], Flaw.RETURNED),
    "back from a loss, of a failed write that was there": (
        [failed_put(1, 0, 1), get(1, 2, 3), miss(4, 5), get(1, 6, 7)],
        Flaw.RETURNED,
    ),
    "never written": ([put(1, 0, 1), get(7, 2, 3)], Flaw.NEVER_WRITTEN),
    "a mix of two versions": ([put(1, 0, 1), put(2, 2, 9), get(None, 3, 4)], Flaw.DAMAGED),
    "from the future": ([get(1, 0, 1), put(1, 2, 3)], Flaw.TOO_EARLY),
}  # fmt: skip


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(name: str) -> None:
    assert check(ALLOWED[name]) == []
    assert check(reversed(ALLOWED[name])) == []
    assert has_order(ALLOWED[name])


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden(name: str) -> None:
    history, flaw = FORBIDDEN[name]
    violations = check(history)
    assert [violation.flaw for violation in violations] == [flaw]
    assert not has_order(history)
    assert not has_order(violations[0].operations)  # what is shown suffices
    assert flaw.value in str(violations[0])


def test_keys_are_judged_one_by_one() -> None:
    elsewhere = Operation(verb=Verb.GET, key="other", invoked_ns=4, returned_ns=5, value=1)
    assert [v.key for v in check([put(1, 0, 1), elsewhere])] == ["other"]


def test_values_must_differ() -> None:
    with pytest.raises(ValueError, match="written to 'k' twice"):
        check([put(1, 0, 1), put(1, 2, 3)])


# ---------------------------------------------------------------- against the search


@st.composite
def anything(draw: st.DrawFn) -> list[Operation]:
    """A few operations with any times and answers, most of them impossible together."""
    n_puts = draw(st.integers(1, 4))
    history: list[Operation] = []
    for value in range(n_puts):
        begin, end = draw(spans)
        history.append(draw(st.sampled_from([put, put, failed_put]))(value, begin, end))
    for _ in range(draw(st.integers(0, 6))):
        begin, end = draw(spans)
        make = draw(st.sampled_from(["get", "get", "get", "miss", "delete", "failed_delete"]))
        history.append(get(draw(st.integers(0, n_puts - 1)), begin, end) if make == "get" else _BRIEF[make](begin, end))
    return history


_BRIEF: dict[str, Callable[[int, int], Operation]] = {"miss": miss, "delete": delete, "failed_delete": failed_delete}
spans = st.tuples(st.integers(0, 24), st.integers(0, 8)).map(lambda span: (span[0], span[0] + span[1]))


@settings(max_examples=1500, deadline=None)
@given(anything())
def test_the_judge_agrees_with_a_search_through_all_orders(history: list[Operation]) -> None:
    assert (not check(history)) == has_order(history)


# ---------------------------------------------------------------- what a model did


@st.composite
def lived(draw: st.DrawFn) -> list[Operation]:
    """What clients saw of a register with losses: each effect at a moment of its own, calls and answers around it."""
    held: int | None = None
    history: list[Operation] = []
    for i, act in enumerate(draw(st.lists(st.sampled_from(ACTS), min_size=1, max_size=60))):
        moment, before, after = 10 * (i + 1), draw(st.integers(0, 80)), draw(st.integers(0, 80))
        begin, end = moment - before, moment + after
        if act == "lose":
            held = None
        elif act == "put":
            held = i
            history.append(put(i, begin, end))
        elif act == "late put":  # its caller gave up before it took effect
            held = i
            history.append(failed_put(i, begin, moment - before // 2))
        elif act == "vain put":
            history.append(failed_put(i, begin, end))
        elif act == "delete":
            held = None
            history.append(delete(begin, end))
        elif act == "late delete":
            held = None
            history.append(failed_delete(begin, moment - before // 2))
        else:
            history.append(miss(begin, end) if held is None else get(held, begin, end))
    return draw(st.permutations(history))


ACTS = ["put", "put", "get", "get", "get", "get", "late put", "vain put", "delete", "late delete", "lose"]


@settings(max_examples=300, deadline=None)
@given(lived())
def test_what_a_model_did_is_accepted(history: list[Operation]) -> None:
    assert check(history) == []


def _stale(t: int, d: int) -> list[Operation]:
    return [put(1000, t, t + d), put(1001, t + d + 1, t + 2 * d + 1), get(1000, t + 2 * d + 2, t + 3 * d + 2)]


def _flipped(t: int, d: int) -> list[Operation]:
    """Both writes are under way all the time; readers see the one, the other, and the one again."""
    reads = [get(value, t + i * (d + 1), t + i * (d + 1) + d) for i, value in enumerate([1000, 1001, 1000])]
    return [put(1000, t, t + 9 * d + 9), put(1001, t, t + 9 * d + 9), *reads]


def _undeleted(t: int, d: int) -> list[Operation]:
    return [put(1000, t, t + d), delete(t + d + 1, t + 2 * d + 1), get(1000, t + 2 * d + 2, t + 3 * d + 2)]


def _returned(t: int, d: int) -> list[Operation]:
    return [put(1000, t, t + d), miss(t + d + 1, t + 2 * d + 1), get(1000, t + 2 * d + 2, t + 3 * d + 2)]


def _never_written(t: int, d: int) -> list[Operation]:
    return [get(1000, t, t + d)]


def _mixed(t: int, d: int) -> list[Operation]:
    return [get(None, t, t + d)]


def _too_early(t: int, d: int) -> list[Operation]:
    return [get(1000, t, t + d), put(1000, t + d + 1, t + 2 * d + 1)]


@settings(max_examples=60, deadline=None)
@given(history=lived(), t=st.integers(0, 600), d=st.integers(0, 100))
@pytest.mark.parametrize("plant", [_stale, _flipped, _undeleted, _returned, _never_written, _mixed, _too_early])
def test_a_planted_violation_is_found_in_a_crowd(
    plant: Callable[[int, int], list[Operation]], history: list[Operation], t: int, d: int
) -> None:
    """Whatever else goes on at the time: no order of the others explains it."""
    assert check(history + plant(t, d))


@settings(max_examples=300, deadline=None)
@given(history=lived(), data=st.data())
def test_an_answer_changed_afterwards_is_judged_as_the_search_does(
    history: list[Operation], data: st.DataObject
) -> None:
    """Small histories, since the search is slow: one read is made to return another value."""
    history = sorted(history, key=lambda o: o.invoked_ns)[:12]
    reads = [o for o in history if o.verb is Verb.GET]
    written = [o.value for o in history if o.verb is Verb.PUT]
    if not reads or not written:
        return
    read = data.draw(st.sampled_from(reads))
    other = get(data.draw(st.sampled_from(written)), read.invoked_ns, read.returned_ns)
    changed = [other if o is read else o for o in history]
    known = [o for o in changed if o.value is None or o.value in written]  # their PUTs may have been cut off
    assert (not check(known)) == has_order(known)


# ---------------------------------------------------------------- where nothing may be lost


def test_a_miss_needs_an_excuse_where_nothing_may_be_lost() -> None:
    before, after = miss(-5, -4), miss(2, 3)
    assert unexcused_misses([before, put(1, 0, 1), after]) == [after]
    assert unexcused_misses([failed_put(1, 0, 1), after]) == []
    assert unexcused_misses([put(1, 0, 2), after]) == []  # still under way


@pytest.mark.parametrize(
    ("excuse", "is_one"),
    [
        (delete(2, 3), True),
        (failed_delete(2, 3), True),
        (failed_delete(-9, -8), True),  # it may have come late
        (delete(-9, -8), False),
        (delete(1, 2), True),  # beside the PUT, perhaps after it
        (delete(7, 8), False),
    ],
)
def test_which_deletes_excuse_a_miss(excuse: Operation, is_one: bool) -> None:
    late = miss(5, 6)
    assert unexcused_misses([put(1, 0, 1), excuse, late]) == ([] if is_one else [late])


def test_a_time_of_losses_excuses_a_miss_until_it_is_written_again() -> None:
    losses = [Span(begin_ns=10, end_ns=20)]
    early, during, late, again = miss(5, 6), miss(15, 16), miss(25, 26), miss(35, 36)
    history = [put(1, 0, 1), early, during, late]
    assert unexcused_misses(history, losses) == [early]
    assert unexcused_misses([*history, put(2, 30, 31), again], losses) == [early, again]
