"""The systems that a trace can be replayed against, one module each.

A *spec* is a small picklable value that says which system; each worker opens its own :class:`Target` from it. A target
is what :class:`workloads.lookaside.LookAside` calls a cache, with an end.
"""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["Target", "TargetSpec"]


class Target(Protocol):
    """A system under replay. Any number of threads may call it."""

    def get(self, key: str) -> Any:
        """The value, as anything with the buffer protocol.

        Raises:
            KeyError: it is not there; ObjectLost: it was there and is lost.
            InfiniRayError: the system failed.
        """

    def put(self, key: str, value: Any) -> None:
        """Stores ``value``, a uint8 array. Raises InfiniRayError if the system failed."""

    def delete(self, key: str) -> None:
        """The key is not there afterwards. Raises InfiniRayError if the system failed."""

    def close(self) -> None:
        """Lets go of connections; what is stored stays."""


class TargetSpec(Protocol):
    """Says which system."""

    @property
    def system(self) -> str:
        """Its name in results and plots."""

    def open(self) -> Target:
        """Connects. Raises InfiniRayError if the system cannot be reached."""
