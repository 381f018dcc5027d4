"""The secrets that a shard accepts: one, or while they are changed the new one and the one before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from infiniray.wire.auth import key_id

__all__ = ["KeyRing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRing:
    """Secrets by id (:func:`~infiniray.wire.auth.key_id`). A function has one of them: that of its settings when its
    instance began. Neither is in the ``repr``.

    Attributes:
        current: what functions have, or are to get.
        former: what some functions may still have; None: no function has.
    """

    current: bytes = field(repr=False)
    former: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.current or self.former == b"":
            raise ValueError("a secret has one byte at least")

    @classmethod
    def of(cls, secrets: bytes | KeyRing) -> KeyRing:
        """A ring of one, unless it is a ring already."""
        return secrets if isinstance(secrets, KeyRing) else cls(current=secrets)

    def __iter__(self) -> Iterator[bytes]:
        """The current one first."""
        yield self.current
        if self.former is not None and self.former != self.current:
            yield self.former

    def find(self, name: object) -> bytes | None:
        """The secret of this id; None if there is none of it."""
        return next((secret for secret in self if key_id(secret) == name), None)

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(map(key_id, self))

    def rotated(self, secret: bytes) -> KeyRing:
        """``secret`` is the current one from now on, the one before is still accepted.

        Raises:
            ValueError: a rotation is not over: some functions may have the former one, and would be locked out.
        """
        if self.former is not None and secret != self.current:
            raise ValueError("there is a former secret already: retire it first")
        return self if secret == self.current else KeyRing(current=secret, former=self.current)

    def retired(self) -> KeyRing:
        """Without the former one."""
        return KeyRing(current=self.current)
