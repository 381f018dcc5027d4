"""Where a benchmark runs: an embedded cache under one scheme, with what it takes turns with."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import infiniray
from infiniray.cache import Cache
from infiniray.cluster.status import cache_status, shard_pid
from infiniray.codec.schemes import Scheme
from infiniray.config import Config
from infiniray.faas.local.admin import PlatformAdmin
from infiniray.policies import policy_of
from workloads.baselines import CacheTarget, LoopbackTarget, MemcpyTarget, RayStoreTarget, RedisTarget, Target
from workloads.bench.measuring import Conditions
from workloads.bench.relay import RelayTarget
from workloads.errors import TargetFailed

__all__ = ["OTHERS", "Nodes", "Setting", "Stand", "stand"]

#: What the cache is compared with, by name, in the order of the table.
OTHERS: dict[str, Callable[[Conditions], Target]] = {
    "redis": lambda conditions: RedisTarget(),
    "ray": lambda conditions: RayStoreTarget(),
    "relay": lambda conditions: RelayTarget(_schemes(conditions)),
    "loopback": lambda conditions: LoopbackTarget(),
    "memcpy": lambda conditions: MemcpyTarget(),
}
#: Nodes that are to stay awake linger for this long, and are woken before each stretch.
_LINGER_S = 30
#: For near copies, where they are measured.
_NEAR_BYTES = 64 << 20
#: On a machine with other work a start may take seconds; giving up on it would start a second instance in its place.
_CONNECT_TIMEOUT_S = 20
_SETTLE_S = 30.0
_LOOK_AGAIN_S = 0.002


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a run sets about the cache, beside :class:`Conditions`.

    Args:
        nodes: of all shards together.
        hedge: see :class:`infiniray.config.ReadConfig`.
        node_bytes_per_s: of each node, each way, where the network is shaped; no burst.
        object_store_bytes: of the Ray that is started, if one is.
    """

    nodes: int = 28
    shards: int = 1
    hedge: str = "delayed"
    node_bytes_per_s: int = 75 << 20
    object_store_bytes: int = 2 << 30

    def sections(self, conditions: Conditions) -> dict[str, Any]:
        """As configuration of the cache."""
        session: dict[str, Any] = {"connect_timeout_s": _CONNECT_TIMEOUT_S}
        sections: dict[str, Any] = {"read": {"hedge": self.hedge}, "session": session}
        sections["near"] = {"bytes": _NEAR_BYTES if conditions.near else 0}
        if conditions.awake:
            session["linger_s"] = _LINGER_S
        if conditions.shaped:
            rate = self.node_bytes_per_s
            shape = {"bucket_bytes": 0, "burst_bytes_per_s": rate, "sustained_bytes_per_s": rate}
            sections["platform"] = {"local": {"bandwidth": shape}}
        if conditions.scheme != "default":
            sections["scheme"] = conditions.scheme
        return sections


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """A cache that runs, the systems that take turns (the cache is the first), and what brings its nodes to where they
    are to be. ``shard_pid`` is its first shard's process."""

    conditions: Conditions
    setting: Setting
    cache: Cache
    nodes: Nodes
    targets: tuple[Target, ...]
    settle: Callable[[], None]
    shard_pid: int


@contextlib.contextmanager
def stand(
    conditions: Conditions, setting: Setting, *, others: Sequence[str] = (), name: str = "bench"
) -> Iterator[Stand]:
    """Start all of it; it ends with the block.

    Args:
        others: of :data:`OTHERS`.
    """
    with contextlib.ExitStack() as stack:
        cache = stack.enter_context(
            infiniray.start(
                name=name,
                shards=setting.shards,
                nodes=setting.nodes,
                object_store_bytes=setting.object_store_bytes,
                **setting.sections(conditions),
            )
        )
        nodes = Nodes(cache, PlatformAdmin(str(cache_status(name)["endpoint_url"])), setting.nodes)
        nodes.start_all()
        targets: list[Target] = [CacheTarget(cache)]
        for other in others:
            targets.append(OTHERS[other](conditions))
            stack.callback(targets[-1].close)
        yield Stand(
            conditions=conditions,
            setting=setting,
            cache=cache,
            nodes=nodes,
            targets=tuple(targets),
            settle=nodes.wake if conditions.awake else nodes.await_sleep,
            shard_pid=shard_pid(name, "shard-0"),
        )


def _schemes(conditions: Conditions) -> Callable[[int], Scheme]:
    """Which scheme a value of some size has."""
    if conditions.scheme != "default":
        scheme = Scheme.parse(conditions.scheme)
        return lambda n_bytes: scheme
    return policy_of(Config()).schemes.choose


class Nodes:
    """The nodes of a cache, as their platform sees them."""

    def __init__(self, cache: Cache, admin: PlatformAdmin, n_nodes: int) -> None:
        self._cache = cache.namespace("settle")
        self._admin = admin
        self._n_nodes = n_nodes

    def functions(self) -> list[str]:
        """Of all nodes that have been invoked, in an order that stays."""
        return sorted({row["function"] for row in self._admin.instances()})

    def pids(self) -> list[int]:
        """Of all instances' processes."""
        return [int(row["pid"]) for row in self._admin.instances()]

    def slow(self, functions: Collection[str], factor: float) -> None:
        """Divide what these can send; 1.0 ends it."""
        for function in functions:
            self._admin.slow(function, factor)

    def start_all(self) -> None:
        """Touch nodes until each has been invoked once: cold starts are over then.

        Raises:
            TargetFailed: some did not start.
        """
        self._touch_until(self.functions, "started")

    def wake(self) -> None:
        """Touch nodes until each is in a session; nothing is sent if all are.

        Raises:
            TargetFailed: some would not wake.
        """
        self._touch_until(self._awake, "woke")

    def await_sleep(self) -> None:
        """Wait until no node is in a session.

        Raises:
            TargetFailed: some stay awake.
        """
        deadline_s = time.monotonic() + _SETTLE_S
        while awake := self._awake():
            self._check(deadline_s, f"{len(awake)} nodes did not fall asleep")
            time.sleep(_LOOK_AGAIN_S)

    def _touch_until(self, there: Callable[[], Collection[str]], what: str) -> None:
        value = np.zeros(128 << 10, np.uint8)
        deadline_s = time.monotonic() + _SETTLE_S
        while (n_there := len(there())) < self._n_nodes:
            self._check(deadline_s, f"only {n_there} of {self._n_nodes} nodes {what}")
            keys = [str(i) for i in range(self._n_nodes)]
            self._cache.put_many(dict.fromkeys(keys, value))
            for key in keys:
                self._cache.delete(key)

    def _awake(self) -> set[str]:
        return {row["function"] for row in self._admin.instances() if row["busy"]}

    def _check(self, deadline_s: float, trouble: str) -> None:
        if time.monotonic() > deadline_s:
            raise TargetFailed(system=CacheTarget.name, detail=f"{trouble} within {_SETTLE_S:.0f} s")
