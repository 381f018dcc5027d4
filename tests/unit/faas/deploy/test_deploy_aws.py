"""Deploying to AWS, as moto has it: IAM, logs, S3 and the function API."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError

from infiniray.config import Config
from infiniray.errors import DeployError, NameTaken, NotDeployed, QuotaExceeded, RoleUnusable
from infiniray.faas.deploy import functions as functions_module
from infiniray.faas.deploy.adopt import deployed_secret, require_nodes
from infiniray.faas.deploy.deployment import Deployment
from infiniray.faas.deploy.plan import Action, Change, Kind
from infiniray.faas.deploy.renew import renew_secret
from infiniray.faas.deploy.resources import SECRET
from infiniray.faas.package import agent_zip

MakeConfig = Callable[..., Config]
Aws = Callable[[str], Any]
BUCKET = "agent-code"
PATIENCE_S = 60.0


def deploy(config: Config) -> list[Change]:
    """What was changed."""
    done: list[Change] = []
    deployment = Deployment.connect(config)
    deployment.deploy(deployment.plan(), done.append)
    return done


def undeploy(config: Config) -> list[Change]:
    done: list[Change] = []
    deployment = Deployment.connect(config)
    deployment.undeploy(deployment.plan_removal(), done.append)
    return done


def names(aws: Aws) -> list[str]:
    return sorted(function["FunctionName"] for function in aws("lambda").list_functions()["Functions"])


def secrets_of(aws: Aws) -> set[str]:
    return {f["Environment"]["Variables"]["INFINIRAY_SECRET"] for f in aws("lambda").list_functions()["Functions"]}


def test_everything_is_made_tagged_and_nothing_is_changed_the_second_time(aws: Aws, make_config: MakeConfig) -> None:
    config = make_config(deploy={"tags": {"team": "storage"}, "log_retention_days": 14})
    assert len(deploy(config)) == 5
    assert deploy(config) == []
    tags = {"infiniray:cache": "c", "infiniray:region": "us-east-1", "team": "storage"}

    function = aws("lambda").get_function(FunctionName="c-node-0001")
    assert function["Tags"] == tags
    settings = function["Configuration"]
    assert (settings["MemorySize"], settings["Handler"]) == (512, "lambda_agent.handler.handle")
    role = aws("iam").get_role(RoleName="infiniray-c-us-east-1")["Role"]
    assert settings["Role"] == role["Arn"]
    assert {tag["Key"]: tag["Value"] for tag in role["Tags"]} == tags
    (group,) = aws("logs").describe_log_groups()["logGroups"]
    assert (group["logGroupName"], group["retentionInDays"]) == ("/infiniray/c", 14)
    assert aws("logs").list_tags_for_resource(resourceArn=group["logGroupArn"])["tags"] == tags
    assert len(secrets_of(aws)) == 1


def test_the_role_may_write_its_logs_and_nothing_else(aws: Aws, make_config: MakeConfig) -> None:
    deploy(make_config())
    policies = aws("iam").list_role_policies(RoleName="infiniray-c-us-east-1")["PolicyNames"]
    assert len(policies) == 1
    assert aws("iam").list_attached_role_policies(RoleName="infiniray-c-us-east-1")["AttachedPolicies"] == []
    document = aws("iam").get_role_policy(RoleName="infiniray-c-us-east-1", PolicyName=policies[0])["PolicyDocument"]
    (statement,) = document["Statement"]
    assert statement["Action"] == ["logs:CreateLogStream", "logs:PutLogEvents"]
    assert statement["Resource"] == "arn:aws:logs:us-east-1:123456789012:log-group:/infiniray/c:*"


def test_a_vpc_brings_its_permissions_to_the_platform_and_denies_them_to_the_code(
    aws: Aws, make_config: MakeConfig
) -> None:
    deploy(make_config(deploy={"subnets": ["subnet-1"], "security_groups": ["sg-1"]}))
    document = aws("iam").get_role_policy(RoleName="infiniray-c-us-east-1", PolicyName="infiniray")["PolicyDocument"]
    allow, deny = document["Statement"][1:]
    assert allow["Action"] == deny["Action"]
    assert (allow["Effect"], deny["Effect"]) == ("Allow", "Deny")
    assert "function:c-node-*" in json.dumps(deny["Condition"])
    vpc = aws("lambda").get_function_configuration(FunctionName="c-node-0000")["VpcConfig"]
    assert (vpc["SubnetIds"], vpc["SecurityGroupIds"]) == (["subnet-1"], ["sg-1"])
    deploy(make_config())
    vpc = aws("lambda").get_function_configuration(FunctionName="c-node-0000")["VpcConfig"]
    assert vpc["SubnetIds"] == []


def test_a_change_reaches_all_functions_and_keeps_the_secret(aws: Aws, make_config: MakeConfig) -> None:
    deploy(make_config())
    before = secrets_of(aws)
    changed = deploy(make_config(pool={"nodes": 3, "memory_mb": 1024}, deploy={"reserved_concurrency": 2}))
    assert [(c.action, c.kind) for c in changed] == [(Action.UPDATE, Kind.FUNCTION)] * 3
    assert {f["MemorySize"] for f in aws("lambda").list_functions()["Functions"]} == {1024}
    concurrency = aws("lambda").get_function_concurrency(FunctionName="c-node-0002")
    assert concurrency["ReservedConcurrentExecutions"] == 2
    assert secrets_of(aws) == before


@pytest.mark.parametrize("bucket", [None, BUCKET])
def test_functions_are_made_for_the_architecture_and_of_this_installations_code(
    aws: Aws, make_config: MakeConfig, bucket: str | None
) -> None:
    aws("s3").create_bucket(Bucket=BUCKET)
    config = make_config(deploy={"architecture": "arm64", "code_bucket": bucket})
    deploy(config)
    made = aws("lambda").list_functions()["Functions"]
    assert [function["Architectures"] for function in made] == [["arm64"]] * 3
    sha256 = base64.b64encode(hashlib.sha256(agent_zip()).digest()).decode()
    assert {function["CodeSha256"] for function in made} == {sha256}
    assert deploy(config) == []


def test_functions_are_made_side_by_side(aws: Aws, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each waits for three others to be under way: one after the other, none would ever be made."""
    together, whole = threading.Barrier(4), functions_module.FunctionChanger._create

    def create(self: Any, spec: Any) -> None:
        together.wait(PATIENCE_S)
        whole(self, spec)

    monkeypatch.setattr(functions_module.FunctionChanger, "_create", create)
    deploy(make_config(nodes=8))
    assert len(names(aws)) == 8


