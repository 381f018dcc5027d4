"""Values survive the way to bytes and back, of the right type, and without copies where none are promised."""

from __future__ import annotations

import array
import ctypes
import json
import mmap
import pickle
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from infiniray.errors import ValueNotStorable
from infiniray.values import (
    MAX_HEAD_BYTES,
    Packed,
    deserialize,
    fresh_until_s,
    serialize,
    view,
    with_fresh_until,
    with_writer,
    writer_of,
)


def round_trip(value: Any) -> Any:
    """As through Ray: the bytes arrive elsewhere, read-only."""
    head, data = serialize(value)
    assert data.dtype == np.uint8
    assert data.ndim == 1
    assert data.flags.c_contiguous
    assert len(head) <= MAX_HEAD_BYTES
    return deserialize(head, bytes(data))


def shares_memory(head_and_data: Any, source: Any) -> bool:
    return np.shares_memory(head_and_data.data, np.frombuffer(source, np.uint8))


@dataclass
class Model:
    name: str
    weights: np.ndarray
    biases: np.ndarray


@pytest.mark.parametrize(
    "value", [b"", b"x", b"\0" * 300_000, bytearray(), bytearray(b"abc"), array.array("d", [1.5, -2])]
)
def test_buffers_keep_their_type(value: Any) -> None:
    back = round_trip(value)
    assert type(back) is type(value)
    assert back == value


@pytest.mark.parametrize("value", [b"abc" * 50, bytearray(b"abc" * 50), memoryview(b"abc" * 50)])
def test_serializing_a_buffer_does_not_copy_it(value: Any) -> None:
    assert shares_memory(serialize(value), value)


@pytest.mark.parametrize(
    "value",
    [
        memoryview(b""),
        memoryview(b"hello"),
        memoryview(bytearray(b"12345678")).cast("I"),
        memoryview(np.arange(12.0).reshape(3, 4)),
        memoryview(np.arange(20)[::3]),
        memoryview(np.empty((0, 3))),
    ],
)
def test_memoryviews_come_back_read_only(value: memoryview) -> None:
    back = round_trip(value)
    assert isinstance(back, memoryview)
    assert back.readonly
    assert back.tobytes() == value.tobytes()
    if value.c_contiguous:
        assert (back.format, back.shape) == (value.format, value.shape)


def test_other_buffers_come_back_as_memoryviews() -> None:
    with mmap.mmap(-1, 4096) as mapped:
        mapped[:4] = b"abcd"
        head, data = serialize(mapped)
        assert deserialize(head, bytes(data))[:4] == b"abcd"
        del data
    assert round_trip((ctypes.c_uint8 * 3)(1, 2, 3)).tobytes() == b"\1\2\3"
    assert round_trip(pickle.PickleBuffer(b"xyz")) == b"xyz"


shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@given(hnp.arrays(dtype=hnp.scalar_dtypes(), shape=shapes))
def test_arrays_of_any_plain_type_and_shape(value: np.ndarray) -> None:
    back = round_trip(value)
    assert type(back) is np.ndarray
    assert (back.dtype, back.shape) == (value.dtype, value.shape)
    assert back.tobytes() == value.tobytes()
    assert not back.flags.writeable


def test_arrays_are_viewed_not_copied() -> None:
    value = np.arange(1000, dtype=np.int32).reshape(10, 100)
    for contiguous in (value, value.T):
        serialized = serialize(contiguous)
        assert np.shares_memory(serialized.data, value)
        back = deserialize(*serialized)
        assert np.shares_memory(back, value)
        assert back.flags.f_contiguous == contiguous.flags.f_contiguous
        np.testing.assert_array_equal(back, contiguous)


def test_arrays_that_are_not_contiguous_are_made_so() -> None:
    value = np.arange(1000).reshape(10, 100)[::2, ::3]
    np.testing.assert_array_equal(round_trip(value), value)


@pytest.mark.parametrize(
    "value",
    [
        np.array([{"a": 1}, None, "x"], dtype=object),
        np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
        np.ma.masked_array([1, 2, 3], mask=[0, 1, 0]),
    ],
)
def test_arrays_of_objects_structures_and_subclasses_are_pickled(value: Any) -> None:
    back = round_trip(value)
    assert type(back) is type(value)
    assert back.dtype == value.dtype
    assert back.tolist() == value.tolist()


