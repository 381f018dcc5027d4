"""Who gets in at a shard's port, and what becomes of the others."""

from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
from node_peer import NodePeer, soon, until
from script import Stage

from infiniray.core import events as ev
from infiniray.runtime import listener
from infiniray.wire.frames import MAX_META_BYTES, Kind, pack

WITH_TLS_TOO = True  # see conftest


def refused(stage: Stage) -> dict[str, int]:
    return dict(stage.driver.stats()["connections_refused"])


async def assert_refused(stage: Stage, peer: NodePeer, why: str) -> None:
    """Hung up on, perhaps after a challenge; counted once, and nothing else happened."""
    assert await peer.is_hung_up() or await peer.is_hung_up()
    assert refused(stage) == {why: 1}
    assert not stage.script.seen
    assert stage.driver.stats()["links"] == 0


async def test_a_node_that_proves_itself_is_let_in(stage: Stage) -> None:
    peer = await stage.dial()
    welcome = await peer.greet(instance="i7", session="s9", spans=[[1, 4], [6, 6]])
    opened = await stage.script.next(ev.LinkOpened)
    assert welcome.epoch == 7
    assert (opened.node, opened.instance, opened.session) == ("n0", "i7", "s9")
    assert list(opened.spans) == [(1, 4), (6, 6)]
    assert refused(stage) == {}


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n" * 8,
        bytes(64),
        pack(Kind.HELLO)[:8] + b"\xff" * 12,  # lengths beyond all bounds
        pack(Kind.HELLO, meta={"node": "n0"}, body_bytes=100),  # nobody sends bodies before the proof
        pack(Kind.PONG, meta={"session": "s0"}),
        pack(Kind.HELLO),
        pack(Kind.HELLO, meta={"node": 7, "instance": "i", "session": "s", "nonce": "n"}),
        pack(Kind.HELLO, meta={"node": "n" * 5000, "instance": "i", "session": "s", "nonce": "n"}),
        pack(Kind.HELLO, meta={"padding": "x" * (MAX_META_BYTES // 2)}),
        pack(Kind.PONG) * 2,
    ],
    ids=["text", "zeros", "lengths", "body", "kind", "empty", "types", "long-name", "long-meta", "two"],
)
async def test_garbage_is_hung_up_on(stage: Stage, said: bytes) -> None:
    peer = await stage.dial()
    await peer.challenge()
    await peer.send_raw(said)
    await assert_refused(stage, peer, "not a frame")


@pytest.mark.parametrize("spans", [None, 3, [[5, 1]], [["a", "b"]], [[1, 1]] * 300])
async def test_spans_that_are_none_are_hung_up_on(stage: Stage, spans: Any) -> None:
    peer = await stage.dial()
    await peer.send(Kind.HELLO, meta=peer.hello(await peer.challenge(), spans=spans))
    await assert_refused(stage, peer, "not a frame")


async def test_who_does_not_know_the_secret_is_hung_up_on(stage: Stage) -> None:
    peer = await stage.dial()
    await peer.send(Kind.HELLO, meta=peer.hello(await peer.challenge(), secret=b"another"))
    await assert_refused(stage, peer, "wrong proof")


@pytest.mark.parametrize("mac", [None, 5, "", "\ud800", "0" * 64])
async def test_a_proof_that_is_none_is_hung_up_on(stage: Stage, mac: Any) -> None:
    peer = await stage.dial()
    await peer.send(Kind.HELLO, meta={**peer.hello(await peer.challenge()), "mac": mac})
    await assert_refused(stage, peer, "wrong proof")


async def test_a_recorded_hello_is_worth_nothing(stage: Stage) -> None:
    first, second = await stage.dial(), await stage.dial()
    recorded = first.hello(await first.challenge())
    await second.challenge()
    await second.send(Kind.HELLO, meta=recorded)
    await assert_refused(stage, second, "wrong proof")


async def test_a_proof_is_for_one_name_only(stage: Stage) -> None:
    peer = await stage.dial()
    hello = peer.hello(await peer.challenge())
    await peer.send(Kind.HELLO, meta={**hello, "node": "n1"})
    await assert_refused(stage, peer, "wrong proof")


async def test_a_node_of_another_shard_is_hung_up_on(stage: Stage) -> None:
    peer = await stage.dial(node="n2")
    await peer.send(Kind.HELLO, meta=peer.hello(await peer.challenge()))
    await assert_refused(stage, peer, "unknown node")


async def test_who_says_nothing_is_hung_up_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_TIMEOUT_S", 0.01)
    peer = await stage.dial(certificate="")  # nor does it begin TLS
    await assert_refused(stage, peer, "too slow")


async def test_who_hangs_up_is_forgotten(stage: Stage) -> None:
    peer = await stage.dial()
    await peer.challenge()
    peer.close()
    await until(lambda: bool(refused(stage)))
    assert refused(stage) == {"hung up": 1}


async def test_there_is_a_limit_to_strangers_at_the_door(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_STRANGERS", 2)
    first, second = await stage.dial(), await stage.dial()
    nonces = [await first.challenge(), await second.challenge()]
    third = await stage.dial(certificate="")
    await assert_refused(stage, third, "too many")
    await first.send(Kind.HELLO, meta=first.hello(nonces[0]))  # those who were there are not disturbed
    await first.expect(Kind.WELCOME)
    await stage.script.next(ev.LinkOpened)
    fourth = await stage.dial()  # and who got in no longer counts
    await fourth.greet(node="n1")


async def test_closing_hangs_up_on_strangers(stage: Stage) -> None:
    peer = await stage.dial()
    await peer.challenge()
    await soon(stage.driver.close())
    assert await peer.is_hung_up()


async def test_closing_hangs_up_on_strangers_who_have_just_come(stage: Stage) -> None:
    """Their tasks have not begun."""
    host, _, number = stage.driver.address.rpartition(":")
    with socket.create_connection((host, int(number))) as connection:  # the event loop does not run meanwhile
        port = stage.driver._listener
        assert port._socket is not None
        port._accept(port._socket)
        assert port._strangers
        await stage.driver.close()  # itself: a task for it would let theirs begin
        connection.setblocking(False)
        assert await NodePeer(connection).is_hung_up()


async def test_running_out_of_descriptors_is_outlived(stage: Stage) -> None:
    class Exhausted:
        def accept(self) -> None:
            raise OSError(errno.EMFILE, "too many open files")

        def fileno(self) -> int:
            assert stage.driver._listener._socket is not None
            return stage.driver._listener._socket.fileno()

    stage.driver._listener._accept(Exhausted())  # type: ignore[arg-type]
    assert refused(stage) == {"accept": 1}
    stage.driver._listener._pause.cancel()  # type: ignore[union-attr]
    assert stage.driver._listener._socket is not None
    stage.driver._listener._resume(stage.driver._listener._socket)
    peer = await stage.dial()
    await peer.greet()


async def test_closing_closes_the_port(stage: Stage) -> None:
    await soon(stage.driver.close())
    with pytest.raises(ConnectionRefusedError):
        await stage.dial()
