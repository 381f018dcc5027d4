"""A cache whose shards are spread over several machines, and what happens when one of them is lost."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import ray
from machines import HEAD, Machines, eventually, machines
from ray._private.state import actors as actors_of_cluster

import infiniray
from infiniray import Cache
from infiniray.cluster import rayapi
from infiniray.cluster.lifecycle import bring_up, take_down
from infiniray.config import Config
from infiniray.faas.local.admin import PlatformAdmin
from infiniray.faas.local.launch import LocalPlatform

WORKERS = ["127.0.0.3", "127.0.0.4", "127.0.0.5"]
SHARDS = 3
LARGE = 20_000_000
#: Beside an object's own bytes: what Ray adds to each, and objects of other sizes.
SLACK = 1_000_000
#: Of a call that is to succeed although a machine is lost meanwhile.
DEADLINE_S = 60.0


class User:
    """A job's code, on some machine."""

    def __init__(self, cache: Cache) -> None:
        self.cache = cache

    def put(self, key: str, seed: int, size: int) -> str:
        self.cache.put(key, value(seed, size))
        return str(ray.util.get_node_ip_address())

    def has(self, key: str, seed: int, size: int) -> bool:
        return np.array_equal(self.cache.get(key, timeout=DEADLINE_S), value(seed, size))

    def n_right(self, seeds: list[int]) -> int:
        return sum(self.has(f"k{seed}", seed, small(seed)) for seed in seeds)

    def read_on(self, n_objects: int, n_rounds: int) -> int:
        """Reads all objects again and again; how many answers were right. Raises what a read raises."""
        return sum(self.n_right(list(range(n_objects))) for _ in range(n_rounds))


def value(seed: int, size: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def small(seed: int) -> int:
    return (0, 1000, 150_000, 700_000)[seed % 4]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Machines]:
    with machines(workers=WORKERS, head_cpus=0) as made:
        yield made


@pytest.fixture(scope="module")
def many(nodes: Machines) -> Iterator[Cache]:
    """Shards listen at the addresses of their machines; functions are this machine's own processes.

    Between real machines there is no channel unless it is configured; these are one, so it has to be turned off.
    """
    with infiniray.start(
        nodes=9,
        channel={"enabled": False},
        shards=SHARDS,
        scheme="rs:2+1",
        memory_mb=256,
        name="many",
        platform={"listen_host": "auto"},
        session={"linger_s": "50ms"},
        limits={"deadline_s": DEADLINE_S},
    ) as cache:
        yield cache


@pytest.fixture(scope="module")
def users(nodes: Machines, many: Cache) -> dict[str, Any]:
    """{address: a user there}."""
    return {address: nodes.actor(User, address, many.namespace("users")) for address in nodes.ids()}


def places(cache: Cache, nodes: Machines) -> dict[str, str]:
    """{shard: the address of the machine it runs on}"""
    addresses = {id_: address for address, id_ in nodes.ids().items()}
    return {name: addresses[row["machine"]] for name, row in cache.status()["shards"].items()}


def owner(cache: Cache, key: str) -> str:
    """The shard that ``key`` is on."""
    supervisor = rayapi.find_actor(f"{cache.name}:supervisor")
    return str(ray.get(supervisor.membership.remote()).ring.owner(f"users/{key}"))


def test_each_shard_has_a_machine_of_its_own_and_is_dialled_there(many: Cache, nodes: Machines) -> None:
    where = places(many, nodes)
    assert sorted(where.values()) == WORKERS  # not the head, which offers no CPU
    status = many.status()
    assert status["ok"]
    for shard, row in status["shards"].items():
        assert row["address"].startswith(f"{where[shard]}:")
    assert many.stats()["nodes_connected"] >= SHARDS  # up made sure of that


def test_on_loopback_they_stay_on_one_machine(nodes: Machines) -> None:
    """Nodes could not dial another one's."""
    with infiniray.start(nodes=6, shards=2, scheme="rs:2+1", memory_mb=256, name="one") as cache:
        assert set(places(cache, nodes).values()) == {HEAD}
        cache["k"] = b"v"
        assert cache["k"] == b"v"


def test_users_on_every_machine_read_what_those_on_all_others_wrote(many: Cache, users: dict[str, Any]) -> None:
    wrote = [user.put.remote(f"from {address}", seed, 300_000) for seed, (address, user) in enumerate(users.items())]
    assert sorted(ray.get(wrote)) == sorted(users)
    read = [user.has.remote(f"from {address}", seed, 300_000)
            for user in users.values() for seed, address in enumerate(users)]  # fmt: skip
    assert all(ray.get(read))
    assert len(read) == len(users) ** 2


