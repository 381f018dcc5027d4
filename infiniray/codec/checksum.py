"""CRC-32 as zlib and gzip compute it, through ISA-L where it is there, so that the node agent can check with the
standard library alone."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from infiniray.codec.kernels import load_isal

__all__ = ["checksum", "combine"]

_POLYNOMIAL = 0xEDB88320  # reflected
#: Below this the call through ctypes costs more than it saves.
_SMALL_BYTES = 4096


@lru_cache(maxsize=1)
def _isal_crc32() -> Callable[[int, int, int], int] | None:
    library = load_isal()
    if library is None or not hasattr(library, "crc32_gzip_refl"):
        return None
    function = library.crc32_gzip_refl
    function.argtypes = [ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint64]
    function.restype = ctypes.c_uint32
    return function  # type: ignore[no-any-return]


def checksum(buffer: Any) -> int:
    """The CRC-32 of a contiguous buffer, as ``zlib.crc32``."""
    view = memoryview(buffer)
    isal = _isal_crc32()
    if isal is None or view.nbytes < _SMALL_BYTES:
        return zlib.crc32(view)
    return isal(0, np.frombuffer(view, np.uint8).ctypes.data, view.nbytes)


def combine(crcs: Sequence[int], lengths: Sequence[int]) -> int:
    """The CRC-32 of a concatenation, from those of its parts.

    Appending n zero bytes is a linear map on the 32 bits of a CRC; maps for powers of two make any n in about log n steps.
    """
    total = 0
    for crc, n_bytes in zip(crcs, lengths, strict=True):
        total = _append_zeros(total, n_bytes) ^ crc
    return total


def _append_zeros(crc: int, n_bytes: int) -> int:
    power = 0
    while n_bytes:
        if n_bytes & 1:
            crc = _apply(_zeros_map(power), crc)
        n_bytes >>= 1
        power += 1
    return crc


def _apply(columns: Sequence[int], bits: int) -> int:
    total = 0
    for column in columns:
        if bits & 1:
            total ^= column
        bits >>= 1
    return total


@lru_cache(maxsize=64)
def _zeros_map(power: int) -> tuple[int, ...]:
    """What appending ``2 ** power`` zero bytes makes of each bit."""
    if power == 0:
        return tuple(_shift_byte(1 << bit) for bit in range(32))
    half = _zeros_map(power - 1)
    return tuple(_apply(half, column) for column in half)


def _shift_byte(crc: int) -> int:
    for _ in range(8):
        crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
    return crc
