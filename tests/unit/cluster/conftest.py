from __future__ import annotations

import pytest
from control_store import ControlStore

from infiniray.cluster import rayapi


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> ControlStore:
    store = ControlStore()
    for operation in ("put", "get", "keys", "delete", "delete_all"):
        monkeypatch.setattr(rayapi, f"store_{operation}", getattr(store, operation))
    return store
