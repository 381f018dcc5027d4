"""How users come to a cache: :func:`start` one that belongs to this process, or :func:`connect` to one that runs."""

from __future__ import annotations

import atexit
import contextlib
import os
from pathlib import Path
from typing import Any

from infiniray.cache import Cache
from infiniray.cluster import rayapi
from infiniray.cluster.client import Client
from infiniray.cluster.lifecycle import bring_up, take_down
from infiniray.cluster.membership import supervisor_name
from infiniray.cluster.state import ProcessMark, StateDirectory
from infiniray.cluster.steps import run
from infiniray.config import Config
from infiniray.errors import CacheUnavailable, ConfigError
from infiniray.faas.deploy.adopt import deployed_secret, is_deployed_apart
from infiniray.faas.local.launch import LocalPlatform
from infiniray.settings import settings_of

__all__ = ["connect", "start"]


def start(
    *,
    nodes: int | None = None,
    shards: int | None = None,
    memory_mb: int | None = None,
    scheme: str | None = None,
    name: str | None = None,
    config: Config | str | Path | None = None,
    address: str | None = None,
    object_store_bytes: int | None = None,
    **sections: Any,
) -> Cache:
    """Start a cache that belongs to this process: function platform, supervisor, shards.

    If this process is not connected to Ray, it connects to ``address`` or ``RAY_ADDRESS``, else it starts a Ray of
    its own. All that was started ends with :meth:`Cache.close`, at the end of a ``with`` block, or with the process.

    Args:
        nodes: functions in the pool; by default as many as shards and schemes need, and at least 28.
        shards: proxy shards.
        memory_mb: memory size of a function.
        scheme: one redundancy scheme for objects of all sizes, like ``"rs:4+2"``.
        name: which cache, where several run on one Ray.
        config: a configuration, or the path of a YAML file with one; the arguments here win over it.
        address: the Ray to connect to.
        object_store_bytes: size of the object store, if a Ray is started here; by default Ray's choice.
        sections: any section of :class:`~infiniray.config.Config`, as ``session={"linger_s": "20ms"}``.

    Raises:
        ConfigError: a setting is not valid.
        CacheUnavailable: a cache of this name already runs, or Ray cannot be reached.
        PlatformError: the functions could not be created; NotDeployed: on a platform with an ``endpoint_url`` they
            are not there as configured.
    """
    settings = settings_of(config, sections, nodes=nodes, shards=shards, memory_mb=memory_mb, scheme=scheme, name=name)
    if settings.platform.kind != "local":
        detail = "platform.kind: start() runs functions as processes of this machine; for AWS use `infiniray up`"
        raise ConfigError(detail=detail)
    owned = _Owned()
    try:
        owned.connect_ray(address, object_store_bytes)
        _refuse_second(settings.name)
        apart = is_deployed_apart(settings)
        secret = deployed_secret(settings, settings.platform.endpoint_url) if apart else None
        endpoint_url = owned.start_platform(settings)
        owned.cache_name = settings.name
        bring_up(settings, platform_endpoint=endpoint_url, owner=ProcessMark.of(), secret=secret)
        atexit.register(owned.close)
        return Cache._of(settings.name, address=rayapi.address(), on_close=owned.close)
    except BaseException:
        owned.close()
        raise


class _Owned:
    """What :func:`start` started in this process, to be ended in the reverse order, once."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.cache_name: str | None = None

    def connect_ray(self, address: str | None, object_store_bytes: int | None) -> None:
        if rayapi.is_connected():
            return
        address = address or os.environ.get("RAY_ADDRESS")
        if address is None or address == "local":
            rayapi.start_local(object_store_bytes=object_store_bytes)
        else:
            rayapi.attach(address)
        self._stack.callback(rayapi.disconnect)

    def start_platform(self, settings: Config) -> str:
        """The endpoint of a platform for this cache alone, or of the one that is configured: `deploy` prepares that."""
        if settings.platform.endpoint_url is not None:
            return settings.platform.endpoint_url
        handle = LocalPlatform.start(settings.platform.local, owned=True)
        self._stack.callback(handle.stop)
        return str(handle.endpoint)

    def close(self) -> None:
        atexit.unregister(self.close)
        name, self.cache_name = self.cache_name, None
        with self._stack:
            if name is not None and rayapi.is_connected():
                take_down(name, delete_functions=False)  # they end with their platform


def _refuse_second(name: str) -> None:
    if supervisor_name(name) in rayapi.actor_names():
        detail = f"cache {name!r} already runs on this Ray: connect({name!r}) to it, or start another with name="
        raise CacheUnavailable(detail=detail)


def connect(name: str = "default", *, address: str | None = None) -> Cache:
    """Connect to a running cache, from any Ray job, task, actor or process.

    A process that is not connected to Ray connects to ``address``, to ``RAY_ADDRESS``, or to where ``infiniray up``
    has recorded that the cache runs; it disconnects with :meth:`Cache.close`.

    Raises:
        CacheUnavailable: no such cache runs.
    """
    on_close = None
    if not rayapi.is_connected():
        _attach(name, address)
        on_close = rayapi.disconnect
    try:
        run(Client(name).connect())
        return Cache._of(name, address=rayapi.address(), on_close=on_close)
    except BaseException:
        if on_close is not None:
            on_close()
        raise


def _attach(name: str, address: str | None) -> None:
    """Connect this process to the Ray that the cache is on."""
    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None:
        rayapi.attach(address)
        return
    record = StateDirectory().read(name)
    if record is None:
        detail = (
            f"no cache {name!r} is known on this machine: bring one up with `infiniray up`, "
            "or say where Ray is with address="
        )
        raise CacheUnavailable(detail=detail)
    if record.ray_head is not None and not record.ray_head.is_alive():  # Ray would take minutes to find out
        detail = (
            f"cache {name!r} has crashed: the Ray that it ran on has ended; "
            "`infiniray up` starts it anew, `infiniray down` clears what is left"
        )
        raise CacheUnavailable(detail=detail)
    rayapi.attach(record.ray_address, has_token_auth=record.has_token_auth)
