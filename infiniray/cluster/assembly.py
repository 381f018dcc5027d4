"""One shard, put together from its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from infiniray.cluster.membership import Membership
from infiniray.codec.schemes import SchemePolicy
from infiniray.config import Config, PlatformConfig
from infiniray.core.ids import InstanceId, NodeId
from infiniray.core.policy import Hedge, Policy, RepairMode, Warm
from infiniray.core.shard import ShardState
from infiniray.faas.client import lambda_client
from infiniray.faas.invoker import FunctionInvoker
from infiniray.runtime.coordination import Coordinator
from infiniray.runtime.driver import ChunkCoder, ShardDriver
from infiniray.runtime.pacing import Pacing

__all__ = ["assemble", "pacing_of", "policy_of"]

#: Open at once: a session that ends and the next one overlap; a copy of the node may run beside it.
_INVOCATIONS_PER_NODE = 4
#: The platform ends a session at its timeout, and says so a little later.
_INVOKE_GRACE_S = 10.0


def policy_of(config: Config) -> Policy:
    """The numbers that a shard's decisions depend on."""
    session, limits, available = config.session, config.limits, config.availability
    return Policy(
        schemes=SchemePolicy.of([(rule.up_to, rule.scheme) for rule in config.redundancy]),
        hedge=Hedge(config.read.hedge),
        hedge_delay_s=config.read.hedge_delay_s,
        warm=Warm(available.warm),
        warm_interval_s=available.warm_interval_s,
        backup_interval_s=available.backup_interval_s,
        backup_max_age_s=available.backup_max_age_s,
        backup_burst_bytes=available.backup_burst_bytes,
        repair=RepairMode(available.repair),
        repair_bytes_per_s=available.repair_bytes_per_s,
        repair_usd_per_h=available.repair_usd_per_h,
        node_gb=config.pool.memory_mb / 1024,
        recovery_timeout_s=available.recovery_timeout_s,
        ping_timeout_s=session.ping_timeout_s,
        connect_timeout_s=session.connect_timeout_s,
        stall_s=session.stall_s,
        min_bytes_per_s=session.min_bytes_per_s,
        invoke_attempts=limits.invoke_attempts,
        max_in_flight=limits.max_in_flight,
        max_in_flight_bytes=limits.max_in_flight_bytes,
    )


def pacing_of(platform: PlatformConfig) -> Pacing | None:
    """What the embedded platform cannot do by itself: shape what shards send to functions."""
    shape = platform.local.bandwidth if platform.kind == "local" else None
    return None if shape is None else Pacing(**shape.model_dump())


def assemble(
    membership: Membership,
    shard: str,
    config: Config,
    secret: bytes,
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
    n_connections = _INVOCATIONS_PER_NODE * len(nodes)
    client = lambda_client(endpoint_url, platform.region, max_connections=n_connections)
    return ShardDriver(
        state,
        FunctionInvoker(client, max_connections=n_connections),
        coder,
        secret,
        listen_host=platform.listen_host,
        advertise_host=platform.advertise_host,
        linger_s=config.session.linger_s,
        invoke_timeout_s=config.pool.timeout_s + _INVOKE_GRACE_S,
        pacing=pacing_of(platform),
        coordinator=coordinator,
        registered=registered,
        on_deposed=on_deposed,
    )
