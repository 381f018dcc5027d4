"""A shard's certificate: made by the shard itself, for as long as its process lives, and kept in memory alone."""

from __future__ import annotations

import datetime
import os
import ssl
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from infiniray.wire.tls import fingerprint_of

__all__ = ["ShardCertificate", "new_certificate"]

#: Nobody looks at the dates (:mod:`infiniray.wire.tls`); a certificate has to have some.
_VALID = (datetime.datetime(2000, 1, 1), datetime.datetime(2100, 1, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCertificate:
    """What a shard shows (``context``), and by what nodes know it (``fingerprint``). The key is in the context, which
    does not give it away."""

    context: ssl.SSLContext
    fingerprint: str


def new_certificate() -> ShardCertificate:
    """A certificate with a key of its own, P-256, and TLS 1.3 with it. It takes a few milliseconds."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "InfiniRay shard")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_VALID[0])
        .not_valid_after(_VALID[1])
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # a session that is taken up again would skip the certificate
    _load(context, certificate, key)
    return ShardCertificate(
        context=context, fingerprint=fingerprint_of(certificate.public_bytes(serialization.Encoding.DER))
    )


def _load(context: ssl.SSLContext, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
    """Python's ssl takes both from a file: from one that has no name and is in memory."""
    pem = serialization.Encoding.PEM
    text = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    with open(descriptor, "wb") as file:
        file.write(text + certificate.public_bytes(pem))
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
