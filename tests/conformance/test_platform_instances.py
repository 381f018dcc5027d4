"""Instances: one invocation at a time, frozen in between, reclaimed without notice (PLATFORM: the emulation)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from platform_harness import Gate, Lambda, is_alive, process_state, wait_until, zipped


def test_an_instance_is_used_again(functions: Lambda) -> None:
    name = functions.deploy("count")
    first, second = functions.call(name), functions.call(name)
    assert second == {"pid": first["pid"], "calls": 2}
    row = functions.instance(name)
    assert (row["pid"], row["state"], row["invocations"]) == (first["pid"], "idle", 2)
    assert row["resident_bytes"] > 1 << 20
    assert row["age_s"] > 0


def test_an_idle_instance_is_frozen_and_a_busy_one_runs(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("held")
    call = functions.background(functions.call, name, gate.event)
    connection = gate.wait()
    row = functions.instance(name)
    assert row["state"] == "busy"
    assert process_state(row["pid"]) in ("R", "S")
    connection.sendall(b"x")
    assert call.result(20)["pid"] == row["pid"]
    assert functions.instance(name)["state"] == "idle"
    wait_until(lambda: process_state(row["pid"]) == "T")


def test_a_busy_function_gets_a_new_instance(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("held")
    calls = [functions.background(functions.call, name, gate.event) for _ in range(3)]
    connections = [gate.wait() for _ in calls]
    assert [row["state"] for row in functions.admin.instances(name)] == ["busy"] * 3
    for connection in connections:
        connection.sendall(b"x")
    assert len({call.result(20)["pid"] for call in calls}) == 3


def test_many_cold_starts_at_once_never_share_an_instance(functions: Lambda, gate: Gate) -> None:
    """A new instance belongs to the invocation that it was started for, whoever asks while it starts."""
    name = functions.deploy("count")
    before = functions.admin.stats()
    results = [functions.background(functions.call, name) for _ in range(16)]
    results = [result.result(20) for result in results]
    after = functions.admin.stats()
    assert after["invocations"] - before["invocations"] == 16
    assert after["started"] - before["started"] == len({result["pid"] for result in results})
    assert sorted(result["calls"] for result in results).count(1) == len({result["pid"] for result in results})


@pytest.mark.parametrize(("selection", "expected"), [("mru", 1), ("lru", 0)])
def test_which_idle_instance_serves(
    own_lambda: Callable[..., Lambda], gate: Gate, selection: str, expected: int
) -> None:
    functions = own_lambda(selection=selection)
    name = functions.deploy("held")
    calls = [functions.background(functions.call, name, gate.event) for _ in range(2)]
    order = []
    for connection in [gate.wait(), gate.wait()]:
        order.append(json.loads(connection.recv(64))["pid"])
    for pid, connection in zip(order, gate.arrived, strict=True):
        connection.sendall(b"x")
        wait_until(lambda pid=pid: process_state(pid) == "T")
    assert {call.result(20)["pid"] for call in calls} == set(order)
    call = functions.background(functions.call, name, gate.event)
    gate.wait().sendall(b"x")
    assert call.result(20)["pid"] == order[expected]


def test_reserved_concurrency_is_a_limit(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("held")
    functions.boto.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=1)
    call = functions.background(functions.call, name, gate.event)
    connection = gate.wait()
    with pytest.raises(functions.boto.exceptions.TooManyRequestsException) as caught:
        functions.call(name, gate.event)
    assert caught.value.response["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    metadata = caught.value.response["ResponseMetadata"]
    assert metadata["HTTPStatusCode"] == 429
    assert "retry-after" in metadata["HTTPHeaders"]
    connection.sendall(b"x")
    call.result(20)


def test_a_reservation_of_none_turns_a_function_off(functions: Lambda) -> None:
    name = functions.deploy("echo")
    functions.boto.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    with pytest.raises(functions.boto.exceptions.TooManyRequestsException):
        functions.call(name)
    functions.boto.delete_function_concurrency(FunctionName=name)
    assert functions.call(name, 1) == 1


def test_the_account_has_a_limit(own_lambda: Callable[..., Lambda], gate: Gate) -> None:
    functions = own_lambda(concurrency_limit=1)
    first, second = functions.deploy("held"), functions.deploy("echo")
    call = functions.background(functions.call, first, gate.event)
    connection = gate.wait()
    with pytest.raises(functions.boto.exceptions.TooManyRequestsException) as caught:
        functions.call(second)
    assert caught.value.response["Reason"] == "ConcurrentInvocationLimitExceeded"
    connection.sendall(b"x")
    call.result(20)
    assert functions.call(second, 1) == 1


def test_throttling_on_command(functions: Lambda) -> None:
    name = functions.deploy("echo")
    before = functions.admin.stats()["throttled"]
    functions.admin.throttle(2)
    for _ in range(2):
        with pytest.raises(functions.boto.exceptions.TooManyRequestsException):
            functions.call(name)
    assert functions.call(name, 1) == 1
    assert functions.admin.stats()["throttled"] == before + 2


def test_throttling_a_share(functions: Lambda) -> None:
    name = functions.deploy("echo")
    functions.admin.throttle(share=1.0)
    with pytest.raises(functions.boto.exceptions.TooManyRequestsException):
        functions.call(name)
    functions.admin.throttle(share=0.0)
    assert functions.call(name, 1) == 1


def test_the_machine_has_a_limit(own_lambda: Callable[..., Lambda]) -> None:
    functions = own_lambda(max_instances=1)
    first, second = functions.deploy("echo"), functions.deploy("echo")
    functions.call(first)
    with pytest.raises(functions.boto.exceptions.TooManyRequestsException):
        functions.call(second)
    stats = functions.admin.stats()
    assert (stats["throttled"], stats["invocations"], stats["cold_starts"]) == (1, 1, 1)
    functions.admin.reclaim(function=first)
    wait_until(lambda: not functions.admin.instances())
    assert functions.call(second, 1) == 1


def test_a_hung_instance_stops_in_its_work(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("held", Timeout=1)
    call = functions.background(functions.error, name, gate.event)
    connection = gate.wait()
    pid = functions.instance(name)["pid"]
    assert functions.admin.hang(name) == 1
    wait_until(lambda: process_state(pid) == "T")
    connection.sendall(b"x")  # which it does not read
    assert call.result(20)["errorType"] == "Sandbox.Timedout"
    wait_until(lambda: not is_alive(pid))
    wait_until(lambda: functions.admin.hang(name) == 0)  # when the platform has noticed that it is gone


# ---------------------------------------------------------------- reclaim


def test_a_reclaimed_instance_serves_no_more(functions: Lambda) -> None:
    name = functions.deploy("count")
    for _ in range(5):  # at once after: the process may still be dying
        pid = functions.call(name)["pid"]
        taken = functions.admin.reclaim(instance=functions.instance(name)["id"])
        assert taken["functions"] == [name]
        again = functions.call(name)
        assert again["calls"] == 1
        assert again["pid"] != pid
        wait_until(lambda pid=pid: not is_alive(pid))


def test_reclaiming_by_number_function_or_all(functions: Lambda) -> None:
    names = [functions.deploy("count") for _ in range(4)]
    for name in names:
        functions.call(name)
    before = functions.admin.stats()["reclaimed"]
    assert functions.admin.reclaim(function=names[0])["functions"] == [names[0]]
    assert len(functions.admin.reclaim(2)["reclaimed"]) == 2
    assert len(functions.admin.reclaim(everything=True)["reclaimed"]) == 1
    wait_until(lambda: not functions.admin.instances())
    wait_until(lambda: functions.admin.stats()["reclaimed"] == before + 4)  # each when its process has ended


def test_random_reclaims_are_seeded(own_lambda: Callable[..., Lambda]) -> None:
    def victims(seed: int) -> list[str]:
        functions = own_lambda(seed=seed)
        for i in range(6):
            functions.call(functions.deploy("count", FunctionName=f"f{i}"))
        chosen: list[str] = functions.admin.reclaim(3)["functions"]
        return chosen

    assert victims(7) == victims(7)


def test_a_busy_instance_can_be_reclaimed_and_its_caller_hears_of_it(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("held")
    call = functions.background(functions.error, name, gate.event)
    gate.wait()
    functions.admin.reclaim(function=name)
    assert call.result(20)["errorMessage"].endswith("signal: killed")


def test_idle_only_spares_the_busy(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("held")
    call = functions.background(functions.call, name, gate.event)
    connection = gate.wait()
    assert functions.admin.reclaim(function=name, idle_only=True)["reclaimed"] == []
    connection.sendall(b"x")
    call.result(20)


def test_what_an_instance_started_goes_with_it(functions: Lambda) -> None:
    name = functions.deploy("spawn")
    grandchild = functions.call(name)
    assert is_alive(grandchild)
    functions.admin.reclaim(function=name)
    wait_until(lambda: not is_alive(grandchild))


@pytest.mark.parametrize("policy", [{"idle_timeout_s": 0.2}, {"max_lifetime_s": 0.2}, {"reclaims_per_minute": 600.0}])
def test_reclaim_policies(own_lambda: Callable[..., Lambda], policy: dict[str, float]) -> None:
    functions = own_lambda(**policy)
    functions.call(functions.deploy("count"))
    wait_until(lambda: functions.admin.stats()["reclaimed"] == 1)
    assert functions.admin.instances() == []


def test_a_time_line_is_replayed(own_lambda: Callable[..., Lambda], tmp_path: Any, gate: Gate) -> None:
    timeline = tmp_path / "reclaims.csv"
    timeline.write_text("minute,reclaimed\n0.03,2\n600,5\n")
    functions = own_lambda(reclaim_timeline=timeline)
    name = functions.deploy("held")
    calls = [functions.background(functions.call, name, gate.event) for _ in range(3)]
    for connection in [gate.wait() for _ in calls]:
        connection.sendall(b"x")
    for call in calls:
        call.result(20)
    wait_until(lambda: functions.admin.stats()["reclaimed"] == 2)
    assert len(functions.admin.instances(name)) == 1


# ---------------------------------------------------------------- changes of a function


def test_new_code_replaces_the_instances(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("held")
    call = functions.background(functions.call, name, gate.event)
    connection = gate.wait()
    old = functions.instance(name)["pid"]
    functions.boto.update_function_code(FunctionName=name, ZipFile=zipped(app="def held(e, c): return 'new'"))
    functions.boto.get_waiter("function_updated").wait(FunctionName=name)
    assert functions.call(name) == "new"
    connection.sendall(b"x")  # the old one ends its work, then goes
    assert call.result(20)["pid"] == old
    wait_until(lambda: not is_alive(old))
    assert functions.call(name) == "new"


def test_a_new_configuration_replaces_the_instances(functions: Lambda) -> None:
    name = functions.deploy("describe", Environment={"Variables": {"COLOUR": "blue"}})
    assert functions.call(name)["environ"]["COLOUR"] == "blue"
    functions.boto.update_function_configuration(FunctionName=name, Environment={"Variables": {"COLOUR": "red"}})
    assert functions.call(name)["environ"]["COLOUR"] == "red"
    wait_until(lambda: len(functions.admin.instances(name)) == 1)


def test_a_deleted_function_leaves_no_instance(functions: Lambda) -> None:
    name = functions.deploy("count")
    pid = functions.call(name)["pid"]
    functions.boto.delete_function(FunctionName=name)
    wait_until(lambda: not is_alive(pid))
    with pytest.raises(functions.boto.exceptions.ResourceNotFoundException):
        functions.call(name)


# ---------------------------------------------------------------- counting


def test_counters(own_lambda: Callable[..., Lambda]) -> None:
    functions = own_lambda()
    name = functions.deploy("count")
    for _ in range(3):
        functions.call(name)
    functions.error(functions.deploy("leave"), {"status": 1})
    wait_until(lambda: functions.admin.stats()["ended"] == 1)
    stats = functions.admin.stats()
    expected = {
        "invocations": 4, "cold_starts": 2, "started": 2, "thawed": 4, "frozen": 5, "function_errors": 1,
        "ended": 1, "alive": 1, "reclaimed": 0, "throttled": 0, "failed": 0, "out_of_memory": 0,
    }  # fmt: skip
    assert {name: stats[name] for name in expected} == expected
    assert stats["instances"] == {"init": 0, "idle": 1, "busy": 0}


def test_an_idle_instance_is_small(functions: Lambda) -> None:
    name = functions.deploy("echo")
    functions.call(name)
    assert functions.instance(name)["resident_bytes"] < 20_000_000


def test_reclaiming_the_idle_harms_no_invocation(functions: Lambda) -> None:
    names = [functions.deploy("count") for _ in range(3)]
    calls = [functions.background(functions.call, name) for name in names * 20]
    n_reclaimed = 0
    while not all(call.done() for call in calls):
        n_reclaimed += len(functions.admin.reclaim(2, idle_only=True)["reclaimed"])
    for call in calls:
        call.result()
    assert n_reclaimed > 0
