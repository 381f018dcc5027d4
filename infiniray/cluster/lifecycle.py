"""How a cache's actors begin and end, whoever asks for it."""

from __future__ import annotations

import contextlib
import ipaddress
import secrets

from infiniray.cluster import rayapi
from infiniray.cluster.deadline import Deadline
from infiniray.cluster.machines import spread
from infiniray.cluster.membership import Membership, supervisor_name
from infiniray.cluster.state import ProcessMark
from infiniray.config import Config
from infiniray.errors import CacheUnavailable, InfiniRayError

__all__ = ["bring_up", "end_all", "take_down"]

#: From asking for a cache to having it: Ray starts a process for each actor, and the platform one for each function.
BRING_UP_TIMEOUT_S = 120.0
TAKE_DOWN_TIMEOUT_S = 30.0
_SUPERVISOR_CONCURRENCY = 1000


def bring_up(
    config: Config, *, platform_endpoint: str | None, owner: ProcessMark | None = None, secret: str | None = None
) -> Membership:
    """Create supervisor, functions and shards on the Ray that this process is connected to.

    A cache of this name that is there already is completed, and kept as it was configured.

    Args:
        platform_endpoint: URL of the function platform; None for AWS's own.
        owner: the cache ends with this process; None: it stays until :func:`take_down`.
        secret: that of functions which are deployed apart, as hex; None: a new one.

    Raises:
        CacheUnavailable: the actors do not come up.
        PlatformError: the platform refused a function.
        ShardUnreachable: functions cannot dial a shard.
    """
    from infiniray.cluster.supervisor import Supervisor  # and all of a shard: who connects to a cache needs none of it

    # nodes that dial a loopback address reach only shards on this machine
    is_local = _is_loopback(config.platform.listen_host)
    name, here = supervisor_name(config.name), rayapi.local_node_id()
    supervisor = rayapi.create_actor(
        Supervisor,
        name=name,
        max_concurrency=_SUPERVISOR_CONCURRENCY,
        on_node=here if is_local or owner is not None else spread([name], rayapi.machines(), ())[name],
        may_move=not is_local,
        config=config,
        secret=secret or secrets.token_hex(32),
        endpoint_url=platform_endpoint,
        is_local=is_local,
        owner=owner,
        owner_machine=here,
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
    with contextlib.suppress(CacheUnavailable):
        rayapi.store_delete_all(f"{name}/")
    return bool(left)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
