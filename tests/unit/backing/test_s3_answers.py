"""An S3 that is up and yet of no use: silent, overloaded, refusing, or cut off in the middle of an answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from backing_doubles import KEYS  # type: ignore[import-not-found]

from infiniray.backing import s3
from infiniray.backing.s3 import S3Store
from infiniray.backing.store import Refused, Stat, Unreachable

DATA = bytes(range(100))
STAT = Stat(n_bytes=len(DATA), version='"v1"')
PATIENCE_S = 60.0


@dataclass
class Moody:
    """What the server answers, and what it was asked."""

    status: int = 200
    code: str = ""
    #: how far its clock is from ours
    ahead_s: float = 0.0
    #: of each body it sends only so many bytes, and hangs up
    cut_at: int | None = None
    may_answer: threading.Event = field(default_factory=threading.Event)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def moody() -> Iterator[tuple[Moody, S3Store]]:
    mood = Moody()
    mood.may_answer.set()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def date_time_string(self, timestamp: float | None = None) -> str:
            return formatdate(time.time() + mood.ahead_s, usegmt=True)

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            mood.asked.append(self.command)
            assert mood.may_answer.wait(PATIENCE_S)
            body = DATA if self.command in ("GET", "HEAD") else b""
            if mood.status != 200:
                body = f"<Error><Code>{mood.code}</Code></Error>".encode()
            self.send_response(mood.status)
            self.send_header("ETag", STAT.version)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: mood.cut_at])
            self.close_connection = mood.cut_at is not None

        do_GET = do_HEAD = do_PUT = do_DELETE = _answer

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    options = {"endpoint_url": f"http://127.0.0.1:{server.server_address[1]}", **KEYS}
    store = S3Store.of("bucket", options, timeout_s=PATIENCE_S)
    yield mood, store
    mood.may_answer.set()
    store.close()
    server.shutdown()
    server.server_close()
    thread.join()


def verbs(store: S3Store) -> list[Any]:
    return [
        lambda: store.stat("a"),
        lambda: store.read("a", STAT),
        lambda: store.write("a", [memoryview(DATA)]),
        lambda: store.delete("a"),
    ]


def test_it_works_as_long_as_the_server_does(moody: tuple[Moody, S3Store]) -> None:
    _, store = moody
    assert store.stat("a") == STAT
    assert store.read("a", STAT).tobytes() == DATA
    for verb in verbs(store):
        verb()


@pytest.mark.parametrize(
    ("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (400, "RequestTimeout"), (429, "Throttling")]
)
def test_what_passes_is_unreachable_and_then_works_again(
    moody: tuple[Moody, S3Store], monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    mood, store = moody
    monkeypatch.setattr("botocore.retries.standard.time.sleep", lambda _: None)
    mood.status, mood.code = status, code
    for verb in verbs(store)[1:]:  # a HEAD has no body, so no code
        mood.asked.clear()
        with pytest.raises(Unreachable, match=code):
            verb()
        assert 1 <= len(mood.asked) <= s3._ATTEMPTS
    mood.status = 200
    assert store.read("a", STAT).tobytes() == DATA


def test_a_server_that_says_nothing_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, moody: tuple[Moody, S3Store]
) -> None:
    mood, patient = moody
    mood.may_answer.clear()
    options = {"endpoint_url": patient._client.meta.endpoint_url, **KEYS}
    store = S3Store.of("bucket", options, timeout_s=0.05)
    for verb in verbs(store):
        with pytest.raises(Unreachable, match="ReadTimeout"):
            verb()
    assert len(mood.asked) > len(verbs(store))  # it was asked again
    store.close()


def test_an_answer_that_ends_early_is_unreachable_not_a_short_value(moody: tuple[Moody, S3Store]) -> None:
    mood, store = moody
    mood.cut_at = 40
    with pytest.raises(Unreachable):
        store.read("a", STAT)
    mood.cut_at = None
    assert store.read("a", STAT).tobytes() == DATA


@pytest.mark.parametrize(
    ("status", "code", "ahead_s", "says"),
    [
        (403, "AccessDenied", 0, "s3:GetObject"),
        (403, "InvalidAccessKeyId", 0, "credentials"),
        (400, "ExpiredToken", 0, "credentials"),
        (403, "RequestTimeTooSkewed", 7200, r"clock, with NTP \(it is off by -7[12]\d\d s"),
        (405, "MethodNotAllowed", 0, "MethodNotAllowed"),
    ],
)
def test_a_refusal_says_what_it_is_about_and_is_not_repeated(
    moody: tuple[Moody, S3Store], status: int, code: str, ahead_s: float, says: str
) -> None:
    mood, store = moody
    mood.status, mood.code, mood.ahead_s = status, code, ahead_s
    with pytest.raises(Refused, match=says):
        store.read("a", STAT)
    assert len(mood.asked) == 1


def test_a_clock_that_is_off_is_found_at_once_though_a_head_says_nothing(moody: tuple[Moody, S3Store]) -> None:
    mood, store = moody
    mood.status = 403
    store.check()  # who may not list may be allowed to read
    mood.ahead_s = -3600.0
    for look in (store.check, lambda: store.stat("a")):
        with pytest.raises(Refused, match="with NTP"):
            look()
