"""Several Ray nodes on this machine, each with a loopback address and an object store of its own."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray._private import internal_api
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

__all__ = ["HEAD", "Machines", "carry", "eventually", "machines"]

HEAD = "127.0.0.2"
#: A node that was killed is found to be so within two seconds, not after Ray's fifteen.
_QUICK = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_failure_threshold": 3,
}
_STORE_BYTES = 256 << 20
_PATIENCE_S = 90.0


class Machines:
    """I start and kill Ray nodes, known by their addresses, and have things done on them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @property
    def address(self) -> str:
        """Of the cluster: that of its head's control store."""
        return str(self._cluster.address)

    @property
    def dashboard_url(self) -> str:
        """Where jobs are submitted."""
        return f"http://{self._cluster.webui_url}"

    def ids(self) -> dict[str, str]:
        """{address: Ray's id} of the nodes that are alive, as far as Ray knows."""
        return {node["NodeManagerAddress"]: node["NodeID"] for node in ray.nodes() if node["Alive"]}

    def kill(self, address: str) -> None:
        """As if it lost its power: nobody says good-bye."""
        (node,) = (node for node in self._cluster.worker_nodes if node.node_ip_address == address)
        self._cluster.remove_node(node, allow_graceful=False)

    def add(self, address: str) -> None:
        self._cluster.add_node(node_ip_address=address, num_cpus=1, object_store_memory=_STORE_BYTES)

    def actor(self, kind: Any, address: str, *args: Any) -> Any:
        """An actor of this class, there and nowhere else."""
        carry(kind)
        where = NodeAffinitySchedulingStrategy(self.ids()[address], soft=False)
        return ray.remote(kind).options(num_cpus=0, scheduling_strategy=where).remote(*args)

    def stored_bytes(self) -> dict[str, int]:
        """{address: bytes of all objects that have ever been made in its object store}."""
        return {
            node["NodeManagerAddress"]: internal_api.node_stats(
                node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False
            ).store_stats.cumulative_created_bytes
            for node in ray.nodes()
            if node["Alive"]
        }


def carry(kind: type) -> None:
    """Let other nodes have a class of a test's module, which they cannot import."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[kind.__module__])


@contextlib.contextmanager
def machines(*, workers: list[str], head_cpus: int = 2, has_dashboard: bool = False) -> Iterator[Machines]:
    """A head and further nodes, at these addresses; this process is connected to the head as a driver."""
    cluster = Cluster(shutdown_at_exit=True)
    try:
        cluster.add_node(
            node_ip_address=HEAD,
            num_cpus=head_cpus,
            object_store_memory=_STORE_BYTES,
            include_dashboard=has_dashboard,
            dashboard_port=0,
            _system_config=_QUICK,
        )
        made = Machines(cluster)
        for worker in workers:
            made.add(worker)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, _node_ip_address=HEAD, log_to_driver=False, logging_level="error")
        yield made
    finally:
        ray.shutdown()
        cluster.shutdown()


def eventually(holds: Any, what: str) -> None:
    give_up_s = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < give_up_s, f"not within {_PATIENCE_S:g} s: {what}"
        time.sleep(0.1)
