"""Redundancy schemes: how an object is cut into chunks, and how many of them may be lost.

Pure arithmetic; the kernels that compute parity are elsewhere in this package.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass

from infiniray.errors import SchemeError
from infiniray.members import quick_members

__all__ = ["Scheme", "SchemeKind", "SchemePolicy"]

#: Reed-Solomon over GF(2^8) has no more distinct rows.
MAX_CHUNKS = 256
_TEXT = re.compile(r"(rs|xor|mirror|stripe):([0-9]{1,6})(?:\+([0-9]{1,6}))?")


@quick_members
class SchemeKind(enum.Enum):
    RS = "rs"  # Reed-Solomon; k+2 is RAID-6
    XOR = "xor"  # one parity: RAID-4, and RAID-5 where placement rotates it
    MIRROR = "mirror"  # RAID-1
    STRIPE = "stripe"  # RAID-0


@dataclass(frozen=True, slots=True)
class Scheme:
    """``k`` data chunks and ``r`` parity chunks; any ``k`` of the ``n`` bring the object back.

    Data chunk ``i`` is bytes ``[i * c, (i + 1) * c)`` of the object with ``c = chunk_bytes(size)``; the last ones
    may be short or empty: they are stored so, and count as padded with zeros. Parity chunks are ``c`` bytes long.
    A mirror is ``k = 1`` and ``r`` further copies.

    Raises:
        SchemeError: there is no such scheme.
    """

    kind: SchemeKind
    k: int
    r: int

    def __post_init__(self) -> None:
        wrong = self._what_is_wrong()
        if wrong is not None:
            raise SchemeError(detail=f"no such {self.kind.value} scheme (k={self.k}, r={self.r}): {wrong}")

    def _what_is_wrong(self) -> str | None:
        if self.k < 1 or self.r < 0:
            return "it needs at least one data chunk" if self.k < 1 else "it needs at least one copy"
        if self.n > MAX_CHUNKS:
            return f"at most {MAX_CHUNKS} chunks in all, not {self.n}"
        rules = {
            SchemeKind.RS: (self.r >= 1, "it needs at least one parity chunk"),
            SchemeKind.XOR: (self.r == 1, "XOR gives exactly one parity chunk"),
            SchemeKind.MIRROR: (self.k == 1, "a mirror has one data chunk and its copies"),
            SchemeKind.STRIPE: (self.r == 0, "striping has no parity"),
        }
        is_met, reason = rules[self.kind]
        return None if is_met else reason

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """``rs:k+r``, ``xor:k+1``, ``mirror:n`` (copies in all) or ``stripe:k``.

        Raises:
            SchemeError: anything else.
        """
        match = _TEXT.fullmatch(text.strip()) if isinstance(text, str) else None
        if match is None:
            raise SchemeError(detail=f"not a scheme: {text!r}; known are rs:k+r, xor:k+1, mirror:n, stripe:k")
        kind, first, second = SchemeKind(match[1]), int(match[2]), match[3]
        if (second is None) == (kind in (SchemeKind.RS, SchemeKind.XOR)):
            form = "k+r" if second is None else "a single number"
            raise SchemeError(detail=f"not a scheme: {text!r}; {kind.value} takes {form}")
        if kind is SchemeKind.MIRROR:
            return cls(kind, 1, first - 1)
        return cls(kind, first, int(second or 0))

    def __str__(self) -> str:
        if self.kind is SchemeKind.MIRROR:
            return f"mirror:{self.n}"
        return f"stripe:{self.k}" if self.kind is SchemeKind.STRIPE else f"{self.kind.value}:{self.k}+{self.r}"

    @property
    def n(self) -> int:
        """Chunks in all."""
        return self.k + self.r

    @property
    def overhead(self) -> float:
        """Bytes stored for a byte of the object."""
        return self.n / self.k

    @property
    def capacity_share(self) -> float:
        """Share of the nodes' memory that is left for objects: what RAID tables call capacity."""
        return self.k / self.n

    @property
    def losses_tolerated(self) -> int:
        """How many chunks, whichever they are, may be lost."""
        return self.r

    def chunk_bytes(self, object_bytes: int) -> int:
        """Length of a chunk, short ones apart.

        Raises:
            SchemeError: a negative size.
        """
        if object_bytes < 0:
            raise SchemeError(detail=f"an object cannot have {object_bytes} bytes")
        return -(-object_bytes // self.k)

    def chunk_range(self, index: int, object_bytes: int) -> tuple[int, int]:
        """Where data chunk ``index`` is in the object: start and stop, in bytes.

        Raises:
            SchemeError: not the index of a data chunk.
        """
        if not 0 <= index < self.k:
            raise SchemeError(detail=f"{self} has data chunks 0 to {self.k - 1}, not {index}")
        chunk_bytes = self.chunk_bytes(object_bytes)
        return min(index * chunk_bytes, object_bytes), min((index + 1) * chunk_bytes, object_bytes)

    def stored_bytes(self, index: int, object_bytes: int) -> int:
        """Length of chunk ``index`` as it is stored, without padding.

        Raises:
            SchemeError: not the index of a chunk.
        """
        k = self.k
        if not 0 <= index < k + self.r:
            raise SchemeError(detail=f"{self} has chunks 0 to {self.n - 1}, not {index}")
        chunk_bytes = self.chunk_bytes(object_bytes)
        if index >= k:
            return chunk_bytes
        left_bytes = object_bytes - index * chunk_bytes
        return chunk_bytes if left_bytes >= chunk_bytes else max(left_bytes, 0)

    def total_stored_bytes(self, object_bytes: int) -> int:
        """Length of all chunks together."""
        return object_bytes + self.r * self.chunk_bytes(object_bytes)


@dataclass(frozen=True, slots=True)
class SchemePolicy:
    """Picks a scheme by object size: the first rule whose bound is not exceeded.

    ``rules`` are (largest object in bytes, scheme); bounds rise, and the last one is None: any size.
    """

    rules: tuple[tuple[int | None, Scheme], ...]

    def __post_init__(self) -> None:
        bounds = [bound for bound, _ in self.rules]
        if not bounds or bounds[-1] is not None or None in bounds[:-1]:
            raise SchemeError(detail="the last rule, and only the last, must be for objects of any size")
        finite = [bound for bound in bounds if bound is not None]
        if finite != sorted(set(finite)) or any(bound < 0 for bound in finite):
            raise SchemeError(detail=f"bounds must rise: {finite}")

    @classmethod
    def of(cls, rules: Sequence[tuple[int | None, str]]) -> SchemePolicy:
        """From texts. Raises: SchemeError: a rule is not valid."""
        return cls(tuple((bound, Scheme.parse(text)) for bound, text in rules))

    def choose(self, object_bytes: int) -> Scheme:
        """The scheme for an object of this size."""
        return next(scheme for bound, scheme in self.rules if bound is None or object_bytes <= bound)

    @property
    def widest(self) -> Scheme:
        """The scheme that needs the most distinct nodes."""
        return max((scheme for _, scheme in self.rules), key=lambda scheme: scheme.n)
