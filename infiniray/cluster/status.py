"""Asking a running cache what it is made of."""

from __future__ import annotations

from typing import Any

from infiniray.cluster import rayapi
from infiniray.cluster.deadline import Deadline
from infiniray.cluster.membership import Membership, shard_actor_name, supervisor_name

__all__ = ["back_up", "cache_status", "rotate_secret", "scale", "shard_pid"]


def cache_status(name: str, *, timeout_s: float = 20.0) -> dict[str, Any]:
    """What the supervisor says of cache ``name``; see :meth:`~infiniray.cluster.supervisor.Supervisor.status`.

    Raises:
        CacheUnavailable: there is none on the Ray that this process is connected to.
        DeadlineExceeded: it does not answer.
    """
    supervisor = rayapi.find_actor(supervisor_name(name))
    status: dict[str, Any] = rayapi.wait(supervisor.status.remote(), Deadline.after(timeout_s), "status", name)
    return status


def scale(
    name: str, *, shards: int | None = None, nodes: int | None = None, may_evict: bool = False, timeout_s: float = 30.0
) -> dict[str, Any]:
    """Begin to change how many shards and functions cache ``name`` has; "scaling" in its status says how far that is.

    Args:
        nodes: of all shards together; None: shards keep theirs, and each new one gets as many as the others have.
        may_evict: the pool may become too small for what it holds: the least recently used goes.

    Returns:
        {"shards": [before, after], "nodes": [before, after]}

    Raises:
        ConfigError: there is no such cache.
        PoolFull: what is stored would not fit.
        ScalingUnderWay, RotationUnderWay: wait for the last one.
        CacheUnavailable: there is no such cache.
    """
    supervisor = rayapi.find_actor(supervisor_name(name))
    answer = supervisor.scale.remote(shards=shards, nodes=nodes, may_evict=may_evict)
    changes: dict[str, Any] = rayapi.wait(answer, Deadline.after(timeout_s), "scale", name)
    return changes


def rotate_secret(name: str, *, batch: int = 1, may_evict: bool = False, timeout_s: float = 30.0) -> dict[str, Any]:
    """Begin to give cache ``name`` a new secret; "rotation" in its status says how far that is, None when it is over.

    Args:
        batch: functions of each shard that are emptied at a time, to get it.
        may_evict: the others may become too few for what the cache holds: the least recently used goes.

    Returns:
        {"nodes": that get it}

    Raises:
        ConfigError: a shard has no function to spare.
        PoolFull: what is stored would not fit.
        ScalingUnderWay, RotationUnderWay: wait for the last one.
        CacheUnavailable: there is no such cache.
    """
    supervisor = rayapi.find_actor(supervisor_name(name))
    answer = supervisor.rotate_secret.remote(batch=batch, may_evict=may_evict)
    begun: dict[str, Any] = rayapi.wait(answer, Deadline.after(timeout_s), "rotate-secret", name)
    return begun


def shard_pid(name: str, shard: str, *, timeout_s: float = 20.0) -> int:
    """The process id of a shard's actor, on whichever machine that is.

    Raises:
        CacheUnavailable: there is no such shard.
    """
    actor = rayapi.find_actor(shard_actor_name(name, shard))
    health: dict[str, Any] = rayapi.wait(actor.health.remote(), Deadline.after(timeout_s), "health", shard)
    return int(health["pid"])


def back_up(name: str, *, timeout_s: float = 20.0) -> None:
    """Have every node of cache ``name`` backed up to its peer replica now, as far as slots allow.

    Raises:
        CacheUnavailable: there is no such cache.
    """
    deadline = Deadline.after(timeout_s)
    supervisor = rayapi.find_actor(supervisor_name(name))
    membership: Membership = rayapi.wait(supervisor.membership.remote(), deadline, "membership", name)
    for shard in membership.shards:
        rayapi.wait(rayapi.find_actor(shard_actor_name(name, shard)).back_up.remote(), deadline, "backup", shard)
