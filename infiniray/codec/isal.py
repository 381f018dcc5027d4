"""ISA-L, Intel's storage acceleration library, through ctypes.

The ``pyeclib`` wheel bundles it; a system installation does as well. Calls release the GIL. On machines without it
the other kernels do the work.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["load"]

_VOID, _INT = ctypes.c_void_p, ctypes.c_int
_SIGNATURES = {
    # isa-l/erasure_code.h: (k, rows, matrix, tables), (length, k, rows, tables, sources, outputs)
    "ec_init_tables": (None, [_INT, _INT, _VOID, _VOID]),
    "ec_encode_data": (None, [_INT, _INT, _INT, _VOID, _VOID, _VOID]),
    # isa-l/crc.h: (crc so far, buffer, length)
    "crc32_gzip_refl": (ctypes.c_uint32, [ctypes.c_uint32, _VOID, ctypes.c_uint64]),
}


@lru_cache(maxsize=1)
def load() -> ctypes.CDLL | None:
    """The library with its functions declared, or None where there is none."""
    for path in _candidates():
        try:
            library = ctypes.CDLL(path)
            for name, (result, arguments) in _SIGNATURES.items():
                function = getattr(library, name)
                function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError):  # not there, or too old
            continue
        return library
    return None


def _candidates() -> Iterator[str]:
    spec = find_spec("pyeclib")  # finds the package without importing it
    for package in (spec.submodule_search_locations or ()) if spec else ():
        yield from map(str, sorted(Path(package).with_name("pyeclib.libs").glob("libisal*.so*")))
    yield "libisal.so.2"
