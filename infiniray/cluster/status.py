"""Asking a running cache what it is made of."""

from __future__ import annotations

from typing import Any

from infiniray.cluster import rayapi
from infiniray.cluster.deadline import Deadline
from infiniray.cluster.membership import supervisor_name

__all__ = ["cache_status"]


def cache_status(name: str, *, timeout_s: float = 20.0) -> dict[str, Any]:
    """What the supervisor says of cache ``name``; see :meth:`~infiniray.cluster.supervisor.Supervisor.status`.

    Raises:
        CacheUnavailable: there is none on the Ray that this process is connected to.
        DeadlineExceeded: it does not answer.
    """
    supervisor = rayapi.find_actor(supervisor_name(name))
    status: dict[str, Any] = rayapi.wait(supervisor.status.remote(), Deadline.after(timeout_s), "status", name)
    return status
