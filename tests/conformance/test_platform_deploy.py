"""Deploying to the embedded platform: the function API that executes; IAM and logs as moto has them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from moto import mock_aws
from platform_harness import ROLE, Lambda, zipped

from infiniray.config import Config
from infiniray.errors import NameTaken, NotDeployed
from infiniray.faas.deploy import explain
from infiniray.faas.deploy.adopt import deployed_secret
from infiniray.faas.deploy.check import check_deployment, count_other_code
from infiniray.faas.deploy.deployment import Deployment
from infiniray.faas.deploy.plan import Action, Change


def config_of(functions: Lambda, kind: str, **sections: Any) -> Config:
    tree = {"name": "c", "pool": {"nodes": 4, "memory_mb": 256}, "ring": {"shards": 1},
            "redundancy": [{"scheme": "rs:2+1"}],
            "platform": {"kind": kind, "endpoint_url": functions.platform.endpoint}, **sections}  # fmt: skip
    return Config.load(None, tree, environ={})


@pytest.fixture(params=["local", "aws"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Functions alone; or all that AWS has, its functions executing here."""
    if request.param == "local":
        yield "local"
        return
    with aws_beside(monkeypatch):
        yield "aws"


@contextmanager
def aws_beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws(config={"core": {"passthrough": {"urls": [r"http://127\.0\.0\.1.*"], "services": ["lambda"]}}}):
        yield


def deploy(config: Config) -> list[Change]:
    done: list[Change] = []
    deployment = Deployment.connect(config)
    deployment.deploy(deployment.plan(), done.append)
    return done


def undeploy(config: Config) -> list[Change]:
    done: list[Change] = []
    deployment = Deployment.connect(config)
    deployment.undeploy(deployment.plan_removal(), done.append)
    return done


def names(functions: Lambda) -> list[str]:
    return [function["FunctionName"] for function in functions.boto.list_functions()["Functions"]]


def test_deployed_functions_run_the_agent(functions: Lambda, kind: str) -> None:
    config = config_of(functions, kind)
    assert len(deploy(config)) == (4 if kind == "local" else 6)
    assert functions.error("c-node-0003")["errorType"] == "InvalidInvocation"  # the agent's own words to a stranger
    assert len(deployed_secret(config, functions.platform.endpoint)) == 64
    assert undeploy(config)
    assert names(functions) == []


def test_again_changes_nothing_and_a_change_changes_only_itself(functions: Lambda, kind: str) -> None:
    deploy(config_of(functions, kind))
    revisions = [f["RevisionId"] for f in functions.boto.list_functions()["Functions"]]
    assert deploy(config_of(functions, kind)) == []
    tagged = config_of(functions, kind, deploy={"tags": {"team": "t"}, "reserved_concurrency": 2})
    assert {c.action for c in deploy(tagged)} == {Action.UPDATE}
    assert [f["RevisionId"] for f in functions.boto.list_functions()["Functions"]] == revisions
    described = functions.boto.get_function(FunctionName="c-node-0000")
    assert described["Tags"] == {"team": "t", "infiniray:cache": "c", "infiniray:region": "us-east-1"}
    assert described["Concurrency"]["ReservedConcurrentExecutions"] == 2
    assert deploy(tagged) == []

    larger = config_of(functions, kind, pool={"nodes": 4, "memory_mb": 512}, deploy=tagged.deploy.model_dump())
    assert len(deploy(larger)) == 4
    assert {f["MemorySize"] for f in functions.boto.list_functions()["Functions"]} == {512}
    smaller = config_of(functions, kind, pool={"nodes": 3, "memory_mb": 512}, deploy=tagged.deploy.model_dump())
    assert [(c.action, c.name) for c in deploy(smaller)] == [(Action.DELETE, "c-node-0003")]


def test_another_architecture_reaches_functions_that_are_there(functions: Lambda, kind: str) -> None:
    deploy(config_of(functions, kind))
    arm = config_of(functions, kind, deploy={"architecture": "arm64"})
    assert [c.why for c in deploy(arm)] == [("architecture x86_64 -> arm64",)] * 4
    assert [f["Architectures"] for f in functions.boto.list_functions()["Functions"]] == [["arm64"]] * 4
    assert deploy(arm) == []


def strange(functions: Lambda, name: str) -> None:
    functions.boto.create_function(
        FunctionName=name, Role=ROLE, Runtime="python3.12", Handler="app.echo",
        Code={"ZipFile": zipped(app="def echo(e, c): return e")},
    )  # fmt: skip


def test_a_strangers_function_is_never_touched(functions: Lambda, kind: str) -> None:
    strange(functions, "c-node-0002")
    with pytest.raises(NameTaken, match="c-node-0002"):
        deploy(config_of(functions, kind))
    assert undeploy(config_of(functions, kind)) == []
    assert functions.call("c-node-0002", {"still": "there"}) == {"still": "there"}


