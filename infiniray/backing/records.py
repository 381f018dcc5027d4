"""Where processes leave notes for each other: Ray's control store. It outlives them and shards, not the Ray head."""

from __future__ import annotations

from typing import Protocol

from infiniray.cluster import rayapi

__all__ = ["RayRecords", "Records"]


class Records(Protocol):
    """A small store of texts that all processes of a cache see. All methods raise CacheUnavailable."""

    def create(self, name: str, text: str) -> bool:
        """Write a record that is not there. False: it is there, and stays as it is."""

    def put(self, name: str, text: str) -> None: ...

    def get(self, name: str) -> str | None: ...

    def delete(self, name: str) -> None: ...

    def names(self, prefix: str) -> list[str]:
        """The names that begin with ``prefix``, in full."""


class RayRecords:
    """Records of one cache; they go when it is taken down."""

    def __init__(self, cache: str) -> None:
        self._prefix = f"{cache}/backing/"

    def create(self, name: str, text: str) -> bool:
        return rayapi.store_create(self._prefix + name, text)

    def put(self, name: str, text: str) -> None:
        rayapi.store_put(self._prefix + name, text)

    def get(self, name: str) -> str | None:
        found = rayapi.store_get(self._prefix + name)
        return None if found is None else found.decode()

    def delete(self, name: str) -> None:
        rayapi.store_delete(self._prefix + name)

    def names(self, prefix: str) -> list[str]:
        return [name.removeprefix(self._prefix) for name in rayapi.store_keys(self._prefix + prefix)]
