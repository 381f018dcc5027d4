"""A running cache gets a new secret: everything stays readable, and who knows the former one is turned away."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import infiniray
from infiniray import Cache
from infiniray.cli.main import main
from infiniray.cluster import rayapi
from infiniray.cluster.deadline import Deadline
from infiniray.cluster.membership import Membership, shard_actor_name, supervisor_name
from infiniray.cluster.status import cache_status, rotate_secret, scale, shard_pid
from infiniray.errors import ConfigError, RotationUnderWay
from infiniray.faas.deploy.clients import control_client
from infiniray.faas.deploy.resources import SECRET
from infiniray.wire import auth
from infiniray.wire.frames import Frame, FrameReader, Kind, pack

NAME = "secretive"
SHARDS = ("shard-0", "shard-1")
WITHIN_S = 90.0
SIZES_BYTES = (100, 70_000, 1_200_000)


@pytest.fixture
def cache(local_ray: str) -> Iterator[Cache]:
    """2 shards of 5 nodes, of which no object can do without any: what is lost is missed."""
    with infiniray.start(
        nodes=10, shards=2, scheme="stripe:4", memory_mb=256, name=NAME, session={"linger_s": "50ms"}
    ) as cache:
        yield cache
    assert rayapi.store_keys(f"{NAME}/") == []


def value(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SIZES_BYTES[seed % len(SIZES_BYTES)], np.uint8)


def ask(actor: str, method: str) -> Any:
    return rayapi.wait(getattr(rayapi.find_actor(actor), method).remote(), Deadline.after(20), method, NAME)


def secrets_of_functions() -> dict[str, bytes]:
    """What is in their settings."""
    members: Membership = ask(supervisor_name(NAME), "membership")
    client = control_client(cache_status(NAME)["endpoint_url"], "us-east-1")
    settings = {node: client.get_function_configuration(FunctionName=node) for node in members.all_nodes}
    return {node: bytes.fromhex(found["Environment"]["Variables"][SECRET]) for node, found in settings.items()}


def accepted() -> dict[str, list[str]]:
    """By shard: ids of the secrets that it lets in."""
    return {shard: ask(shard_actor_name(NAME, shard), "keys")["accepted"] for shard in SHARDS}


def finish() -> None:
    give_up_s = time.monotonic() + WITHIN_S
    while True:
        state: Any
        try:
            state = cache_status(NAME)["rotation"]
        except infiniray.InfiniRayError as error:
            if not error.retryable:
                raise
            state = error
        if state is None:
            return
        assert time.monotonic() < give_up_s, state
        time.sleep(0.1)


def assert_all_there(cache: Cache, values: dict[str, np.ndarray]) -> None:
    found = cache.get_many(values)
    assert found.keys() == values.keys()
    assert all(np.array_equal(found[key], values[key]) for key in values)


def dial(shard: str, secret: bytes) -> None:
    """As a function that the shard does not know, and that proves ``secret``: returns when it is hung up on."""
    host, _, port = cache_status(NAME)["shards"][shard]["address"].rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        names = {"node": "stranger", "instance": "i0", "session": "s0", "nonce": auth.new_nonce(), "spans": []}
        mac = auth.hello_proof(
            secret, shard_nonce=_challenge(connection).meta["nonce"], node_nonce=names["nonce"], node="stranger",
            instance="i0",
        )  # fmt: skip
        connection.sendall(pack(Kind.HELLO, meta={**names, "key": auth.key_id(secret), "mac": mac}))
        assert connection.recv(1) == b""


def _challenge(connection: socket.socket) -> Frame:
    reader, frames = FrameReader(lambda frame: None), []
    while not frames:
        frames = reader.advance(connection.recv_into(reader.buffer()))
    return frames[0]


def refused(cache: Cache, shard: str) -> dict[str, int]:
    (row,) = [row for row in cache.stats()["per_shard"] if row["shard"] == shard]
    return dict(row["connections_refused"])


class Readers:
    """Threads that read everything over and over, and keep what was wrong."""

    def __init__(self, cache: Cache, values: dict[str, np.ndarray]) -> None:
        self.n_reads = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(cache, values)) for _ in range(2)]

    def __enter__(self) -> Readers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self._threads)

    def _read(self, cache: Cache, values: dict[str, np.ndarray]) -> None:
        while not self._stop.is_set():
            for key, value in values.items():
                try:
                    if not np.array_equal(cache.get(key, timeout=30), value):
                        self.wrong.append(f"{key} is another")
                except Exception as error:
                    self.wrong.append(f"{key}: {error!r}")
                self.n_reads += 1


def test_everything_is_read_before_while_and_after(cache: Cache) -> None:
    values = {f"k{i}": value(i) for i in range(20)}
    cache.put_many(values)
    (former,) = set(secrets_of_functions().values())
    assert accepted() == {shard: [auth.key_id(former)] for shard in SHARDS}
    dial("shard-0", former)
    assert "wrong proof" not in refused(cache, "shard-0")  # for it was right

    with Readers(cache, values) as readers:
        assert rotate_secret(NAME) == {"nodes": 10}
        with pytest.raises(RotationUnderWay):
            rotate_secret(NAME)
        with pytest.raises(RotationUnderWay):
            scale(NAME, nodes=12)
        finish()
    assert readers.wrong == []
    assert readers.n_reads >= len(values)

    (secret,) = set(secrets_of_functions().values())
    assert secret != former
    assert accepted() == {shard: [auth.key_id(secret)] for shard in SHARDS}
    dial("shard-0", former)
    assert refused(cache, "shard-0")["wrong proof"] == 1
    assert_all_there(cache, values)
    assert cache.stats()["resets"] == 0

    os.kill(shard_pid(NAME, "shard-0"), signal.SIGKILL)  # its next process was created with nothing but its name
    assert_all_there(cache, values)
    assert accepted() == {shard: [auth.key_id(secret)] for shard in SHARDS}


@pytest.mark.parametrize("who", ["supervisor", "shard"])
def test_it_goes_on_when_somebody_is_killed_meanwhile(cache: Cache, who: str) -> None:
    values = {f"k{i}": value(i) for i in range(20)}
    cache.put_many(values)
    (former,) = set(secrets_of_functions().values())
    rotate_secret(NAME, batch=1)
    give_up_s = time.monotonic() + WITHIN_S
    while len(set(secrets_of_functions().values())) < 2:  # some have it, others do not
        assert time.monotonic() < give_up_s
        time.sleep(0.05)
    if who == "supervisor":
        rayapi.crash(rayapi.find_actor(supervisor_name(NAME)))
    else:
        os.kill(shard_pid(NAME, "shard-1"), signal.SIGKILL)
    finish()
    (secret,) = set(secrets_of_functions().values())
    assert secret != former
    assert accepted() == {shard: [auth.key_id(secret)] for shard in SHARDS}
    assert_all_there(cache, values)


def test_the_command_waits_and_shows_no_secret(cache: Cache) -> None:
    cache.put("k", value(1))
    done = CliRunner().invoke(main, ["rotate-secret", "--batch", "2", "--name", NAME, "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout.splitlines()[-1])
    assert (report["name"], report["nodes"]) == (NAME, 10)
    assert report["took_s"] > 0
    (secret,) = set(secrets_of_functions().values())
    assert secret.hex() not in done.output
    assert np.array_equal(cache["k"], value(1))
    scale(NAME, nodes=8)  # shards of 4: none to spare
    give_up_s = time.monotonic() + WITHIN_S
    while cache_status(NAME)["scaling"] is not None:
        assert time.monotonic() < give_up_s
        time.sleep(0.1)
    with pytest.raises(ConfigError, match="scale --nodes"):
        rotate_secret(NAME)
    assert np.array_equal(cache["k"], value(1))
