"""One small cache on one local Ray, with real functions on the embedded platform."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from leaks import nothing_is_left

import infiniray
from infiniray import Cache

SCHEME = "rs:2+1"
NODES = 8
SHARDS = 2


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Around Ray and all caches: these tests clean up behind themselves."""
    tmp_path_factory.getbasetemp()  # pytest's own files stay for whoever looks into them
    with nothing_is_left():
        yield


@pytest.fixture(scope="session")
def whole_cache(local_ray: str) -> Iterator[Cache]:
    """8 nodes, 2 shards, rs:2+1; large objects are coded in tasks."""
    with infiniray.start(
        nodes=NODES,
        shards=SHARDS,
        scheme=SCHEME,
        memory_mb=256,
        name="shared",
        codec={"task_min_bytes": "4MiB"},
        session={"linger_s": "50ms"},
    ) as cache:
        yield cache


@pytest.fixture
def cache(whole_cache: Cache) -> Cache:
    """A fresh namespace of it."""
    return whole_cache.namespace(uuid.uuid4().hex[:8])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/ray/" in str(item.path):
            item.add_marker(pytest.mark.ray)
