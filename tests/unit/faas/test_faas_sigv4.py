"""Our signature against botocore's."""

from __future__ import annotations

import datetime
from urllib.parse import quote

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import ReadOnlyCredentials

from infiniray.faas.sigv4 import Signer

HOST = "lambda.eu-central-1.amazonaws.com"
PLAIN = ReadOnlyCredentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", None)
TEMPORARY = ReadOnlyCredentials("ASIAEXAMPLE", "another/secret", "a/session+token==")
NAMES = ("n1", "arn:aws:lambda:eu-central-1:123456789012:function:ir-n1", "with space", "ümlaut", "a_b-c.d~e", "f:7")


def ours(signer: Signer, credentials: ReadOnlyCredentials, name: str, payload: bytes, now_s: float) -> dict[str, str]:
    text = signer.headers(credentials, f"/2015-03-31/functions/{quote(name, safe='')}/invocations", payload, now_s)
    assert text.endswith("\r\n")
    return {key.lower(): value for key, _, value in (line.partition(": ") for line in text.strip().split("\r\n"))}


def botocores(
    monkeypatch: pytest.MonkeyPatch, credentials: ReadOnlyCredentials, name: str, payload: bytes, now_s: float
) -> dict[str, str]:
    now = datetime.datetime.fromtimestamp(now_s, datetime.timezone.utc)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda *_, **__: now.replace(tzinfo=None))
    url = f"https://{HOST}/2015-03-31/functions/{quote(name, safe='')}/invocations"
    request = AWSRequest(method="POST", url=url, data=payload, headers={"Content-Type": "application/json"})
    SigV4Auth(credentials, "lambda", "eu-central-1").add_auth(request)
    return {key.lower(): value for key, value in request.headers.items()}


@pytest.mark.parametrize("credentials", [PLAIN, TEMPORARY], ids=["plain", "temporary"])
@pytest.mark.parametrize("name", NAMES)
def test_the_signature_is_botocores(
    monkeypatch: pytest.MonkeyPatch, credentials: ReadOnlyCredentials, name: str
) -> None:
    signer = Signer("lambda", "eu-central-1", HOST)
    for payload, now_s in ((b'{"a": 1}', 1_767_225_599.0), (b"", 1_767_225_601.5)):  # either side of midnight
        signed = ours(signer, credentials, name, payload, now_s)
        expected = botocores(monkeypatch, credentials, name, payload, now_s)
        assert signed.pop("host") == HOST
        assert signed == expected


def test_credentials_that_change_sign_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer("lambda", "eu-central-1", HOST)
    for credentials in (PLAIN, TEMPORARY, PLAIN):
        signed = ours(signer, credentials, "n1", b"{}", 1_767_225_600.0)
        expected = botocores(monkeypatch, credentials, "n1", b"{}", 1_767_225_600.0)
        assert signed["authorization"] == expected["authorization"]
