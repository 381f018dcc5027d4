"""One suite over every kind of store, and what is particular to each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backing_doubles import KEYS  # type: ignore[import-not-found]

from infiniray.backing import directory
from infiniray.backing.directory import DirectoryStore
from infiniray.backing.naming import TEMPORARY, name_of
from infiniray.backing.s3 import S3Store
from infiniray.backing.store import Refused, Replaced, Store, Unreachable, blocks, label_of, open_store
from infiniray.config import BackingConfig
from infiniray.errors import ConfigError

ODD_KEYS = ["a", "a b/c:d@e", "ünï/çödé", "../etc/passwd", "/rooted//twice/", "50%", "x" * 900, "line\nbreak", "."]


def parts(*texts: bytes) -> list[memoryview]:
    return [memoryview(text) for text in texts]


@pytest.fixture
def store(store_config: BackingConfig) -> Iterator[Store]:
    store = open_store(store_config)
    store.check()
    yield store
    store.close()


def read(store: Store, name: str) -> bytes | None:
    stat = store.stat(name)
    return None if stat is None else store.read(name, stat).tobytes()


def test_what_is_written_is_read_until_it_is_deleted(store: Store) -> None:
    assert read(store, "a/b") is None
    store.write("a/b", parts(b"one"))
    assert read(store, "a/b") == b"one"
    store.write("a/b", parts(b"", b"two", b"three"))
    assert read(store, "a/b") == b"twothree"
    store.delete("a/b")
    store.delete("a/b")
    assert read(store, "a/b") is None
    assert store.stat("a") is None


def test_an_empty_object_is_there(store: Store) -> None:
    store.write("empty", parts(b""))
    assert read(store, "empty") == b""


def test_keys_of_all_kinds_do_not_meet(store: Store) -> None:
    for i, key in enumerate(ODD_KEYS):
        store.write(name_of(key), parts(str(i).encode()))
    assert [read(store, name_of(key)) for key in ODD_KEYS] == [str(i).encode() for i in range(len(ODD_KEYS))]


def test_a_large_object_comes_back_whole(store: Store) -> None:
    data = os.urandom(1 << 20) * 35  # several parts, the last one short
    store.write("large", parts(data[:100], data[100:]))
    assert read(store, "large") == data


def test_an_object_that_was_replaced_since_is_not_read(store: Store) -> None:
    store.write("a", parts(b"old"))
    stat = store.stat("a")
    assert stat is not None
    store.write("a", parts(b"longer"))
    with pytest.raises(Replaced):
        store.read("a", stat)
    store.delete("a")
    with pytest.raises(Replaced):
        store.read("a", stat)


def test_blocks_are_the_parts_cut_anew() -> None:
    assert list(blocks(parts(b"abc", b"", b"defg", b"h"), 3)) == [b"abc", b"def", b"gh"]
    assert list(blocks(parts(b""), 3)) == [b""]


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("sftp://me:secret@host/x", "sftp://host/x"),
        ("https://host/x?token=secret", "https://host/x"),
        ("/some/folder", "/some/folder"),
    ],
)
def test_labels_have_no_secrets(url: str, label: str) -> None:
    assert label_of(url) == label


# ---------------------------------------------------------------- directories


def test_a_directory_that_is_gone_is_unreachable_not_empty(tmp_path: Path) -> None:
    root = tmp_path / "mount"
    store = DirectoryStore(str(root))
    for act in (
        store.check,
        lambda: store.stat("a"),
        lambda: store.write("a", parts(b"x")),
        lambda: store.delete("a"),
    ):
        with pytest.raises(Unreachable, match="there is no directory"):
            act()
    assert not root.exists()
    root.mkdir()
    store.write("a", parts(b"x"))
    assert read(store, "a") == b"x"


def test_a_directory_refuses_a_name_below_another(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path))
    store.write("a", parts(b"x"))
    assert store.stat("a/b") is None
    with pytest.raises(Refused, match="cannot hold both"):
        store.write("a/b", parts(b"y"))
    store.write("c/d", parts(b"z"))
    with pytest.raises(Refused, match="cannot hold both"):
        store.write("c", parts(b"y"))
    assert read(store, "c/d") == b"z"


def test_a_directory_keeps_no_temporary_files_and_no_empty_folders(tmp_path: Path) -> None:
    store = DirectoryStore(str(tmp_path))
    abandoned = tmp_path / TEMPORARY / "old"
    abandoned.parent.mkdir()
    abandoned.touch()
    os.utime(abandoned, (0, 0))
    store.check()
    store.write("a/b/c", parts(b"x"))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["c"]
    store.delete("a/b/c")
    assert sorted(path.name for path in tmp_path.iterdir()) == [TEMPORARY]


# ---------------------------------------------------------------- S3


def test_folders_that_others_empty_meanwhile_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, n_lost = DirectoryStore(str(tmp_path)), 0
    replace = Path.replace

    def lose_the_folder(self: Path, target: Path) -> Path:
        """Somebody deletes the last object in it between its making and its use, the first times."""
        nonlocal n_lost
        if n_lost < 5:
            n_lost += 1
            store._prune(target.parent.relative_to(tmp_path))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", lose_the_folder)
    store.write("a/b/c", parts(b"value"))
    assert n_lost == 5
    assert read(store, "a/b/c") == b"value"


def test_new_folders_are_synced_like_what_is_in_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(directory, "_sync_folder", lambda folder: synced.append(str(folder.relative_to(tmp_path))))
    store = DirectoryStore(str(tmp_path))
    store.write("a/b/c", parts(b"value"))
    assert synced == [".", "a", "a/b"]
    store.write("a/b/d", parts(b"value"))
    assert synced == [".", "a", "a/b", "a/b"]


def test_objects_are_where_others_find_them(bucket: dict[str, Any]) -> None:
    store = S3Store.of(f"{bucket['name']}/pre/fix/", bucket["options"], timeout_s=5)
    store.write(name_of("layers/sha256:ab"), parts(b"layer"))
    found = bucket["client"].get_object(Bucket=bucket["name"], Key="pre/fix/layers/sha256:ab")
    assert found["Body"].read() == b"layer"
    bucket["client"].put_object(Bucket=bucket["name"], Key="pre/fix/theirs", Body=b"their own")
    assert read(store, "theirs") == b"their own"
    store.close()


def test_a_failed_upload_leaves_nothing(bucket: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    store = S3Store.of(bucket["name"], bucket["options"], timeout_s=5)

    def fails(**_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(store._client, "complete_multipart_upload", fails)
    with pytest.raises(ZeroDivisionError):
        store.write("a", parts(bytes(17 << 20)))
    assert store.stat("a") is None
    assert "Uploads" not in bucket["client"].list_multipart_uploads(Bucket=bucket["name"])
    store.close()


def test_a_bucket_that_is_not_there_is_refused(bucket: dict[str, Any]) -> None:
    store = S3Store.of("no-such-bucket", bucket["options"], timeout_s=5)
    with pytest.raises(Refused, match="no bucket 'no-such-bucket'"):
        store.check()
    with pytest.raises(Refused, match="NoSuchBucket"):
        store.write("a", parts(b"x"))
    store.close()


def test_nobody_listening_is_unreachable() -> None:
    store = S3Store.of("bucket", {"endpoint_url": "http://127.0.0.1:9", **KEYS}, timeout_s=5)
    with pytest.raises(Unreachable):
        store.stat("a")
    store.close()


def test_options_that_are_not_known_are_refused() -> None:
    with pytest.raises(ConfigError, match="endpont_url"):
        open_store(BackingConfig(url="s3://bucket", options={"endpont_url": "x"}))
    with pytest.raises(ConfigError, match="names a bucket"):
        open_store(BackingConfig(url="s3:///x"))
    with pytest.raises(ConfigError, match="absolute"):
        open_store(BackingConfig(url="some/folder"))
    with pytest.raises(ConfigError, match="Protocol not known"):
        open_store(BackingConfig(url="nosuch://x"))
