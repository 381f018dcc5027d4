"""Frames: what goes in comes out, whatever the cuts; and garbage is refused, never anything worse."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infiniray.wire.frames import (
    HEADER_BYTES,
    MAX_META_BYTES,
    SEGMENT_BYTES,
    Frame,
    FrameReader,
    Kind,
    ProtocolError,
    pack,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "frames.json").read_text())

Sent = tuple[Kind, int, int, dict[str, Any], bytes]

metas = st.dictionaries(
    st.text(max_size=8), st.none() | st.integers() | st.text(max_size=20) | st.lists(st.integers(), max_size=4)
)
bodies = st.binary(max_size=300) | st.integers(60_000, 140_000).map(lambda n: bytes(n // 7) * 7)
sent_frames = st.tuples(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), metas, bodies)


def place(frame: Frame) -> memoryview:
    return memoryview(bytearray(frame.body_bytes))


def encode(frames: list[Sent]) -> bytes:
    return b"".join(pack(kind, request, epoch, meta, len(body)) + body for kind, request, epoch, meta, body in frames)


def feed(reader: FrameReader, data: bytes, cuts: list[int]) -> list[Frame]:
    """Give the bytes to the reader, as a socket would: at most so many at a time as it has room for."""
    frames: list[Frame] = []
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        piece = memoryview(data)[start:stop]
        while piece:
            room = reader.buffer()
            assert room
            n_bytes = min(len(room), len(piece))
            room[:n_bytes] = piece[:n_bytes]
            frames += reader.advance(n_bytes)
            piece = piece[n_bytes:]
    return frames


def as_sent(frame: Frame) -> Sent:
    return frame.kind, frame.request, frame.epoch, frame.meta, bytes(frame.body)


@given(st.data(), st.lists(sent_frames, max_size=6))
def test_frames_survive_any_cuts(data: st.DataObject, frames: list[Sent]) -> None:
    stream = encode(frames)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20).map(sorted))
    assert [as_sent(frame) for frame in feed(FrameReader(place), stream, cuts)] == frames


@given(st.lists(sent_frames, min_size=1, max_size=3))
def test_frames_survive_single_bytes(frames: list[Sent]) -> None:
    frames = [(*frame[:4], frame[4][:50]) for frame in frames]
    stream = encode(frames)
    assert [as_sent(f) for f in feed(FrameReader(place), stream, list(range(len(stream))))] == frames


@given(st.data(), st.lists(sent_frames, max_size=6))
def test_discarded_bodies_leave_the_rest_whole(data: st.DataObject, frames: list[Sent]) -> None:
    stream = encode(frames)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=9).map(sorted))
    wanted = data.draw(st.sets(st.integers(0, 2**32 - 1) | st.sampled_from([f[1] for f in frames] or [0])))
    reader = FrameReader(lambda frame: place(frame) if frame.request in wanted else None)
    got = feed(reader, stream, cuts)
    assert [as_sent(frame) for frame in got] == [frame if frame[1] in wanted else (*frame[:4], b"") for frame in frames]
    assert [frame.body_bytes for frame in got] == [len(frame[4]) for frame in frames]


@given(st.data(), st.binary(min_size=2, max_size=200))
def test_a_body_can_be_discarded_half_way(data: st.DataObject, body: bytes) -> None:
    frames: list[Sent] = [(Kind.DATA, 1, 0, {}, body), (Kind.DATA, 2, 0, {}, b"next")]
    stream = encode(frames)
    cut = data.draw(st.integers(HEADER_BYTES, HEADER_BYTES + len(body) - 1))
    reader = FrameReader(place)
    assert feed(reader, stream[:cut], []) == []
    reader.discard_body()
    first, second = feed(reader, stream[cut:], [])
    assert (first.body_bytes, bytes(first.body)) == (len(body), b"")
    assert as_sent(second) == frames[1]


def test_discarding_nothing_changes_nothing() -> None:
    reader = FrameReader(place)
    reader.discard_body()
    frame: Sent = (Kind.DATA, 1, 2, {}, b"abc")
    assert [as_sent(f) for f in feed(reader, encode([frame]), [])] == [frame]


def test_a_long_body_is_received_in_place() -> None:
    body = bytes(range(256)) * 4096
    target = memoryview(bytearray(len(body)))
    reader = FrameReader(lambda frame: target)
    head = pack(Kind.CHUNK, 1, 1, {"chunk": []}, len(body))
    feed(reader, head + body[:1000], [])
    assert len(reader.buffer()) == len(body) - 1000  # straight into the target, not through a scratch buffer
    (frame,) = feed(reader, body[1000:], [])
    assert frame.body is target
    assert bytes(target) == body


@given(st.data(), st.binary(max_size=400))
def test_garbage_is_a_protocol_error_and_nothing_else(data: st.DataObject, garbage: bytes) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(garbage)), max_size=5).map(sorted))
    with contextlib.suppress(ProtocolError):
        feed(FrameReader(place), garbage, cuts)


@given(
    st.lists(sent_frames, min_size=1, max_size=3), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1)
)
def test_damaged_frames_are_a_protocol_error_and_nothing_else(
    frames: list[Sent], damages: list[tuple[int, int]]
) -> None:
    stream = bytearray(encode([(*frame[:4], frame[4][:50]) for frame in frames]))
    for where, value in damages:
        stream[where % len(stream)] = value
    with contextlib.suppress(ProtocolError):
        feed(FrameReader(place), bytes(stream), [])


@given(st.binary(max_size=100))
def test_meta_of_any_bytes(meta: bytes) -> None:
    header = bytearray(pack(Kind.PING, 1, 1))
    header[12:16] = len(meta).to_bytes(4, "little")
    try:
        (frame,) = feed(FrameReader(place), bytes(header) + meta, [])
    except ProtocolError:
        return
    assert frame.meta == (json.loads(meta) if meta else {})


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        (b"\x63" + pack(Kind.PING)[1:], "kind 99"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", "no frame starts with"),
        (pack(Kind.PING)[:12] + (MAX_META_BYTES + 1).to_bytes(4, "little") + bytes(4), "too long"),
        (pack(Kind.PING)[:16] + (SEGMENT_BYTES + 1).to_bytes(4, "little"), "too long"),
        (pack(Kind.PING)[:12] + (2).to_bytes(4, "little") + bytes(4) + b"[]", "not an object"),
        (pack(Kind.PING)[:12] + (2).to_bytes(4, "little") + bytes(4) + b"{]", "not JSON"),
        (pack(Kind.PING)[:12] + (200_000).to_bytes(4, "little") + bytes(4) + b"[" * 200_000, "not JSON"),
    ],
)
def test_what_is_wrong_is_said(header: bytes, complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        feed(FrameReader(place), header, [])


def test_a_place_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(ProtocolError, match="a place of 3 bytes for a body of 4"):
        feed(FrameReader(lambda frame: memoryview(bytearray(3))), encode([(Kind.DATA, 1, 1, {}, b"1234")]), [])


@pytest.mark.parametrize(
    ("meta", "body_bytes"), [({"a": "x" * MAX_META_BYTES}, 0), (None, SEGMENT_BYTES + 1), (None, -1)]
)
def test_too_long_a_frame_is_not_packed(meta: dict[str, Any] | None, body_bytes: int) -> None:
    with pytest.raises(ProtocolError, match="too long"):
        pack(Kind.DATA, 1, 1, meta, body_bytes)


def test_the_bytes_of_a_frame_do_not_change() -> None:
    """Shards and nodes of different releases meet: a running node keeps the code it was deployed with."""
    assert pack(Kind.FETCH, 7, 3, {"chunk_id": ["k", 1, 2]}, 0).hex() == (
        "15005249030000000700000016000000000000007b226368756e6b5f6964223a5b226b222c312c325d7d"
    )


# ---------------------------------------------------------------- frozen vectors


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["kind"] for vector in VECTORS])
def test_frozen_vectors(vector: dict[str, Any]) -> None:
    kind, body, data = Kind[vector["kind"]], bytes.fromhex(vector["body"]), bytes.fromhex(vector["frame"])
    assert encode([(kind, vector["request"], vector["epoch"], vector["meta"], body)]) == data
    (frame,) = feed(FrameReader(place), data, [])
    assert (frame.kind, frame.request, frame.epoch, bytes(frame.body)) == (
        kind, vector["request"], vector["epoch"], body
    )  # fmt: skip
    assert frame.meta == (vector["meta"] or {})


def test_there_is_a_vector_for_every_kind() -> None:
    assert {vector["kind"] for vector in VECTORS} == {kind.name for kind in Kind}
