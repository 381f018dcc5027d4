"""The matrices behind the schemes: chunks as linear combinations of other chunks."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from infiniray.codec.galois import Matrix, identity, invert, multiply, power
from infiniray.codec.schemes import Scheme, SchemeKind

__all__ = ["generator", "recovery"]


@lru_cache(maxsize=256)
def generator(scheme: Scheme) -> Matrix:
    """All chunks from the data chunks: (n, k), read-only, whose first k rows are the identity."""
    if scheme.kind is SchemeKind.RS:
        parity = _vandermonde_parity(scheme.k, scheme.n)
    else:  # XOR and the copies of a mirror are rows of ones; a stripe has no rows
        parity = np.ones((scheme.r, scheme.k), dtype=np.uint8)
    matrix = np.concatenate([identity(scheme.k), parity])
    matrix.setflags(write=False)
    return matrix


def _vandermonde_parity(k: int, n: int) -> Matrix:
    """Parity rows, (n - k, k), as zfec derives them (L. Rizzo, "Effective erasure codes", 1997).

    Row 0 evaluates a polynomial of k coefficients at 0, row i at 2^(i - 1). Any k rows of such a matrix are
    independent, and stay so when all are multiplied by the inverse of the first k, which makes those the identity.
    """
    rows = [[1] + [0] * (k - 1)]
    rows += [[power(point * column) for column in range(k)] for point in range(n - 1)]
    vandermonde = np.array(rows, dtype=np.uint8)
    return multiply(vandermonde[k:], invert(vandermonde[:k]))


@lru_cache(maxsize=4096)
def recovery(scheme: Scheme, sources: tuple[int, ...], wanted: tuple[int, ...]) -> Matrix:
    """Chunks ``wanted`` from the ``k`` chunks ``sources``: (len(wanted), k), contiguous and read-only.

    Raises:
        SchemeError: the sources do not determine the object.
    """
    matrix = generator(scheme)
    rows = matrix[list(wanted)]
    if sources != tuple(range(scheme.k)):
        rows = multiply(rows, invert(matrix[list(sources)]))
    rows.setflags(write=False)
    return rows