def test_what_up_relies_on_is_checked(functions: Lambda, kind: str) -> None:
    config = config_of(functions, kind)
    with pytest.raises(NotDeployed, match=r"c-node-0000 is missing.* and 1 more.*infiniray deploy"):
        deployed_secret(config, functions.platform.endpoint)
    deploy(config)
    functions.boto.delete_function(FunctionName="c-node-0000")
    with pytest.raises(NotDeployed, match=r": c-node-0000 is missing\."):
        deployed_secret(config, functions.platform.endpoint)
    strange(functions, "c-node-0000")
    with pytest.raises(NotDeployed, match="does not bear this cache's tags"):
        deployed_secret(config, functions.platform.endpoint)
    functions.boto.delete_function(FunctionName="c-node-0000")
    deploy(config)
    other = {"Variables": {"INFINIRAY_SECRET": "ab" * 32}}
    functions.boto.update_function_configuration(FunctionName="c-node-0003", Environment=other)
    with pytest.raises(NotDeployed, match="c-node-0003 has another secret") as caught:
        deployed_secret(config, functions.platform.endpoint)
    assert "abab" not in str(caught.value)
    assert [c.name for c in deploy(config)] == ["c-node-0003"]
    deployed_secret(config, functions.platform.endpoint)
    with pytest.raises(NotDeployed, match="256 MB, configured are 512"):
        deployed_secret(config_of(functions, kind, pool={"nodes": 4, "memory_mb": 512}), functions.platform.endpoint)


def test_the_doctor_tells_a_zip_that_differs_from_what_runs(functions: Lambda, kind: str) -> None:
    config = config_of(functions, kind)
    deploy(config)
    seen = {o.subject: o for o in check_deployment(config)}
    assert {o.level for o in seen.values()} == {"ok"}
    functions.boto.update_function_code(FunctionName="c-node-0001", ZipFile=zipped(app="old = True"))
    assert count_other_code(functions.platform.endpoint, "c") == (1, 4)
    found = {o.subject: o for o in check_deployment(config)}["agent code"]
    assert (found.level, found.found[:6]) == ("warn", "1 of 4")
    assert "infiniray deploy" in found.advice
    deploy(config)
    assert count_other_code(functions.platform.endpoint, "c") == (0, 4)


@pytest.mark.parametrize(("ahead_s", "level"), [(0, "ok"), (-3600, "warn"), (3600, "warn")])
def test_the_doctor_tells_a_clock_that_is_off(
    functions: Lambda, monkeypatch: pytest.MonkeyPatch, ahead_s: int, level: str
) -> None:
    """moto answers with a date, as AWS does."""
    monkeypatch.setattr(explain, "time", SimpleNamespace(time=lambda: time.time() + ahead_s))
    with aws_beside(monkeypatch):
        found = {o.subject: o for o in check_deployment(config_of(functions, "aws"))}["platform clock"]
    assert found.level == level
    assert ("NTP" in found.advice) == (level == "warn")


def test_the_doctor_says_what_hinders_it(functions: Lambda, monkeypatch: pytest.MonkeyPatch) -> None:
    with aws_beside(monkeypatch):
        (found,) = check_deployment(config_of(functions, "aws", deploy={"account": "999999999999"}))
        assert (found.level, "123456789012" in found.found, "AWS_PROFILE" in found.advice) == ("fail", True, True)
        region = {"kind": "aws", "region": "us-est-1", "endpoint_url": functions.platform.endpoint}
        (found,) = check_deployment(config_of(functions, "aws", platform=region))
        assert (found.level, "platform.region" in found.advice) == ("fail", True)


def test_the_doctor_tells_what_is_missing_and_that_nobody_answers(functions: Lambda, kind: str) -> None:
    config = config_of(functions, kind)
    found = {o.subject: o for o in check_deployment(config)}["functions"]
    assert (found.level, "c-node-0000 is missing" in found.found) == ("fail", True)
    nobody = config_of(functions, "local", platform={"kind": "local", "endpoint_url": "http://127.0.0.1:1"})
    (unreachable,) = [o for o in check_deployment(nobody) if o.level == "fail"]
    assert "endpoint_url" in unreachable.advice


def test_tags_come_and_go_without_a_new_revision(functions: Lambda) -> None:
    strange(functions, "tagged")
    before = functions.boto.get_function(FunctionName="tagged")["Configuration"]
    arn = before["FunctionArn"]
    functions.boto.tag_resource(Resource=arn, Tags={"a": "1", "b": "2"})
    functions.boto.tag_resource(Resource=arn, Tags={"b": "3"})
    assert functions.boto.list_tags(Resource=arn)["Tags"] == {"a": "1", "b": "3"}
    functions.boto.untag_resource(Resource=arn, TagKeys=["a", "none"])
    after = functions.boto.get_function(FunctionName="tagged")
    assert after["Tags"] == {"b": "3"}
    assert after["Configuration"]["RevisionId"] == before["RevisionId"]
