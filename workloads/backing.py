"""The backing store behind a look-aside cache: where objects come from that the cache does not have."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from workloads.content import content

__all__ = ["DirectoryStore", "GeneratedOrigin", "ObjectStore", "Origin", "Source"]


class ObjectStore(Protocol):
    """What holds the objects of an :class:`Origin`. Safe to call from several threads."""

    def get(self, key: str) -> npt.NDArray[np.uint8] | None:
        """The object's bytes, None if there is no such object. Raises OSError if the store fails."""

    def put(self, key: str, value: Any) -> None:
        """Stores anything with a contiguous buffer. Raises OSError if the store fails."""

    def size_bytes(self, key: str) -> int | None:
        """Size of the object, None if there is no such object. Raises OSError if the store fails."""


class Source(Protocol):
    """Where a look-aside cache's misses are loaded from; objects come to be when first asked for.

    Their bytes are :func:`workloads.content.content` with ``seed``, of the size that is asked for first. From then on
    the object has that size, even if a later line of the trace says another (partial answers do).
    """

    seed: int

    def size_bytes(self, key: str, requested_bytes: int) -> int:
        """The object's size, of a first request for ``requested_bytes`` that number."""

    def ensure(self, key: str, requested_bytes: int) -> int:
        """Makes the object if it does not exist yet; returns its size."""

    def load(self, key: str) -> npt.NDArray[np.uint8]:
        """The bytes of an object that :meth:`ensure` has made. Raises OSError if that fails."""


class DirectoryStore:
    """I keep objects as files of one directory, named by a hash of their keys, so that any key is a legal name.

    A reader sees a whole old or a whole new object, never a part: writes go to a temporary file that is then renamed.
    I do not fsync; I outlive my process, not a power cut.
    """

    def __init__(self, path: str | Path) -> None:
        """Makes the directory if need be. Raises OSError if that fails."""
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> npt.NDArray[np.uint8] | None:
        """The object's bytes as a fresh array of shape ``(n,)``; None if there is no such object."""
        try:
            return np.fromfile(self._file(key), np.uint8)
        except FileNotFoundError:
            return None

    def put(self, key: str, value: Any) -> None:
        """Stores anything with a contiguous buffer under ``key``, replacing what was there.

        Raises:
            OSError: the directory cannot be written, or is full; what was there before stays.
        """
        handle, temporary = tempfile.mkstemp(dir=self.path, prefix=".put-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(memoryview(value).cast("B"))
            os.replace(temporary, self._file(key))
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def size_bytes(self, key: str) -> int | None:
        """Size of the object, None if there is no such object."""
        try:
            return self._file(key).stat().st_size
        except FileNotFoundError:
            return None

    def _file(self, key: str) -> Path:
        return self.path / hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


class Origin:
    """I am a :class:`Source` that keeps its objects in a store, and so takes as long to load them as the store does."""

    def __init__(self, store: ObjectStore, *, seed: int = 0) -> None:
        self.seed = seed
        self._store = store
        self._lock = threading.Lock()
        self._sizes: dict[str, int] = {}  #: {key: size_bytes}, of every object asked for

    @property
    def n_objects(self) -> int:
        """Objects that were asked for."""
        with self._lock:
            return len(self._sizes)

    @property
    def total_bytes(self) -> int:
        """Their bytes, each counted once."""
        with self._lock:
            return sum(self._sizes.values())

    def size_bytes(self, key: str, requested_bytes: int) -> int:
        """The object's size: that of its file, or of its first request."""
        with self._lock:
            size = self._sizes.get(key)
        if size is None:
            stored = self._store.size_bytes(key)  # not under the lock: a store may be far away
            with self._lock:
                size = self._sizes.setdefault(key, requested_bytes if stored is None else stored)
        return size

    def ensure(self, key: str, requested_bytes: int) -> int:
        """Writes the object if it does not exist yet; returns its size."""
        size = self.size_bytes(key, requested_bytes)
        if self._store.size_bytes(key) is None:
            self._store.put(key, content(key, size, self.seed))
        return size

    def load(self, key: str) -> npt.NDArray[np.uint8]:
        """Reads the object from its file.

        Raises:
            FileNotFoundError: it was never made with :meth:`ensure`.
        """
        value = self._store.get(key)
        if value is None:
            raise FileNotFoundError(f"the backing store has no object {key!r}")
        return value


class GeneratedOrigin:
    """I am a :class:`Source` without a store: a load makes the bytes anew, at memory speed.

    For traces whose objects fit on no disk. What a miss costs through me says nothing about a backing store.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self._sizes: dict[str, int] = {}  #: {key: size_bytes}, of every object asked for

    def size_bytes(self, key: str, requested_bytes: int) -> int:
        return self._sizes.setdefault(key, requested_bytes)

    def ensure(self, key: str, requested_bytes: int) -> int:
        return self.size_bytes(key, requested_bytes)

    def load(self, key: str) -> npt.NDArray[np.uint8]:
        """Raises FileNotFoundError: it was never asked for."""
        size = self._sizes.get(key)
        if size is None:
            raise FileNotFoundError(f"the backing store has no object {key!r}")
        return content(key, size, self.seed)
