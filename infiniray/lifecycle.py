"""How users come to a cache: :func:`start` one that belongs to this process, or :func:`connect` to one that runs."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from infiniray.backing.choosing import as_section, chosen, record
from infiniray.backing.process import backing_of, check_store
from infiniray.cache import Cache
from infiniray.cluster import rayapi
from infiniray.cluster.client import Client
from infiniray.cluster.lifecycle import bring_up, take_down
from infiniray.cluster.membership import supervisor_name
from infiniray.cluster.state import ProcessMark, StateDirectory
from infiniray.cluster.steps import run
from infiniray.config import BackingConfig, Config
from infiniray.errors import CacheUnavailable, ConfigError
from infiniray.faas.local.launch import LocalPlatform
from infiniray.settings import settings_of

__all__ = ["announce_store", "connect", "start"]


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
    backing: BackingConfig | Mapping[str, Any] | str | None = None,
    mode: str | None = None,
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
        backing: the store that the cache is the front of: its URL, or the section ``backing`` of the configuration.
        mode: what writing means then: "read-through", "write-through" (the default), "write-back".
        sections: any section of :class:`~infiniray.config.Config`, as ``session={"linger_s": "20ms"}``.

    Raises:
        ConfigError: a setting is not valid.
        CacheUnavailable: a cache of this name already runs, or Ray cannot be reached.
        PlatformError: the functions could not be created; NotDeployed: on a platform with an ``endpoint_url`` they
            are not there as configured.
        ShardUnreachable: functions cannot dial a shard.
        BackingRefused: there is no such store; BackingUnavailable: it does not answer.
    """
    from infiniray.faas.deploy.adopt import deployed_secret, is_deployed_apart  # and boto3: connect() needs none of it

    if backing is not None or mode is not None:
        sections["backing"] = as_section(backing, mode)
    settings = settings_of(config, sections, nodes=nodes, shards=shards, memory_mb=memory_mb, scheme=scheme, name=name)
    if settings.platform.kind != "local":
        detail = "platform.kind: start() runs functions as processes of this machine; for AWS use `infiniray up`"
        raise ConfigError(detail=detail)
    check_store(settings.name, settings.backing)
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
        record(settings.name, settings.backing)
        return _handle(settings.name, settings.backing, on_close=owned.close)
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


def connect(
    name: str = "default",
    *,
    address: str | None = None,
    backing: BackingConfig | Mapping[str, Any] | str | Literal[False] | None = None,
    mode: str | None = None,
) -> Cache:
    """Connect to a running cache, from any Ray job, task, actor or process.

    A process that is not connected to Ray connects to ``address``, to ``RAY_ADDRESS``, or to where ``infiniray up``
    has recorded that the cache runs; it disconnects with :meth:`Cache.close`.

    Args:
        backing: the store that the cache is the front of: its URL, or what the section ``backing`` of a configuration
            may have. None: the one that the cache was started with; False: none.
        mode: what writing means: "read-through", "write-through", "write-back"; None: as the cache was started, or
            "write-through".

    Raises:
        CacheUnavailable: no such cache runs.
        BackingRefused: there is no such store; BackingUnavailable: it does not answer.
    """
    on_close = None
    if not rayapi.is_connected():
        _attach(name, address)
        on_close = rayapi.disconnect
    try:
        run(Client(name).connect())
        store = chosen(name, backing, mode)
        if store is not None:
            backing_of(name, rayapi.address(), store).check()
        return _handle(name, store, on_close=on_close)
    except BaseException:
        if on_close is not None:
            on_close()
        raise


def announce_store(settings: Config) -> None:
    """Let those who connect to the running cache that ``settings`` describe find the store behind it."""
    if settings.backing.url is None:
        return
    with connect(settings.name, backing=False):
        record(settings.name, settings.backing)


def _handle(name: str, backing: BackingConfig | None, on_close: Callable[[], None] | None) -> Cache:
    if backing is not None and backing.url is None:
        backing = None
    return Cache._of(name, address=rayapi.address(), on_close=on_close, backing=backing)


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
