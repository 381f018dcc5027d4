from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workloads.content import content, n_wrong_bytes, verify

MIB = 1 << 20
SIZES = [0, 1, 7, 31, 32, 33, 1000, MIB - 1, MIB, MIB + 5, 3 * MIB + 17]


@pytest.mark.parametrize("size_bytes", SIZES)
def test_the_same_key_always_has_the_same_bytes_and_they_verify(size_bytes: int) -> None:
    value = content("key", size_bytes)
    assert value.shape == (size_bytes,)
    assert np.array_equal(value, content("key", size_bytes))
    for form in (value, value.tobytes(), value.data, bytearray(value.data)):
        assert verify("key", size_bytes, form)
        assert n_wrong_bytes("key", size_bytes, form) == 0


@given(size_bytes=st.integers(1, 5000), where=st.integers(0, 4999), change=st.integers(1, 255))
def test_one_changed_byte_is_seen(size_bytes: int, where: int, change: int) -> None:
    value = content("key", size_bytes)
    value[where % size_bytes] ^= change
    assert not verify("key", size_bytes, value)
    assert n_wrong_bytes("key", size_bytes, value) == 1


@pytest.mark.parametrize("where", [0, 31, 32, MIB - 1, MIB, MIB + 31, MIB + 32, 3 * MIB + 16])
def test_one_changed_byte_is_seen_in_any_block(where: int) -> None:
    value = content("key", 3 * MIB + 17)
    value[where] ^= 1
    assert not verify("key", len(value), value)
    assert n_wrong_bytes("key", len(value), value) == 1


@pytest.mark.parametrize("chunk_bytes", [MIB, 2 * MIB, 300_000, 64 * 1024])
def test_swapped_chunks_are_seen(chunk_bytes: int) -> None:
    value = content("key", 10 * MIB)
    swapped = value.copy()
    swapped[:chunk_bytes], swapped[chunk_bytes : 2 * chunk_bytes] = (
        value[chunk_bytes : 2 * chunk_bytes],
        value[:chunk_bytes],
    )
    assert n_wrong_bytes("key", 10 * MIB, swapped) > 1.9 * chunk_bytes
    assert not verify("key", 10 * MIB, swapped)


def test_another_objects_chunk_is_seen() -> None:
    mine, other = content("mine", 10 * MIB), content("other", 10 * MIB)
    mine[3 * MIB : 4 * MIB] = other[3 * MIB : 4 * MIB]
    assert not verify("mine", 10 * MIB, mine)


def test_a_shift_is_seen() -> None:
    assert n_wrong_bytes("key", MIB, np.roll(content("key", MIB), 1)) > 0.9 * MIB


@given(st.text(), st.text(), st.integers(16, 64))
def test_different_keys_sizes_and_seeds_have_different_bytes(left: str, right: str, size_bytes: int) -> None:
    value = content(left, size_bytes)
    if left != right:
        assert not verify(right, size_bytes, value)
    assert not verify(left, size_bytes, value, seed=1)
    assert not np.array_equal(content(left, size_bytes + 1)[:size_bytes], value)


@pytest.mark.parametrize("value", [None, "text", 7, object(), [1, 2]])
def test_what_is_no_bytes_is_wrong_in_every_byte(value: object) -> None:
    assert not verify("key", 10, value)
    assert n_wrong_bytes("key", 10, value) == 10
    assert n_wrong_bytes("key", 0, value) == 1


def test_lacking_and_surplus_bytes_count() -> None:
    value = content("key", 100)
    assert n_wrong_bytes("key", 100, value[:90]) == 10
    assert n_wrong_bytes("key", 100, np.r_[value, value[:5]]) == 5
    assert not verify("key", 100, value[:90])


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="-1 bytes"):
        content("key", -1)
