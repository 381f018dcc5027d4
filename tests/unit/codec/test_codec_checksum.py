from __future__ import annotations

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infiniray.codec import isal
from infiniray.codec.checksum import checksum, combine

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "codec.json").read_text())


@pytest.fixture(params=["isal", "zlib"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to compute it."""
    if request.param == "zlib":
        monkeypatch.setattr(isal, "load", lambda: None)
    elif isal.load() is None:
        pytest.skip("ISA-L is not on this machine")
    return str(request.param)


@pytest.mark.parametrize("size", [0, 1, 4096, 8191, 8192, 8193, 100_000, 1_000_003])
def test_equals_zlib(backend: str, size: int) -> None:
    data = hashlib.shake_256(b"crc").digest(size)
    assert checksum(data) == zlib.crc32(data)
    assert checksum(memoryview(data)) == zlib.crc32(data)
    assert checksum(np.frombuffer(data, dtype=np.uint8)[1:]) == zlib.crc32(data[1:])
    writable = memoryview(bytearray(data))
    assert checksum(writable) == zlib.crc32(data)
    assert checksum(writable[1:], 77) == zlib.crc32(data[1:], 77)
    assert checksum(writable[size // 2 :], checksum(writable[: size // 2])) == zlib.crc32(data)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["seed"])
def test_frozen_vectors(backend: str, vector: dict[str, int]) -> None:
    data = hashlib.shake_256(str(vector["seed"]).encode()).digest(vector["object_bytes"])
    assert checksum(data) == vector["object_crc32"]


def test_arrays_of_any_type(backend: str) -> None:
    array = np.arange(6000, dtype=np.float64).reshape(60, 100)
    assert checksum(array) == zlib.crc32(array.tobytes())
    assert checksum(np.empty((0, 5))) == 0
    assert checksum(array.data) == checksum(memoryview(array.tobytes()).cast("d", (60, 100))) == checksum(array)
    assert checksum(np.empty((0, 5)).data) == 0


@pytest.mark.parametrize("n_bytes", [100, 20_000])
def test_the_memory_is_not_held_on_to(backend: str, n_bytes: int) -> None:
    buffer = bytearray(n_bytes)
    view = memoryview(buffer)
    checksum(view)
    view.release()
    buffer.append(1)  # a BufferError as long as anybody looks at it


def released(n_bytes: int) -> memoryview:
    view = memoryview(bytearray(n_bytes))
    view.release()
    return view


@pytest.mark.parametrize(
    "bad",
    [
        "text",
        memoryview(bytes(20_000))[::2],
        memoryview(bytearray(20_000))[::2],
        memoryview(bytearray(200))[::-1],
        np.asfortranarray(np.zeros((100, 200))).data,
        np.asfortranarray(np.zeros((10, 2))).data,
        released(20_000),
        released(20),
    ],
)
def test_what_is_no_contiguous_buffer(backend: str, bad: object) -> None:
    with pytest.raises(TypeError, match="not a contiguous buffer"):
        checksum(bad)  # type: ignore[arg-type]


@settings(deadline=None)
@given(st.lists(st.binary(max_size=5000), max_size=12))
def test_combine_is_the_checksum_of_the_concatenation(pieces: list[bytes]) -> None:
    assert combine(map(zlib.crc32, pieces), map(len, pieces)) == zlib.crc32(b"".join(pieces))


def test_combine_takes_lengths_that_no_memory_holds() -> None:
    """Appending 2^40 zero bytes at once equals appending half of them twice."""
    zeros, length = zlib.crc32(bytes(1 << 10)), 1 << 10
    while length < 1 << 39:
        zeros, length = combine([zeros, zeros], [length, length]), 2 * length
        if length == 1 << 20:
            assert zeros == zlib.crc32(bytes(1 << 20))
    start = zlib.crc32(b"start")
    by_halves = combine([start, zeros, zeros], [5, length, length])
    assert by_halves == combine([start, combine([zeros, zeros], [length, length])], [5, 2 * length])


def test_combine_refuses_what_does_not_match() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        combine([1, 2], [3])
    with pytest.raises(ValueError, match="-1 bytes"):
        combine([1], [-1])
