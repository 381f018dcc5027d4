"""Keeping the pool's secret out of botocore's log, and of errors: at DEBUG it writes down what is sent to and got from
the function API, and there the secret is among a function's settings. A refusal may quote these, too."""

from __future__ import annotations

import logging
import re

from infiniray.faas.deploy.resources import SECRET

__all__ = ["hush", "without_secret"]

#: Those that log requests and answers whole.
_TALKATIVE = ("botocore.endpoint", "botocore.parsers")
#: The name, what JSON or a ``repr`` of it puts between, and the value.
_TOLD = re.compile(rf"({SECRET}\W{{1,12}})[0-9a-fA-F]{{8,}}")


def hush() -> None:
    """Have botocore's loggers of this process leave the secret out. Doing it again changes nothing."""
    for name in _TALKATIVE:
        logging.getLogger(name).addFilter(_hushed)


def without_secret(text: str) -> str:
    """The same, with the value left out."""
    return _TOLD.sub(r"\1***", text)


def _hushed(record: logging.LogRecord) -> bool:
    """A filter that lets every record pass, changed if need be."""
    message = record.getMessage()
    if SECRET in message:
        record.msg, record.args = without_secret(message), ()
    return True
