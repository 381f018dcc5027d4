"""What may be a key."""

from __future__ import annotations

import pytest

from infiniray.errors import InvalidKey
from infiniray.keys import full_key, namespace_prefix


@pytest.mark.parametrize("key", ["k", "a/b", "ключ", " ", "\0", "x" * 1024, "é" * 512])
def test_good_keys(key: str) -> None:
    assert full_key(key) == key
    assert full_key(key[:500], "ns/") == "ns/" + key[:500]


@pytest.mark.parametrize("key", [None, True, 1, 1.5, ("a",), b"k", bytearray(b"k"), object()])
def test_keys_are_text(key: object) -> None:
    with pytest.raises(InvalidKey, match=f"a key is a str, not {type(key).__name__}"):
        full_key(key)


def test_bytes_keys_are_told_what_to_do() -> None:
    with pytest.raises(InvalidKey, match="decode it first"):
        full_key(b"k")


@pytest.mark.parametrize("key", ["x" * 1025, "é" * 513])
def test_keys_are_bounded_in_bytes(key: str) -> None:
    with pytest.raises(InvalidKey, match=r"at most 1,024"):
        full_key(key)


def test_the_prefix_counts() -> None:
    with pytest.raises(InvalidKey, match=r"1,027 bytes"):
        full_key("x" * 1024, "ns/")


def test_empty_and_unencodable_keys() -> None:
    with pytest.raises(InvalidKey, match="at least one character"):
        full_key("")
    with pytest.raises(InvalidKey, match="UTF-8"):
        full_key("\ud800")


def test_namespaces_nest() -> None:
    assert namespace_prefix("b", namespace_prefix("a")) == "a/b/"
    with pytest.raises(InvalidKey):
        namespace_prefix("")
    with pytest.raises(InvalidKey):
        namespace_prefix(3)
