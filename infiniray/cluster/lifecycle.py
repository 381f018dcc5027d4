"""How a cache begins and ends: embedded in a process, for everybody, or found.

:func:`start` and :func:`connect` are for users; :func:`bring_up` and :func:`take_down` for the command line.
"""

from __future__ import annotations

import atexit
import contextlib
import ipaddress
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infiniray.cache import Cache
from infiniray.cluster import rayapi
from infiniray.cluster.client import Client
from infiniray.cluster.deadline import Deadline
from infiniray.cluster.membership import Membership, supervisor_name
from infiniray.cluster.state import ProcessMark, StateDirectory
from infiniray.cluster.steps import run
from infiniray.cluster.supervisor import Supervisor
from infiniray.config import Config, PoolConfig
from infiniray.errors import CacheUnavailable, ConfigError, InfiniRayError
from infiniray.faas.local.launch import LocalPlatform

__all__ = ["bring_up", "connect", "end_all", "settings_of", "start", "take_down"]

#: From asking for a cache to having it: Ray starts a process for each actor, and the platform one for each function.
BRING_UP_TIMEOUT_S = 120.0
TAKE_DOWN_TIMEOUT_S = 30.0
_SUPERVISOR_CONCURRENCY = 1000
#: Nodes that a pool has beyond what its shards' widest scheme needs, for each shard.
_SPARE_NODES = 2
_MOST_NODES = 10_000


# ---------------------------------------------------------------- embedded


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
        PlatformError: the functions could not be created.
    """
    settings = settings_of(config, sections, nodes=nodes, shards=shards, memory_mb=memory_mb, scheme=scheme, name=name)
    if settings.platform.kind != "local":
        detail = "platform.kind: start() runs functions as processes of this machine; for AWS use `infiniray up`"
        raise ConfigError(detail=detail)
    owned = _Owned()
    try:
        owned.connect_ray(address, object_store_bytes)
        _refuse_second(settings.name)
        endpoint_url = owned.start_platform(settings)
        owned.cache_name = settings.name
        bring_up(settings, platform_endpoint=endpoint_url, owner=ProcessMark.of())
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
        handle = LocalPlatform.start(settings.platform.local, owned=True)
        self._stack.callback(handle.stop)
        return str(handle.endpoint)

    def close(self) -> None:
        atexit.unregister(self.close)
        name, self.cache_name = self.cache_name, None
        with self._stack:
            if name is not None and rayapi.is_connected():
                take_down(name, delete_functions=False)  # they end with their platform


def settings_of(config: Config | str | Path | None, sections: Mapping[str, Any], **short: Any) -> Config:
    """The configuration that the arguments of :func:`start` describe."""
    if isinstance(config, Config):
        base, file = config.model_dump(exclude_unset=True), None
    else:
        base, file = {}, config
    overrides: dict[str, Any] = {**base}
    for section, values in sections.items():
        overrides[section] = {**base.get(section, {}), **values} if isinstance(values, Mapping) else values
    for setting, section in (("nodes", "pool"), ("memory_mb", "pool"), ("shards", "ring")):
        if short[setting] is not None:
            overrides[section] = {**overrides.get(section, {}), setting: short[setting]}
    if short["scheme"] is not None:
        overrides["redundancy"] = [{"scheme": short["scheme"]}]
    if short["name"] is not None:
        overrides["name"] = short["name"]
    return Config.load(file, _with_enough_nodes(file, overrides))


def _with_enough_nodes(file: str | Path | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """Where nobody says how many nodes there are: as many as shards and schemes need, and a few to spare."""
    pool = overrides.get("pool", {})
    narrow = {**overrides, "ring": {"shards": 1}, "redundancy": [{"scheme": "mirror:1"}]}
    if "nodes" in Config.load(file, narrow).pool.model_fields_set:
        return overrides
    probe = Config.load(file, {**overrides, "pool": {**pool, "nodes": _MOST_NODES}})
    default = int(PoolConfig.model_fields["nodes"].default)
    needed = max(default, probe.ring.shards * (probe.widest_scheme + _SPARE_NODES))
    return {**overrides, "pool": {**pool, "nodes": needed}}


# ---------------------------------------------------------------- for everybody


def bring_up(config: Config, *, platform_endpoint: str | None, owner: ProcessMark | None = None) -> Membership:
    """Create supervisor, functions and shards on the Ray that this process is connected to.

    A cache of this name that is there already is completed, and kept as it was configured.

    Args:
        platform_endpoint: URL of the function platform; None for AWS's own.
        owner: the cache ends with this process; None: it stays until :func:`take_down`.

    Raises:
        CacheUnavailable: the actors do not come up.
        PlatformError: the platform refused a function.
    """
    # nodes that dial a loopback address reach only shards on this machine
    is_local = _is_loopback(config.platform.listen_host)
    supervisor = rayapi.create_actor(
        Supervisor,
        name=supervisor_name(config.name),
        max_concurrency=_SUPERVISOR_CONCURRENCY,
        on_node=rayapi.local_node_id() if is_local else None,
        config=config,
        secret=secrets.token_hex(32),
        endpoint_url=platform_endpoint,
        is_local=is_local,
        owner=owner,
    )
    deadline = Deadline.after(BRING_UP_TIMEOUT_S)
    membership: Membership = rayapi.wait(supervisor.bring_up.remote(), deadline, "bring-up", config.name)
    return membership


def take_down(name: str, *, delete_functions: bool = True) -> bool:
    """End a cache's actors, and delete its functions. False if there is no such cache.

    The Ray that this process is connected to is searched; what is left of a cache whose supervisor is gone ends too.
    """
    try:
        supervisor = rayapi.find_actor(supervisor_name(name))
        shutdown = supervisor.shutdown.remote(delete_functions=delete_functions)
        rayapi.wait(shutdown, Deadline.after(TAKE_DOWN_TIMEOUT_S), "shutdown", name)
    except InfiniRayError:
        pass  # gone, or stuck: killed below
    return end_all(name)


def end_all(name: str) -> bool:
    """Kill every actor of a cache, in whatever state. False if there was none."""
    left = [actor for actor in rayapi.actor_names() if actor.startswith(f"{name}:")]
    for actor in left:
        with contextlib.suppress(CacheUnavailable):
            rayapi.kill(rayapi.find_actor(actor))
    return bool(left)


def _refuse_second(name: str) -> None:
    if supervisor_name(name) in rayapi.actor_names():
        detail = f"cache {name!r} already runs on this Ray: connect({name!r}) to it, or start another with name="
        raise CacheUnavailable(detail=detail)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# ---------------------------------------------------------------- found


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
    rayapi.attach(record.ray_address, has_token_auth=record.has_token_auth)
