"""Sizes and durations as people write them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from infiniray.errors import InvalidTTL
from infiniray.units import format_bytes, parse_bytes, parse_seconds, ttl_seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [(0, 0), (17, 17), ("17", 17), ("64MiB", 64 << 20), ("1.5 GiB", 3 << 29), ("10 MB", 10_000_000), ("4k", 4000)],
)
def test_sizes(text: object, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "MiB", "-1", "-4MiB", "1 parsec", "1e400", None, True, [], float("nan"), -1])
def test_not_sizes(text: object) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (2, 2.0),
        (0.5, 0.5),
        ("500ms", 0.5),
        ("2h", 7200.0),
        ("1 d", 86400.0),
        ("90", 90.0),
        (timedelta(minutes=2), 120.0),
    ],
)
def test_durations(text: object, expected: float) -> None:
    assert parse_seconds(text) == expected


@pytest.mark.parametrize("ttl", [0, -1, "0s", "soon", "", float("inf"), float("nan"), True, timedelta(0), object()])
def test_not_a_ttl(ttl: object) -> None:
    with pytest.raises(InvalidTTL, match="ttl"):
        ttl_seconds(ttl)


def test_no_ttl_is_for_ever() -> None:
    assert ttl_seconds(None) is None
    assert ttl_seconds("2h") == 7200


@pytest.mark.parametrize(("n_bytes", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")])
def test_sizes_for_people(n_bytes: int, text: str) -> None:
    assert format_bytes(n_bytes) == text
