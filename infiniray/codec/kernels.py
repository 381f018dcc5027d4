"""The backends that compute chunks from chunks. All give the same bytes.

A kernel does one thing: given any ``k`` chunks of an object, compute others. Encoding is the case where the given
chunks are the data.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Protocol

import numpy as np

from infiniray.codec import isal
from infiniray.codec.buffers import ByteArray
from infiniray.codec.matrices import recovery
from infiniray.codec.schemes import Scheme, SchemeKind
from infiniray.errors import ConfigError

__all__ = ["IsalKernel", "Kernel", "ZfecKernel", "default_kernel", "find_kernel"]

#: names a kernel for this process; the same name as the setting ``codec.kernel`` of the configuration
KERNEL_VARIABLE = "INFINIRAY_CODEC__KERNEL"


class Kernel(Protocol):
    """I compute chunks of one object from ``k`` others.

    I keep no reference to the buffers, and may be used by any thread.
    """

    name: str

    def combine(self, scheme: Scheme, sources: Mapping[int, ByteArray], outputs: Mapping[int, ByteArray]) -> None:
        """Fill ``outputs`` from ``sources``.

        Both map chunk indices of an RS or XOR scheme to arrays, all of the same length, at least one byte.
        There are exactly ``k`` sources, in rising order, and no index is in both.
        """


class IsalKernel:
    """Multiplies by the recovery matrix with ISA-L's vector code, straight between the callers' buffers."""

    name = "isal"
    #: ISA-L counts bytes in an int
    _MAX_BYTES = 1 << 30

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._tables = lru_cache(maxsize=4096)(self._expand)

    def combine(self, scheme: Scheme, sources: Mapping[int, ByteArray], outputs: Mapping[int, ByteArray]) -> None:
        if not outputs:
            return
        tables = self._tables(scheme, tuple(sources), tuple(outputs))
        n_bytes = len(next(iter(outputs.values())))
        for start in range(0, n_bytes, self._MAX_BYTES):
            length = min(self._MAX_BYTES, n_bytes - start)
            self._library.ec_encode_data(
                length, scheme.k, len(outputs), tables, _addresses(sources, start), _addresses(outputs, start)
            )

    def _expand(self, scheme: Scheme, sources: tuple[int, ...], wanted: tuple[int, ...]) -> ctypes.Array[Any]:
        """The recovery matrix as ISA-L's multiplication tables, 32 bytes for each coefficient."""
        rows = recovery(scheme, sources, wanted)
        tables = ctypes.create_string_buffer(32 * rows.size)
        self._library.ec_init_tables(scheme.k, len(wanted), rows.ctypes.data, tables)
        return tables


def _addresses(chunks: Mapping[int, ByteArray], offset: int) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(chunks))(*[chunk.ctypes.data + offset for chunk in chunks.values()])


class ZfecKernel:
    """The portable backend: Reed-Solomon by zfec, XOR by numpy. Copies results once, because zfec returns new bytes."""

    name = "zfec"
    #: columns XORed at a time, so that the running sum stays in the processor's cache
    _BLOCK_BYTES = 128 << 10

    def combine(self, scheme: Scheme, sources: Mapping[int, ByteArray], outputs: Mapping[int, ByteArray]) -> None:
        if not outputs:
            return
        if scheme.kind is SchemeKind.XOR:
            self._xor(sources, outputs)
        elif max(sources) < scheme.k:
            self._encode(scheme, list(sources.values()), outputs)
        else:
            self._decode(scheme, sources, outputs)

    def _encode(self, scheme: Scheme, data: list[ByteArray], outputs: Mapping[int, ByteArray]) -> None:
        encoder, _ = _zfec_pair(scheme.k, scheme.n)
        for output, computed in zip(outputs.values(), encoder.encode(data, list(outputs)), strict=True):
            output[:] = np.frombuffer(computed, dtype=np.uint8)

    def _decode(self, scheme: Scheme, sources: Mapping[int, ByteArray], outputs: Mapping[int, ByteArray]) -> None:
        """zfec brings back all missing data; wanted parity is then encoded from it."""
        _, decoder = _zfec_pair(scheme.k, scheme.n)
        parity = iter([index for index in sources if index >= scheme.k])
        order = [index if index in sources else next(parity) for index in range(scheme.k)]  # zfec wants data in place
        data = decoder.decode([sources[index] for index in order], order)
        lost_parity = {index: output for index, output in outputs.items() if index >= scheme.k}
        for index in outputs.keys() - lost_parity.keys():
            outputs[index][:] = np.frombuffer(data[index], dtype=np.uint8)
        if lost_parity:
            self._encode(scheme, data, lost_parity)

    def _xor(self, sources: Mapping[int, ByteArray], outputs: Mapping[int, ByteArray]) -> None:
        """Any chunk of an XOR scheme is the sum of the ``k`` others."""
        first, *others = sources.values()
        (output,) = outputs.values()
        for start in range(0, len(output), self._BLOCK_BYTES):
            block = slice(start, start + self._BLOCK_BYTES)
            total = output[block]
            total[:] = first[block]
            for source in others:
                np.bitwise_xor(total, source[block], out=total)


@lru_cache(maxsize=64)
def _zfec_pair(k: int, n: int) -> tuple[Any, Any]:
    import zfec  # only where it is used: the fast kernel does not need it

    return zfec.Encoder(k, n), zfec.Decoder(k, n)


def _isal_or_none() -> Kernel | None:
    library = isal.load()
    return None if library is None else IsalKernel(library)


_KERNELS: dict[str, Callable[[], Kernel | None]] = {
    "isal": _isal_or_none,
    "zfec": ZfecKernel,
    "auto": lambda: _isal_or_none() or ZfecKernel(),
}


@lru_cache(maxsize=len(_KERNELS))
def find_kernel(name: str) -> Kernel:
    """The kernel called ``isal`` or ``zfec``, or with ``auto`` the fastest that this machine has.

    Raises:
        ConfigError: no such kernel, or not on this machine.
    """
    if name not in _KERNELS:
        raise ConfigError(detail=f"codec.kernel: {name!r} is not one of {', '.join(sorted(_KERNELS))}")
    kernel = _KERNELS[name]()
    if kernel is None:
        raise ConfigError(detail=f"codec.kernel: the library that {name!r} needs is not on this machine; use 'auto'")
    return kernel


def default_kernel() -> Kernel:
    """The kernel that the environment names, else the fastest.

    Raises:
        ConfigError: as :func:`find_kernel`.
    """
    return find_kernel(os.environ.get(KERNEL_VARIABLE, "auto"))
