"""Who may invoke a node, and whom it takes for its shard."""

from __future__ import annotations

import pytest
from blackhole import black_hole
from invoker import SECRET, Agent
from shard_peer import HungUp, ShardPeer, chunk_info

from infiniray.wire import auth
from infiniray.wire.frames import Kind
from lambda_agent import session as session_module
from lambda_agent.instance import Instance
from lambda_agent.invocation import InvalidInvocation, Invocation, StaleEpoch
from lambda_agent.link import DialFailed, DialRefused, DialTimedOut, NameUnknown
from lambda_agent.session import HandshakeFailed

S = 10


def test_hello_introduces_an_empty_newcomer(agent: Agent, shard: ShardPeer) -> None:
    result = agent.invoke(shard.address, reason="backup", session="abc")
    hello = shard.greet()
    shard.hang_up()
    told = {name: hello.meta[name] for name in ("node", "session", "reason", "spans", "n_chunks", "used_bytes")}
    assert told == {
        "node": "n1", "session": "abc", "reason": "backup", "spans": [], "n_chunks": 0, "used_bytes": 0
    }  # fmt: skip
    assert hello.meta["limit_bytes"] == 64 << 20
    assert hello.epoch == 1
    summary = result.result(S)
    assert (summary["session"], summary["reason"], summary["epoch"]) == ("abc", "backup", 1)
    assert summary["instance"] == hello.meta["instance"]


def test_an_old_hello_proves_nothing_to_a_new_challenge(agent: Agent, shard: ShardPeer) -> None:
    result = agent.invoke(shard.address)
    hello = shard.greet()
    shard.hang_up()
    result.result(S)
    assert not shard.believes(hello, auth.new_nonce())


def test_a_shard_with_another_secret_is_left(agent: Agent, shard: ShardPeer) -> None:
    result = agent.invoke(shard.address)
    shard.accept()
    nonce = auth.new_nonce()
    shard.send(Kind.CHALLENGE, meta={"nonce": nonce})
    hello = shard.expect(Kind.HELLO)
    shard.secret = b"another"
    assert not shard.believes(hello, nonce)
    forged = auth.welcome_proof(shard.secret, shard_nonce=nonce, node_nonce=hello.meta["nonce"], node="n1", epoch=1)
    shard.send(Kind.WELCOME, meta={"mac": forged})
    assert shard.is_hung_up()
    with pytest.raises(HandshakeFailed, match="not a shard of this pool"):
        result.result(S)


def test_the_welcome_covers_the_epoch_in_its_header(agent: Agent, shard: ShardPeer) -> None:
    result = agent.invoke(shard.address)
    shard.accept()
    nonce = auth.new_nonce()
    shard.send(Kind.CHALLENGE, meta={"nonce": nonce})
    node_nonce = shard.expect(Kind.HELLO).meta["nonce"]
    proof = auth.welcome_proof(SECRET, shard_nonce=nonce, node_nonce=node_nonce, node="n1", epoch=1)
    shard.send(Kind.WELCOME, meta={"mac": proof}, epoch=2)
    assert shard.is_hung_up()
    with pytest.raises(HandshakeFailed):
        result.result(S)


@pytest.mark.parametrize(
    "opening",
    [
        pytest.param(lambda shard: shard.send(Kind.PING), id="no challenge"),
        pytest.param(lambda shard: shard.send(Kind.CHALLENGE), id="no nonce"),
        pytest.param(lambda shard: shard.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), id="garbage"),
        pytest.param(lambda shard: shard.hang_up(), id="hangs up"),
    ],
)
def test_a_bad_opening_fails_the_session(agent: Agent, shard: ShardPeer, opening: object) -> None:
    result = agent.invoke(shard.address)
    shard.accept()
    opening(shard)  # type: ignore[operator]
    with pytest.raises(HandshakeFailed):
        result.result(S)


def test_a_silent_shard_fails_the_session(agent: Agent, shard: ShardPeer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "HANDSHAKE_S", 0.02)
    with pytest.raises(HandshakeFailed, match="no CHALLENGE"):
        agent.invoke(shard.address).result(S)


def test_nothing_is_stored_before_the_welcome(agent: Agent, shard: ShardPeer) -> None:
    result = agent.invoke(shard.address)
    shard.accept()
    shard.send(Kind.CHALLENGE, meta={"nonce": auth.new_nonce()})
    shard.expect(Kind.HELLO)
    shard.send_store(1, chunk_info("a", b"12345", seq=1), b"12345")
    assert shard.is_hung_up()
    with pytest.raises(HandshakeFailed):
        result.result(S)
    result = agent.invoke(shard.address)
    assert shard.greet().meta["n_chunks"] == 0
    shard.hang_up()
    result.result(S)


def test_nobody_listens(agent: Agent, shard: ShardPeer) -> None:
    shard.close()
    with pytest.raises(DialRefused, match="cannot reach the shard at 127"):
        agent.invoke(shard.address).result(S)


def test_nobody_answers(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "DIAL_S", 0.2)
    with black_hole("127.0.0.1") as port, pytest.raises(DialTimedOut, match=f"at 127.0.0.1:{port}: timed out"):
        agent.invoke(f"127.0.0.1:{port}").result(S)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a..b", "x" * 64])
def test_nobody_is_called_that(agent: Agent, host: str) -> None:
    with pytest.raises(NameUnknown, match=f"at {host}:7: "):
        agent.invoke(f"{host}:7").result(S)


def test_there_is_no_way_to_the_shard(agent: Agent) -> None:
    with pytest.raises(DialFailed) as raised:  # TCP has no broadcasts
        agent.invoke("255.255.255.255:7").result(S)
    assert type(raised.value) is DialFailed


