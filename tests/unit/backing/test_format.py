"""Values as a store has them, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infiniray.backing.format import MAGIC, Damaged, is_pickle, pack, unpack
from infiniray.values import deserialize, serialize


def stored(value: Any) -> np.ndarray:
    return np.frombuffer(b"".join(pack(serialize(value))), np.uint8)


@pytest.mark.parametrize("value", [b"", b"abc", bytearray(b"abc"), memoryview(b"abc")])
def test_bytes_are_stored_as_they_are(value: Any) -> None:
    assert stored(value).tobytes() == bytes(value)
    assert deserialize(*unpack(stored(value))) == bytes(value)


@pytest.mark.parametrize("value", [{"a": [1, 2]}, None, "text", MAGIC + b"x", MAGIC, np.arange(6.0).reshape(2, 3)])
def test_other_values_come_back_as_what_they_were(value: Any) -> None:
    back = deserialize(*unpack(stored(value)))
    assert type(back) is type(value)
    np.testing.assert_equal(back, value)


def test_an_array_follows_its_header_aligned() -> None:
    array = np.arange(100)
    assert stored(array)[64 * 2 :].tobytes() in (array.tobytes(), array.tobytes()[64:])
    assert (stored(array).nbytes - array.nbytes) % 64 == 0


def test_only_pickles_are_pickles() -> None:
    assert is_pickle(unpack(stored({"a": 1})).head)
    assert not is_pickle(unpack(stored(np.arange(3))).head)
    assert not is_pickle(unpack(stored(b"x")).head)


@pytest.mark.parametrize("cut", [8, 20, 40, 100])
def test_an_object_that_ends_early_is_damaged(cut: int) -> None:
    with pytest.raises(Damaged):
        unpack(stored(np.arange(100))[:cut])


@pytest.mark.parametrize("at", [9, 13, 17, 21, 30, 500])
def test_an_object_with_a_changed_byte_is_damaged(at: int) -> None:
    data = stored(np.arange(100)).copy()
    data[at] ^= 0x55
    with pytest.raises(Damaged):
        unpack(data)
