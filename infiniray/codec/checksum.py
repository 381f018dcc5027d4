"""CRC-32 of chunks, equal to ``zlib.crc32``, so that a node can check it with the standard library."""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from infiniray.codec import isal
from infiniray.codec.buffers import byte_view

if TYPE_CHECKING:
    from infiniray.codec.buffers import BufferLike

__all__ = ["checksum", "combine"]

#: the CRC's polynomial and the polynomials 1 and x^8, bit-reversed: the highest bit is the coefficient of x^0
_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31
_X8 = 1 << 23
#: with both, where a writable buffer begins
_first, _address = ctypes.c_char.from_buffer, ctypes.addressof
#: below this, the call into the faster library costs more than it saves
_SMALL_BYTES = 8192


def checksum(view: BufferLike, start: int = 0) -> int:
    """CRC-32 of a contiguous buffer: what ``zlib.crc32`` says, several times faster where ISA-L is there.

    Args:
        start: the CRC-32 of what comes before, to go on from there.

    Raises:
        TypeError: the buffer is not contiguous, or not a buffer.
    """
    library = isal.load()
    if type(view) is memoryview:  # as links have them: numpy takes longer to say where it is
        try:
            if library is None or view.nbytes < _SMALL_BYTES:
                if view.c_contiguous:
                    return zlib.crc32(view, start)
            elif not view.readonly:
                return int(library.crc32_gzip_refl(start, _address(_first(view)), view.nbytes))
        except (TypeError, ValueError):  # what is wrong with it is said below
            pass
    array = byte_view(view)
    if library is None or array.nbytes < _SMALL_BYTES:
        return zlib.crc32(array.data, start)
    return int(library.crc32_gzip_refl(start, array.ctypes.data, array.nbytes))


def combine(crcs: Iterable[int], lengths: Iterable[int]) -> int:
    """CRC-32 of the concatenation of pieces, from the pieces' own CRCs and lengths in bytes.

    Appending n bytes multiplies the CRC so far, as a polynomial over GF(2), by x^(8n) modulo the CRC's polynomial
    (as zlib's ``crc32_combine``).

    Raises:
        ValueError: not as many lengths as CRCs, or a negative length.
    """
    total = 0
    for crc, length in zip(crcs, lengths, strict=True):
        total = _product(_shift(length), total) ^ crc
    return total


@lru_cache(maxsize=1024)
def _shift(n_bytes: int) -> int:
    """x^(8 * n_bytes) modulo the polynomial, by repeated squaring."""
    if n_bytes < 0:
        raise ValueError(f"a piece cannot have {n_bytes} bytes")
    result, square = _ONE, _X8
    while n_bytes:
        if n_bytes & 1:
            result = _product(result, square)
        square = _product(square, square)
        n_bytes >>= 1
    return result


def _product(left: int, right: int) -> int:
    """The product of two polynomials modulo the CRC's."""
    product = 0
    while left:
        if left & _ONE:
            product ^= right
        left = (left << 1) & 0xFFFFFFFF
        right = (right >> 1) ^ (_POLYNOMIAL if right & 1 else 0)
    return product
