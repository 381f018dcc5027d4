"""Proofs that shard and node know the pool's secret, without sending it.

Each side sends a fresh nonce and answers the other's with an HMAC-SHA256 over both nonces and over what it
claims, so a recorded handshake is worth nothing: neither side ever accepts a proof over a nonce that it did
not just make. A role word in front keeps one side's proof from being reflected as the other's. Over TLS all proofs
name the shard's certificate, by its fingerprint (RFC 5929, tls-server-end-point): one that was made for another
connection's ends is worth nothing on this.
"""

from __future__ import annotations

import hashlib
import hmac
import os

__all__ = ["hello_proof", "invoke_proof", "key_id", "matches", "new_nonce", "welcome_proof"]


def new_nonce() -> str:
    """128 bits, in hex."""
    return os.urandom(16).hex()  # what secrets does, without the megabyte that importing it costs a node


def key_id(secret: bytes) -> str:
    """A name for a secret, by which two sides find out which they share; the secret does not follow from it."""
    return _mac(secret, "key")[:16]


def matches(ours: str, theirs: object) -> bool:
    """Whether a received proof is the one expected; takes the same time either way."""
    return isinstance(theirs, str) and hmac.compare_digest(ours.encode(), theirs.encode(errors="replace"))


def invoke_proof(secret: bytes, *, node: str, session: str, address: str, epoch: int, certificate: str = "") -> str:
    """In the invocation: the address to dial comes from a shard of this pool, and that has this certificate."""
    return _mac(secret, "invoke", node, session, address, epoch, *_channel(certificate))


def hello_proof(
    secret: bytes, *, shard_nonce: str, node_nonce: str, node: str, instance: str, certificate: str = ""
) -> str:
    """In HELLO: whoever dialled is this node, and sees this certificate at the other end."""
    return _mac(secret, "hello", shard_nonce, node_nonce, node, instance, *_channel(certificate))


def welcome_proof(
    secret: bytes, *, shard_nonce: str, node_nonce: str, node: str, epoch: int, certificate: str = ""
) -> str:
    """In WELCOME: whoever was dialled is a shard of this pool, and has shown this certificate."""
    return _mac(secret, "welcome", node_nonce, shard_nonce, node, epoch, *_channel(certificate))


def _channel(certificate: str) -> tuple[str, ...]:
    """Without TLS there is nothing to bind a proof to."""
    return (certificate,) if certificate else ()


def _mac(secret: bytes, *parts: object) -> str:
    # Lengths in front of the parts: no two different lists of parts give the same message.
    # Surrogates pass: what an unproven peer claims may be any JSON text, and must be refused, not raise.
    texts = (str(part).encode(errors="surrogatepass") for part in parts)
    message = b"".join(len(text).to_bytes(4, "big") + text for text in texts)
    return hmac.new(secret, message, hashlib.sha256).hexdigest()
