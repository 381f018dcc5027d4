"""Ray's control store, as a dict."""

from __future__ import annotations

from collections.abc import Callable

from infiniray.errors import CacheUnavailable

__all__ = ["ControlStore"]


class ControlStore:
    """``before`` is called with the name of each operation and its key, just before it is done."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.before: Callable[[str, str], None] = lambda operation, key: None
        self.is_away = False

    def put(self, key: str, value: str | bytes) -> None:
        self._begin("put", key)
        self.values[key] = value.encode() if isinstance(value, str) else value

    def get(self, key: str) -> bytes | None:
        self._begin("get", key)
        return self.values.get(key)

    def keys(self, prefix: str) -> list[str]:
        self._begin("keys", prefix)
        return sorted(key for key in self.values if key.startswith(prefix))

    def delete(self, key: str) -> None:
        self._begin("delete", key)
        self.values.pop(key, None)

    def delete_all(self, prefix: str) -> None:
        for key in self.keys(prefix):
            self.delete(key)

    def _begin(self, operation: str, key: str) -> None:
        if self.is_away:
            raise CacheUnavailable(detail="Ray's control store cannot be reached")
        self.before(operation, key)
