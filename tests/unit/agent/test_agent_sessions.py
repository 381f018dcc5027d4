"""Sessions one after the other: kept connections, linger, BYE, lost links, the end of the time."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from invoker import LONG_MS, Agent
from shard_peer import ShardPeer, chunk_info

from infiniray.wire.frames import SEGMENT_BYTES, Kind, pack
from lambda_agent import handler, link
from lambda_agent import session as session_module
from lambda_agent.store import ChunkStore, cost_bytes

S = 10
BIG = b"x" * (8 * SEGMENT_BYTES)


def first_session(agent: Agent, shard: ShardPeer) -> dict[str, Any]:
    """A session that leaves its connection open."""
    result = agent.invoke(shard.address, linger_ms=0)
    shard.greet()
    shard.expect(Kind.BYE)
    return result.result(S)


def test_bye_names_the_session_and_nothing_follows(agent: Agent, shard: ShardPeer) -> None:
    result = agent.invoke(shard.address, session="abc", linger_ms=20)
    shard.greet()
    bye = shard.expect(Kind.BYE)
    assert bye.meta == {"session": "abc"}
    summary = result.result(S)
    assert summary["linger_ms"] > 0
    agent.close()
    assert shard.is_hung_up()


def test_data_sent_between_sessions_is_served_in_the_next(agent: Agent, shard: ShardPeer) -> None:
    first = first_session(agent, shard)
    info = chunk_info("a", b"abc", seq=1)
    shard.send_store(1, info, b"abc")
    shard.send_fetch(2, info.id)
    result = agent.invoke(shard.address, session="next", linger_ms=0)
    pong = shard.expect(Kind.PONG)
    assert (pong.request, pong.meta) == (0, {"session": "next"})
    shard.expect(Kind.STORED, 1)
    assert shard.receive_chunk(2) == (info, b"abc")
    assert shard.expect(Kind.BYE).meta == {"session": "next"}
    second = result.result(S)
    assert not shard.has_caller()
    assert second["instance"] == first["instance"]
    assert (second["requests"], second["n_chunks"]) == (2, 1)
    assert 0 < second["bytes_in"] < first["bytes_in"] + 400  # this session's only


def test_a_frame_cut_by_the_end_of_a_session_is_whole_in_the_next(agent: Agent, shard: ShardPeer) -> None:
    frame = pack(Kind.PING, 5, 1)
    result = agent.invoke(shard.address, linger_ms=30)
    shard.greet()
    shard.send_raw(frame[:7])
    shard.expect(Kind.BYE)
    result.result(S)
    shard.send_raw(frame[7:])
    result = agent.invoke(shard.address, linger_ms=0)
    shard.expect(Kind.PONG, 0)
    shard.expect(Kind.PONG, 5)
    shard.expect(Kind.BYE)
    result.result(S)


def test_a_dead_link_is_dialled_anew(agent: Agent, shard: ShardPeer) -> None:
    first_session(agent, shard)
    shard.hang_up()
    result = agent.invoke(shard.address)
    hello = shard.greet()
    assert hello.meta["n_chunks"] == 0
    shard.hang_up()
    result.result(S)


def test_a_link_that_dies_in_a_later_session_is_dialled_anew_once(agent: Agent, shard: ShardPeer) -> None:
    first_session(agent, shard)
    result = agent.invoke(shard.address)
    shard.expect(Kind.PONG)
    info = chunk_info("a", b"abc", seq=1)
    shard.store(1, info, b"abc")
    shard.hang_up()
    assert shard.greet().meta["n_chunks"] == 1
    shard.hang_up()
    summary = result.result(S)
    assert not shard.has_caller()
    assert summary["requests"] == 1


def test_another_address_means_another_link(agent: Agent, shard: ShardPeer) -> None:
    first_session(agent, shard)
    other = ShardPeer(shard.secret)
    try:
        result = agent.invoke(other.address, linger_ms=0)
        other.greet()
        other.expect(Kind.BYE)
        result.result(S)
        assert shard.is_hung_up()
    finally:
        other.close()


def test_a_partial_store_dies_with_its_link(agent: Agent, shard: ShardPeer) -> None:
    result = agent.invoke(shard.address)
    shard.greet()
    shard.send_store(1, chunk_info("a", BIG, seq=1), BIG, n_segments=3)
    shard.ping()
    assert store().used_bytes == cost_bytes(len(BIG))
    shard.hang_up()
    summary = result.result(S)
    assert (summary["n_chunks"], summary["used_bytes"]) == (0, 0)
    result = agent.invoke(shard.address)
    assert shard.greet().meta["spans"] == []
    shard.hang_up()
    result.result(S)


def test_a_stalled_store_is_dropped_and_its_rest_ignored(
    agent: Agent, shard: ShardPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = chunk_info("a", BIG, seq=1)
    with monkeypatch.context() as patch:
        patch.setattr(session_module, "STALL_S", 0.05)
        result = agent.invoke(shard.address)
        shard.greet()
        shard.send_store(1, info, BIG, n_segments=2)
        shard.expect(Kind.BYE)
        summary = result.result(S)
    assert (summary["n_chunks"], summary["used_bytes"]) == (0, 0)
    for _ in range(6):
        shard.send(Kind.DATA, 1, body=BIG[:SEGMENT_BYTES])
    shard.send_fetch(2, info.id)
    result = agent.invoke(shard.address, linger_ms=100)
    shard.expect(Kind.PONG)
    shard.expect(Kind.MISSING, 2)
    shard.expect(Kind.BYE)
    assert result.result(S)["protocol_errors"] == 0


def test_a_shard_that_takes_nothing_is_left(agent: Agent, shard: ShardPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"x" * (40 << 20)
    result = agent.invoke(shard.address)
    shard.accept(receive_buffer_bytes=64 << 10)
    shard.shake_hands()
    shard.store(1, chunk_info("a", body, seq=1), body)
    monkeypatch.setattr(session_module, "STALL_S", 0.05)
    shard.send_fetch(2, chunk_info("a", body, seq=1).id)
    assert result.result(S)["n_chunks"] == 1  # while nobody reads


def test_the_session_ends_before_the_platform_ends_it(agent: Agent, shard: ShardPeer) -> None:
    """Half a store and a chunk half sent: the one is dropped, the other aborted."""
    result = agent.invoke(shard.address, remaining_ms=LONG_MS, linger_ms=0)
    shard.accept(receive_buffer_bytes=64 << 10)
    shard.shake_hands()
    shard.expect(Kind.BYE)
    result.result(S)
    info = chunk_info("a", BIG, seq=1)
    shard.send_store(1, chunk_info("b", BIG, seq=2), BIG, n_segments=1)
    result = agent.invoke(shard.address, remaining_ms=session_ms(60))
    shard.expect(Kind.PONG)
    shard.expect(Kind.BYE)
    summary = result.result(S)
    assert (summary["n_chunks"], summary["used_bytes"]) == (0, 0)
    assert not shard.has_caller()
    # The rest of the dropped store is no offence, and the next session begins as if nothing had been.
    shard.send(Kind.DATA, 1, body=BIG[:SEGMENT_BYTES])
    result = agent.invoke(shard.address)
    shard.expect(Kind.PONG)
    shard.store(3, info, BIG)
    shard.hang_up()
    shard.greet()
    shard.hang_up()
    assert result.result(S)["n_chunks"] == 1


def test_chunks_half_sent_are_aborted_when_time_is_up(agent: Agent, shard: ShardPeer) -> None:
    body = b"x" * (24 << 20)
    info = chunk_info("a", body, seq=1)
    result = agent.invoke(shard.address, linger_ms=0, remaining_ms=LONG_MS)
    shard.accept(receive_buffer_bytes=64 << 10)
    shard.shake_hands()
    shard.expect(Kind.BYE)
    result.result(S)
    assert store().reserve(info)
    store().commit(info, memoryview(body))
    for request in range(20):  # 480 MiB: more than any machine sends in the time left
        shard.send_fetch(request, info.id)
    result = agent.invoke(shard.address, remaining_ms=session_ms(40))
    shard.expect(Kind.PONG)
    n_chunk_bytes, aborted = 0, []
    while (got := shard.receive()).kind is not Kind.BYE:
        n_chunk_bytes += len(got.body)
        if got.kind is Kind.ABORT:
            aborted.append(got.request)
    assert aborted == list(range(20 - len(aborted), 20))
    assert aborted or not n_chunk_bytes
    assert n_chunk_bytes < 20 * len(body)
    result.result(S)


def test_no_time_left_to_dial(agent: Agent, shard: ShardPeer) -> None:
    with pytest.raises(link.LinkLost, match="no time left"):
        agent.invoke(shard.address, remaining_ms=100).result(S)


def test_an_unexpected_error_keeps_the_chunks(agent: Agent, shard: ShardPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    info = chunk_info("a", b"abc", seq=1)
    result = agent.invoke(shard.address)
    shard.greet()
    shard.store(1, info, b"abc")

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(ChunkStore, "page", broken)
    shard.send(Kind.LIST, 2, {"after": None, "limit": 5})
    assert shard.is_hung_up()
    with pytest.raises(ZeroDivisionError):
        result.result(S)
    result = agent.invoke(shard.address)
    assert shard.greet().meta["n_chunks"] == 1
    assert shard.fetch(1, info.id) == (info, b"abc")
    shard.hang_up()
    result.result(S)


# ---------------------------------------------------------------- warm-ups


def test_a_warm_up_dials_nobody_and_tells_what_is_there(agent: Agent, shard: ShardPeer) -> None:
    summary = agent.invoke(shard.address, reason="warm", session="w1").result(S)
    assert not shard.has_caller()
    assert summary == {
        "session": "w1", "reason": "warm", "instance": summary["instance"], "epoch": 1, "n_chunks": 0,
        "used_bytes": 0, "spans": [],
    }  # fmt: skip
    result = agent.invoke(shard.address)
    assert shard.greet().meta["instance"] == summary["instance"]
    shard.store(1, chunk_info("a", b"abc", seq=3), b"abc")
    shard.send(Kind.DELETE, 2, {"seq": 7, "chunk_ids": []})
    shard.expect(Kind.DELETED, 2)
    shard.send(Kind.HOLD, meta={"for_ms": 0})
    shard.expect(Kind.BYE)
    result.result(S)
    again = agent.invoke(shard.address, reason="warm").result(S)
    assert (again["spans"], again["n_chunks"], again["used_bytes"]) == ([[3, 3], [7, 7]], 1, cost_bytes(3))


def test_a_warm_up_leaves_the_connection_as_it_is(agent: Agent, shard: ShardPeer) -> None:
    first_session(agent, shard)
    other = ShardPeer(shard.secret)
    try:
        for address in (shard.address, other.address):
            agent.invoke(address, reason="warm").result(S)
        assert not other.has_caller()
    finally:
        other.close()
    result = agent.invoke(shard.address, session="next", linger_ms=0)
    assert shard.expect(Kind.PONG).meta == {"session": "next"}  # nothing was said before it
    shard.expect(Kind.BYE)
    result.result(S)


# ---------------------------------------------------------------- staying and leaving on demand


def hold(shard: ShardPeer, for_ms: float, epoch: int = -1) -> None:
    shard.send(Kind.HOLD, meta={"for_ms": for_ms}, epoch=epoch)


def test_a_hold_of_0_ends_the_session(agent: Agent, shard: ShardPeer) -> None:
    info = chunk_info("a", BIG, seq=1)
    result = agent.invoke(shard.address, linger_ms=LONG_MS)
    shard.greet()
    shard.store(1, info, BIG)
    shard.send_fetch(2, info.id)
    hold(shard, 0)
    assert shard.receive_chunk(2) == (info, BIG)  # whole: it was asked for before
    shard.expect(Kind.BYE)
    assert result.result(S)["requests"] == 2


def test_a_store_under_way_is_finished_before_leaving(agent: Agent, shard: ShardPeer) -> None:
    body = b"x" * (2 * SEGMENT_BYTES)
    result = agent.invoke(shard.address, linger_ms=LONG_MS)
    shard.greet()
    shard.send_store(1, chunk_info("a", body, seq=1), body, n_segments=1)
    hold(shard, 0)
    shard.ping()
    shard.send(Kind.DATA, 1, body=body[SEGMENT_BYTES:])
    shard.expect(Kind.STORED, 1)
    shard.expect(Kind.BYE)
    assert result.result(S)["n_chunks"] == 1


def test_a_hold_keeps_a_session_that_would_not_linger(agent: Agent, shard: ShardPeer) -> None:
    first_session(agent, shard)
    hold(shard, LONG_MS)
    result = agent.invoke(shard.address, linger_ms=0)
    shard.expect(Kind.PONG)
    for _ in range(3):
        shard.ping()
    hold(shard, 0)
    shard.expect(Kind.BYE)
    result.result(S)


def test_the_last_hold_counts(agent: Agent, shard: ShardPeer) -> None:
    first_session(agent, shard)
    leave, stay = (pack(Kind.HOLD, 0, 1, {"for_ms": for_ms}) for for_ms in (0, LONG_MS))
    shard.send_raw(leave + stay)
    result = agent.invoke(shard.address, linger_ms=0)
    shard.expect(Kind.PONG)
    shard.ping()
    shard.send_raw(stay + leave)
    shard.expect(Kind.BYE)
    result.result(S)


def test_a_hold_lasts_for_its_session_only(agent: Agent, shard: ShardPeer) -> None:
    first_session(agent, shard)
    hold(shard, 2 * LONG_MS)
    result = agent.invoke(shard.address, remaining_ms=session_ms(40), linger_ms=0)
    shard.expect(Kind.PONG)
    shard.expect(Kind.BYE)  # its time was up
    result.result(S)
    result = agent.invoke(shard.address, linger_ms=0)
    shard.expect(Kind.PONG)
    shard.expect(Kind.BYE)
    assert result.result(S)["linger_ms"] < LONG_MS


def test_a_hold_of_an_older_shard_is_ignored(agent: Agent, shard: ShardPeer) -> None:
    result = agent.invoke(shard.address)
    shard.greet()
    shard.send(Kind.PING, 1, epoch=7)
    shard.expect(Kind.PONG, 1)
    hold(shard, 0, epoch=6)
    shard.ping()
    shard.ping()
    hold(shard, 0, epoch=7)
    shard.expect(Kind.BYE)
    result.result(S)


def test_a_backup_waits_for_its_hold(agent: Agent, shard: ShardPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session_module.BACKUP_HOLD_S == 2
    monkeypatch.setattr(session_module, "BACKUP_HOLD_S", 60)
    result = agent.invoke(shard.address, reason="backup", linger_ms=0)
    shard.greet()
    for _ in range(3):
        shard.ping()
    hold(shard, 5)  # from now on as any other session
    shard.expect(Kind.BYE)
    result.result(S)


def test_a_backup_that_is_never_held_ends(agent: Agent, shard: ShardPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "BACKUP_HOLD_S", 0.02)
    result = agent.invoke(shard.address, reason="backup", linger_ms=0)
    shard.greet()
    shard.expect(Kind.BYE)
    assert result.result(S)["linger_ms"] >= 20


def test_small_frames_leave_at_once_and_dead_links_are_found(agent: Agent, shard: ShardPeer) -> None:
    first_session(agent, shard)
    assert handler._instance is not None
    assert handler._instance.channel is not None
    sock = handler._instance.channel.link._sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5_000


def test_the_node_listens_on_nothing(agent: Agent, shard: ShardPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a node must not listen")

    monkeypatch.setattr(socket.socket, "listen", refuse)
    monkeypatch.setattr(socket.socket, "bind", refuse)
    first_session(agent, shard)


def store() -> ChunkStore:
    assert handler._instance is not None
    return handler._instance.store


def session_ms(serving_ms: int) -> int:
    """The remaining time with which a node serves for so long before it winds up."""
    return serving_ms + round(1000 * (session_module.RETURN_BEFORE_S + session_module.WIND_UP_S))
