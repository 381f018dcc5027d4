"""AWS's signature, version 4, for one kind of request: an Invoke, many times a second.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html. botocore signs anything, and
takes half a millisecond for it; what all invocations have in common is computed once here. A test holds the two
together.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import Protocol
from urllib.parse import quote

__all__ = ["Credentials", "Signer"]

_ALGORITHM = "AWS4-HMAC-SHA256"


class Credentials(Protocol):
    """As botocore's frozen credentials."""

    access_key: str
    secret_key: str
    token: str | None


class Signer:
    """I sign POST requests with JSON in them, without a query, to one service in one region."""

    def __init__(self, service: str, region: str, host: str) -> None:
        self._host = host
        self._scope_end = f"{region}/{service}/aws4_request"
        self._parts = (region, service, "aws4_request")
        #: of the last credentials and day: the key that signs
        self._key_of: tuple[str, str] = ("", "")
        self._key = b""

    def headers(self, credentials: Credentials, path: str, payload: bytes, now_s: float | None = None) -> str:
        """The request's headers, each with its line end.

        Args:
            path: as it is sent, percent-encoded.
            now_s: Unix time; None: now.
        """
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
        day = at[:8]
        token = credentials.token
        named = "content-type;host;x-amz-date;x-amz-security-token" if token else "content-type;host;x-amz-date"
        token_line = f"x-amz-security-token:{token}\n" if token else ""
        request = (  # the path is encoded once more: only S3 does not want that
            f"POST\n{quote(path, safe='/~')}\n\ncontent-type:application/json\nhost:{self._host}\nx-amz-date:{at}\n"
            f"{token_line}\n{named}\n{hashlib.sha256(payload).hexdigest()}"
        )
        scope = f"{day}/{self._scope_end}"
        text = f"{_ALGORITHM}\n{at}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.new(self._signing_key(credentials.secret_key, day), text.encode(), hashlib.sha256).hexdigest()
        return (
            f"Host: {self._host}\r\nContent-Type: application/json\r\nX-Amz-Date: {at}\r\n"
            + (f"X-Amz-Security-Token: {token}\r\n" if token else "")
            + f"Authorization: {_ALGORITHM} Credential={credentials.access_key}/{scope}, "
            f"SignedHeaders={named}, Signature={signature}\r\n"
        )

    def _signing_key(self, secret: str, day: str) -> bytes:
        if self._key_of != (secret, day):
            key = f"AWS4{secret}".encode()
            for part in (day, *self._parts):
                key = hmac.new(key, part.encode(), hashlib.sha256).digest()
            self._key, self._key_of = key, (secret, day)
        return self._key
