"""This project's cache as a target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infiniray.cache import Cache

__all__ = ["InfiniRaySpec", "InfiniRayTarget"]


class InfiniRayTarget:
    """Values as arrays, so that neither side copies to convert."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache

    def get(self, key: str) -> Any:
        return self._cache.get(key)

    def put(self, key: str, value: Any) -> None:
        self._cache.put(key, value)

    def delete(self, key: str) -> None:
        self._cache.delete(key)

    def close(self) -> None:
        pass  # whoever started the cache closes it


@dataclass(frozen=True, slots=True, kw_only=True)
class InfiniRaySpec:
    """A running cache, or a namespace of it; the handle travels to the workers."""

    cache: Cache
    system: str = "infiniray"

    def open(self) -> InfiniRayTarget:
        return InfiniRayTarget(self.cache)