def test_a_large_object_crosses_machines_and_no_byte_of_it_passes_the_head(
    many: Cache, nodes: Machines, users: dict[str, Any]
) -> None:
    """Its writer's store has it, its shard's has it, its reader's has it: each once, and nobody else's does."""
    where = places(many, nodes)
    key = next(f"large{i}" for i in range(100) if where[owner(many, f"large{i}")] == WORKERS[0])
    shards_at, writer, reader = WORKERS

    before = nodes.stored_bytes()
    ray.get(users[writer].put.remote(key, 1, LARGE))
    written = nodes.stored_bytes()
    assert ray.get(users[reader].has.remote(key, 1, LARGE))
    read = nodes.stored_bytes()

    put = {address: written[address] - before[address] for address in before}
    got = {address: read[address] - written[address] for address in before}
    assert put[writer] == pytest.approx(LARGE, abs=SLACK)
    assert put[shards_at] == pytest.approx(LARGE, abs=SLACK)
    assert put[HEAD] + put[reader] < SLACK
    assert got[shards_at] == pytest.approx(LARGE, abs=SLACK)
    assert got[reader] == pytest.approx(LARGE, abs=SLACK)
    assert got[HEAD] + got[writer] < SLACK


def test_users_elsewhere_go_on_when_the_machine_of_a_shard_is_lost(
    many: Cache, nodes: Machines, users: dict[str, Any]
) -> None:
    """Shards there move, with all that was acknowledged; users elsewhere only wait."""
    n_objects = 24
    for seed in range(n_objects):
        many.namespace("users").put(f"k{seed}", value(seed, small(seed)))
    before = many.status()
    where = places(many, nodes)
    lost = where["shard-1"]
    busy = [user.read_on.remote(n_objects, 3) for address, user in users.items() if address != lost]

    nodes.kill(lost)
    assert many.namespace("users").get("k3", timeout=DEADLINE_S) is not None
    assert ray.get(busy) == [3 * n_objects] * len(busy)
    for seed in range(n_objects):
        assert np.array_equal(many.namespace("users").get(f"k{seed}"), value(seed, small(seed)))

    eventually(lambda: many.status()["ok"], "every shard answers")
    after, now = many.status(), places(many, nodes)
    assert lost not in now.values()
    assert {shard for shard in where if where[shard] != now[shard]} == {"shard-1"}
    assert after["shards"]["shard-1"]["address"].startswith(f"{now['shard-1']}:")
    assert after["shards"]["shard-1"]["epoch"] > before["shards"]["shard-1"]["epoch"]
    assert many.stats()["resets"] == 0
    many["written later"] = b"v"
    assert many["written later"] == b"v"


@contextlib.contextmanager
def without_owner(name: str) -> Iterator[tuple[Cache, PlatformAdmin]]:
    """As `infiniray up` leaves one on a cluster that is there."""
    tree = {"name": name, "pool": {"nodes": 6, "memory_mb": 256}, "ring": {"shards": 2},
            "redundancy": [{"scheme": "rs:2+1"}], "platform": {"listen_host": "auto"},
            "limits": {"deadline_s": DEADLINE_S}}  # fmt: skip
    config = Config.load(None, tree, environ={})
    with LocalPlatform.start(config.platform.local) as platform:
        bring_up(config, platform_endpoint=platform.endpoint)
        try:
            yield infiniray.connect(name), platform.admin
        finally:
            take_down(name)


def machine_of(name: str, nodes: Machines) -> str:
    """The address of the machine on which an actor of that name runs."""
    addresses = {id_: address for address, id_ in nodes.ids().items()}
    found = [row for row in list_actors() if row["Name"] == name and row["State"] == "ALIVE"]
    return addresses.get(found[0]["Address"]["NodeID"], "") if found else ""


def list_actors() -> list[dict[str, Any]]:
    return list(actors_of_cluster().values())


def test_the_machine_of_the_supervisor_is_lost(nodes: Machines) -> None:
    """It comes back elsewhere, and knows what it knew."""
    with without_owner("supervised") as (cache, _):
        cache.put_many({f"k{seed}": value(seed, small(seed)) for seed in range(8)})
        lost = machine_of("supervised:supervisor", nodes)
        assert lost in WORKERS  # not the head
        epoch = cache.status()["epoch"]
        nodes.kill(lost)
        for seed in range(8):
            assert np.array_equal(cache.get(f"k{seed}", timeout=DEADLINE_S), value(seed, small(seed)))
        eventually(lambda: machine_of("supervised:supervisor", nodes) not in ("", lost), "it runs on another machine")
        eventually(lambda: cache.status()["ok"], "every shard answers")
        assert cache.status()["epoch"] >= epoch
        assert cache.stats()["nodes"] == 6


class Owner:
    """A job that starts a cache of its own, and does not come to close it."""

    def start(self, name: str, disk: str) -> list[str]:
        tempfile.tempdir = disk  # is lost with the machine
        self.cache = infiniray.start(
            nodes=6, shards=2, scheme="rs:2+1", memory_mb=256, name=name, platform={"listen_host": "auto"}
        )
        self.cache["k"] = 1
        return [actor for actor in rayapi.actor_names() if actor.startswith(f"{name}:")]


def test_a_cache_ends_with_the_machine_of_the_process_that_it_belongs_to(nodes: Machines, tmp_path: Path) -> None:
    lost = next(address for address in nodes.ids() if address != HEAD)
    owner = nodes.actor(Owner, lost)
    assert len(ray.get(owner.start.remote("orphan", str(tmp_path)))) == 3
    nodes.kill(lost)
    eventually(lambda: not [a for a in rayapi.actor_names() if a.startswith("orphan:")], "its actors have ended")
    assert rayapi.store_keys("orphan/") == []
