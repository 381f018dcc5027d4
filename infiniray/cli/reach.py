"""Reaching a running cache, for the time of a command."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infiniray.cache import Cache

__all__ = ["connected"]


@contextlib.contextmanager
def connected(name: str) -> Iterator[Cache]:
    """A handle of cache ``name``, closed afterwards.

    Raises:
        CacheUnavailable: no such cache runs.
    """
    import infiniray

    cache = infiniray.connect(name)
    try:
        yield cache
    finally:
        cache.close()
