"""What a store is to a cache: named objects, read and written whole. One file for each kind; this one chooses.

Stores block, and know neither deadlines nor keys: :mod:`.bounded` and :mod:`.modes` do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt

from infiniray.config import BackingConfig
from infiniray.errors import ConfigError

__all__ = ["Octets", "Refused", "Replaced", "Stat", "Store", "Unreachable", "blocks", "label_of", "open_store"]

Octets = npt.NDArray[np.uint8]


class Unreachable(Exception):
    """The store does not answer, or not now: the same call may succeed later."""


class Refused(Exception):
    """The store answers, and says no: the same call would fail again."""


class Replaced(Exception):
    """An object was replaced or deleted between :meth:`Store.stat` and :meth:`Store.read`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """What a store says of an object. ``version`` changes when the object does; empty if the store cannot tell."""

    n_bytes: int
    version: str


class Store(Protocol):
    """All methods may raise Unreachable and Refused, and can be called from several threads."""

    def check(self) -> None:
        """Whether there is such a store at all."""

    def stat(self, name: str) -> Stat | None:
        """None if there is no such object."""

    def read(self, name: str, stat: Stat) -> Octets:
        """The object that ``stat`` describes. Raises: Replaced."""

    def write(self, name: str, parts: Sequence[memoryview]) -> None:
        """Make the object of these parts, one after the other. A reader gets the whole of it or of the former one."""

    def delete(self, name: str) -> None:
        """Nothing happens if there is none."""

    def close(self) -> None: ...


def open_store(config: BackingConfig) -> Store:
    """The store that ``config.url`` names; it is not yet spoken to.

    Raises:
        ConfigError: the URL or its options are not understood, or the package for them is not installed.
    """
    assert config.url is not None
    scheme, found, rest = config.url.partition("://")
    if not found:
        scheme, rest = "file", config.url
    options: dict[str, Any] = dict(config.options)
    if scheme in ("s3", "s3a"):
        from infiniray.backing.s3 import S3Store

        return S3Store.of(rest, options, timeout_s=config.timeout_s)
    if scheme in ("file", "local"):
        from infiniray.backing.directory import DirectoryStore

        if options:
            raise ConfigError(detail="backing.options: a directory has none")
        if not rest.startswith("/"):  # handles travel to processes that run elsewhere
            raise ConfigError(detail=f"backing.url: a directory has an absolute path, {rest!r} is none")
        return DirectoryStore(rest)
    from infiniray.backing.remote import RemoteStore

    return RemoteStore.of(config.url, options)


def label_of(url: str) -> str:
    """The URL without a password that may be in it, for messages."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url.partition("?")[0]
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def blocks(parts: Sequence[memoryview], block_bytes: int) -> Iterator[bytes]:
    """The parts' bytes in blocks of one size; the last may be shorter. At least one."""
    flat = [memoryview(part).cast("B") if part.nbytes else memoryview(b"") for part in parts]
    total = sum(part.nbytes for part in flat)
    for start in range(0, max(total, 1), block_bytes):
        yield _cut(flat, start, start + block_bytes)


def _cut(parts: Sequence[memoryview], start: int, end: int) -> bytes:
    pieces, at = [], 0
    for part in parts:
        pieces.append(part[max(0, start - at) : max(0, end - at)])
        at += part.nbytes
    return b"".join(pieces)
