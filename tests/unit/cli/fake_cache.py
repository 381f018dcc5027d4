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
        self.ages_s: list[float] = [20.0]
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
                "shard-0": {"state": "up", "epoch": 3, "address": "127.0.0.1:1"},
                "shard-1": {"state": "recovering", "epoch": 2, "address": "127.0.0.1:2"}
                if self.shards_ok
                else {"state": "down", "error": "no such actor"},
            },
            "backup_slots": {"taken": 1, "of": 8},
            "scaling": None,
            "rotation": None,
        }

    def stats(self) -> dict[str, Any]:
        size_bytes = sum(len(value) for value in self.values.values())
        return {
            "gets": 7,
            "hits": 5,
            "objects": len(self.values),
            "object_bytes": size_bytes,
            "platform": self.platform,
            "endangered": 4,
            "backups": 9,
            "backups_failed": 2,
            "nodes_never_backed_up": 1,
            "per_shard": [
                {"shard": "shard-0", "objects": 1, "endangered": 4, "backup_ages_s": [10.0, 250.0]},
                {"shard": "shard-1", "objects": 0, "endangered": 0, "backup_ages_s": self.ages_s}
                if self.shards_ok
                else {"shard": "shard-1", "error": "no such actor"},
            ],
        }
