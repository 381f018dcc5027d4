"""Descriptions of chunks, and spans against a set."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infiniray.wire.describe import ChunkId, ChunkInfo, SeqSpans
from infiniray.wire.frames import ProtocolError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=11) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)
spans = st.tuples(st.integers(1, 300), st.integers(0, 20)).map(lambda pair: (pair[0], pair[0] + pair[1]))
INFO = ChunkInfo("key", 3, 1, 17, "rs:10+2", 1000, 100, 0xFFFFFFFF, 1.5e9, "{}")
#: Changes that make none of it.
NO_INFO: list[dict[str, Any]] = [
    {"key": 1}, {"version": "1"}, {"index": -1}, {"chunk_bytes": 1001}, {"chunk_bytes": -1}, {"expires_s": None}
]  # fmt: skip


@given(st.lists(spans, max_size=40))
def test_spans_are_a_set(added: list[tuple[int, int]]) -> None:
    model: set[int] = set()
    seen = SeqSpans()
    for first, last in added:
        seen.add(first, last)
        model.update(range(first, last + 1))
        assert seen.last == max(model)
    assert {seq for seq in range(330) if seq in seen} == model
    kept = list(seen)
    assert {seq for first, last in kept for seq in range(first, last + 1)} == model
    assert all(second[0] - first[1] > 1 for first, second in pairwise(kept))  # joined
    assert SeqSpans.from_wire(json.loads(json.dumps(seen.to_wire()))) == seen
    assert SeqSpans(added) == seen


@given(st.lists(spans, max_size=40), st.lists(spans, max_size=40), st.sets(st.integers(1, 320)))
def test_sums_and_differences_of_spans(
    here: list[tuple[int, int]], there: list[tuple[int, int]], gone: set[int]
) -> None:
    one, other = SeqSpans(here), SeqSpans(there)
    both = one.copy()
    both.update(other)
    assert both == SeqSpans([*here, *there])
    again = one.copy()
    again.update(tuple(other))
    assert again == both
    left = both.without(gone)
    assert {seq for seq in range(330) if seq in left} == {seq for seq in range(330) if seq in both} - gone
    assert left == SeqSpans(list(left))  # none empty, none that could be joined
    assert both == SeqSpans([*here, *there])  # as it was


def test_a_copy_goes_its_own_way() -> None:
    seen = SeqSpans([(1, 5)])
    twin = seen.copy()
    twin.add(6)
    assert (seen.last, twin.last) == (5, 6)
    assert seen != twin


def test_too_many_spans_forget_the_oldest() -> None:
    seen = SeqSpans()
    for i in range(SeqSpans.MAX_SPANS + 10):
        seen.add(2 * i + 1)
    assert len(list(seen)) == SeqSpans.MAX_SPANS
    assert 1 not in seen
    assert 19 not in seen
    assert 21 in seen
    assert seen.last == 2 * (SeqSpans.MAX_SPANS + 9) + 1
    at_once = SeqSpans()
    at_once.update([(2 * i + 1, 2 * i + 1) for i in range(SeqSpans.MAX_SPANS + 10)])
    assert at_once == seen


def test_no_spans() -> None:
    seen = SeqSpans()
    assert (seen.last, seen.to_wire(), 0 in seen) == (0, [], False)


@pytest.mark.parametrize("value", [None, {}, [1], [[1]], [[2, 1]], [[0, 1]], [["1", 2]], [[1, 1]] * 257])
def test_what_is_no_spans(value: Any) -> None:
    with pytest.raises(ProtocolError):
        SeqSpans.from_wire(value)


def test_descriptions_survive_the_wire() -> None:
    assert ChunkInfo.from_wire(json.loads(json.dumps(INFO))) == INFO
    assert ChunkId.from_wire(json.loads(json.dumps(INFO.id))) == INFO.id == ChunkId("key", 3, 1)


@pytest.mark.parametrize("change", NO_INFO)
def test_what_is_no_description(change: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError):
        ChunkInfo.from_wire(list(INFO._replace(**change)))


def as_pattern(value: Any) -> bool:
    """Whether it is a description, said as plainly as can be."""
    match value:
        case [str(), int(), int(index), int(), str(), int(size), int(n_bytes), int(), int() | float(), str()]:
            return 0 <= n_bytes <= size and index >= 0
    return False


@pytest.mark.parametrize("field", range(len(INFO)))
@pytest.mark.parametrize("value", [True, 1, 1.5, 1e300, "1", b"1", None, [1], -1, 1 << 70])
@pytest.mark.parametrize("kind", [list, tuple])
def test_whatever_stands_in_a_field(field: int, value: Any, kind: type) -> None:
    """Also what JSON has no word for, and a bool where a number is to be, which is one to Python."""
    described = kind([*INFO[:field], value, *INFO[field + 1 :]])
    if as_pattern(described):
        assert ChunkInfo.from_wire(described) == ChunkInfo(*described)
    else:
        with pytest.raises(ProtocolError, match="not a chunk description"):
            ChunkInfo.from_wire(described)
    if field >= len(ChunkId._fields):
        return
    if isinstance(value, int if field else str):
        assert ChunkId.from_wire(described[:3]) == ChunkId(*described[:3])
    else:
        with pytest.raises(ProtocolError, match="not a chunk id"):
            ChunkId.from_wire(described[:3])


def test_a_page_of_descriptions_survives_the_wire() -> None:
    page = [INFO._replace(key=key, index=index) for key in ("a", "key") for index in (0, 1)]
    assert ChunkInfo.page_from_wire(json.loads(json.dumps(page))) == tuple(page)
    assert ChunkInfo.page_from_wire([]) == ()


@pytest.mark.parametrize(
    "page",
    [
        None,
        {},
        [None],
        [[]],
        [list(INFO)[:-1]],
        [[*INFO, 1]],
        [INFO],
        *([list(INFO._replace(key="a")), list(INFO._replace(**change))] for change in NO_INFO),
        [list(INFO), list(INFO)],
        [list(INFO), list(INFO._replace(index=0))],
        [list(INFO), list(INFO._replace(version=2))],
    ],
)
def test_what_is_no_page_of_descriptions(page: Any) -> None:
    with pytest.raises(ProtocolError):
        ChunkInfo.page_from_wire(page)


@given(st.lists(json_values, max_size=3) | json_values)
def test_any_json_is_a_page_or_a_protocol_error(value: Any) -> None:
    try:
        infos = ChunkInfo.page_from_wire(value)
    except ProtocolError:
        return
    assert infos == tuple(map(ChunkInfo.from_wire, value))


@given(json_values)
def test_any_json_is_a_description_or_a_protocol_error(value: Any) -> None:
    for described in (ChunkId, ChunkInfo, SeqSpans):
        try:
            described.from_wire(value)
        except ProtocolError:
            continue
        assert isinstance(value, list)
