"""Proofs: each covers the secret, its role, both nonces and every claim."""

from __future__ import annotations

import pytest

from infiniray.wire import auth

HELLO = {"shard_nonce": "aa", "node_nonce": "bb", "node": "n1", "instance": "i1"}
WELCOME = {"shard_nonce": "aa", "node_nonce": "bb", "node": "n1", "epoch": 4}
INVOKE = {"node": "n1", "session": "s1", "address": "h:1", "epoch": 4}


@pytest.mark.parametrize(
    ("proof", "claims"),
    [(auth.hello_proof, HELLO), (auth.welcome_proof, WELCOME), (auth.invoke_proof, INVOKE)],
)
def test_a_proof_covers_the_secret_and_every_claim(proof, claims) -> None:  # type: ignore[no-untyped-def]
    original = proof(b"secret", **claims)
    assert auth.matches(original, proof(b"secret", **claims))
    assert not auth.matches(original, proof(b"Secret", **claims))
    for name, value in claims.items():
        changed = value + 1 if isinstance(value, int) else value + "x"
        assert not auth.matches(original, proof(b"secret", **{**claims, name: changed}))


def test_parts_do_not_run_into_each_other() -> None:
    one = auth.hello_proof(b"s", shard_nonce="a", node_nonce="bc", node="n", instance="i")
    assert one != auth.hello_proof(b"s", shard_nonce="ab", node_nonce="c", node="n", instance="i")


def test_one_sides_proof_is_not_the_others() -> None:
    hello = auth.hello_proof(b"s", shard_nonce="x", node_nonce="x", node="n", instance="1")
    assert hello != auth.welcome_proof(b"s", shard_nonce="x", node_nonce="x", node="n", epoch=1)


@pytest.mark.parametrize("theirs", [None, 1, "", b"", "\ud800", [], "é"])
def test_what_is_no_proof_does_not_match(theirs: object) -> None:
    assert not auth.matches("00", theirs)


def test_claims_of_any_text_can_be_refused() -> None:
    """An unproven HELLO may claim a name that is no Unicode: that is a wrong proof, not a crash."""
    assert auth.hello_proof(b"s", shard_nonce="a", node_nonce="\ud800", node="\udfff", instance="")


def test_nonces_are_fresh() -> None:
    nonces = {auth.new_nonce() for _ in range(100)}
    assert len(nonces) == 100
    assert {len(nonce) for nonce in nonces} == {32}
