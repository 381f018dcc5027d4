"""Shards and functions come and go under readers and writers: nothing fails, nothing is lost, and only what has to
move moves; nor does it matter who is killed meanwhile."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from history import Operation, Outcome, Verb
from linearize import check, unexcused_misses
from stamps import identify, stamped
from traffic import Load, traffic

import infiniray
from infiniray import Cache, ConfigError
from infiniray.cli.main import main
from infiniray.cluster import rayapi
from infiniray.cluster.deadline import Deadline
from infiniray.cluster.membership import Membership, supervisor_name
from infiniray.cluster.status import cache_status, scale, shard_pid
from infiniray.errors import ScalingUnderWay
from infiniray.faas.deploy.clients import control_client

NAME = "elastic"
EMPTY_ZIP = b"PK\x05\x06" + bytes(18)
#: Operations of the threads between two steps.
PAUSE = 40


@pytest.fixture
def elastic(local_ray: str) -> Iterator[Cache]:
    """2 shards of 4 nodes, rs:2+1."""
    with infiniray.start(
        nodes=8, shards=2, scheme="rs:2+1", memory_mb=256, name=NAME, session={"linger_s": "50ms"}
    ) as cache:
        yield cache
    assert rayapi.store_keys(f"{NAME}/") == []
    assert [actor for actor in rayapi.actor_names() if actor.startswith(f"{NAME}:")] == []


@pytest.fixture
def load(tmp_path: Path) -> Load:
    kept, deleted = tuple(f"kept-{i}" for i in range(12)), tuple(f"deleted-{i}" for i in range(6))
    return Load(keys=kept + deleted, deleted=deleted, stop=tmp_path / "stop")


def membership() -> Membership:
    supervisor = rayapi.find_actor(supervisor_name(NAME))
    members: Membership = rayapi.wait(supervisor.membership.remote(), Deadline.after(20), "membership", NAME)
    return members


def settled(within_s: float = 60.0) -> Membership:
    """The membership when nothing is being scaled any more."""
    give_up_s = time.monotonic() + within_s
    while (state := cache_status(NAME)["scaling"]) is not None:
        assert state["is_running"], state
        assert time.monotonic() < give_up_s, state
        time.sleep(0.1)
    return membership()


def judge(history: Sequence[Operation], *, may_fail: bool = False) -> None:
    """Each key behaves like a register, and nothing is lost."""
    assert check(history) == []
    assert unexcused_misses(history) == []
    failed = [op for op in history if op.outcome in (Outcome.ERROR, Outcome.INDETERMINATE)]
    assert failed == [] or (may_fail and all(op.is_retryable for op in failed)), failed[:5]
    assert sum(op.verb is Verb.GET and op.outcome is Outcome.OK for op in history) > PAUSE


def test_shards_and_functions_come_and_go_under_load(elastic: Cache, load: Load) -> None:
    many = {f"many-{i}": stamped(i, 3_000) for i in range(150)}
    elastic.put_many(many)
    with traffic(elastic, load, n_threads=3, n_tasks=1) as going:
        for step, n_shards, n_nodes in [
            ({"shards": 3}, 3, 12),
            ({"nodes": 15}, 3, 15),
            ({"nodes": 9}, 3, 9),
            ({"shards": 1}, 1, 3),
            ({"shards": 2, "nodes": 7}, 2, 7),
        ]:
            going.proceed(PAUSE)
            scale(NAME, **step)
            going.proceed(PAUSE)  # while it goes on
            members = settled()
            assert (len(members.ring.shards), len(members.all_nodes)) == (n_shards, n_nodes)
            assert set(members.nodes) == set(members.ring.shards)
            assert {entry.key for entry in elastic.entries("many-")} == many.keys()
        history = going.end()
    judge(history)
    assert {key: identify(value) for key, value in elastic.get_many(many).items()} == {
        key: identify(value) for key, value in many.items()
    }
    stats = elastic.stats()
    assert stats["resets"] == 0
    functions = control_client(cache_status(NAME)["endpoint_url"], "us-east-1").list_functions()["Functions"]
    assert {function["FunctionName"] for function in functions} == set(membership().all_nodes)


def test_only_the_keys_move_that_have_to(elastic: Cache) -> None:
    many = {f"many-{i}": b"x" * 100 for i in range(400)}
    elastic.put_many(many)
    before = membership()
    scale(NAME, shards=3)
    after = settled()
    moved = {key for key in many if before.ring.owner(key) != after.ring.owner(key)}
    assert {after.ring.owner(key) for key in moved} == {"shard-2"}
    assert abs(len(moved) / len(many) - 1 / 3) < 0.1  # 128 virtual nodes: 9% of deviation, and what 400 keys add
    puts = {row["shard"]: row["puts"] for row in elastic.stats()["per_shard"]}
    assert puts["shard-2"] == len(moved)  # each once, and no other
    assert puts["shard-0"] + puts["shard-1"] == len(many)
    assert all(before.nodes[shard] == after.nodes[shard] for shard in before.nodes)


@pytest.mark.parametrize("who", ["former owner", "new owner", "supervisor"])
def test_it_goes_on_when_somebody_is_killed_meanwhile(elastic: Cache, load: Load, who: str) -> None:
    many = {f"many-{i}": stamped(i, 200_000) for i in range(60)}
    elastic.put_many(many)
    with traffic(elastic, load, n_threads=3, n_tasks=0) as going:
        going.proceed(PAUSE)
        scale(NAME, shards=3)
        give_up_s = time.monotonic() + 30
        while not membership().former:  # keys begin to move
            assert time.monotonic() < give_up_s
            time.sleep(0.02)
        if who == "supervisor":
            rayapi.crash(rayapi.find_actor(supervisor_name(NAME)))
        else:
            os.kill(shard_pid(NAME, "shard-0" if who == "former owner" else "shard-2"), signal.SIGKILL)
        members = settled_after_restart()
        going.proceed(PAUSE)
        history = going.end()
    judge(history, may_fail=True)
    assert len(members.ring.shards) == 3
    assert {key: identify(value) for key, value in elastic.get_many(many).items()} == {
        key: identify(value) for key, value in many.items()
    }


def settled_after_restart() -> Membership:
    """As :func:`settled`, while the supervisor or a shard may be away; and the scaling must really have been done."""
    give_up_s = time.monotonic() + 60
    while True:
        try:
            members = membership()
            if members.former is None and set(members.nodes) == set(members.ring.shards) and len(members.nodes) == 3:
                return members
        except infiniray.InfiniRayError:
            pass
        assert time.monotonic() < give_up_s
        time.sleep(0.1)


def test_what_cannot_be_is_refused_and_changes_nothing(elastic: Cache) -> None:
    before = membership()
    with pytest.raises(ConfigError, match="the widest scheme needs 3"):
        scale(NAME, shards=3, nodes=8)
    assert membership().nodes == before.nodes
    assert scale(NAME, shards=2) == {"shards": [2, 2], "nodes": [8, 8]}  # that is what there is
    assert cache_status(NAME)["scaling"] is None


def test_a_function_that_cannot_be_made_leaves_all_as_before(elastic: Cache) -> None:
    elastic.put("k", b"v")
    before = membership()
    functions = control_client(cache_status(NAME)["endpoint_url"], "us-east-1")
    foreign = f"{NAME}-node-0009"
    functions.create_function(
        FunctionName=foreign, Role="arn:aws:iam::123456789012:role/r", Runtime="python3.12", Handler="a.b",
        Code={"ZipFile": EMPTY_ZIP},
    )  # fmt: skip
    scale(NAME, shards=3)
    give_up_s = time.monotonic() + 60
    while (state := cache_status(NAME)["scaling"]) is None or state["is_running"]:
        assert time.monotonic() < give_up_s
        time.sleep(0.1)
    assert foreign in state["trouble"]
    assert membership().nodes == before.nodes
    assert elastic.get("k") == b"v"
    listed = {function["FunctionName"] for function in functions.list_functions()["Functions"]}
    assert listed == {*before.all_nodes, foreign}
    functions.delete_function(FunctionName=foreign)
    scale(NAME, shards=3)
    assert len(settled().ring.shards) == 3


def test_the_command_says_what_it_does(elastic: Cache) -> None:
    elastic.put_many({f"k{i}": b"v" for i in range(30)})
    done = CliRunner().invoke(main, ["scale", "--shards", "3", "--name", NAME, "--json"])
    assert done.exit_code == 0, done.output
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (report["shards"], report["nodes"]) == ([2, 3], [8, 12])
    assert report["took_s"] > 0
    again = CliRunner().invoke(main, ["scale", "--shards", "3", "--name", NAME])
    assert (again.exit_code, "has that already" in again.stderr) == (0, True)
    scale(NAME, shards=2)
    with pytest.raises(ScalingUnderWay):
        scale(NAME, shards=3)
    settled()
