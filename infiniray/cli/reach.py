"""Reaching a running cache: one that has crashed is said to have crashed, at once."""

from __future__ import annotations

import contextlib
import os
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
    _refuse_crashed(name)
    import infiniray

    cache = infiniray.connect(name)
    try:
        yield cache
    finally:
        cache.close()


def _refuse_crashed(name: str) -> None:
    """Look before connecting: Ray takes minutes to find out that its head has gone.

    Raises:
        CacheUnavailable: the Ray that was started for this cache has ended.
    """
    from infiniray.cluster.state import StateDirectory
    from infiniray.errors import CacheUnavailable

    if "RAY_ADDRESS" in os.environ:
        return  # that is where the cache is looked for, not where a record says
    record = StateDirectory().read(name)
    if record is not None and record.ray_head is not None and not record.ray_head.is_alive():
        detail = (
            f"cache {name!r} has crashed: the Ray that it ran on has ended; "
            "`infiniray up` starts it anew, `infiniray down` clears what is left"
        )
        raise CacheUnavailable(detail=detail)
