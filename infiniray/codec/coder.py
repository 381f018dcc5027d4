"""One interface to compute the chunks of every scheme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from infiniray.codec.buffers import ByteArray, byte_view
from infiniray.codec.kernels import Kernel, default_kernel
from infiniray.codec.schemes import Scheme, SchemeKind
from infiniray.errors import SchemeError

if TYPE_CHECKING:
    from infiniray.codec.buffers import BufferLike

__all__ = ["Coder"]

_Chunk = TypeVar("_Chunk")

#: uneven chunks of up to this size are padded as a whole: one call of the kernel instead of two
_SMALL_CHUNK_BYTES = 4096


class Coder:
    """I compute the chunks of objects: parity when they are stored, lost chunks when they are read or repaired.

    I work between the callers' buffers (bytes, bytearray, memoryview, numpy array, mapped files: anything contiguous,
    read-only for input) and copy no object. I have no state but the kernel, and may be used by any thread; the
    kernels release the GIL.
    """

    def __init__(self, kernel: Kernel | None = None) -> None:
        self.kernel = kernel if kernel is not None else default_kernel()

    def __repr__(self) -> str:
        return f"Coder({self.kernel.name})"

    def encode(self, scheme: Scheme, data: BufferLike) -> list[ByteArray]:
        """The ``r`` chunks that the object's own slices do not give, each ``chunk_bytes`` long.

        The copies of a mirror are views of ``data``, not copies in memory.

        Raises:
            SchemeError: ``data`` is not a contiguous buffer.
        """
        view = _view(data, "the object")
        if scheme.kind is SchemeKind.MIRROR:
            return [view] * scheme.r
        parity = list(np.empty((scheme.r, scheme.chunk_bytes(len(view))), dtype=np.uint8))
        self._compute(scheme, len(view), _slices(scheme, view), _parity_indices(scheme, parity))
        return parity

    def encode_into(self, scheme: Scheme, data: BufferLike, outputs: Sequence[BufferLike]) -> None:
        """Like :meth:`encode`, into ``r`` writable buffers of ``chunk_bytes``; reused buffers save page faults.

        Raises:
            SchemeError: a buffer is not contiguous or writable, or the outputs' count or lengths do not fit.
        """
        view = _view(data, "the object")
        if len(outputs) != scheme.r:
            raise SchemeError(detail=f"{scheme} has {scheme.r} parity chunks, but {len(outputs)} outputs were given")
        wanted = _checked(scheme, len(view), _parity_indices(scheme, outputs), is_output=True)
        self._compute(scheme, len(view), _slices(scheme, view), wanted)

    def reconstruct(
        self, scheme: Scheme, object_bytes: int, present: Mapping[int, BufferLike], wanted: Mapping[int, BufferLike]
    ) -> None:
        """Fill the chunks ``wanted`` from any ``k`` that are ``present``, data or parity on either side.

        Keys are chunk indices. A chunk has the length that is stored, or is padded with zeros to ``chunk_bytes``;
        what a present chunk holds beyond its stored length is not looked at. Wanted buffers must not overlap present
        ones.

        Raises:
            SchemeError: too few chunks (with fields ``have`` and ``need``), or an index or a length that does not fit.
        """
        given = _checked(scheme, object_bytes, present, is_output=False)
        outputs = _checked(scheme, object_bytes, wanted, is_output=True)
        if len(given) < scheme.k:
            have, need = len(given), scheme.k
            detail = f"{have} chunks of a {scheme} object are there, {need} are needed"
            raise SchemeError(detail=detail, have=have, need=need)
        for index in outputs.keys() & given.keys():
            _copy_padded(given[index], outputs.pop(index))
        first_k = sorted(given)[: scheme.k]  # data before parity: what is a plain copy needs no arithmetic
        self._compute(scheme, object_bytes, {index: given[index] for index in first_k}, outputs)

    def _compute(
        self, scheme: Scheme, object_bytes: int, sources: Mapping[int, ByteArray], outputs: Mapping[int, ByteArray]
    ) -> None:
        """Outputs from exactly ``k`` sources; both as short as stored, or full.

        All chunks of an object together lack at most ``k - 1`` bytes. The columns that all of them have are computed
        in place; the few columns after those are computed from padded copies.
        """
        if not outputs:
            return
        if scheme.kind is SchemeKind.MIRROR:
            (source,) = sources.values()
            for output in outputs.values():
                output[:] = source
            return
        chunk_bytes = scheme.chunk_bytes(object_bytes)
        whole = min(map(len, (*sources.values(), *outputs.values())))
        if whole < chunk_bytes <= _SMALL_CHUNK_BYTES:
            whole = 0
        if whole > 0:
            self.kernel.combine(scheme, _columns(sources, whole), _columns(outputs, whole))
        if whole < chunk_bytes:
            self._compute_padded(scheme, chunk_bytes - whole, _rest(sources, whole), _rest(outputs, whole))

    def _compute_padded(
        self, scheme: Scheme, n_bytes: int, sources: Mapping[int, ByteArray], outputs: Mapping[int, ByteArray]
    ) -> None:
        padded = dict(zip(sources, np.zeros((len(sources), n_bytes), dtype=np.uint8), strict=True))
        computed = dict(zip(outputs, np.empty((len(outputs), n_bytes), dtype=np.uint8), strict=True))
        for index, source in sources.items():
            padded[index][: len(source)] = source
        self.kernel.combine(scheme, padded, computed)
        for index, output in outputs.items():
            output[:] = computed[index][: len(output)]


def _view(buffer: BufferLike, what: str) -> ByteArray:
    try:
        return byte_view(buffer)
    except TypeError as error:
        raise SchemeError(detail=f"{what}: {error}") from None


def _slices(scheme: Scheme, view: ByteArray) -> dict[int, ByteArray]:
    ranges = (scheme.chunk_range(index, len(view)) for index in range(scheme.k))
    return {index: view[start:stop] for index, (start, stop) in enumerate(ranges)}


def _parity_indices(scheme: Scheme, chunks: Sequence[_Chunk]) -> dict[int, _Chunk]:
    return dict(enumerate(chunks, start=scheme.k))


def _checked(
    scheme: Scheme, object_bytes: int, chunks: Mapping[int, BufferLike], *, is_output: bool
) -> dict[int, ByteArray]:
    """Views of the chunks; of present ones the stored part, of outputs all."""
    full, views = scheme.chunk_bytes(object_bytes), {}
    for index, chunk in chunks.items():
        stored = scheme.stored_bytes(index, object_bytes)
        view = _view(chunk, f"chunk {index}")
        if len(view) not in (stored, full):
            raise SchemeError(
                detail=f"chunk {index} of {object_bytes:,} bytes as {scheme} has {stored:,} bytes "
                f"({full:,} padded), not {len(view):,}"
            )
        if is_output and not view.flags.writeable and len(view):
            raise SchemeError(detail=f"the buffer for chunk {index} is read-only")
        views[index] = view if is_output else view[:stored]
    return views


def _copy_padded(source: ByteArray, output: ByteArray) -> None:
    output[: len(source)] = source
    output[len(source) :] = 0


def _columns(chunks: Mapping[int, ByteArray], stop: int) -> dict[int, ByteArray]:
    return {index: chunk[:stop] for index, chunk in chunks.items()}


def _rest(chunks: Mapping[int, ByteArray], start: int) -> dict[int, ByteArray]:
    return {index: chunk[start:] for index, chunk in chunks.items()}
