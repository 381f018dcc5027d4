"""Callers' buffers seen as bytes, without copying them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Buffer

    #: anything contiguous that has bytes; before Python 3.12 numpy's arrays do not say that they are buffers
    BufferLike: TypeAlias = Buffer | npt.NDArray[Any]

__all__ = ["ByteArray", "byte_view"]

#: uint8, one dimension, contiguous: a view of somebody's buffer
ByteArray = npt.NDArray[np.uint8]


def byte_view(buffer: BufferLike) -> ByteArray:
    """The bytes of a buffer as an array that shares its memory, and is read-only if it is.

    Raises:
        TypeError: not a buffer, or not a contiguous one.
    """
    try:
        raw = memoryview(cast("Buffer", buffer))
        # an empty view may have a shape that cannot be cast
        return np.frombuffer(raw.cast("B"), dtype=np.uint8) if raw.nbytes else np.empty(0, dtype=np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise TypeError(f"not a contiguous buffer of bytes: {error}") from None
