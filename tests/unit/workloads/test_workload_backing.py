from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from workloads.backing import DirectoryStore, Origin
from workloads.content import verify


def test_what_is_put_is_got_whatever_the_key(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "new" / "store")
    for key in ("plain", "v2/a/../../b", "ключ", "x" * 5000, ""):
        store.put(key, key.encode() + b"!")
        value = store.get(key)
        assert value is not None
        assert value.tobytes() == key.encode() + b"!"
    assert {p.parent for p in tmp_path.rglob("*") if p.is_file()} == {store.path}


def test_absent_empty_and_replaced_objects(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    assert store.get("a") is None
    assert store.size_bytes("a") is None
    store.put("a", b"")
    assert store.size_bytes("a") == 0
    store.put("a", np.arange(10, dtype=np.uint8))
    assert store.size_bytes("a") == 10


def test_a_failed_put_leaves_the_old_object_and_no_rest(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("a", b"old")
    with pytest.raises(TypeError):
        store.put("a", "text is not bytes")
    value = store.get("a")
    assert value is not None
    assert value.tobytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_origin_makes_objects_once_with_the_size_first_asked_for(tmp_path: Path) -> None:
    origin = Origin(DirectoryStore(tmp_path), seed=4)
    assert origin.ensure("a", 1000) == 1000
    assert origin.ensure("a", 700) == 1000
    assert verify("a", 1000, origin.load("a"), seed=4)
    assert (origin.n_objects, origin.total_bytes) == (1, 1000)
    assert Origin(DirectoryStore(tmp_path)).size_bytes("a", 5) == 1000  # a later run finds the file


def test_loading_what_was_never_made_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="'a'"):
        Origin(DirectoryStore(tmp_path)).load("a")
