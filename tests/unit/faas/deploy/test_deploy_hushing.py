"""What botocore logs of a function's settings, with the secret left out."""

from __future__ import annotations

import json
import logging

import pytest

from infiniray.faas.deploy.hushing import hush
from infiniray.faas.deploy.resources import SECRET

VALUE = "0123456789abcdef" * 4
BODY = json.dumps({"Environment": {"Variables": {SECRET: VALUE, "OTHER": VALUE[:8]}}})


@pytest.mark.parametrize("name", ["botocore.endpoint", "botocore.parsers"])
@pytest.mark.parametrize("said", [BODY, BODY.encode(), {"body": BODY}, {SECRET: VALUE}, json.dumps({"body": BODY})])
def test_the_value_is_left_out(name: str, said: object, caplog: pytest.LogCaptureFixture) -> None:
    hush()
    hush()
    caplog.set_level(logging.DEBUG)
    logging.getLogger(name).debug("Request: %s", said)
    (message,) = caplog.messages
    assert VALUE[:16] not in message
    assert SECRET in message
    assert "***" in message
    assert len(logging.getLogger(name).filters) == 1


def test_the_rest_is_logged_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    hush()
    caplog.set_level(logging.DEBUG)
    logging.getLogger("botocore.parsers").debug("Response body:\n%s", VALUE)
    assert caplog.messages == [f"Response body:\n{VALUE}"]
    logging.getLogger("botocore.parsers").debug("%d of %s", 3, "x")
    assert caplog.messages[1] == "3 of x"
