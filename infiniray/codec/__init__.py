"""Redundancy schemes and the kernels that compute them.

- ``schemes``: how an object is cut into chunks. Pure arithmetic, no imports beyond the errors; core uses it.
- ``coder``: :class:`~infiniray.codec.coder.Coder`, parity and reconstruction behind one interface for every scheme.
- ``kernels``: the interchangeable backends that a coder runs on.
- ``checksum``: CRC-32 of chunks and of their concatenation.
- ``buffers``: callers' buffers seen as bytes, without copies.
- ``measure``: how fast the kernels are on this machine.

Only the schemes are imported here, so that importing this package costs nothing; the rest needs numpy.
"""

from __future__ import annotations

from infiniray.codec.schemes import Scheme, SchemeKind, SchemePolicy

__all__ = ["Scheme", "SchemeKind", "SchemePolicy"]
