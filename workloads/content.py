"""What the objects of a replay are made of: bytes that follow from the key, so that any mix-up is noticed.

An object is a run of 1 MiB blocks. Each begins with a 32-byte stamp (a hash of key, size, seed and block number) and
goes on with a slice of one random base block, at an offset taken from the stamp. So a chunk that is swapped, shifted,
stale or another object's differs nearly everywhere, while making and comparing bytes runs at memory speed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["content", "n_wrong_bytes", "verify"]

Bytes1D = npt.NDArray[np.uint8]

_BLOCK_BYTES = 1 << 20
_BASE_BYTES = 8 << 20
_STAMP_BYTES = 32
_ALIGN_BYTES = 8


def content(key: str, size_bytes: int, seed: int = 0) -> Bytes1D:
    """The bytes of object ``key``: a fresh uint8 array of shape ``(size_bytes,)``.

    Raises:
        ValueError: the size is negative.
    """
    if size_bytes < 0:
        raise ValueError(f"an object cannot have {size_bytes} bytes")
    whole = np.empty(size_bytes, np.uint8)
    for at, stamp, tail in _blocks(key, size_bytes, seed):
        body = at + len(stamp)
        whole[at:body] = stamp
        whole[body : body + len(tail)] = tail
    return whole


def verify(key: str, size_bytes: int, value: Any, seed: int = 0) -> bool:
    """Whether ``value`` is, byte for byte, ``content(key, size_bytes, seed)``; that array is never built.

    ``value`` may be anything with a C-contiguous buffer; what has none cannot be what was stored.
    """
    seen = _as_bytes(value)
    if seen is None or len(seen) != size_bytes:
        return False
    return all(
        np.array_equal(seen[at : at + len(stamp)], stamp) and _equal(seen[at + len(stamp) :][: len(tail)], tail)
        for at, stamp, tail in _blocks(key, size_bytes, seed)
    )


def n_wrong_bytes(key: str, size_bytes: int, value: Any, seed: int = 0) -> int:
    """How many bytes of ``value`` differ from ``content(key, size_bytes, seed)``; lacking and surplus ones count.

    Zero exactly if :func:`verify` holds: a value that is no bytes at all counts as wrong in every byte, at least one.
    """
    seen = _as_bytes(value)
    if seen is None:
        return max(size_bytes, 1)
    wanted = content(key, size_bytes, seed)
    common = min(len(seen), size_bytes)
    return int(np.count_nonzero(seen[:common] != wanted[:common])) + abs(len(seen) - size_bytes)


def _blocks(key: str, size_bytes: int, seed: int) -> Iterator[tuple[int, Bytes1D, Bytes1D]]:
    """``(offset in the object, stamp, rest)`` of each block; views, except for the stamp."""
    base = _base(seed)
    identity = hashlib.blake2b(f"{seed}:{size_bytes}:{key}".encode("utf-8", "surrogatepass")).digest()
    n_slots = (_BASE_BYTES - _BLOCK_BYTES) // _ALIGN_BYTES
    for at in range(0, size_bytes, _BLOCK_BYTES):
        n_bytes = min(_BLOCK_BYTES, size_bytes - at)
        digest = hashlib.blake2b(identity + at.to_bytes(8, "little"), digest_size=_STAMP_BYTES).digest()
        start = int.from_bytes(digest[:8], "little") % n_slots * _ALIGN_BYTES
        stamp = np.frombuffer(digest, np.uint8)[:n_bytes]
        yield at, stamp, base[start + len(stamp) : start + n_bytes]


@lru_cache(maxsize=2)
def _base(seed: int) -> Bytes1D:
    words = np.random.Generator(np.random.PCG64(seed)).integers(0, 1 << 64, _BASE_BYTES // 8, dtype=np.uint64)
    base = words.view(np.uint8)
    base.flags.writeable = False
    return base


def _as_bytes(value: Any) -> Bytes1D | None:
    try:
        view = memoryview(value)
    except (TypeError, ValueError, BufferError):
        return None
    if not view.c_contiguous:
        return None
    return np.frombuffer(view, np.uint8) if view.nbytes else np.empty(0, np.uint8)


def _equal(left: Bytes1D, right: Bytes1D) -> bool:
    """Both have one length. Eight bytes at a time, which halves the time of a plain comparison."""
    whole = len(left) // 8 * 8
    return np.array_equal(left[:whole].view(np.uint64), right[:whole].view(np.uint64)) and np.array_equal(
        left[whole:], right[whole:]
    )
