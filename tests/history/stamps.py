"""Values that say which they are in every word, so that bytes of two of them cannot pass for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Damaged", "identify", "stamped"]

Words = npt.NDArray[np.uint64]

_MODULUS = 1 << 64
_OF_ID = 0x9E3779B97F4A7C15  # odd, so it has an inverse
_OF_PLACE = 0xC2B2AE3D27D4EB4F
_INVERSE = pow(_OF_ID, -1, _MODULUS)
_FEW = 4


class Damaged(Exception):
    """What was read is no value that was ever made."""


def stamped(value: int, n_bytes: int) -> Words:
    """The value with this id (from 0): ``n_bytes``, a multiple of 8 and at least 16, as words."""
    n_words = n_bytes // 8
    if n_bytes % 8 or n_words < 2:
        raise ValueError(f"{n_bytes} bytes are not two words or more")
    words: Words = _places(n_words) + np.uint64(value * _OF_ID % _MODULUS)
    words[0] = n_words
    return words


def identify(words: Any) -> int:
    """The id of a value.

    Raises:
        Damaged: it is not one value, whole.
    """
    if not isinstance(words, np.ndarray) or words.dtype != np.uint64 or words.ndim != 1 or len(words) < 2:
        raise Damaged(f"not a value: {type(words).__name__} {str(words)[:60]!r}")
    if int(words[0]) != len(words):
        raise Damaged(f"{len(words)} words of a value of {int(words[0])}")
    ids = (words - _places(len(words)))[1:] * np.uint64(_INVERSE)
    found = np.unique(ids)
    if len(found) > 1:
        few = ", ".join(str(value) for value in found[:_FEW])
        raise Damaged(f"a mix of {len(found)} values: {few}{', ...' if len(found) > _FEW else ''}")
    return int(found[0])


def _places(n_words: int) -> Words:
    places: Words = np.arange(n_words, dtype=np.uint64) * np.uint64(_OF_PLACE)
    return places
