"""One shard, put together from its configuration."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from infiniray.channel.peer import Handler
from infiniray.channel.server import ChannelServer
from infiniray.cluster import rayapi
from infiniray.cluster.membership import Membership
from infiniray.config import Config, PlatformConfig
from infiniray.core.ids import InstanceId, NodeId
from infiniray.core.shard import ShardState
from infiniray.faas.client import lambda_client
from infiniray.faas.invoker import FunctionInvoker
from infiniray.policies import policy_of
from infiniray.runtime.coordination import Coordinator
from infiniray.runtime.driver import ChunkCoder, ShardDriver
from infiniray.runtime.keys import KeyRing
from infiniray.runtime.pacing import Pacing

if TYPE_CHECKING:
    from infiniray.runtime.certificates import ShardCertificate

__all__ = ["address_to_dial", "assemble", "host_to_listen_on", "open_channel", "pacing_of", "policy_of"]

#: Open at once: a session that ends and the next one overlap; a copy of the node may run beside it.
_INVOCATIONS_PER_NODE = 4
#: Connections are taken when needed: room for nodes that join later costs nothing.
_POOL_MAY_GROW_TO = 64
#: The platform ends a session at its timeout, and says so a little later.
_INVOKE_GRACE_S = 10.0


def pacing_of(platform: PlatformConfig) -> Pacing | None:
    """What the embedded platform cannot do by itself: shape what shards send to functions."""
    shape = platform.local.bandwidth if platform.kind == "local" else None
    return None if shape is None else Pacing(**shape.model_dump())


def host_to_listen_on(platform: PlatformConfig) -> str:
    """Where this process's shard listens for nodes."""
    return rayapi.local_node_ip() if platform.listen_host == "auto" else platform.listen_host


def address_to_dial(platform: PlatformConfig) -> str:
    """What nodes dial to reach the machine that this process is on.

    "All interfaces" is nowhere to dial: then, as with "auto", it is the address by which Ray knows the machine, and
    shards on several machines have one each.
    """
    if platform.advertise_host is not None:
        return platform.advertise_host
    listens_on = host_to_listen_on(platform)
    return rayapi.local_node_ip() if _is_wildcard(listens_on) else listens_on


def _is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _certificate(config: Config) -> ShardCertificate | None:
    """A new one, if functions are to dial by TLS."""
    if not config.session.tls:
        return None
    from infiniray.runtime.certificates import new_certificate  # here: nobody else needs the library that makes it

    return new_certificate()


def assemble(
    membership: Membership,
    shard: str,
    config: Config,
    secret: bytes | KeyRing,
    endpoint_url: str | None,
    coder: ChunkCoder,
    *,
    epoch: int | None = None,
    coordinator: Coordinator | None = None,
    registered: Mapping[NodeId, InstanceId] | None = None,
    on_deposed: Callable[[], None] | None = None,
) -> ShardDriver:
    """The driver of ``shard``, not yet started. Needs a running event loop.

    Args:
        epoch: of this incarnation of the shard; None: the membership's.
        registered: what earlier incarnations of the shard had on record.
        on_deposed: called when there is a later one.
    """
    nodes = membership.nodes[shard]
    state = ShardState(
        shard=shard,
        epoch=membership.epoch if epoch is None else epoch,
        nodes=dict.fromkeys(nodes, config.pool.node_bytes),
        policy=policy_of(config),
    )
    platform = config.platform
    n_connections = _INVOCATIONS_PER_NODE * max(len(nodes), _POOL_MAY_GROW_TO)
    client = lambda_client(endpoint_url, platform.region, max_connections=n_connections)
    return ShardDriver(
        state,
        FunctionInvoker(client, max_connections=n_connections),
        coder,
        secret,
        listen_host=host_to_listen_on(platform),
        advertise_host=address_to_dial(platform),
        linger_s=config.session.linger_s,
        invoke_timeout_s=config.pool.timeout_s + _INVOKE_GRACE_S,
        certificate=_certificate(config),
        pacing=pacing_of(platform),
        coordinator=coordinator,
        registered=registered,
        on_deposed=on_deposed,
    )


def open_channel(handler: Handler, driver: ShardDriver, config: Config) -> ChannelServer:
    """Where clients of a shard connect directly, not yet started. Needs a running event loop."""
    channel = config.channel
    host = rayapi.local_node_ip() if channel.listen_host == "auto" else channel.listen_host
    return ChannelServer(
        handler,
        driver.pool,
        shared_bytes=channel.shared_memory_bytes,
        shared_min_bytes=config.limits.inline_max_bytes,
        idle_s=channel.idle_s,
        listen_host=host,
        dial_host=rayapi.local_node_ip() if host is not None and _is_wildcard(host) else host,
    )
