"""A cache in a dict, in the place of the one that commands would connect to."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from fake_cache import FakeCache

from infiniray.cli import objects, running
from infiniray.errors import CacheUnavailable


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> FakeCache:
    fake = FakeCache()

    @contextlib.contextmanager
    def connected(name: str) -> Iterator[FakeCache]:
        if name != fake.name:
            raise CacheUnavailable(detail=f"no cache {name!r} is known on this machine")
        fake.n_connected += 1
        yield fake

    monkeypatch.setattr(objects, "connected", connected)
    monkeypatch.setattr(running, "connected", connected)
    return fake
