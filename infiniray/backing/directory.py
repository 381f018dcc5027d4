"""A directory as a store: a local disk, or a network file system that several machines mount."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from infiniray.backing.naming import TEMPORARY
from infiniray.backing.store import Octets, Refused, Replaced, Stat, Unreachable

__all__ = ["DirectoryStore"]

#: What the same call would meet again. Anything else (a full or failing disk, a stale mount) may pass.
_FINAL = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY,
          errno.EEXIST, errno.EINVAL)  # fmt: skip
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
#: A temporary file of this age was left by a process that died.
_ABANDONED_S = 24 * 3600.0
#: A folder that is made may be taken away again, by who deletes what was last in it, before anything is in it.
_ATTEMPTS = 100


class DirectoryStore:
    """I keep each object in a file of ``root``, which must be there: a mount that is gone is no empty store.

    Files are written under another name, synced, and renamed, so that they are there whole or not at all, and stay
    there when the machine loses power.
    """

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def check(self) -> None:
        self._check_root()
        with self._explained():
            self._sweep()

    def stat(self, name: str) -> Stat | None:
        with self._explained():
            try:
                found = (self._root / name).stat()
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                self._check_root()
                return None
            return None if (self._root / name).is_dir() else _stat_of(found)

    def read(self, name: str, stat: Stat) -> Octets:
        with self._explained():
            try:
                with open(self._root / name, "rb", buffering=0) as file:
                    if _stat_of(os.fstat(file.fileno())) != stat:
                        raise Replaced
                    return _filled(file.fileno(), stat.n_bytes)
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                self._check_root()
                raise Replaced from None

    def write(self, name: str, parts: Sequence[memoryview]) -> None:
        self._check_root()
        temporary = self._root / TEMPORARY / uuid.uuid4().hex
        with self._explained():
            try:
                temporary.parent.mkdir(exist_ok=True)
                _write_synced(temporary, parts)
                target = self._root / name
                self._move(temporary, target)
                _sync_folder(target.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        self._check_root()
        with self._explained():
            try:
                (self._root / name).unlink()
            except IsADirectoryError:
                return
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                return
            self._prune(Path(name).parent)

    def close(self) -> None:
        pass

    def _check_root(self) -> None:
        if not self._root.is_dir():
            raise Unreachable(f"there is no directory {self._root}")

    def _move(self, temporary: Path, target: Path) -> None:
        for attempt in range(_ATTEMPTS):
            try:
                self._make(target.parent)
                temporary.replace(target)
                return
            except (FileNotFoundError, FileExistsError):
                if attempt + 1 == _ATTEMPTS or not temporary.exists():
                    raise

    def _make(self, folder: Path) -> None:
        """A folder below the root, and those above it; synced, as what is to be in it will be."""
        if folder == self._root or folder.is_dir():
            return
        self._make(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)

    def _prune(self, folder: Path) -> None:
        """Take away folders that hold nothing any more; one that is being filled stays."""
        while folder.parts:
            try:
                (self._root / folder).rmdir()
            except OSError:
                return
            folder = folder.parent

    def _sweep(self) -> None:
        oldest_s = time.time() - _ABANDONED_S
        with contextlib.suppress(FileNotFoundError):
            for path in (self._root / TEMPORARY).iterdir():
                if path.stat().st_mtime < oldest_s:
                    path.unlink(missing_ok=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            detail = f"{error.strerror or error}: {error.filename or self._root}"
            if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY):
                detail += " (a directory cannot hold both an object 'a' and an object 'a/b')"
            raise (Refused if error.errno in _FINAL else Unreachable)(detail) from error


def _stat_of(found: os.stat_result) -> Stat:
    return Stat(n_bytes=found.st_size, version=f"{found.st_ino}-{found.st_mtime_ns}")


def _filled(file: int, n_bytes: int) -> Octets:
    data = np.empty(n_bytes, np.uint8)
    view, at = memoryview(data), 0  # type: ignore[arg-type]
    while at < n_bytes:
        n = os.readv(file, [view[at:]])
        if not n:
            raise Replaced
        at += n
    return data


def _write_synced(path: Path, parts: Sequence[memoryview]) -> None:
    with open(path, "xb", buffering=0) as file:
        for part in parts:
            rest = memoryview(part).cast("B") if part.nbytes else memoryview(b"")
            while rest.nbytes:
                rest = rest[os.write(file.fileno(), rest) :]
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
