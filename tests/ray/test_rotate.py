"""A running cache gets a new secret while it is read and written: nothing is lost, whoever is killed meanwhile, and who
knows the former one is turned away."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from history import Operation, Outcome, Verb
from linearize import check, unexcused_misses
from traffic import Load, traffic

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
#: Operations of the threads between two steps.
PAUSE = 40
SIZES_BYTES = (100, 70_000, 1_200_000)


@pytest.fixture(scope="module")
def whole(local_ray: str) -> Iterator[Cache]:
    """2 shards of 5 nodes, of which no object can do without any: what is lost is missed."""
    with infiniray.start(
        nodes=10, shards=2, scheme="stripe:4", memory_mb=256, name=NAME, session={"linger_s": "50ms"}
    ) as cache:
        yield cache
    assert rayapi.store_keys(f"{NAME}/") == []


@pytest.fixture
def cache(whole: Cache) -> Cache:
    """A fresh namespace of it."""
    return whole.namespace(uuid.uuid4().hex[:8])


@pytest.fixture
def load(tmp_path: Path) -> Load:
    kept, deleted = tuple(f"kept-{i}" for i in range(12)), tuple(f"deleted-{i}" for i in range(6))
    return Load(keys=kept + deleted, deleted=deleted, stop=tmp_path / "stop")


def judge(history: list[Operation], *, may_fail: bool = False) -> None:
    """Each key behaves like a register, and nothing is lost, though no object can do without any of its chunks."""
    assert check(history) == []
    assert unexcused_misses(history) == []
    failed = [op for op in history if op.outcome in (Outcome.ERROR, Outcome.INDETERMINATE)]
    assert failed == [] or (may_fail and all(op.is_retryable for op in failed)), failed[:5]
    for verb in (Verb.GET, Verb.PUT):
        assert sum(op.verb is verb and op.outcome is Outcome.OK for op in history) > PAUSE


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


def test_it_is_read_and_written_before_while_and_after(cache: Cache, load: Load) -> None:
    values = {f"k{i}": value(i) for i in range(20)}
    cache.put_many(values)
    (former,) = set(secrets_of_functions().values())
    assert accepted() == {shard: [auth.key_id(former)] for shard in SHARDS}
    dial("shard-0", former)
    assert "wrong proof" not in refused(cache, "shard-0")  # for it was right

    with traffic(cache, load, n_threads=3, n_tasks=1) as going:
        going.proceed(PAUSE)
        assert rotate_secret(NAME) == {"nodes": 10}
        with pytest.raises(RotationUnderWay):
            rotate_secret(NAME)
        with pytest.raises(RotationUnderWay):
            scale(NAME, nodes=12)
        finish()
        going.proceed(PAUSE)
        history = going.end()
    judge(history)

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


@pytest.mark.parametrize("who", ["supervisor", "shard", "both"])
def test_it_goes_on_when_somebody_is_killed_meanwhile(cache: Cache, load: Load, who: str) -> None:
    values = {f"k{i}": value(i) for i in range(20)}
    cache.put_many(values)
    (former,) = set(secrets_of_functions().values())
    with traffic(cache, load, n_threads=3, n_tasks=0) as going:
        going.proceed(PAUSE)
        rotate_secret(NAME, batch=1)
        wait_until_some_have_it()
        shard = shard_pid(NAME, "shard-1")
        if who != "shard":
            rayapi.crash(rayapi.find_actor(supervisor_name(NAME)))
        if who != "supervisor":
            os.kill(shard, signal.SIGKILL)
        finish()
        going.proceed(PAUSE)
        history = going.end()
    judge(history, may_fail=True)
    (secret,) = set(secrets_of_functions().values())
    assert secret != former
    assert accepted() == {shard: [auth.key_id(secret)] for shard in SHARDS}
    assert_all_there(cache, values)


def wait_until_some_have_it() -> None:
    give_up_s = time.monotonic() + WITHIN_S
    while len(set(secrets_of_functions().values())) < 2:
        assert time.monotonic() < give_up_s
        time.sleep(0.05)


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
    scale(NAME, nodes=8)  # shards of 4, for good: none to spare
    give_up_s = time.monotonic() + WITHIN_S
    while cache_status(NAME)["scaling"] is not None:
        assert time.monotonic() < give_up_s
        time.sleep(0.1)
    with pytest.raises(ConfigError, match="scale --nodes"):
        rotate_secret(NAME)
    assert np.array_equal(cache["k"], value(1))
