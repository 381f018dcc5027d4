from __future__ import annotations

import gc
import os
from collections.abc import AsyncIterator

import pytest
from world import Shard


@pytest.fixture
async def shard() -> AsyncIterator[Shard]:
    """Closed afterwards, with no descriptor left."""
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    shard = Shard()
    yield shard
    shard.server.close()
    gc.collect()
    shard.server.pool.close()
    assert len(os.listdir("/proc/self/fd")) == before
