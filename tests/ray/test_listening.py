"""A running cache, with all its processes: who of another machine could dial one of them."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
import ray
from ray._private import worker

import infiniray
from infiniray import Cache
from infiniray.cluster import rayapi
from infiniray.cluster.deadline import Deadline
from infiniray.cluster.membership import shard_actor_name, supervisor_name
from infiniray.cluster.status import cache_status, shard_pid
from infiniray.faas.deploy.clients import control_client
from infiniray.faas.deploy.resources import SECRET

pytestmark = pytest.mark.timeout(240)
NAME = "listening"
SHARDS = ("shard-0", "shard-1")
PATIENCE_S = 60.0
#: processes of every Ray node, with ports of their own: not the cache's, and there without it
OF_RAY = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")


@pytest.fixture(scope="module")
def cache(local_ray: str) -> Iterator[Cache]:
    """As it comes, but small; large objects are coded in tasks, so that there are such processes, too."""
    with infiniray.start(
        nodes=8, shards=2, scheme="rs:2+1", memory_mb=256, name=NAME, codec={"task_min_bytes": "4MiB"}
    ) as cache:
        value = np.arange(5_000_000, dtype=np.uint8)
        for key in ("a", "b", "c", "d"):
            cache[key] = value
            assert np.array_equal(cache[key], value)
        yield cache


@ray.remote(num_cpus=0)
class Bystander:
    """An actor that has nothing to do with any cache."""

    def pid(self) -> int:
        return os.getpid()


def listening(pid: int) -> set[tuple[str, int]]:
    """(address, port) of each TCP socket on which a process waits for others."""
    connections = psutil.Process(pid).net_connections("inet")
    return {(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}


def beyond_loopback(pid: int) -> set[tuple[str, int]]:
    return {place for place in listening(pid) if not ipaddress.ip_address(place[0]).is_loopback}


def workers() -> list[psutil.Process]:
    """Ray's processes for actors and tasks on this machine: shards, the supervisor, coders, and whoever else."""
    raylet = psutil.Process(shard_pid(NAME, SHARDS[0])).parent()
    assert raylet is not None
    found = []
    for process in raylet.children(recursive=True):
        try:
            name = "".join(process.cmdline()[:1])
            if name.startswith("ray::") and name not in OF_RAY:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def test_nothing_of_a_running_cache_can_be_dialled_from_another_machine(cache: Cache) -> None:
    """Every worker of Ray has a port of Ray's own, on all interfaces, whatever runs in it: that of a bystander is the
    measure. What is left is the cache's."""
    bystander = Bystander.remote()  # type: ignore[attr-defined]
    n_of_ray = len(beyond_loopback(ray.get(bystander.pid.remote(), timeout=PATIENCE_S)))
    shards = {shard: shard_pid(NAME, shard) for shard in SHARDS}
    named = {process.pid: process.cmdline()[0] for process in workers()}
    assert set(shards.values()) < named.keys()
    assert any("upervisor" in name for name in named.values()), named
    for pid, name in named.items():
        assert len(beyond_loopback(pid)) <= n_of_ray, (name, listening(pid))
    for shard, pid in shards.items():
        host, _, port = cache_status(NAME)["shards"][shard]["address"].rpartition(":")
        assert (host, int(port)) in listening(pid)
        assert ipaddress.ip_address(host).is_loopback

    port = int(cache_status(NAME)["endpoint_url"].rpartition(":")[2])
    family = psutil.Process().children(recursive=True)
    (platform,) = [process for process in family if port in {number for _, number in listening(process.pid)}]
    functions = platform.children(recursive=True)
    assert len(functions) > len(SHARDS)  # instances, and who forks them
    assert beyond_loopback(platform.pid) == set()
    assert {place for process in functions for place in listening(process.pid)} == set()
    assert len(beyond_loopback(os.getpid())) <= n_of_ray  # who uses the cache: a driver of Ray's
    ray.kill(bystander)


def test_no_log_of_ray_has_a_secret(cache: Cache) -> None:
    """What supervisor, shards and coders write goes there, with what Ray says of them."""
    supervisor = rayapi.find_actor(supervisor_name(NAME))
    members = rayapi.wait(supervisor.membership.remote(), Deadline.after(20), "membership", NAME)
    client = control_client(cache_status(NAME)["endpoint_url"], "us-east-1")
    settings = client.get_function_configuration(FunctionName=members.all_nodes[0])
    secret = settings["Environment"]["Variables"][SECRET]
    secrets = [bytes.fromhex(secret)]
    for shard in SHARDS:  # of each, what lets clients in
        actor = rayapi.find_actor(shard_actor_name(NAME, shard))
        secrets.append(rayapi.wait(actor.channel.remote(), Deadline.after(20), "channel", NAME).secret)
    assert len(set(secrets)) == 1 + len(SHARDS)
    spellings = [text for raw in secrets for text in (raw, repr(raw)[2:-1].encode(), raw.hex().encode())]
    folder = worker._global_node.get_session_dir_path()
    n_read = 0
    for root, _, files in os.walk(f"{folder}/logs"):
        for file in files:
            with open(f"{root}/{file}", "rb") as log:
                text = log.read()
            n_read += bool(text)
            assert not [spelling for spelling in spellings if spelling in text], file  # says where, and not what
    assert n_read
