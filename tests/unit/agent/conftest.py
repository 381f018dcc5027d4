from __future__ import annotations

from collections.abc import Iterator

import pytest
from invoker import SECRET, Agent
from shard_peer import ShardPeer

from lambda_agent import handler


@pytest.fixture
def shard() -> Iterator[ShardPeer]:
    peer = ShardPeer(SECRET)
    yield peer
    peer.close()


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, shard: ShardPeer) -> Iterator[Agent]:
    """A new instance with 64 MiB for chunks. The shard hangs up first: no session outlives the test."""
    monkeypatch.setenv("INFINIRAY_SECRET", SECRET.hex())
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128")
    monkeypatch.setenv("INFINIRAY_RESERVE_MB", "64")
    monkeypatch.setattr(handler, "_instance", None)
    instance = Agent()
    yield instance
    shard.close()
    instance.close()
