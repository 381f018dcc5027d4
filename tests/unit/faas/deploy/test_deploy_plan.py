"""Desired against actual."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from deploy_values import CODE, ROLE, SECRET, actual_of, desired, function, state_of

from infiniray.errors import NameTaken
from infiniray.faas.deploy.plan import Action, Kind, Part, plan_deploy, plan_undeploy
from infiniray.faas.deploy.resources import Actual, CodeState


def test_from_nothing_everything_is_created_functions_after_what_they_need() -> None:
    plan = plan_deploy(desired(3), Actual())
    assert [{c.kind for c in stage} for stage in plan.stages] == [
        {Kind.ROLE, Kind.LOG_GROUP}, {Kind.CODE}, {Kind.FUNCTION},
    ]  # fmt: skip
    assert {c.action for c in plan.changes} == {Action.CREATE}
    assert (len(plan.changes), plan.n_unchanged) == (6, 0)


def test_what_is_as_it_should_be_is_left_alone() -> None:
    plan = plan_deploy(desired(3), actual_of(desired(3)))
    assert plan.changes == ()
    assert plan.n_unchanged == 6


def test_a_half_done_state_is_completed() -> None:
    actual = actual_of(desired(3))
    half = replace(actual, functions={"c-node-0001": actual.functions["c-node-0001"]}, log_group=None)
    plan = plan_deploy(desired(3), half)
    assert [(c.action, c.name) for c in plan.changes] == [
        (Action.CREATE, "/infiniray/c"), (Action.CREATE, "c-node-0000"), (Action.CREATE, "c-node-0002"),
    ]  # fmt: skip
    assert plan.n_unchanged == 3


@pytest.mark.parametrize(
    ("configuration", "part", "why"),
    [
        ({"MemorySize": 512}, Part.SETTINGS, "MemorySize 512 -> 1024"),
        ({"CodeSha256": "old"}, Part.CODE, "other code"),
        ({"Architectures": ["arm64"]}, Part.CODE, "architecture arm64 -> x86_64"),
        ({"VpcConfig": {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}}, Part.SETTINGS, "VPC attachment"),
        ({"LoggingConfig": {"LogFormat": "Text"}}, Part.SETTINGS, "logging"),
        ({"LastUpdateStatus": "Failed"}, Part.SETTINGS, "its last update failed"),
        ({"Environment": {"Variables": {"INFINIRAY_RESERVE_MB": "128"}}}, Part.SETTINGS,
         "environment: INFINIRAY_SECRET"),
    ],
)  # fmt: skip
def test_a_function_that_differs_is_updated_in_that_part(configuration: dict[str, Any], part: Part, why: str) -> None:
    actual = actual_of(desired(2))
    differing = {**actual.functions, "c-node-0001": state_of(function(1), **configuration)}
    (change,) = plan_deploy(desired(2), replace(actual, functions=differing)).changes
    assert (change.action, change.name, change.parts, change.why) == (
        Action.UPDATE, "c-node-0001", frozenset({part}), (why,),
    )  # fmt: skip
    assert change.restarts


def test_a_change_of_tags_or_concurrency_keeps_the_instances() -> None:
    wanted = desired(1, functions=(function(0, reserved_concurrency=2, tags={**function().tags, "team": "u"}),))
    (change,) = plan_deploy(wanted, actual_of(desired(1))).changes
    assert change.parts == {Part.CONCURRENCY, Part.TAGS}
    assert not change.restarts


def test_the_order_of_subnets_does_not_matter_nor_what_a_platform_does_not_say_about_logging() -> None:
    spec = function(0, subnets=("subnet-1", "subnet-2"), security_groups=("sg-1",))
    state = state_of(spec, VpcConfig={"SubnetIds": ["subnet-2", "subnet-1"], "SecurityGroupIds": ["sg-1"]})
    silent = replace(state, configuration={k: v for k, v in state.configuration.items() if k != "LoggingConfig"})
    wanted = desired(1, functions=(spec,))
    assert plan_deploy(wanted, replace(actual_of(wanted), functions={spec.name: silent})).changes == ()


def test_a_function_that_failed_is_replaced() -> None:
    actual = actual_of(desired(2))
    failed = state_of(function(0), State="Failed", StateReason="no free address in the subnet")
    (change,) = plan_deploy(desired(2), replace(actual, functions={**actual.functions, failed.name: failed})).changes
    assert (change.action, change.name) == (Action.REPLACE, "c-node-0000")
    assert "no free address" in change.why[0]


def test_functions_whose_role_is_gone_go_before_the_new_role_comes() -> None:
    plan = plan_deploy(desired(2), replace(actual_of(desired(2)), role=None))
    assert [{(c.action, c.kind) for c in stage} for stage in plan.stages] == [
        {(Action.DELETE, Kind.FUNCTION)}, {(Action.CREATE, Kind.ROLE)}, {(Action.CREATE, Kind.FUNCTION)},
    ]  # fmt: skip
    assert (len(plan.changes), plan.n_unchanged) == (5, 2)


def test_a_role_keeps_what_a_vpc_takes_until_no_function_is_in_one() -> None:
    attached = desired(1, functions=(function(0, subnets=("subnet-1",), security_groups=("sg-1",)),))
    wider = replace(ROLE, permissions={"p": 2})
    joining = plan_deploy(replace(attached, role=wider), actual_of(desired(1)))
    assert [[c.kind for c in stage] for stage in joining.stages] == [[Kind.ROLE], [Kind.FUNCTION]]
    leaving = plan_deploy(desired(1, role=wider), actual_of(attached))
    assert [[c.kind for c in stage] for stage in leaving.stages] == [[Kind.FUNCTION], [Kind.ROLE]]


def test_a_role_that_is_no_longer_used_goes_last() -> None:
    plan = plan_deploy(desired(1, role=None, functions=(function(0, role_arn="mine"),)), actual_of(desired(1)))
    assert [(c.action, c.kind) for c in plan.changes] == [(Action.UPDATE, Kind.FUNCTION), (Action.DELETE, Kind.ROLE)]


def test_a_smaller_pool_and_newer_code_leave_nothing_behind() -> None:
    old = CodeState(bucket="b", key="infiniray/c/us-east-1/old.zip", is_ours=True)
    actual = replace(actual_of(desired(4)), codes=(CodeState(bucket="b", key=CODE.key, is_ours=True), old))
    plan = plan_deploy(desired(2), actual)
    assert [(c.action, c.name) for c in plan.changes] == [
        (Action.DELETE, "c-node-0002"), (Action.DELETE, "c-node-0003"), (Action.DELETE, f"b/{old.key}"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["function", "role", "log group", "code"])
def test_what_is_not_ours_stops_everything_and_is_never_removed(kind: str) -> None:
    actual = actual_of(desired(2))
    assert actual.role is not None
    assert actual.log_group is not None
    strangers = {
        "function": {"functions": {**actual.functions, "c-node-0001": replace(
            actual.functions["c-node-0001"], is_ours=False)}},
        "role": {"role": replace(actual.role, is_ours=False)},
        "log group": {"log_group": replace(actual.log_group, is_ours=False)},
        "code": {"codes": (CodeState(bucket="b", key=CODE.key, is_ours=False),)},
    }  # fmt: skip
    mixed = replace(actual, **strangers[kind])  # type: ignore[arg-type]
    with pytest.raises(NameTaken, match="another name"):
        plan_deploy(desired(2), mixed)
    assert len(plan_undeploy(mixed).changes) == 4  # of five


def test_a_strangers_function_beyond_the_pool_is_no_hindrance() -> None:
    actual = actual_of(desired(2))
    stranger = replace(state_of(function(7)), is_ours=False)
    plan = plan_deploy(desired(2), replace(actual, functions={**actual.functions, stranger.name: stranger}))
    assert plan.changes == ()


def test_undeploy_takes_functions_first_and_what_leads_to_the_code_after_it() -> None:
    plan = plan_undeploy(actual_of(desired(2)))
    assert [{c.kind for c in stage} for stage in plan.stages] == [
        {Kind.FUNCTION}, {Kind.CODE}, {Kind.LOG_GROUP, Kind.ROLE},
    ]  # fmt: skip
    assert plan_undeploy(Actual()).changes == ()


def test_no_plan_shows_a_secret() -> None:
    other = state_of(function(0), Environment={"Variables": {"INFINIRAY_SECRET": "0" * 64}})
    plan = plan_deploy(desired(1), replace(actual_of(desired(1)), functions={other.name: other}))
    assert len(plan.changes) == 1
    assert SECRET not in repr(plan)
    assert "0" * 64 not in repr(plan)