@pytest.mark.parametrize("n_bytes", [(4 << 20) - 1, 4 << 20, (4 << 20) + 1, 20_000_003])
def test_large_bytes_are_copied_whole(n_bytes: int) -> None:
    value = np.random.default_rng(1).integers(0, 256, n_bytes, dtype=np.uint8).tobytes()
    back = round_trip(value)
    assert type(back) is bytes
    assert len(back) == n_bytes
    assert back == value
    assert hash(back) == hash(value)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@given(json_like)
def test_any_picklable_value(value: Any) -> None:
    assert round_trip(value) == value


def test_buffers_inside_a_pickle_travel_beside_it_and_come_back_as_views() -> None:
    value = Model("m", np.arange(1001, dtype=np.float64), np.arange(7, dtype=np.int8))
    head, data = serialize(value)
    kind, n_pickle, lengths = json.loads(head)
    assert (kind, lengths) == ("pickle", [8008, 7])
    assert n_pickle < 1000
    back = deserialize(head, data)
    assert back.name == "m"
    np.testing.assert_array_equal(back.weights, value.weights)
    np.testing.assert_array_equal(back.biases, value.biases)
    assert np.shares_memory(back.weights, data)
    assert back.weights.ctypes.data % 8 == 0


def test_a_head_does_not_outgrow_its_bound() -> None:
    value = [np.full(3, i) for i in range(3000)]
    head, _ = serialize(value)
    assert json.loads(head)[2] == []
    assert all((a == b).all() for a, b in zip(round_trip(value), value, strict=True))


def test_lambdas_and_local_classes_are_storable() -> None:
    class Local:
        x = 3

    assert round_trip(lambda a: a + 1)(1) == 2
    assert round_trip(Local()).x == 3


@pytest.mark.parametrize("value", [threading.Lock(), (i for i in range(3)), [threading.Lock()]])
def test_what_cannot_be_pickled_is_refused(value: Any) -> None:
    with pytest.raises(ValueNotStorable, match=r"cannot be pickled: TypeError"):
        serialize(value)


def test_a_value_whose_class_is_gone_says_so() -> None:
    head, data = serialize(Model("m", np.zeros(1), np.zeros(1)))
    gone = bytes(data).replace(b"Model", b"Modem")
    with pytest.raises(ValueNotStorable, match="cannot be rebuilt here"):
        deserialize(head, gone)


def test_view_gives_the_bytes_of_bytes_and_arrays_only() -> None:
    source = b"abc" * 10
    seen = view(*serialize(source))
    assert seen == source
    assert seen.readonly
    assert view(*serialize(np.arange(3, dtype=np.uint8))) == b"\0\1\2"
    with pytest.raises(ValueNotStorable, match="not bytes-like"):
        view(*serialize({"a": 1}))


@pytest.mark.parametrize("out_of_band", [True, False])
@pytest.mark.parametrize("value", [b"", b"abc", {"a": 1}])
def test_unpickling_a_packed_object_gives_the_value(value: Any, out_of_band: bool) -> None:
    head, data = serialize(value)
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(Packed(head, data), 5, buffer_callback=buffers.append if out_of_band else None)
    assert pickle.loads(pickled, buffers=buffers) == value
    assert len(buffers) == (1 if out_of_band else 0)


def test_packed_raw_gives_a_view() -> None:
    back = pickle.loads(pickle.dumps(Packed(*serialize(b"abc"), raw=True), 5))
    assert isinstance(back, memoryview)
    assert back == b"abc"


@pytest.mark.parametrize("value", [b"bytes", np.arange(6).reshape(2, 3), {"a": np.arange(3)}])
def test_the_head_says_when_a_value_gets_stale_and_what_it_is(value: Any) -> None:
    head, data = serialize(value)
    assert fresh_until_s(head) is None
    until_s = 1_700_000_000.123456789
    dated = with_fresh_until(head, until_s)
    assert fresh_until_s(dated) == until_s
    assert pickle.dumps(deserialize(dated, data)) == pickle.dumps(deserialize(head, data))
    if not isinstance(value, dict):
        assert view(dated, data) == view(head, data)


@pytest.mark.parametrize("value", [b"bytes", np.arange(6).reshape(2, 3), {"a": np.arange(3)}])
def test_the_head_says_which_request_wrote_a_value(value: Any) -> None:
    head, data = serialize(value)
    assert writer_of(head) is None
    signed = with_writer(head, "ab12")
    assert writer_of(signed) == "ab12"
    assert fresh_until_s(signed) is None
    assert pickle.dumps(deserialize(signed, data)) == pickle.dumps(deserialize(head, data))
