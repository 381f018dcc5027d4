"""InfiniRay: a memory cache for large objects, built on Ray, whose storage nodes are serverless functions.

The public face. Names are imported on first use, so that ``import infiniray`` (and with it the command line and
the node agent, which shares :mod:`infiniray.wire`) does not pay for Ray.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infiniray.cache import AsyncCache, Cache
    from infiniray.config import Config
    from infiniray.errors import (
        BackingDamaged,
        BackingError,
        BackingRefused,
        BackingUnavailable,
        CacheUnavailable,
        ConfigError,
        DeadlineExceeded,
        InfiniRayError,
        InvalidKey,
        InvalidTTL,
        KeyNotFound,
        ObjectLost,
        Overloaded,
        PlatformError,
        PoolFull,
        ShardRecovering,
        ShardUnreachable,
        ValueNotStorable,
        ValueTooLarge,
        WriteFailed,
        WriteLost,
        WritesUnflushed,
        WriteUncertain,
    )
    from infiniray.lifecycle import connect, start

__version__ = "0.1.0"

_HOMES = {
    "start": "infiniray.lifecycle",
    "connect": "infiniray.lifecycle",
    "Cache": "infiniray.cache",
    "AsyncCache": "infiniray.cache",
    "Config": "infiniray.config",
}

__all__ = [
    "AsyncCache",
    "BackingDamaged",
    "BackingError",
    "BackingRefused",
    "BackingUnavailable",
    "Cache",
    "CacheUnavailable",
    "Config",
    "ConfigError",
    "DeadlineExceeded",
    "InfiniRayError",
    "InvalidKey",
    "InvalidTTL",
    "KeyNotFound",
    "ObjectLost",
    "Overloaded",
    "PlatformError",
    "PoolFull",
    "ShardRecovering",
    "ShardUnreachable",
    "ValueNotStorable",
    "ValueTooLarge",
    "WriteFailed",
    "WriteLost",
    "WriteUncertain",
    "WritesUnflushed",
    "connect",
    "start",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES.get(name, "infiniray.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
