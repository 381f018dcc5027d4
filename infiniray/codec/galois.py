"""Arithmetic in GF(2^8), the field of byte-wise Reed-Solomon codes.

The field polynomial is x^8 + x^4 + x^3 + x^2 + 1 (0x11d), as in zfec, ISA-L and RAID-6's Q (H. P. Anvin, "The
mathematics of RAID-6"). Addition is XOR. Matrices are small: their dimensions are counts of chunks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from infiniray.errors import SchemeError

__all__ = ["Matrix", "identity", "invert", "multiply", "power"]

#: uint8, shape (rows, columns)
Matrix = npt.NDArray[np.uint8]

_POLYNOMIAL = 0x11D
_ORDER = 255  # of the multiplicative group; 2 generates it


def _exponents() -> tuple[list[int], list[int]]:
    exp, log, value = [0] * (2 * _ORDER), [0] * 256, 1
    for exponent in range(_ORDER):
        exp[exponent] = exp[exponent + _ORDER] = value
        log[value] = exponent
        value <<= 1
        if value & 0x100:
            value ^= _POLYNOMIAL
    return exp, log


_EXP, _LOG = _exponents()


def _products() -> Matrix:
    log = np.array(_LOG)
    table: Matrix = np.array(_EXP, dtype=np.uint8)[log[:, None] + log[None, :]]
    table[0, :] = table[:, 0] = 0
    return table


#: every product: 256 x 256
_MUL = _products()


def power(exponent: int) -> int:
    """The generator 2 to the power of ``exponent``."""
    return _EXP[exponent % _ORDER]


def identity(size: int) -> Matrix:
    """The identity matrix, ``size`` x ``size``."""
    return np.eye(size, dtype=np.uint8)


def multiply(left: Matrix, right: Matrix) -> Matrix:
    """The matrix product, (a, b) x (b, c) -> (a, c)."""
    product = np.zeros((left.shape[0], right.shape[1]), dtype=np.uint8)
    for row, coefficients in zip(product, left, strict=True):
        np.bitwise_xor.reduce(_MUL[coefficients[:, None], right], axis=0, out=row)
    return product


def invert(matrix: Matrix) -> Matrix:
    """The inverse of a square matrix, by Gauss-Jordan elimination.

    Raises:
        SchemeError: the matrix is singular.
    """
    size = len(matrix)
    work: Matrix = np.concatenate([matrix, identity(size)], axis=1)
    for column in range(size):
        candidates = np.flatnonzero(work[column:, column])
        if not len(candidates):
            raise SchemeError(detail="these chunks do not determine the object: their matrix is singular")
        pivot = column + int(candidates[0])
        work[[column, pivot]] = work[[pivot, column]]
        inverse = power(-_LOG[work[column, column]])
        work[column] = _MUL[inverse, work[column]]
        factors = work[:, column].copy()
        factors[column] = 0
        work ^= _MUL[factors[:, None], work[column]]
    inverted: Matrix = work[:, size:].copy()
    return inverted
