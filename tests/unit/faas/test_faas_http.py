"""HTTP messages out of bytes, however these are cut."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infiniray.faas.http import HttpError, Message, MessageReader, answer

MAX = 1000
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A:  b c \r\n\r\nhello"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"
REQUEST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
BODILESS_REQUEST = b"GET /next HTTP/1.1\r\nHost: h\r\n\r\n"


def read(pieces: list[bytes], *, answers: bool = True, is_cut: bool = False) -> list[Message]:
    reader = MessageReader(reads_answers=answers, max_body_bytes=MAX, is_cut=is_cut)
    messages = []
    for piece in pieces:
        reader.feed(piece)
        while (message := reader.next()) is not None:
            messages.append(message)
    assert len(reader) == 0
    return messages


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:stop] for start, stop in pairwise(bounds)]


@given(st.lists(st.integers(0, 10_000), max_size=40))
def test_answers_are_the_same_however_they_are_cut(places: list[int]) -> None:
    messages = read(cut(PLAIN + INTERIM + CHUNKED + EMPTY + PLAIN, places))
    assert [(m.status, m.body) for m in messages] == [
        (200, b"hello"), (200, b"abc0123456789"), (204, b""), (200, b"hello"),
    ]  # fmt: skip
    assert messages[0].headers == {"content-length": "5", "x-a": "b c"}


@given(st.lists(st.integers(0, 10_000), max_size=40))
def test_requests_are_the_same_however_they_are_cut(places: list[int]) -> None:
    messages = read(cut(REQUEST + BODILESS_REQUEST + REQUEST, places), answers=False)
    assert [(m.start.split()[0], m.body) for m in messages] == [("POST", b"{}"), ("GET", b""), ("POST", b"{}")]


@given(st.lists(st.integers(0, 10_000), max_size=20), st.integers(0, 3 * MAX), st.booleans())
def test_long_bodies_are_cut_where_that_is_asked_for(places: list[int], n_bytes: int, is_chunked: bool) -> None:
    body = bytes(i % 251 for i in range(n_bytes))
    if is_chunked:
        parts = [body[i : i + 700] for i in range(0, n_bytes, 700)]
        sent = b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in parts) + b"0\r\n\r\n"
        head = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    else:
        sent, head = body, f"POST / HTTP/1.1\r\nContent-Length: {n_bytes}\r\n\r\n".encode()
    pieces = cut(head + sent + REQUEST, places)
    assert [m.body for m in read(pieces, answers=False, is_cut=True)] == [body[:MAX], b"{}"]
    if n_bytes > MAX:
        with pytest.raises(HttpError, match="more than 1000"):
            read(pieces, answers=False)


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    reader = MessageReader(reads_answers=True, max_body_bytes=MAX)
    assert reader.ended() is None
    reader.feed(b"HTTP/1.1 502 Bad Gateway\r\n\r\nsorry")
    assert reader.next() is None
    message = reader.ended()
    assert message is not None
    assert (message.status, message.body) == (502, b"sorry")


@pytest.mark.parametrize("whole", [PLAIN, CHUNKED])
def test_a_connection_that_ends_in_a_body_of_known_length_delivers_nothing(whole: bytes) -> None:
    reader = MessageReader(reads_answers=True, max_body_bytes=MAX)
    reader.feed(whole[:-3])
    assert reader.next() is None
    assert reader.ended() is None


@pytest.mark.parametrize(
    "garbage",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffff\r\n",
        b"HTTP/1.1 200 OK\r\nno header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n folded: line\r\n\r\n",
        b"x" * (65 << 10),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * (65 << 10),
    ],
)
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(HttpError):
        read([garbage])


def test_no_status_in_what_is_no_answer() -> None:
    for start in ("SSH-2.0-OpenSSH", "HTTP/1.1 abc", "HTTP/1.1 20"):
        with pytest.raises(HttpError):
            _ = Message(start, {}, b"").status


def test_whether_a_connection_is_kept() -> None:
    assert Message("HTTP/1.1 200 OK", {}, b"").keeps
    assert not Message("HTTP/1.1 200 OK", {"connection": "Close"}, b"").keeps
    assert not Message("HTTP/1.0 200 OK", {}, b"").keeps


def test_an_answer_is_read_as_it_was_made() -> None:
    (message,) = read([answer(429, {"Retry-After": "3"}, b"{}")])
    assert message.start == "HTTP/1.1 429 Too Many Requests"
    assert (message.status, message.headers, message.body) == (429, {"retry-after": "3", "content-length": "2"}, b"{}")
