"""Deploying and undeploying, cut off at every single change that AWS is asked for: the next command completes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from infiniray.config import Config
from infiniray.errors import DeployError
from infiniray.faas.deploy import apply as apply_module
from infiniray.faas.deploy.deployment import Deployment

MakeConfig = Callable[..., Config]
Aws = Callable[[str], Any]
BUCKET = "agent-code"
LOOKS = ("Get", "List", "Describe", "Head")
#: Role and its policy, log group and its retention, the code, two functions and their concurrency.
N_MADE = 9
#: Two functions, the code, the log group, the role's policy and the role.
N_REMOVED = 6


def deploy(deployment: Deployment) -> int:
    """How many changes were made."""
    planned = deployment.plan()
    deployment.deploy(planned)
    return len(planned.plan.changes)


def undeploy(deployment: Deployment) -> int:
    plan = deployment.plan_removal()
    deployment.undeploy(plan)
    return len(plan.changes)


@contextmanager
def cut_off(monkeypatch: pytest.MonkeyPatch, at: int, *, is_done: bool) -> Iterator[list[str]]:
    """The network goes away at change number ``at``: before it reaches AWS, or when it ``is_done`` and the answer is
    on its way. Gives the changes that were asked for."""
    asked: list[str] = []
    call = BaseClient._make_api_call

    def fragile(client: Any, operation: str, parameters: Any) -> Any:
        if operation.startswith(LOOKS):
            return call(client, operation, parameters)
        asked.append(operation)
        if len(asked) != at:
            return call(client, operation, parameters)
        if not is_done:
            raise EndpointConnectionError(endpoint_url="https://aws")
        call(client, operation, parameters)
        raise ReadTimeoutError(endpoint_url="https://aws")

    with monkeypatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", fragile)
        patch.setattr(apply_module, "_WORKERS", 1)  # one change after the other: each is cut off once
        yield asked


def left(deployment: Deployment) -> list[str]:
    """All that there is."""
    functions, aws = deployment.clients.functions, deployment.clients.aws
    assert aws is not None
    found = [function["FunctionName"] for function in functions.list_functions()["Functions"]]
    found += [role["RoleName"] for role in aws.iam.list_roles()["Roles"]]
    found += [group["logGroupName"] for group in aws.logs.describe_log_groups()["logGroups"]]
    return found + [entry["Key"] for entry in aws.s3.list_objects_v2(Bucket=BUCKET).get("Contents", ())]


def assert_whole(deployment: Deployment) -> None:
    assert deploy(deployment) == 0
    functions, aws = deployment.clients.functions, deployment.clients.aws
    assert aws is not None
    made = functions.list_functions()["Functions"]
    assert len(made) == 2
    assert len({function["Environment"]["Variables"]["INFINIRAY_SECRET"] for function in made}) == 1
    for function in made:
        reserved = functions.get_function_concurrency(FunctionName=function["FunctionName"])
        assert reserved["ReservedConcurrentExecutions"] == 2
    (group,) = aws.logs.describe_log_groups()["logGroups"]
    assert group["retentionInDays"] == 7
    assert aws.iam.list_role_policies(RoleName="infiniray-c-us-east-1")["PolicyNames"] == ["infiniray"]


@pytest.fixture
def whole(aws: Aws, make_config: MakeConfig) -> Deployment:
    aws("s3").create_bucket(Bucket=BUCKET)
    return _deployment(make_config, BUCKET)


@pytest.fixture
def without_bucket(whole: Deployment, make_config: MakeConfig) -> Deployment:
    """The same cache, by somebody who no longer names the bucket that its code went through."""
    return _deployment(make_config, None)


def _deployment(make_config: MakeConfig, bucket: str | None) -> Deployment:
    sections = {"reserved_concurrency": 2, "log_retention_days": 7, "code_bucket": bucket}
    return Deployment.connect(make_config(nodes=2, redundancy=[{"scheme": "rs:1+1"}], deploy=sections))


@pytest.mark.parametrize("is_done", [False, True], ids=["not reached", "answer lost"])
def test_a_deploy_that_was_cut_off_is_completed_or_taken_away(
    whole: Deployment, without_bucket: Deployment, monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    for finish in ("deploy", "undeploy"):
        for at in range(1, N_MADE + 1):
            with (
                cut_off(monkeypatch, at, is_done=is_done) as asked,
                pytest.raises(DeployError, match="`infiniray deploy` completes it, `infiniray undeploy` takes it away"),
            ):
                deploy(whole)
            assert len(asked) == at  # after a failure nothing more is begun
            if finish == "deploy":
                deploy(whole)
                assert_whole(whole)
            undeploy(without_bucket)
            assert left(whole) == [], (finish, asked)
    with cut_off(monkeypatch, 0, is_done=is_done) as asked:
        deploy(whole)
    assert len(asked) == N_MADE  # so each was cut off above


@pytest.mark.parametrize("is_done", [False, True], ids=["not reached", "answer lost"])
def test_an_undeploy_that_was_cut_off_is_completed_or_made_good(
    whole: Deployment, without_bucket: Deployment, monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    for finish in ("undeploy", "deploy"):
        for at in range(1, N_REMOVED + 1):
            deploy(whole)
            with cut_off(monkeypatch, at, is_done=is_done) as asked, pytest.raises(DeployError, match="undeploy"):
                undeploy(without_bucket)
            assert len(asked) == at
            if finish == "deploy":
                deploy(whole)
                assert_whole(whole)
            undeploy(without_bucket)
            assert left(whole) == [], (finish, asked)
            assert undeploy(without_bucket) == 0
    deploy(whole)
    with cut_off(monkeypatch, 0, is_done=is_done) as asked:
        undeploy(without_bucket)
    assert len(asked) == N_REMOVED
