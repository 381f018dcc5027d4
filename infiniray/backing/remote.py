"""Any other file system that fsspec reaches, as a store: ``gs://``, ``az://``, ``sftp://``, ``memory://``, ..."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import fsspec
import numpy as np

from infiniray.backing.naming import TEMPORARY
from infiniray.backing.store import Octets, Refused, Replaced, Stat, Unreachable, blocks
from infiniray.errors import ConfigError

__all__ = ["RemoteStore"]

#: Where an object is there whole or not at all, and renaming would mean to copy.
_ATOMIC = {"gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "memory"}
_REFUSALS = (PermissionError, NotImplementedError, ValueError, TypeError)


class RemoteStore:
    """I keep objects below a path of an fsspec file system."""

    def __init__(self, files: Any, root: str, *, is_atomic: bool) -> None:
        self._files = files
        self._root = root.rstrip("/")
        self._is_atomic = is_atomic

    @classmethod
    def of(cls, url: str, options: dict[str, Any]) -> RemoteStore:
        """Raises: ConfigError."""
        try:
            # listings that are kept would hide what others write
            files, root = fsspec.core.url_to_fs(url, **{"use_listings_cache": False, **options})
        except (ImportError, ValueError, TypeError) as error:
            raise ConfigError(detail=f"backing.url: {error}") from None
        except Exception as error:  # connecting already, as sftp does
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        scheme = url.partition("://")[0].partition("::")[0]
        return cls(files, root, is_atomic=scheme in _ATOMIC)

    def check(self) -> None:
        with _explained():
            self._files.exists(self._root)

    def stat(self, name: str) -> Stat | None:
        with _explained():
            try:
                info = self._files.info(self._path(name))
            except (FileNotFoundError, NotADirectoryError):
                return None
            if info.get("type") != "file":
                return None
            return Stat(n_bytes=int(info["size"] or 0), version=_version(info))

    def read(self, name: str, stat: Stat) -> Octets:
        with _explained():
            try:
                data = self._files.cat_file(self._path(name))
            except (FileNotFoundError, NotADirectoryError):
                raise Replaced from None
            if len(data) != stat.n_bytes:
                raise Replaced
            return np.frombuffer(data, np.uint8)

    def write(self, name: str, parts: Sequence[memoryview]) -> None:
        path = self._path(name)
        [data] = blocks(parts, max(1, sum(part.nbytes for part in parts)))
        with _explained():
            if self._is_atomic:
                self._files.pipe_file(path, data)
                return
            temporary = self._path(f"{TEMPORARY}/{uuid.uuid4().hex}")
            self._files.makedirs(temporary.rpartition("/")[0], exist_ok=True)
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                self._files.pipe_file(temporary, data)
                self._files.mv(temporary, path)
            except BaseException:
                if self._files.exists(temporary):
                    self._files.rm_file(temporary)
                raise

    def delete(self, name: str) -> None:
        with _explained():
            try:
                self._files.rm_file(self._path(name))
            except (FileNotFoundError, NotADirectoryError):
                return

    def close(self) -> None:
        pass

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _version(info: dict[str, Any]) -> str:
    for field in ("etag", "ETag", "generation", "mtime", "updated", "last_modified", "created"):
        if info.get(field):
            return str(info[field])
    return ""


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (Replaced, Unreachable, Refused):
        raise
    except _REFUSALS as error:
        raise Refused(f"{type(error).__name__}: {error}") from error
    except Exception as error:  # every file system has its own
        raise Unreachable(f"{type(error).__name__}: {error}") from error
