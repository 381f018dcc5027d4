"""What readers of every format share: the fields of a request, and the two ways in which a line holds none."""

from __future__ import annotations

import csv
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

from workloads.readers.lines import MAX_LINE_BYTES
from workloads.trace import Method

__all__ = [
    "Malformed",
    "Row",
    "Skipped",
    "check_status",
    "csv_fields",
    "key_of",
    "method_of",
    "size_of",
    "time_of",
    "utc_us",
]

_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = timedelta(microseconds=1)
#: no object store takes larger ones, and beyond it totals would no longer fit the 64 bits of a Parquet column
_MAX_OBJECT_BYTES = 1 << 50


class Malformed(Exception):
    """A line that does not hold a request; the message says why."""


class Skipped(Exception):
    """A good line that is no use to a cache; the message is the reason it is counted under."""


class Row(NamedTuple):
    """One request as a file has it; ``at_us`` counts microseconds from wherever the file's clock begins."""

    at_us: int
    key: str
    size_bytes: int
    method: Method


def csv_fields(line: str) -> list[str]:
    """The fields of one line. Line by line, so that a stray quote spoils its own line and not those that follow.

    Raises:
        Malformed: the line is too long, or not CSV.
    """
    if len(line) >= MAX_LINE_BYTES:
        raise Malformed(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        return next(csv.reader([line], strict=True), [])
    except csv.Error as error:
        raise Malformed(f"not CSV: {error}") from None


def key_of(text: object, what: str) -> str:
    """An object's name, which must be text that was UTF-8.

    Raises:
        Malformed: it is not.
    """
    if not isinstance(text, str) or not text or "\ufffd" in text:
        raise Malformed(f"the {what} is empty or not UTF-8")
    return text


def method_of(text: object) -> Method:
    """GET or PUT.

    Raises:
        Skipped: another method.
        Malformed: no method at all.
    """
    try:
        return Method(text)
    except ValueError:
        pass
    if isinstance(text, str) and text.isalpha() and text.isupper():
        raise Skipped(f"method {text}")
    raise Malformed(f"not an HTTP method: {str(text)[:40]!r}")


def check_status(status: object) -> None:
    """Passes 2xx.

    Raises:
        Skipped: another answer.
        Malformed: no HTTP status.
    """
    text = str(status)
    digits = text.removesuffix(".0")  # pandas writes integer columns with gaps as floats
    if len(digits) != 3 or not digits.isascii() or not digits.isdigit():
        raise Malformed(f"not an HTTP status: {text[:40]!r}")
    if digits[0] != "2":
        raise Skipped(f"status {digits}")


def size_of(value: object) -> int:
    """A number of whole bytes, not negative.

    Raises:
        Malformed: it is not.
    """
    text = str(value)
    try:
        size = float(text)
        n_bytes = int(size)
    except (ValueError, OverflowError):
        raise Malformed(f"not a size in bytes: {text[:40]!r}") from None
    if size != n_bytes or size < 0 or n_bytes > _MAX_OBJECT_BYTES:
        raise Malformed(f"a size cannot be {text[:40]}")
    return n_bytes


def time_of(text: str, *, unit_us: int) -> int:
    """Microseconds of a number that counts in units of ``unit_us``.

    Raises:
        Malformed: it is not a finite number.
    """
    try:
        return int(text) * unit_us if text.isdecimal() and len(text) < 20 else round(float(text) * unit_us)
    except (ValueError, OverflowError):
        raise Malformed(f"not a time: {text[:40]!r}") from None


def utc_us(text: object) -> int:
    """Microseconds since 1970 of an ISO 8601 time; without a zone it is taken for UTC.

    Python 3.10 reads neither ``Z`` nor fractions of other than three or six digits, hence the care.

    Raises:
        Malformed: it is no such time.
    """
    text = str(text)
    whole, dot, fraction = text.removesuffix("Z").partition(".")
    try:
        when = datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}" if dot else whole)
    except ValueError:
        raise Malformed(f"not a time: {text[:40]!r}") from None
    if when.tzinfo is not None:
        when = when.astimezone(timezone.utc).replace(tzinfo=None)
    return (when - _EPOCH) // _MICROSECOND