def test_code_goes_through_a_bucket_once_and_leaves_it_again(aws: Aws, make_config: MakeConfig) -> None:
    aws("s3").create_bucket(Bucket=BUCKET)
    aws("s3").put_object(Bucket=BUCKET, Key="infiniray/c/us-east-1/mine.txt", Body=b"a user's")
    config = make_config(deploy={"code_bucket": BUCKET})
    assert [c.kind for c in deploy(config)].count(Kind.CODE) == 1
    assert deploy(config) == []
    keys = [entry["Key"] for entry in aws("s3").list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert len(keys) == 2
    undeploy(config)
    keys = [entry["Key"] for entry in aws("s3").list_objects_v2(Bucket=BUCKET)["Contents"]]
    assert keys == ["infiniray/c/us-east-1/mine.txt"]


def test_a_bucket_that_is_not_there_is_named_before_anything_is_made(aws: Aws, make_config: MakeConfig) -> None:
    with pytest.raises(DeployError, match=r"agent-code.*leave deploy.code_bucket out"):
        deploy(make_config(deploy={"code_bucket": BUCKET}))
    assert names(aws) == []


def test_undeploy_removes_what_was_made_and_nothing_else(aws: Aws, make_config: MakeConfig) -> None:
    deploy(make_config(name="other"))
    kept = names(aws)
    deploy(make_config())
    stranger = aws("lambda").create_function(
        FunctionName="c-node-0099", Runtime="python3.12", Handler="a.b", Code={"ZipFile": b"zip"},
        Role=aws("iam").get_role(RoleName="infiniray-other-us-east-1")["Role"]["Arn"],
    )  # fmt: skip
    assert len(undeploy(make_config())) == 5
    assert names(aws) == sorted([*kept, stranger["FunctionName"]])
    assert [role["RoleName"] for role in aws("iam").list_roles()["Roles"]] == ["infiniray-other-us-east-1"]
    assert [g["logGroupName"] for g in aws("logs").describe_log_groups()["logGroups"]] == ["/infiniray/other"]
    assert undeploy(make_config()) == []


def test_a_function_that_is_not_ours_is_never_touched(aws: Aws, make_config: MakeConfig) -> None:
    role = aws("iam").create_role(RoleName="r", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    aws("lambda").create_function(
        FunctionName="c-node-0001", Runtime="python3.12", Handler="a.b", Code={"ZipFile": b"zip"}, Role=role,
        Tags={"infiniray:cache": "c"},  # of another region
    )  # fmt: skip
    before = aws("lambda").get_function(FunctionName="c-node-0001")
    with pytest.raises(NameTaken, match="function c-node-0001"):
        deploy(make_config())
    assert names(aws) == ["c-node-0001"]
    assert undeploy(make_config()) == []
    after = aws("lambda").get_function(FunctionName="c-node-0001")
    assert (after["Configuration"], after["Tags"]) == (before["Configuration"], before["Tags"])


def test_a_role_or_log_group_of_the_name_that_is_not_ours_stops_it(aws: Aws, make_config: MakeConfig) -> None:
    aws("iam").create_role(RoleName="infiniray-c-us-east-1", AssumeRolePolicyDocument="{}")
    aws("logs").create_log_group(logGroupName="/infiniray/c")
    with pytest.raises(NameTaken, match="role infiniray-c-us-east-1, log group /infiniray/c"):
        deploy(make_config())
    assert names(aws) == []
    assert undeploy(make_config()) == []


def break_creation_of(monkeypatch: pytest.MonkeyPatch, name: str, error: Exception) -> None:
    whole = functions_module.FunctionChanger._create

    def create(self: Any, spec: Any) -> None:
        if spec.name == name:
            raise error
        whole(self, spec)

    monkeypatch.setattr(functions_module.FunctionChanger, "_create", create)


@pytest.mark.parametrize("finish", ["deploy", "undeploy"])
def test_a_failure_half_way_is_completed_by_the_next_command(
    aws: Aws, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, finish: str
) -> None:
    config = make_config(nodes=40)
    with monkeypatch.context() as patch:
        break_creation_of(patch, "c-node-0005", RuntimeError("the network went away"))
        with pytest.raises(RuntimeError):
            deploy(config)
    half = names(aws)
    assert "c-node-0005" not in half
    if finish == "deploy":
        assert len(deploy(config)) == 40 - len(half)
        assert len(names(aws)) == 40
        assert len(secrets_of(aws)) == 1
    else:
        assert len(undeploy(config)) == len(half) + 2
        assert names(aws) == []


def test_half_deleted_a_role_that_is_gone_has_its_functions_made_anew(aws: Aws, make_config: MakeConfig) -> None:
    deploy(make_config())
    aws("lambda").delete_function(FunctionName="c-node-0001")
    aws("iam").delete_role_policy(RoleName="infiniray-c-us-east-1", PolicyName="infiniray")
    assert [(c.action, c.name) for c in deploy(make_config())] == [
        (Action.UPDATE, "infiniray-c-us-east-1"), (Action.CREATE, "c-node-0001"),
    ]  # fmt: skip
    aws("iam").delete_role_policy(RoleName="infiniray-c-us-east-1", PolicyName="infiniray")
    aws("iam").delete_role(RoleName="infiniray-c-us-east-1")
    assert [c.action for c in deploy(make_config())] == 3 * [Action.DELETE] + 4 * [Action.CREATE]
    assert deploy(make_config()) == []


def test_a_role_of_the_users_own_is_used_and_never_removed(aws: Aws, make_config: MakeConfig) -> None:
    mine = aws("iam").create_role(RoleName="mine", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    config = make_config(deploy={"role": mine})
    deploy(config)
    assert {f["Role"] for f in aws("lambda").list_functions()["Functions"]} == {mine}
    undeploy(config)
    assert [role["RoleName"] for role in aws("iam").list_roles()["Roles"]] == ["mine"]


def test_a_role_that_does_not_exist_is_refused_with_advice(aws: Aws, make_config: MakeConfig) -> None:
    config = make_config(deploy={"role": "arn:aws:iam::123456789012:role/none"})
    with pytest.raises(RoleUnusable, match=r"lambda\.amazonaws\.com"):
        deploy(config)


def test_a_quota_that_cannot_hold_the_pool_is_said_before_anything_is_made(
    aws: Aws, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Deployment.connect(make_config(nodes=8, deploy={"reserved_concurrency": 2}))
    limits = {"AccountLimit": {"ConcurrentExecutions": 110, "UnreservedConcurrentExecutions": 110}}
    monkeypatch.setattr(deployment.clients.functions, "get_account_settings", lambda: limits)
    with pytest.raises(QuotaExceeded, match="need 16, and 10 of 110 are free"):
        deployment.plan()
    monkeypatch.undo()
    assert names(aws) == []


def test_a_pool_above_the_quota_is_warned_of(
    aws: Aws, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = Deployment.connect(make_config(nodes=12))
    limits = {"AccountLimit": {"ConcurrentExecutions": 10, "UnreservedConcurrentExecutions": 10}}
    monkeypatch.setattr(deployment.clients.functions, "get_account_settings", lambda: limits)
    assert "room for 10" in deployment.plan().warnings[0]


def test_what_became_somebody_elses_after_the_look_stays(aws: Aws, make_config: MakeConfig) -> None:
    config = make_config()
    deploy(config)
    deployment = Deployment.connect(config)
    plan = deployment.plan_removal()
    arn = aws("lambda").get_function(FunctionName="c-node-0001")["Configuration"]["FunctionArn"]
    aws("lambda").untag_resource(Resource=arn, TagKeys=["infiniray:cache"])
    aws("iam").untag_role(RoleName="infiniray-c-us-east-1", TagKeys=["infiniray:cache"])
    deployment.undeploy(plan)
    assert names(aws) == ["c-node-0001"]
    assert [role["RoleName"] for role in aws("iam").list_roles()["Roles"]] == ["infiniray-c-us-east-1"]


def test_code_that_somebody_else_deleted_after_the_look_is_no_error(aws: Aws, make_config: MakeConfig) -> None:
    aws("s3").create_bucket(Bucket=BUCKET)
    config = make_config(deploy={"code_bucket": BUCKET})
    deploy(config)
    deployment = Deployment.connect(config)
    plan = deployment.plan_removal()
    (entry,) = aws("s3").list_objects_v2(Bucket=BUCKET)["Contents"]
    aws("s3").delete_object(Bucket=BUCKET, Key=entry["Key"])
    deployment.undeploy(plan)
    assert names(aws) == []
    assert aws("iam").list_roles()["Roles"] == []


def test_the_host_may_use_this_caches_functions_only(aws: Aws, make_config: MakeConfig) -> None:
    (statement,) = Deployment.connect(make_config()).host_policy()["Statement"]
    assert statement["Resource"] == "arn:aws:lambda:us-east-1:123456789012:function:c-node-*"
    assert "lambda:InvokeFunction" in statement["Action"]
    assert not any("*" in action for action in statement["Action"])


def test_a_host_that_rotates_may_change_settings_and_no_more(aws: Aws, make_config: MakeConfig) -> None:
    deployment = Deployment.connect(make_config())
    (statement,), (wider,) = (deployment.host_policy(rotates=rotates)["Statement"] for rotates in (False, True))
    assert set(wider["Action"]) - set(statement["Action"]) == {"lambda:UpdateFunctionConfiguration"}
    assert wider["Resource"] == statement["Resource"]


def warnings_of_secrets(config: Config) -> list[str]:
    return [warning for warning in Deployment.connect(config).plan().warnings if "secret" in warning]


def test_two_secrets_are_warned_of_before_a_deploy_makes_them_one(aws: Aws, make_config: MakeConfig) -> None:
    config = make_config()
    deploy(config)
    assert warnings_of_secrets(config) == []
    renew_secret(config, ["c-node-0001"], secret="ab" * 32, endpoint_url=None)
    planned = Deployment.connect(config).plan()
    assert [(c.name, c.restarts) for c in planned.plan.changes] == [("c-node-0001", True)]
    (warning,) = warnings_of_secrets(config)
    assert "2 secrets" in warning
    assert "infiniray status" in warning
    with pytest.raises(NotDeployed, match=r"c-node-0001 has another secret.*infiniray status"):
        deployed_secret(config, None)
    deploy(config)
    assert warnings_of_secrets(config) == []


def test_the_secret_that_most_have_is_kept(aws: Aws, make_config: MakeConfig) -> None:
    config = make_config()
    deploy(config)
    renew_secret(config, names(aws)[1:], secret="ab" * 32, endpoint_url=None)
    assert [(c.name, c.restarts) for c in Deployment.connect(config).plan().plan.changes] == [("c-node-0000", True)]
    deploy(config)
    assert deployed_secret(config, None) == "ab" * 32


def test_functions_join_a_pool_with_its_own_secret_or_not_at_all(aws: Aws, make_config: MakeConfig) -> None:
    """Also where all of them agree: on the secret that the pool had before it was changed."""
    config = make_config()
    deploy(config)
    former = deployed_secret(config, None)
    require_nodes(config, dict.fromkeys(names(aws), former), None)
    with pytest.raises(NotDeployed, match=r"c-node-0000 has another secret.*infiniray deploy --plan") as caught:
        require_nodes(config, dict.fromkeys(names(aws), "ab" * 32), None)
    assert former not in str(caught.value)
    with pytest.raises(NotDeployed, match=r"c-node-0099 is missing.*Deploy with the same configuration"):
        require_nodes(config, {"c-node-0000": former, "c-node-0099": former}, None)


# ---------------------------------------------------------------- a new secret


def settings_of(aws: Aws, name: str) -> dict[str, Any]:
    settings: dict[str, Any] = aws("lambda").get_function_configuration(FunctionName=name)
    return {key: value for key, value in settings.items() if key not in ("ResponseMetadata", "LastModified")}


def test_a_new_secret_changes_that_setting_and_nothing_else(
    aws: Aws, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(deploy={"subnets": ["subnet-1"], "security_groups": ["sg-1"], "reserved_concurrency": 2})
    deploy(config)
    before = {name: settings_of(aws, name) for name in names(aws)}
    renew_secret(config, ["c-node-0000", "c-node-0002"], secret="ab" * 32, endpoint_url=None)
    after = {name: settings_of(aws, name) for name in names(aws)}
    assert after["c-node-0001"] == before["c-node-0001"]
    for name in ("c-node-0000", "c-node-0002"):
        assert after[name].pop("Environment") == {
            "Variables": {**before[name].pop("Environment")["Variables"], SECRET: "ab" * 32}
        }
        assert after[name] == before[name]
    asked: list[str] = []
    call = BaseClient._make_api_call

    def noted(client: Any, operation: str, parameters: Any) -> Any:
        asked.append(operation)
        return call(client, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", noted)
    renew_secret(config, ["c-node-0000"], secret="ab" * 32, endpoint_url=None)
    assert "GetFunction" in asked
    assert "UpdateFunctionConfiguration" not in asked  # it would cost the function its instances once more


def test_a_new_secret_is_given_to_no_function_that_is_not_ours(aws: Aws, make_config: MakeConfig) -> None:
    config = make_config()
    deploy(config)
    arn = aws("lambda").get_function(FunctionName="c-node-0001")["Configuration"]["FunctionArn"]
    aws("lambda").untag_resource(Resource=arn, TagKeys=["infiniray:cache"])
    aws("lambda").delete_function(FunctionName="c-node-0002")
    before = settings_of(aws, "c-node-0001")
    with pytest.raises(NotDeployed, match="does not bear this cache's tags"):
        renew_secret(config, ["c-node-0001"], secret="ab" * 32, endpoint_url=None)
    with pytest.raises(NotDeployed, match="it is missing") as caught:
        renew_secret(config, ["c-node-0002"], secret="ab" * 32, endpoint_url=None)
    assert settings_of(aws, "c-node-0001") == before
    assert "abab" not in str(caught.value)


def test_who_may_not_change_settings_is_told_what_to_allow_and_not_to_deploy(
    aws: Aws, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    deploy(config)
    call = BaseClient._make_api_call

    def denied(client: Any, operation: str, parameters: Any) -> Any:
        if operation == "UpdateFunctionConfiguration":
            message = "User: u is not authorized to perform: lambda:UpdateFunctionConfiguration on resource: r"
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": message}}, operation)
        return call(client, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", denied)
    with pytest.raises(DeployError, match="lambda:UpdateFunctionConfiguration") as caught:
        renew_secret(config, ["c-node-0001"], secret="ab" * 32, endpoint_url=None)
    assert "Do not deploy meanwhile" in caught.value.advice
    assert "abab" not in f"{caught.value!r} {caught.value.__dict__}"


@pytest.mark.parametrize("is_bucket_gone", [False, True])
def test_code_in_a_bucket_that_is_no_longer_configured_is_found_and_removed(
    aws: Aws, make_config: MakeConfig, is_bucket_gone: bool
) -> None:
    aws("s3").create_bucket(Bucket=BUCKET)
    deploy(make_config(deploy={"code_bucket": BUCKET}))
    if is_bucket_gone:
        (entry,) = aws("s3").list_objects_v2(Bucket=BUCKET)["Contents"]
        aws("s3").delete_object(Bucket=BUCKET, Key=entry["Key"])
        aws("s3").delete_bucket(Bucket=BUCKET)
        assert deploy(make_config()) == []
        return
    assert [(c.action, c.kind) for c in deploy(make_config())] == [(Action.DELETE, Kind.CODE)]
    assert aws("s3").list_objects_v2(Bucket=BUCKET)["KeyCount"] == 0
    assert deploy(make_config()) == []
