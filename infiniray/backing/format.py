"""Values as a store has them.

- ``bytes``, ``bytearray`` and flat views of bytes are stored as they are, so that others can use the bucket; whatever
  they were, they come back from the store as ``bytes``. So does any object that others put there.
- Other values (arrays, pickled objects) have a header before their buffer, and come back as what they were::

      0   8 bytes   89 49 52 41 59 0D 0A 01: no text, and damaged by a transfer as text
      8   uint32    H, bytes of the head (little-endian, as all numbers here)
      12  uint32    CRC-32 of the head
      16  uint32    CRC-32 of the buffer
      20  uint64    bytes of the buffer
      28            the head, JSON, as :mod:`infiniray.values` makes it
      ...           zeros, up to a multiple of 64 bytes
                    the buffer

- ``bytes`` that happen to begin like such a header get one of their own.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from infiniray.codec.checksum import checksum
from infiniray.values import MAX_HEAD_BYTES, Serialized

__all__ = ["Damaged", "is_pickle", "pack", "unpack"]

MAGIC = b"\x89IRAY\r\n\x01"
_HEADER = struct.Struct("<8sIIIQ")
_ALIGN = 64
_BYTES_HEAD = '["bytes"]'


class Damaged(Exception):
    """A header is not what its object has; the text says how."""


def is_pickle(head: str) -> bool:
    """Whether rebuilding a value of this head runs what its pickle says."""
    return bool(json.loads(head)[0] == "pickle")


def pack(value: Serialized) -> list[memoryview]:
    """The parts that an object of the store is made of; they share the value's memory."""
    data = memoryview(value.data)  # type: ignore[arg-type]
    if _is_octets(value.head):
        if data[: len(MAGIC)] != MAGIC:
            return [data]
        return [_header(_BYTES_HEAD, data), data]
    return [_header(value.head, data), data]


def unpack(stored: Any) -> Serialized:
    """The value in an object of the store, given as an array of bytes; it shares the array's memory.

    Raises:
        Damaged: it has a header, and is not what that says.
    """
    view = memoryview(stored)
    if view[: len(MAGIC)] != MAGIC:
        return Serialized(_BYTES_HEAD, stored)
    if view.nbytes < _HEADER.size:
        raise Damaged("it ends within its header")
    _, n_head, head_crc, data_crc, n_data = _HEADER.unpack_from(view)
    start = _aligned(_HEADER.size + n_head)
    if n_head > MAX_HEAD_BYTES or start + n_data != view.nbytes:
        raise Damaged(f"its header says {start + n_data:,} bytes, it has {view.nbytes:,}")
    head, data = view[_HEADER.size : _HEADER.size + n_head], stored[start:]
    if checksum(head) != head_crc or checksum(data) != data_crc:
        raise Damaged("its checksum is not what its header says")
    return Serialized(bytes(head).decode(), data)


def _is_octets(head: str) -> bool:
    match json.loads(head):
        case ["bytes" | "bytearray"] | ["memoryview", "B", [_]]:
            return True
    return False


def _header(head: str, data: memoryview) -> memoryview:
    text = head.encode()
    header = _HEADER.pack(MAGIC, len(text), checksum(text), checksum(data), data.nbytes) + text
    return memoryview(header.ljust(_aligned(len(header)), b"\0"))


def _aligned(n_bytes: int) -> int:
    return -(-n_bytes // _ALIGN) * _ALIGN