@pytest.mark.parametrize(
    "changes",
    [
        {"proof": "00" * 32},
        {"proof": None},
        {"proof": "\ud800"},
        {"node": 7},
        {"node": ""},
        {"session": None},
        {"address": "nowhere"},
        {"address": "host:http"},
        {"address": "host:70000"},
        {"epoch": -1},
        {"epoch": True},
        {"epoch": 2**32},
        {"reason": "sleep"},
        {"reason": ["serve"]},
        {"linger_ms": -1},
        {"linger_ms": "8"},
        {"linger_ms": float("nan")},
        {"linger_ms": 1e12},
    ],
)
def test_a_bad_event_is_refused_before_dialling(agent: Agent, shard: ShardPeer, changes: dict[str, object]) -> None:
    with pytest.raises(InvalidInvocation):
        agent.invoke(shard.address, **changes).result(S)
    assert not shard.has_caller()


@pytest.mark.parametrize("claim", ["node", "session", "address", "epoch"])
def test_the_proof_covers_every_claim(agent: Agent, shard: ShardPeer, claim: str) -> None:
    event = agent.event(shard.address)
    event[claim] = {"node": "n2", "session": "sX", "address": "127.0.0.1:9", "epoch": 2}[claim]
    with pytest.raises(InvalidInvocation, match="proof"):
        agent.handle(event).result(S)


def test_events_that_are_no_objects() -> None:
    with pytest.raises(InvalidInvocation):
        Invocation.from_event([], SECRET)


def test_an_outdated_shard_cannot_invoke(agent: Agent, shard: ShardPeer) -> None:
    shard.epoch = 5
    result = agent.invoke(shard.address, epoch=5)
    shard.greet()
    shard.hang_up()
    result.result(S)
    with pytest.raises(StaleEpoch, match=r"epoch 4 is outdated; .* seen 5"):
        agent.invoke(shard.address, epoch=4).result(S)
    assert not shard.has_caller()


def test_a_newer_incarnation_takes_the_node_over(agent: Agent, shard: ShardPeer) -> None:
    """It listens at another address; the older one is left, and cannot get the node back."""
    info = chunk_info("a", b"abc", seq=1)
    result = agent.invoke(shard.address, linger_ms=0)
    shard.greet()
    shard.expect(Kind.BYE)
    result.result(S)
    newer = ShardPeer(SECRET)
    newer.epoch = 2
    try:
        result = agent.invoke(newer.address, epoch=2)
        newer.greet()
        assert shard.is_hung_up()
        newer.store(1, info, b"abc")
        newer.send(Kind.HOLD, meta={"for_ms": 0})
        newer.expect(Kind.BYE)
        result.result(S)
        for reason in ("serve", "warm", "backup"):
            with pytest.raises(StaleEpoch):
                agent.invoke(shard.address, epoch=1, reason=reason).result(S)
        assert not shard.has_caller()
        result = agent.invoke(newer.address, epoch=2)
        newer.expect(Kind.PONG)  # over the connection that it had
        assert newer.fetch(2, info.id) == (info, b"abc")
        newer.hang_up()
        newer.greet()
        newer.hang_up()
        result.result(S)
    finally:
        newer.close()


def test_a_newer_epoch_in_a_warm_up_fences_too(agent: Agent, shard: ShardPeer) -> None:
    result = agent.invoke(shard.address, linger_ms=0)
    shard.greet()
    shard.expect(Kind.BYE)
    result.result(S)
    assert agent.invoke("127.0.0.1:9", epoch=3, reason="warm").result(S)["epoch"] == 3
    with pytest.raises(StaleEpoch):
        agent.invoke(shard.address, epoch=1).result(S)
    # the connection of the older one is still there, but a session on it refuses what it asks
    shard.send_fetch(1, chunk_info("a", b"abc", seq=1).id, epoch=1)
    result = agent.invoke(shard.address, epoch=3, linger_ms=0)
    shard.expect(Kind.PONG)
    assert shard.expect(Kind.REFUSED, 1).meta == {"reason": "epoch", "epoch": 3}
    shard.expect(Kind.BYE)
    result.result(S)


def test_an_unproven_event_raises_no_epoch(agent: Agent, shard: ShardPeer) -> None:
    with pytest.raises(InvalidInvocation):
        agent.invoke(shard.address, epoch=9, proof="00").result(S)
    result = agent.invoke(shard.address, epoch=1)
    shard.greet()
    shard.hang_up()
    result.result(S)


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({}, "INFINIRAY_SECRET is not set"),
        ({"INFINIRAY_SECRET": "ab"}, "MEMORY_SIZE is not set"),
        ({"INFINIRAY_SECRET": "xyz", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256"}, "hex"),
        ({"INFINIRAY_SECRET": "", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256"}, "need a secret"),
        ({"INFINIRAY_SECRET": "ab", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128"}, "128 MB"),
    ],
)
def test_a_bad_environment_is_named(environment: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        Instance.from_environment(environment)
    assert "xyz" not in str(caught.value)


def test_the_default_reserve_is_128_mb() -> None:
    environment = {"INFINIRAY_SECRET": "ab", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1536"}
    assert Instance.from_environment(environment).store.limit_bytes == (1536 - 128) << 20


def test_hung_up_is_seen(agent: Agent, shard: ShardPeer) -> None:
    """The peer's own promise: that it tells silence from the end."""
    result = agent.invoke(shard.address, linger_ms=0)
    shard.greet()
    shard.expect(Kind.BYE)
    result.result(S)
    agent.close()
    with pytest.raises(HungUp):
        shard.receive()
