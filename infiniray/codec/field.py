"""Arithmetic in GF(2^8) on matrices: small, exact, and only ever on k x k coefficients; kernels do the bytes.

The field is that of zfec and ISA-L: polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11d), generator 2. The generator matrix is zfec's
(Rizzo, "Effective Erasure Codes", 1997): a Vandermonde matrix made systematic, so that the first k rows are the identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from infiniray.errors import SchemeError

__all__ = ["Matrix", "decoding_rows", "generator_rows", "invert", "multiply"]

Matrix = tuple[tuple[int, ...], ...]

_POLYNOMIAL = 0x11D
_EXP = [0] * 510
_LOG = [0] * 256


def _fill_tables() -> None:
    value = 1
    for power in range(255):
        _EXP[power] = _EXP[power + 255] = value
        _LOG[value] = power
        value = value << 1 ^ (_POLYNOMIAL if value & 0x80 else 0)


_fill_tables()


def _times(a: int, b: int) -> int:
    return _EXP[_LOG[a] + _LOG[b]] if a and b else 0


def _inverse(a: int) -> int:
    return _EXP[255 - _LOG[a]]


def multiply(a: Matrix, b: Matrix) -> Matrix:
    """The product of two matrices."""
    columns = list(zip(*b, strict=True))
    return tuple(tuple(_dot(row, column) for column in columns) for row in a)


def _dot(row: Sequence[int], column: Sequence[int]) -> int:
    total = 0
    for x, y in zip(row, column, strict=True):
        total ^= _times(x, y)
    return total


def invert(matrix: Matrix) -> Matrix:
    """The inverse, by Gauss and Jordan.

    Raises:
        SchemeError: there is none.
    """
    n = len(matrix)
    work = [[*row, *(int(i == j) for j in range(n))] for i, row in enumerate(matrix)]
    for column in range(n):
        pivot = next((r for r in range(column, n) if work[r][column]), None)
        if pivot is None:
            raise SchemeError(detail=f"chunks do not determine the object: singular {n} x {n} matrix")
        work[column], work[pivot] = work[pivot], work[column]
        scale = _inverse(work[column][column])
        work[column] = [_times(scale, x) for x in work[column]]
        for row in range(n):
            factor = work[row][column]
            if row != column and factor:
                work[row] = [x ^ _times(factor, y) for x, y in zip(work[row], work[column], strict=True)]
    return tuple(tuple(row[n:]) for row in work)


@lru_cache(maxsize=64)
def generator_rows(k: int, n: int) -> Matrix:
    """The systematic n x k generator matrix of zfec: row ``i`` tells how chunk ``i`` is made of the data chunks."""
    # Row 0 of the Vandermonde matrix is (1, 0, 0, ...), row i + 1 the powers of generator ** i.
    top = [tuple(int(column == 0) for column in range(k))]
    rows = top + [tuple(_EXP[(row * column) % 255] for column in range(k)) for row in range(n - 1)]
    return multiply(tuple(rows), invert(tuple(rows[:k])))


@lru_cache(maxsize=4096)
def decoding_rows(generator: Matrix, have: tuple[int, ...], want: tuple[int, ...]) -> Matrix:
    """Rows that make the chunks ``want`` of the k chunks ``have``, both by their rows in ``generator``.

    Raises:
        SchemeError: these chunks do not determine the object.
    """
    to_data = invert(tuple(generator[index] for index in have))
    return multiply(tuple(generator[index] for index in want), to_data)
