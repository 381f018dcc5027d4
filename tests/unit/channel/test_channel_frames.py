"""The channel's frames: whole, in pieces, too long, and not frames at all."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infiniray.channel.frames import HEADER_BYTES, Frame, FrameReader, Kind, pack
from infiniray.errors import FrameError

SCRATCH = 64
MAX_META, MAX_BODY = 500, 5000


def reader() -> FrameReader:
    return FrameReader(
        lambda kind, meta, n_bytes: memoryview(bytearray(n_bytes)),
        max_meta_bytes=MAX_META, max_body_bytes=MAX_BODY, scratch_bytes=SCRATCH,
    )  # fmt: skip


def read(reader: FrameReader, sent: bytes, most: int = 1 << 20) -> list[Frame]:
    """All frames of ``sent``, received at most so many bytes at a time."""
    frames: list[Frame] = []
    while sent:
        buffer = reader.buffer()
        n_bytes = min(len(buffer), len(sent), most)
        buffer[:n_bytes] = sent[:n_bytes]
        sent = sent[n_bytes:]
        frames += reader.advance(n_bytes)
    return frames


MESSAGES: list[tuple[Kind, list[Any], bytes]] = [
    (Kind.GET, [1, 2.5, ["a", "b"]], b""),
    (Kind.PUT, [1, 2.5, [["k", "h", "r", None, False, 700]]], bytes(range(100)) * 7),
    (Kind.GOODBYE, [], b""),
    (Kind.VALUE, [0, "x" * 300], b"1"),  # a head that is longer than the scratch
    (Kind.DENIED, [], b""),
]


def told(messages: list[tuple[Kind, list[Any], bytes]]) -> bytes:
    return b"".join(pack(kind, meta, len(body)) + body for kind, meta, body in messages)


@pytest.mark.parametrize("most", [1, 2, 15, 16, 17, 63, 64, 1000])
def test_frames_arrive_whole_however_they_are_cut(most: int) -> None:
    frames = read(reader(), told(MESSAGES), most)
    assert [(frame.kind, frame.meta, bytes(frame.body)) for frame in frames] == MESSAGES


ANY_MESSAGE = st.tuples(
    st.sampled_from(list(Kind)), st.lists(st.text(max_size=20), max_size=3), st.binary(max_size=400)
)


@given(st.lists(ANY_MESSAGE, max_size=6), st.integers(1, 200))
def test_any_frames_in_any_pieces(messages: list[tuple[Kind, list[Any], bytes]], most: int) -> None:
    whole = reader()
    frames = read(whole, told(messages), most)
    assert [(frame.kind, frame.meta, bytes(frame.body)) for frame in frames] == messages
    assert whole.is_between


def test_half_a_frame_is_none() -> None:
    sent = told(MESSAGES[:2])
    for cut in range(1, len(sent)):
        half = reader()
        assert len(read(half, sent[:cut])) == (0 if cut < len(told(MESSAGES[:1])) else 1)
        assert half.is_between == (cut == len(told(MESSAGES[:1])))


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(HEADER_BYTES),
        struct.pack("<HBxIQ", 0x4943, Kind.GET, MAX_META + 1, 0),
        struct.pack("<HBxIQ", 0x4943, Kind.GET, 0, MAX_BODY + 1),
        struct.pack("<HBxIQ", 0x4943, Kind.GET, 4, 0) + b"nope",
        struct.pack("<HBxIQ", 0x4943, Kind.GET, 2, 0) + b"{}",
        struct.pack("<HBxIQ", 0x4943, Kind.GET, 400, 0) + b"[" * 400,
    ],
)
def test_garbage_is_refused_before_anything_is_kept_for_it(garbage: bytes) -> None:
    def place(kind: int, meta: Any, n_bytes: int) -> Any:
        raise AssertionError("memory was asked for")

    strict = FrameReader(place, max_meta_bytes=MAX_META, max_body_bytes=MAX_BODY, scratch_bytes=SCRATCH)
    with pytest.raises(FrameError):
        read(strict, garbage)


@given(st.binary(max_size=300))
def test_nothing_but_frame_errors_comes_of_noise(noise: bytes) -> None:
    with contextlib.suppress(FrameError):
        read(reader(), noise)
