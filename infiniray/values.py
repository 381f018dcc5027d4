"""Values to bytes and back: a short head, and one contiguous buffer.

=====================================  ==========================================  ===========================
put                                    costs to serialize                          comes back as
=====================================  ==========================================  ===========================
``bytes``, ``bytearray``,              nothing                                     the same type, copied once
``array.array``
``memoryview``, ``mmap``, ctypes,      nothing if C-contiguous, else one copy      read-only ``memoryview``
``pickle.PickleBuffer``
NumPy array                            nothing if contiguous (either order),       read-only NumPy array
                                       else one copy
anything else                          pickle protocol 5 (cloudpickle); buffers    an equal value; arrays in
                                       that it hands out are copied once           it are read-only
=====================================  ==========================================  ===========================

"Read-only" results are views of the buffer, without a copy. :func:`view` gives any of the first two rows so.
"""

from __future__ import annotations

import array
import ctypes
import json
import mmap
import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import numpy.typing as npt

from infiniray.copying import copied
from infiniray.errors import ValueNotStorable

__all__ = [
    "MAX_HEAD_BYTES",
    "Packed",
    "Serialized",
    "deserialize",
    "fresh_until_s",
    "serialize",
    "view",
    "with_fresh_until",
    "with_writer",
    "writer_of",
]

#: A longer head (a pickle with hundreds of buffers) is avoided: such values are pickled in-band.
MAX_HEAD_BYTES = 8 << 10
#: Buffers behind a pickle begin at multiples of this, so that arrays over them are aligned.
_ALIGN = 64
#: How the head of a value begins that may get stale before it expires: ``["fresh",until_s,[the head]]``.
_FRESH = '["fresh",'
#: How the head of a value begins that says which request wrote it: ``["by","request",[the head]]``.
_BY = '["by","'
#: Beside memoryviews: types that export a buffer, but cannot be pickled.
_BUFFERS = (mmap.mmap, ctypes.Array, ctypes.Structure, pickle.PickleBuffer)

Octets = npt.NDArray[np.uint8]


class Serialized(NamedTuple):
    """``head`` tells how to turn ``data`` (one dimension, C-contiguous) back into the value."""

    head: str
    data: Octets


# ---------------------------------------------------------------- there


def serialize(value: object) -> Serialized:
    """Head and buffer of ``value``; the buffer shares the value's memory where the table above says so.

    Raises:
        ValueNotStorable: it cannot be pickled.
    """
    kind = type(value)
    if kind is bytes or kind is bytearray:
        return Serialized(_head(kind.__name__), _octets(value))
    if kind is array.array:
        return Serialized(_head("array", value.typecode), _octets(value))  # type: ignore[attr-defined]
    if kind is np.ndarray or kind is np.memmap:
        return _from_array(value) if _is_plain(value.dtype) else _from_pickle(value)  # type: ignore[attr-defined,arg-type]
    if isinstance(value, (memoryview, *_BUFFERS)):
        return _from_view(memoryview(value))
    return _from_pickle(value)


def _head(kind: str, *details: object) -> str:
    return json.dumps([kind, *details], separators=(",", ":"))


def _octets(buffer: Any) -> Octets:
    flat = memoryview(buffer)
    flat = flat.cast("B") if flat.nbytes else memoryview(b"")  # a view with a zero in its shape cannot be cast
    octets: Octets = np.ndarray((flat.nbytes,), np.uint8, buffer=flat)
    return octets


def _is_plain(dtype: np.dtype[Any]) -> bool:
    """Whether the type's short text says all about it: not for objects, structures and extension types."""
    is_simple = not dtype.hasobject and dtype.fields is None and dtype.subdtype is None
    return is_simple and np.dtype(dtype.str) == dtype


def _from_array(value: npt.NDArray[Any]) -> Serialized:
    array_ = np.asarray(value)
    order = "F" if array_.flags.f_contiguous and not array_.flags.c_contiguous else "C"
    flat = array_.T if order == "F" else array_
    if not flat.flags.c_contiguous:
        flat = np.array(flat, order="C", copy=True)
    octets: Octets = flat.reshape(-1).view(np.uint8) if flat.size else np.empty(0, np.uint8)
    return Serialized(_head("ndarray", array_.dtype.str, array_.shape, order), octets)


def _from_view(value: memoryview) -> Serialized:
    contiguous = value if value.c_contiguous else memoryview(value.tobytes()).cast("B")
    if len(value.format) == 1 and value.c_contiguous and value.format != "P":
        return Serialized(_head("memoryview", value.format, value.shape), _octets(contiguous))
    return Serialized(_head("memoryview", "B", [value.nbytes]), _octets(contiguous))


def _from_pickle(value: object) -> Serialized:
    buffers: list[pickle.PickleBuffer] = []

    def takes_in_band(buffer: pickle.PickleBuffer) -> bool:
        try:
            buffer.raw()
        except BufferError:  # not contiguous
            return True
        buffers.append(buffer)
        return False

    head, parts = _pickled(value, takes_in_band), [buffer.raw() for buffer in buffers]
    text = _head("pickle", len(head), [part.nbytes for part in parts])
    if len(text) > MAX_HEAD_BYTES:
        head, parts = _pickled(value, None), []
        text = _head("pickle", len(head), [])
    return Serialized(text, _joined([memoryview(head), *parts]) if parts else _octets(head))


