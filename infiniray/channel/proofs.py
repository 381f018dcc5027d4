"""How client and shard show each other that they know the shard's secret, without sending it.

As in :mod:`infiniray.wire.auth`: each side answers a fresh nonce of the other's, and a role word in front keeps a proof
from being handed back as another. The client has the secret from the shard, through Ray.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

__all__ = ["client_proof", "matches", "new_nonce", "shard_proof"]


def new_nonce() -> str:
    """128 bits, in hex."""
    return secrets.token_hex(16)


def client_proof(secret: bytes, *, shard_nonce: str, client_nonce: str, role: str, tenancy: str) -> str:
    return _mac(secret, "client", shard_nonce, client_nonce, role, tenancy)


def shard_proof(secret: bytes, *, shard_nonce: str, client_nonce: str, tenancy: str) -> str:
    return _mac(secret, "shard", client_nonce, shard_nonce, tenancy)


def matches(ours: str, theirs: object) -> bool:
    """Whether a received proof is the one expected; takes the same time either way."""
    return isinstance(theirs, str) and hmac.compare_digest(ours.encode(), theirs.encode(errors="replace"))


def _mac(secret: bytes, *parts: str) -> str:
    # Lengths in front of the parts: no two different lists of parts give the same message.
    texts = [part.encode(errors="surrogatepass") for part in parts]
    message = b"".join(len(text).to_bytes(4, "big") + text for text in texts)
    return hmac.new(secret, message, hashlib.sha256).hexdigest()
