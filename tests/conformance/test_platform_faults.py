"""What a provider does on command: refuse, fail and delay invocations, limit the scaling, take instances away."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from platform_harness import Gate, Lambda, is_alive, wait_until

from infiniray.errors import PlatformError


def answers(functions: Lambda, name: str, n: int) -> list[int]:
    """The HTTP statuses of ``n`` calls, one after the other."""
    statuses = []
    for _ in range(n):
        try:
            statuses.append(functions.boto.invoke(FunctionName=name)["StatusCode"])
        except ClientError as error:
            statuses.append(error.response["ResponseMetadata"]["HTTPStatusCode"])
    return statuses


def hold(functions: Lambda, name: str, gate: Gate, n: int) -> list[Any]:
    """``n`` calls that are held at the gate, each by an instance of its own."""
    calls = [functions.background(functions.call, name, gate.event) for _ in range(n)]
    for _ in calls:
        gate.wait()
    return calls


def let_go(gate: Gate, calls: list[Any]) -> list[Any]:
    while gate.arrived:
        with gate.arrived.pop() as connection:
            connection.sendall(b"x")
    return [call.result(20) for call in calls]


# ---------------------------------------------------------------- refusals, errors, delays


@pytest.mark.parametrize(("fault", "status"), [("throttle", 429), ("fail", 500)])
def test_the_next_calls_meet_it(functions: Lambda, fault: str, status: int) -> None:
    name = functions.deploy("count")
    getattr(functions.admin, fault)(2)
    assert answers(functions, name, 3) == [status, status, 200]


@pytest.mark.parametrize(("fault", "status"), [("throttle", 429), ("fail", 500)])
def test_a_share_of_the_calls_meets_it(functions: Lambda, fault: str, status: int) -> None:
    name = functions.deploy("count")
    getattr(functions.admin, fault)(share=0.5)
    some = answers(functions, name, 40)
    assert set(some) == {200, status}
    getattr(functions.admin, fault)()
    assert answers(functions, name, 3) == [200] * 3


@pytest.mark.parametrize(("fault", "status"), [("throttle", 429), ("fail", 500)])
def test_one_function_alone_meets_it(functions: Lambda, fault: str, status: int) -> None:
    struck, other = functions.deploy("count"), functions.deploy("count")
    getattr(functions.admin, fault)(1, function=struck)
    assert answers(functions, other, 2) == [200, 200]
    assert answers(functions, struck, 2) == [status, 200]
    getattr(functions.admin, fault)(share=1.0, function=struck)
    assert (answers(functions, other, 2), answers(functions, struck, 2)) == ([200, 200], [status, status])


def test_what_a_function_meets_adds_to_what_all_meet(functions: Lambda) -> None:
    name = functions.deploy("count")
    functions.admin.throttle(1)
    functions.admin.fail(1, function=name)
    assert answers(functions, name, 3) == [500, 429, 200]


def test_every_fault_can_be_cleared(functions: Lambda) -> None:
    name = functions.deploy("count")
    functions.admin.throttle(share=1.0)
    functions.admin.fail(share=1.0, function=name)
    functions.admin.delay(60_000, function=name)
    functions.admin.clear_faults()
    assert answers(functions, name, 2) == [200, 200]


def test_one_functions_faults_can_be_cleared(functions: Lambda) -> None:
    healed, struck = functions.deploy("count"), functions.deploy("count")
    for name in (healed, struck):
        functions.admin.fail(share=1.0, function=name)
    functions.admin.clear_faults(healed)
    assert (answers(functions, healed, 1), answers(functions, struck, 1)) == ([200], [500])


def test_a_delayed_call_waits_and_is_answered(functions: Lambda) -> None:
    name, other = functions.deploy("count"), functions.deploy("count")
    before = functions.admin.stats()
    functions.admin.delay(600_000, n=1, function=name)
    delayed = functions.background(answers, functions, name, 1)
    wait_until(lambda: functions.admin.stats()["delayed"] == before["delayed"] + 1)
    assert answers(functions, name, 1) + answers(functions, other, 1) == [200, 200]  # the next, and another function's
    assert not delayed.done()
    functions.admin.clear_faults(name)  # which lets go of those that wait
    assert delayed.result(20) == [200]


def test_a_delayed_call_meets_the_function_as_it_is_then(functions: Lambda) -> None:
    name = functions.deploy("count")
    before = functions.admin.stats()["delayed"]
    functions.admin.delay(600_000, n=1)
    delayed = functions.background(answers, functions, name, 1)
    wait_until(lambda: functions.admin.stats()["delayed"] == before + 1)
    functions.boto.delete_function(FunctionName=name)
    functions.admin.clear_faults()
    assert delayed.result(20) == [404]


def test_a_refusal_can_be_delayed(functions: Lambda) -> None:
    name = functions.deploy("count")
    before = functions.admin.stats()["delayed"]
    functions.admin.delay(1, n=1)
    functions.admin.throttle(2)
    assert answers(functions, name, 3) == [429, 429, 200]
    assert functions.admin.stats()["delayed"] == before + 1


def test_a_shutdown_does_not_wait_for_the_delayed(own_lambda: Callable[..., Lambda]) -> None:
    functions = own_lambda()
    name = functions.deploy("count")
    functions.admin.delay(600_000)
    delayed = functions.background(answers, functions, name, 1)
    wait_until(lambda: functions.admin.stats()["delayed"] == 1)
    functions.platform.stop()
    assert delayed.result(20) == [500]


def test_shares_are_seeded(own_lambda: Callable[..., Lambda]) -> None:
    def pattern(seed: int) -> list[int]:
        functions = own_lambda(seed=seed)
        functions.admin.throttle(share=0.5)
        return answers(functions, functions.deploy("count"), 20)

    assert pattern(3) == pattern(3)


@pytest.mark.parametrize(
    "settings", [{"n": -1}, {"share": 1.5}, {"share": -0.1}, {"n": 1, "share": 0.5}, {"n": 1.5}, {"n": "many"}]
)
def test_faults_that_make_no_sense_are_refused(functions: Lambda, settings: dict[str, Any]) -> None:
    with pytest.raises(PlatformError, match="must be"):
        functions.admin.throttle(**settings)


def test_no_fault_of_an_unknown_function(functions: Lambda) -> None:
    with pytest.raises(PlatformError, match="not found"):
        functions.admin.fail(1, function="nobody")


# ---------------------------------------------------------------- scaling


def test_a_function_gets_only_so_many_new_instances_at_a_time(own_lambda: Callable[..., Lambda], gate: Gate) -> None:
    functions = own_lambda(scaling_instances=2, scaling_window_s=3600)
    name, other = functions.deploy("held"), functions.deploy("count")
    calls = hold(functions, name, gate, 2)
    with pytest.raises(functions.boto.exceptions.TooManyRequestsException) as caught:
        functions.call(name, gate.event)
    assert caught.value.response["Reason"] == "FunctionInvocationRateLimitExceeded"
    assert 3500 < int(caught.value.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"]) <= 3600
    assert functions.call(other)["calls"] == 1  # it is each function's own limit
    pids = {answer["pid"] for answer in let_go(gate, calls)}
    calls = hold(functions, name, gate, 2)  # those that are there serve on
    assert {answer["pid"] for answer in let_go(gate, calls)} == pids
    assert functions.admin.stats()["throttled"] == 1


def test_what_was_reclaimed_still_counts(own_lambda: Callable[..., Lambda]) -> None:
    functions = own_lambda(scaling_instances=1, scaling_window_s=3600)
    name = functions.deploy("count")
    functions.call(name)
    functions.admin.reclaim(function=name)
    with pytest.raises(functions.boto.exceptions.TooManyRequestsException):
        functions.call(name)


def test_after_the_window_there_may_be_more(own_lambda: Callable[..., Lambda]) -> None:
    functions = own_lambda(scaling_instances=1, scaling_window_s=0.2)
    name = functions.deploy("count")
    functions.call(name)
    functions.admin.reclaim(function=name)
    wait_until(lambda: answers(functions, name, 1) == [200])


# ---------------------------------------------------------------- which instance


def test_random_selection_takes_turns(own_lambda: Callable[..., Lambda], gate: Gate) -> None:
    functions = own_lambda(selection="random", seed=1)
    name = functions.deploy("held")
    pids = {answer["pid"] for answer in let_go(gate, hold(functions, name, gate, 3))}
    served = [let_go(gate, hold(functions, name, gate, 1))[0]["pid"] for _ in range(30)]
    assert set(served) == pids


def test_instances_are_listed_with_what_they_do(functions: Lambda, gate: Gate) -> None:
    idle, busy = functions.deploy("count"), functions.deploy("held")
    functions.call(idle)
    calls = hold(functions, busy, gate, 1)
    row = functions.instance(idle)
    assert (row["function"], row["state"], row["busy"]) == (idle, "idle", False)
    assert row["age_s"] >= row["idle_s"] >= 0
    row = functions.instance(busy)
    assert (row["state"], row["busy"], row["idle_s"]) == ("busy", True, 0.0)
    let_go(gate, calls)
    assert not functions.instance(busy)["busy"]
    assert {row["function"] for row in functions.admin.instances()} >= {idle, busy}


@pytest.mark.parametrize("silent", [False, True])
def test_one_instance_of_several_is_reclaimed_by_its_id(functions: Lambda, gate: Gate, silent: bool) -> None:
    name = functions.deploy("held")
    let_go(gate, hold(functions, name, gate, 3))
    victim, *others = functions.admin.instances(name)
    assert functions.admin.reclaim(instance=victim["id"], silent=silent)["reclaimed"] == [victim["id"]]
    wait_until(lambda: not is_alive(victim["pid"]))
    assert {row["id"] for row in functions.admin.instances(name)} == {row["id"] for row in others}
    assert functions.admin.reclaim(instance=victim["id"])["reclaimed"] == []


@pytest.mark.parametrize("silent", [False, True])
def test_a_share_is_reclaimed(own_lambda: Callable[..., Lambda], gate: Gate, silent: bool) -> None:
    functions = own_lambda()
    small, large = functions.deploy("held"), functions.deploy("held")
    calls = hold(functions, small, gate, 2) + hold(functions, large, gate, 4)
    let_go(gate, calls)
    taken = functions.admin.reclaim(share=0.5, function=large, silent=silent)
    assert taken["functions"] == [large] * 2
    assert taken["silent"] == (2 if silent else 0)
    wait_until(lambda: len(functions.admin.instances()) == 4)
    assert len(functions.admin.reclaim(share=0.5, silent=silent)["reclaimed"]) == 2
    wait_until(lambda: len(functions.admin.instances()) == 2)
    assert functions.admin.reclaim(share=0.0)["reclaimed"] == []
    assert len(functions.admin.reclaim(share=1.0)["reclaimed"]) == 2


def test_a_share_that_is_none_is_refused(functions: Lambda) -> None:
    with pytest.raises(PlatformError, match="share"):
        functions.admin.reclaim(share=2.0)


def test_faults_come_while_others_serve(functions: Lambda) -> None:
    """Many callers, and every call is answered with one of the statuses that were ordered."""
    name = functions.deploy("count")
    functions.admin.throttle(share=0.3)
    functions.admin.fail(share=0.2, function=name)
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.extend(answers(functions, name, 15))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(seen) == 60
    assert set(seen) == {200, 429, 500}
    assert json.dumps(functions.admin.stats())
