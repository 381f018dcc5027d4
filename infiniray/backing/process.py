"""The stores that this process works with: one :class:`.Backing` for all handles of the same cache and store."""

from __future__ import annotations

import atexit
import logging
import threading
import weakref

from infiniray.backing.front import CacheFront
from infiniray.backing.modes import Backing
from infiniray.backing.records import RayRecords
from infiniray.backing.store import Refused, Unreachable, label_of, open_store
from infiniray.cluster.client import Client
from infiniray.config import BackingConfig
from infiniray.errors import BackingRefused, BackingUnavailable, WritesUnflushed

__all__ = ["backing_of", "check_store"]

_logger = logging.getLogger(__name__)
_lock = threading.Lock()
_open: weakref.WeakValueDictionary[tuple[str, str, str], Backing] = weakref.WeakValueDictionary()


def backing_of(cache: str, address: str, config: BackingConfig) -> Backing:
    """The store behind ``cache``, on the Ray at ``address``. It is not yet spoken to.

    Raises:
        ConfigError: the URL or its options are not understood.
    """
    key = (cache, address, config.model_dump_json())
    with _lock:
        backing = _open.get(key)
        if backing is None:
            backing = _opened(cache, config)
            _open[key] = backing
        return backing


def check_store(cache: str, config: BackingConfig) -> None:
    """Find out whether the store is there, before a cache is started in front of it. None is as good.

    Raises:
        ConfigError: the URL or its options are not understood.
        BackingRefused: there is no such store.
        BackingUnavailable: it does not answer, and ``on_error`` is not "degrade".
    """
    if config.url is not None:
        _opened(cache, config).check()


def _opened(cache: str, config: BackingConfig) -> Backing:
    assert config.url is not None
    label = label_of(config.url)
    try:
        store = open_store(config)
    except Unreachable as error:
        raise BackingUnavailable(store=label, operation="OPEN", key="", detail=str(error)) from error
    except Refused as error:
        raise BackingRefused(store=label, operation="OPEN", key="", detail=str(error)) from error
    backing = Backing(config, store, RayRecords(cache), CacheFront(Client(cache)))
    weakref.finalize(backing, store.close)
    return backing


@atexit.register
def _flush_all() -> None:
    """What handles that were never closed have acknowledged."""
    for backing in list(_open.values()):
        try:
            backing.close()
        except WritesUnflushed as error:
            _logger.error("%s", error)
