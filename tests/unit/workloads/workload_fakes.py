"""A cache and a platform in memory that do what a test tells them to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infiniray.errors import KeyNotFound, ObjectLost, Overloaded

#: what one GET of the fake does, instead of answering as it should
MISBEHAVIOURS: dict[str, Callable[[bytes], Any]] = {
    "flip": lambda value: bytes([value[0] ^ 1]) + value[1:] if value else b"?",
    "last": lambda value: value[:-1] + bytes([value[-1] ^ 128]) if value else b"?",
    "cut": lambda value: value[:-1] if value else b"?",
    "long": lambda value: value + b"\0",
    "rotate": lambda value: np.roll(np.frombuffer(value, np.uint8), 1) + np.uint8(1) if value else b"?",
    "text": lambda value: "not bytes",
    "none": lambda value: None,
}


@dataclass
class FakeCache:
    """Keeps what is put. Each GET that would hit takes the next of ``script`` (then behaves): a name from
    ``MISBEHAVIOURS``, ``"miss"``, ``"lost"``, ``"busy"`` or ``"ok"``."""

    script: list[str] = field(default_factory=list)
    refuse_puts: bool = False
    values: dict[str, bytes] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    done: list[str] = field(default_factory=list)

    def get(self, key: str) -> Any:
        if key in self.lost:
            raise ObjectLost(key=key, have=1, need=2)
        if key not in self.values:
            raise KeyError(key)
        act = self.script.pop(0) if self.script else "ok"
        self.done.append(act)
        if act == "miss":
            raise KeyNotFound(key=key)
        if act == "lost":
            raise ObjectLost(key=key, have=1, need=2)
        if act == "busy":
            raise Overloaded(in_flight=9, limit=9, retry_after_s=1.0)
        value = self.values[key]
        return np.frombuffer(value, np.uint8) if act == "ok" else MISBEHAVIOURS[act](value)

    def put(self, key: str, value: Any) -> None:
        if self.refuse_puts:
            raise Overloaded(in_flight=9, limit=9, retry_after_s=1.0)
        self.values[key] = bytes(value)
        self.lost.discard(key)

    def stats(self) -> dict[str, Any]:
        return {"degraded_reads": 3, "stored_bytes": sum(map(len, self.values.values()))}

    @property
    def n_wrong(self) -> int:
        return sum(act in MISBEHAVIOURS for act in self.done)


@dataclass
class FakePlatform:
    """A reclaim of more than ``tolerates`` functions loses everything that the cache holds."""

    cache: FakeCache
    tolerates: int = 2
    asked: list[int] = field(default_factory=list)

    def reclaim(self, n: int) -> int:
        self.asked.append(n)
        if n > self.tolerates:
            self.cache.lost |= set(self.cache.values)
        return n

    def counters(self) -> dict[str, int]:
        return {"started": 16, "frozen": 12, "reclaimed": sum(self.asked)}

    def bill(self) -> dict[str, float]:
        return {"serve": 0.0010, "warm": 0.0005}
