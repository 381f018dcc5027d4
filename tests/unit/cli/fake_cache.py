"""A cache in a dict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infiniray.errors import KeyNotFound


@dataclass(frozen=True)
class Entry:
    key: str
    size_bytes: int
    expires_s: float | None


class FakeCache:
    """What the commands use of :class:`infiniray.Cache`."""

    name = "default"

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.ttls: dict[str, str | None] = {}
        self.expires_s: dict[str, float] = {}
        self.shards_ok = True
        self.platform: dict[str, Any] | None = {"instances": {"init": 0, "idle": 3, "busy": 1}}
        self.n_connected = 0

    def put(self, key: str, value: memoryview, *, ttl: str | None, timeout: str | None) -> None:
        self.values[key], self.ttls[key] = bytes(value), ttl

    def get(self, key: str, *, raw: bool, timeout: str | None) -> Any:
        assert raw
        if key not in self.values:
            raise KeyNotFound(key=key)
        value = self.values[key]
        return memoryview(value) if isinstance(value, bytes) else value

    def delete(self, key: str) -> bool:
        return self.values.pop(key, None) is not None

    def entries(self, prefix: str, limit: int | None) -> list[Entry]:
        keys = sorted(key for key in self.values if key.startswith(prefix))[:limit]
        return [Entry(key, len(self.values[key]), self.expires_s.get(key)) for key in keys]

    def status(self) -> dict[str, Any]:
        return {
            "ok": self.shards_ok,
            "epoch": 3,
            "created_s": 0.0,
            "nodes": {"shard-0": ["n0", "n1"], "shard-1": ["n2"]},
            "shards": {
                "shard-0": {"epoch": 3, "address": "127.0.0.1:1"},
                "shard-1": {"epoch": 3, "address": "127.0.0.1:2"} if self.shards_ok else {"error": "no such actor"},
            },
        }

    def stats(self) -> dict[str, Any]:
        size_bytes = sum(len(value) for value in self.values.values())
        return {
            "gets": 7,
            "hits": 5,
            "objects": len(self.values),
            "object_bytes": size_bytes,
            "platform": self.platform,
        }
