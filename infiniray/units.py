"""Sizes and durations as people write them: ``"64MiB"``, ``"500ms"``, ``"2h"``."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator

from infiniray.errors import InfiniRayError, InvalidTTL

__all__ = ["Bytes", "Seconds", "format_bytes", "parse_bytes", "parse_seconds", "positive_seconds", "seconds_of",
           "ttl_seconds"]  # fmt: skip

_BYTES = {
    "": 1, "b": 1,
    "k": 1000, "kb": 1000, "m": 1000**2, "mb": 1000**2, "g": 1000**3, "gb": 1000**3, "t": 1000**4, "tb": 1000**4,
    "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40,
}  # fmt: skip
_SECONDS = {"us": 1e-6, "ms": 1e-3, "": 1.0, "s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zA-Z]*)\s*")


def _quantity(text: str, units: dict[str, Any]) -> float | None:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2].lower() not in units:
        return None
    return float(match[1]) * float(units[match[2].lower()])


def parse_bytes(value: object) -> int:
    """A number of bytes from an int or from text like ``"64MiB"`` (binary) or ``"10 MB"`` (decimal).

    Raises:
        ValueError: neither, or negative.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"a size is a number of bytes or text like '64MiB', not {value!r}")
    number = _quantity(value, _BYTES) if isinstance(value, str) else float(value)
    if number is None or not math.isfinite(number) or number < 0:
        raise ValueError(f"not a size: {value!r}; write bytes as a number or text like '64MiB'")
    return int(number)


def parse_seconds(value: object) -> float:
    """Seconds from a number, a timedelta or text like ``"500ms"``, ``"2h"``.

    Raises:
        ValueError: none of these, negative or not finite.
    """
    if isinstance(value, timedelta):
        number: float | None = value.total_seconds()
    elif isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"a duration is a number of seconds, a timedelta or text like '2h', not {value!r}")
    else:
        number = _quantity(value, _SECONDS) if isinstance(value, str) else float(value)
    if number is None or not math.isfinite(number) or number < 0:
        raise ValueError(f"not a duration: {value!r}; write seconds as a number, or text like '500ms' or '2h'")
    return number


def ttl_seconds(value: object) -> float | None:
    """A time to live in seconds; None means for ever.

    Raises:
        InvalidTTL: not a duration, or not longer than zero.
    """
    return None if value is None else positive_seconds(value, "ttl", InvalidTTL)


def seconds_of(value: object, name: str, refusal: type[InfiniRayError]) -> float:
    """A duration that is called ``name``, in seconds. Raises: ``refusal``: it is none."""
    try:
        return parse_seconds(value)
    except ValueError as error:
        raise refusal(detail=f"bad {name}: {error}") from None


def positive_seconds(value: object, name: str, refusal: type[InfiniRayError]) -> float:
    """As :func:`seconds_of`; it has to be longer than zero."""
    seconds = seconds_of(value, name, refusal)
    if seconds <= 0:
        raise refusal(detail=f"bad {name}: {value!r} is not longer than zero")
    return seconds


def format_bytes(n_bytes: float) -> str:
    """``"1.5 GiB"``, for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n_bytes) < 1024:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
Seconds = Annotated[float, BeforeValidator(parse_seconds)]
