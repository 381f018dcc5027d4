from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from world import Shard


@pytest.fixture
async def shard() -> AsyncIterator[Shard]:
    """Closed afterwards, with no descriptor left."""
    gc.collect()
    before = _descriptors()
    shard = Shard()
    yield shard
    shard.server.close()
    gc.collect()
    shard.server.pool.close()
    left = _descriptors() - before
    assert not left, left


def _descriptors() -> set[str]:
    """Sockets, pipes and memory that this process has open; what other tests still have ends by itself."""
    found: set[str] = set()
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            found.add(f"{descriptor}: {os.readlink(f'/proc/self/fd/{descriptor}')}")
    return {name for name in found if "socket:" in name or "memfd:" in name}
