"""What the shard says when it invokes this function, checked."""

from __future__ import annotations

from typing import Any, NamedTuple

from infiniray.wire import auth

__all__ = ["MAX_LINGER_MS", "REASONS", "InvalidInvocation", "Invocation", "StaleEpoch"]

REASONS = ("serve", "warm", "backup")
_MAX_EPOCH = 2**32 - 1
#: The longest that a function may run.
MAX_LINGER_MS = 900_000


class InvalidInvocation(ValueError):
    """The event is not an invocation by a shard of this pool."""


class StaleEpoch(RuntimeError):
    """The invocation comes from an outdated membership: its shard no longer owns this node."""


class Invocation(NamedTuple):
    """One call of this function: why, as which node, and which shard to dial."""

    reason: str
    node: str
    session: str
    address: str
    epoch: int
    linger_s: float
    #: fingerprint of the certificate that the shard shows; "": it speaks no TLS
    certificate: str = ""

    @classmethod
    def from_event(cls, event: Any, secret: bytes) -> Invocation:
        """Check an event's fields and its proof.

        Raises:
            InvalidInvocation: a field lacks or is of the wrong type, or the proof is not of this pool.
        """
        if not isinstance(event, dict):
            raise InvalidInvocation(f"an event is an object, not a {type(event).__name__}")
        node, session, address = (_text(event, name) for name in ("node", "session", "address"))
        reason = event.get("reason")
        if reason not in REASONS:
            raise InvalidInvocation(f"reason is one of {', '.join(REASONS)}, not {reason!r:.40}")
        host, _, port = address.rpartition(":")
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise InvalidInvocation(f"address is host:port, not {address!r:.80}")
        epoch = event.get("epoch")
        if type(epoch) is not int or not 0 <= epoch <= _MAX_EPOCH:
            raise InvalidInvocation(f"epoch is a number from 0 to {_MAX_EPOCH}, not {epoch!r:.40}")
        certificate = event.get("certificate", "")
        if not isinstance(certificate, str):
            raise InvalidInvocation(f"certificate is a text, not {certificate!r:.40}")
        proof = auth.invoke_proof(
            secret, node=node, session=session, address=address, epoch=epoch, certificate=certificate
        )
        if not auth.matches(proof, _proof(event, secret)):
            raise InvalidInvocation(f"session {session!r:.40} of node {node!r:.80}: the proof is not of this pool")
        return cls(reason, node, session, address, epoch, _linger_s(event), certificate)


def _proof(event: dict[str, Any], secret: bytes) -> object:
    """The one that is for functions with this secret: while it is changed, there is one for each that they may have."""
    proofs = event.get("proofs")
    return proofs.get(auth.key_id(secret)) if isinstance(proofs, dict) else event.get("proof")


def _text(event: dict[str, Any], name: str) -> str:
    value = event.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInvocation(f"{name} is a text, not {value!r:.40}")
    return value


def _linger_s(event: dict[str, Any]) -> float:
    value: Any = event.get("linger_ms")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= MAX_LINGER_MS:  # NaN is not in there either
        raise InvalidInvocation(f"linger_ms is a number from 0 to {MAX_LINGER_MS}, not {value!r:.40}")
    return float(value) / 1000
