"""From the configuration to the numbers that a shard's decisions depend on: the same live and in a simulation."""

from __future__ import annotations

from infiniray.codec.schemes import SchemePolicy
from infiniray.config import Config
from infiniray.core.policy import Hedge, Policy, RepairMode, Warm

__all__ = ["policy_of"]


def policy_of(config: Config, *, seed: int = 0) -> Policy:
    """The policy of each of a cache's shards."""
    session, limits, available = config.session, config.limits, config.availability
    return Policy(
        schemes=SchemePolicy.of([(rule.up_to, rule.scheme) for rule in config.redundancy]),
        idle_byte_s=config.eviction.idle_gb_h * 1e9 * 3600,
        near_bytes=config.near.bytes,
        near_max_bytes=config.near.max_value_bytes,
        hedge=Hedge(config.read.hedge),
        hedge_delay_s=config.read.hedge_delay_s,
        warm=Warm(available.warm),
        warm_interval_s=available.warm_interval_s,
        warm_replicas=available.warm_replicas,
        backup_interval_s=available.backup_interval_s,
        backup_max_age_s=available.backup_max_age_s,
        backup_burst_bytes=available.backup_burst_bytes,
        backup_window_bytes=available.backup_window_bytes,
        backup_retry_s=available.backup_retry_s,
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
        seed=seed,
    )