def _pickled(value: object, callback: Any) -> bytes:
    try:
        return bytes(cloudpickle.dumps(value, protocol=5, buffer_callback=callback))
    except Exception as error:  # whatever a __reduce__ raises
        detail = f"a {type(value).__name__} cannot be pickled: {type(error).__name__}: {error}"
        raise ValueNotStorable(detail=detail) from error


def _offsets(lengths: Sequence[int]) -> list[int]:
    """Where parts of these lengths begin when joined, and where the last one ends."""
    offsets, end = [], 0
    for length in lengths:
        start = -(-end // _ALIGN) * _ALIGN
        offsets.append(start)
        end = start + length
    return [*offsets, end]


def _joined(parts: Sequence[memoryview]) -> Octets:
    *starts, end = _offsets([part.nbytes for part in parts])
    whole = np.zeros(end, np.uint8) if end < 1 << 16 else np.empty(end, np.uint8)
    for start, part in zip(starts, parts, strict=True):
        whole[start : start + part.nbytes] = _octets(part)
    return whole


# ---------------------------------------------------------------- fresh, then stale


def with_fresh_until(head: str, until_s: float) -> str:
    """The head of a value that is stale from ``until_s`` (Unix time) until it expires."""
    return f"{_FRESH}{until_s!r},{head}]"


def fresh_until_s(head: str) -> float | None:
    """When a value gets stale; None if it does not before it expires."""
    return float(json.loads(head)[1]) if head.startswith(_FRESH) else None


# ---------------------------------------------------------------- written by


def with_writer(head: str, request: str) -> str:
    """The head of a value that was written by this request: letters and digits."""
    return f'{_BY}{request}",{head}]'


def writer_of(head: str) -> str | None:
    """The request that wrote a value, if its head says so."""
    return head[len(_BY) : head.index('"', len(_BY))] if head.startswith(_BY) else None


# ---------------------------------------------------------------- and back


def _kind_and_details(head: str) -> Any:
    described = json.loads(head)
    match described:
        case ["fresh" | "by", _, bare]:
            return bare
    return described


def deserialize(head: str, buffer: Any) -> Any:
    """The value that :func:`serialize` was given.

    Raises:
        ValueNotStorable: it cannot be rebuilt here, as when its class cannot be imported.
    """
    data = memoryview(buffer).cast("B").toreadonly()
    match _kind_and_details(head):
        case ["bytes"]:
            return copied(data)
        case ["bytearray"]:
            return bytearray(data)
        case ["array", str(typecode)]:
            return _array(typecode, data)
        case ["memoryview", str(format_), list(shape)]:
            return _shaped(data, format_, shape)
        case ["ndarray", str(dtype), list(shape), "C" | "F" as order]:
            return np.ndarray(shape, dtype, buffer=data, order=order)
        case ["pickle", int(n_head), list(lengths)]:
            return _unpickled(data, n_head, lengths)
    raise ValueNotStorable(detail=f"the value was stored by another version of infiniray: {head!r:.80}")


def view(head: str, buffer: Any) -> memoryview:
    """The bytes of a stored bytes-like value or array, without a copy, read-only.

    Raises:
        ValueNotStorable: the value was pickled.
    """
    if _kind_and_details(head)[0] == "pickle":
        detail = "the stored value is a pickled object, not bytes-like: get it without raw=True"
        raise ValueNotStorable(detail=detail)
    return memoryview(buffer).cast("B").toreadonly()


def _array(typecode: str, data: memoryview) -> array.array[Any]:
    values = array.array(typecode)
    values.frombytes(data)
    return values


def _shaped(data: memoryview, format_: str, shape: list[int]) -> memoryview:
    if format_ == "B" and len(shape) == 1:
        return data
    if 0 in shape:  # a view of nothing cannot be cast
        return np.empty(shape, format_).data.toreadonly()
    return data.cast(format_, shape)  # type: ignore[call-overload,no-any-return]


def _unpickled(data: memoryview, n_head: int, lengths: list[int]) -> Any:
    starts = _offsets([n_head, *lengths])[1:-1]
    buffers = [data[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    try:
        return pickle.loads(data[:n_head], buffers=buffers)
    except Exception as error:  # whatever importing a module and calling a __setstate__ raise
        detail = f"the stored value cannot be rebuilt here: {type(error).__name__}: {error}"
        raise ValueNotStorable(detail=detail) from error


class Packed:
    """A stored object on its way to its reader: unpickling it gives the value itself.

    So the object reference of a shard's answer *is* a reference to the value, resolved where it is used: on
    the same machine as a view over Ray's shared memory.
    """

    __slots__ = ("_buffer", "_head", "_raw")

    def __init__(self, head: str, buffer: Any, *, raw: bool = False) -> None:
        self._head = head
        self._buffer = buffer
        self._raw = raw

    def __reduce__(self) -> tuple[Any, ...]:
        return view if self._raw else deserialize, (self._head, pickle.PickleBuffer(self._buffer))
