"""TLS as a stream: what a socket's user relies on, and whom it lets through."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from infiniray.runtime.certificates import ShardCertificate, new_certificate
from infiniray.wire.tls import TlsStream, WrongCertificate, fingerprint_of, secure

DEADLINE_S = 10.0
#: Of one TLS record, at most: RFC 8446 section 5.1.
RECORD_BYTES = 16 << 10


@pytest.fixture(scope="module")
def certificate() -> ShardCertificate:
    return new_certificate()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a TCP connection, the dialled one first."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        dialler = socket.create_connection(server.getsockname(), timeout=DEADLINE_S)
        dialled, _ = server.accept()
    dialled.settimeout(DEADLINE_S)
    yield dialled, dialler
    dialled.close()
    dialler.close()


class Aside:
    """Something done meanwhile, in a thread."""

    def __init__(self, act: Callable[[], Any]) -> None:
        self._act, self._outcome = act, list[Any]()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._outcome.append(self._act())
        except Exception as error:
            self._outcome.append(error)

    def outcome(self) -> Any:
        """What came of it; an error is a result, too."""
        self._thread.join(DEADLINE_S)
        return self._outcome[0]


@pytest.fixture
def streams(
    pair: tuple[socket.socket, socket.socket], certificate: ShardCertificate
) -> Iterator[tuple[TlsStream, TlsStream]]:
    """The shard's end and the node's."""
    dialled, dialler = pair
    shown = Aside(lambda: certificate.context.wrap_socket(dialled, server_side=True))
    node = secure(dialler, certificate.fingerprint, time.monotonic() + DEADLINE_S)
    secured: ssl.SSLSocket = shown.outcome()
    secured.setblocking(False)
    shard = TlsStream(secured)
    yield shard, node
    shard.close()
    node.close()


def receive(stream: TlsStream, n_bytes: int) -> bytes:
    """So many bytes, in as many turns as it takes."""
    buffer, n_received = bytearray(n_bytes), 0
    give_up_s = time.monotonic() + DEADLINE_S
    while n_received < n_bytes:
        try:
            n = stream.recv_into(memoryview(buffer)[n_received:])
        except BlockingIOError:
            assert time.monotonic() < give_up_s
            time.sleep(0.001)
            continue
        assert n
        n_received += n
    return bytes(buffer)


def eventually(call: Callable[[], Any]) -> Any:
    give_up_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            return call()
        except BlockingIOError:
            assert time.monotonic() < give_up_s
            time.sleep(0.001)


def hangs_up(call: Callable[[], Any]) -> bool:
    """Whether a read ends with the connection: with nothing, or with its error."""
    try:
        return not eventually(call)
    except ConnectionError:
        return True


def test_less_than_fits_means_that_there_is_no_more(streams: tuple[TlsStream, TlsStream]) -> None:
    """Many records at once, where TLS hands out one at a time."""
    shard, node = streams
    data = np.random.default_rng(0).bytes(5 * RECORD_BYTES + 7)
    assert shard.sendmsg([memoryview(data)]) == len(data)
    first = receive(node, 1)
    assert node.has_buffered  # of which no poll tells
    time.sleep(0.05)  # all is there
    rest = memoryview(bytearray(2 * len(data)))
    assert node.recv_into(rest) == len(data) - 1
    assert first + bytes(rest[: len(data) - 1]) == data
    assert not node.has_buffered
    with pytest.raises(BlockingIOError):
        node.recv_into(rest)


def test_what_is_not_taken_is_given_again(streams: tuple[TlsStream, TlsStream]) -> None:
    """Nobody reads: the writer is told how far it came, at last not at all, and goes on where it was."""
    shard, node = streams
    data = np.random.default_rng(1).bytes(16 << 20)
    left, refusals, received = [memoryview(data[:100]), memoryview(data[100:])], 0, bytearray()
    while left:
        try:
            n_bytes = node.sendmsg(left)
        except BlockingIOError:
            refusals += 1
            received += receive(shard, 100_001)  # records are cut where they like
            continue
        assert n_bytes > 0
        while left and n_bytes >= len(left[0]):
            n_bytes -= len(left.pop(0))
        if left:
            left[0] = left[0][n_bytes:]
    assert refusals > 10
    received += receive(shard, len(data) - len(received))
    assert bytes(received) == data


def test_bytes_before_a_hang_up_are_delivered_before_it_is_said(streams: tuple[TlsStream, TlsStream]) -> None:
    shard, node = streams
    assert node.peek()
    shard.sendmsg([memoryview(b"last words")])
    shard.close()
    assert receive(node, 10) == b"last words"
    assert hangs_up(lambda: node.recv_into(memoryview(bytearray(10))))


def test_what_somebody_else_writes_into_it_is_not_received(
    streams: tuple[TlsStream, TlsStream], pair: tuple[socket.socket, socket.socket]
) -> None:
    """Who can write on the network cannot forge a byte."""
    shard, node = streams
    forger = socket.socket(fileno=socket.dup(shard.fileno()))
    with forger:
        forger.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))  # a record, but for the key
    with pytest.raises(ssl.SSLError):
        eventually(lambda: node.recv_into(memoryview(bytearray(100))))


def test_what_was_changed_on_its_way_is_refused(
    pair: tuple[socket.socket, socket.socket], certificate: ShardCertificate
) -> None:
    """A bit of a byte of a chunk, by somebody in between."""
    dialled, dialler = pair
    near, far = socket.socketpair()
    flips = threading.Event()

    def carry(source: socket.socket, target: socket.socket, changes: bool) -> None:
        while data := bytearray(source.recv(1 << 16)):
            if changes and flips.is_set():
                data[-1] ^= 1
            target.sendall(data)

    carriers = [Aside(lambda: carry(far, dialler, False)), Aside(lambda: carry(dialler, far, True))]
    shown = Aside(lambda: certificate.context.wrap_socket(dialled, server_side=True))
    node = secure(near, certificate.fingerprint, time.monotonic() + DEADLINE_S)
    shard: ssl.SSLSocket = shown.outcome()
    try:
        shard.sendall(b"as it was")
        assert receive(node, 9) == b"as it was"
        flips.set()
        shard.sendall(b"as it was")
        with pytest.raises(ssl.SSLError):
            eventually(lambda: node.recv_into(memoryview(bytearray(100))))
    finally:
        node.close()
        shard.close()
        for carrier in carriers:
            carrier.outcome()
        far.close()


def test_another_certificate_is_refused_whatever_it_is_called(
    pair: tuple[socket.socket, socket.socket], certificate: ShardCertificate
) -> None:
    dialled, dialler = pair
    another = new_certificate()
    assert another.fingerprint != certificate.fingerprint
    shown = Aside(lambda: another.context.wrap_socket(dialled, server_side=True))
    with pytest.raises(WrongCertificate):
        secure(dialler, certificate.fingerprint, time.monotonic() + DEADLINE_S)
    secured: ssl.SSLSocket = shown.outcome()  # to whom nothing is said
    assert dialler.fileno() == -1
    with secured:
        assert hangs_up(lambda: secured.recv(1))


def test_older_versions_are_refused(pair: tuple[socket.socket, socket.socket], certificate: ShardCertificate) -> None:
    dialled, dialler = pair
    shown = Aside(lambda: certificate.context.wrap_socket(dialled, server_side=True))
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        old.wrap_socket(dialler)
    assert isinstance(shown.outcome(), ssl.SSLError)


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_who_speaks_no_tls_is_left_in_time(pair: tuple[socket.socket, socket.socket], says: bytes) -> None:
    dialled, dialler = pair
    dialled.sendall(says)
    began_s = time.monotonic()
    with pytest.raises(ssl.SSLError if says else TimeoutError):
        secure(dialler, "00" * 32, began_s + 0.1)
    assert dialler.fileno() == -1


def test_a_certificate_is_made_anew_each_time_and_needs_no_file(certificate: ShardCertificate) -> None:
    another = new_certificate()
    assert another.fingerprint != certificate.fingerprint
    assert len(certificate.fingerprint) == len(fingerprint_of(b"")) == 64
    assert certificate.context.minimum_version is ssl.TLSVersion.TLSv1_3
