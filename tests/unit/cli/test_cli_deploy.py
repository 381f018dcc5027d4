"""The commands deploy and undeploy, on AWS as moto has it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from click.testing import CliRunner, Result
from moto import mock_aws
from rich.console import Console

from infiniray.cli import deploy as commands
from infiniray.cli.main import main
from infiniray.errors import PlatformThrottled
from infiniray.faas.deploy.functions import FunctionChanger
from infiniray.faas.deploy.plan import Action, Change, Kind, Plan

CONFIG = """
name: mine
pool: {nodes: 6, memory_mb: 1536}
ring: {shards: 1}
redundancy: [{scheme: "rs:2+1"}]
platform: {kind: aws}
"""


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        yield


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "aws.yaml"
    path.write_text(CONFIG)
    return str(path)


def run(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(main, list(arguments), input=answer)


def n_functions() -> int:
    return len(boto3.client("lambda", region_name="us-east-1").list_functions()["Functions"])


@pytest.mark.usefixtures("aws")
def test_a_plan_shows_what_and_how_much_and_does_nothing(config: str) -> None:
    shown = run("deploy", "--config", config, "--plan")
    assert shown.exit_code == 0
    assert "create function 6: mine-node-0000 .. mine-node-0005" in shown.stdout
    # 6 x 43,200 x ($0.20 / 1,000,000 + 0.001 s x 1.5 GB x $0.0000166667)
    assert "cost floor: $0.06 a month" in shown.stdout
    assert "https://aws.amazon.com/lambda/pricing/" in shown.stdout
    assert n_functions() == 0


@pytest.mark.usefixtures("aws")
def test_the_configuration_says_how_the_cache_is_called(config: str, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(Path(config).read_text().replace("name: mine", "name: other"))
    for path in (config, str(other)):
        assert run("deploy", "--config", path, "--yes").exit_code == 0
    assert n_functions() == 12
    removed = run("undeploy", "--config", str(other), "--yes")
    assert "cache 'other' is no longer deployed" in removed.stderr
    functions = boto3.client("lambda", region_name="us-east-1").list_functions()["Functions"]
    assert {function["FunctionName"].partition("-")[0] for function in functions} == {"mine"}
    assert (
        json.loads(run("deploy", "--config", str(other), "--name", "third", "--plan", "--json").stdout)["name"]
        == "third"
    )


@pytest.mark.usefixtures("aws")
def test_it_asks_and_no_means_no(config: str) -> None:
    assert run("deploy", "--config", config, answer="n\n").exit_code == 1
    assert n_functions() == 0
    assert run("deploy", "--config", config, answer="y\n").exit_code == 0
    assert n_functions() == 6
    assert run("undeploy", "--config", config, answer="\n").exit_code == 1
    assert n_functions() == 6
    again = run("deploy", "--config", config)  # asks nothing: there is nothing to do
    assert again.exit_code == 0
    assert "nothing to do; 8 as they should be" in again.stdout


@pytest.mark.usefixtures("aws")
def test_json_is_one_document_and_never_asks(config: str) -> None:
    assert run("deploy", "--config", config, "--json").exit_code == 2
    plan = json.loads(run("deploy", "--config", config, "--plan", "--json").stdout)
    assert (len(plan["changes"]), plan["done"], plan["account"]) == (8, False, "123456789012")
    assert plan["cost_floor"]["usd_per_month"] == pytest.approx(6 * 43_200 * (0.2e-6 + 0.0015 * 0.0000166667), abs=1e-4)
    assert json.loads(run("deploy", "--config", config, "--yes", "--json").stdout)["done"] is True
    removed = json.loads(run("undeploy", "--config", config, "--yes", "--json").stdout)
    assert (removed["done"], {c["action"] for c in removed["changes"]}) == (True, {"delete"})
    assert n_functions() == 0


@pytest.mark.usefixtures("aws")
def test_a_failure_says_how_far_it_came_and_the_next_completes_it(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FunctionChanger.apply

    def refuse(self: Any, change: Any) -> None:
        if change.name.endswith("3"):
            raise PlatformThrottled(operation="create", function=change.name, detail="slow down", retry_after_s=1)
        whole(self, change)

    with monkeypatch.context() as patch:
        patch.setattr(FunctionChanger, "apply", refuse)
        failed = run("deploy", "--config", config, "--yes")
    assert failed.exit_code == 1
    assert "of 8 changes were made" in failed.stderr
    assert "slow down" in failed.stderr
    assert run("deploy", "--config", config, "--yes").exit_code == 0
    assert n_functions() == 6


@pytest.mark.usefixtures("aws")
def test_the_host_policy_is_a_document_to_paste(config: str) -> None:
    policy = json.loads(run("deploy", "--config", config, "--host-policy").stdout)
    assert policy["Statement"][0]["Resource"].endswith("function:mine-node-*")
    assert n_functions() == 0


@pytest.mark.usefixtures("aws")
def test_the_doctor_looks_at_a_deployment(config: str) -> None:
    findings = json.loads(run("doctor", "--config", config, "--json").stdout)["findings"]
    assert [f["level"] for f in findings if f["check"] == "functions"] == ["fail"]
    run("deploy", "--config", config, "--yes")
    findings = json.loads(run("doctor", "--config", config, "--json").stdout)["findings"]
    assert [f["level"] for f in findings if f["check"] in ("platform", "functions", "agent code")] == ["ok"] * 3


def refusal(code: str, message: str) -> ClientError:
    metadata = {"HTTPHeaders": {"date": "Thu, 01 Jan 2026 00:00:00 GMT"}}
    return ClientError({"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}, "x")  # type: ignore[typeddict-item]


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("operation", "error", "advice"),
    [
        ("GetCallerIdentity", refusal("InvalidClientTokenId", "The security token is invalid"), "aws sso login"),
        ("GetCallerIdentity", refusal("SignatureDoesNotMatch", "Signature expired: 20260101T0 is earlier than"),
         "Set this machine's clock, with NTP (it is off by +"),
        ("CreateRole", refusal("AccessDenied", "User u is not authorized to perform: iam:CreateRole on resource: r"),
         "Have iam:CreateRole allowed"),
        ("CreateRole", refusal("LimitExceeded", "Cannot exceed quota for RolesPerAccount: 1000"), "Service Quotas"),
        ("CreateFunction", refusal("CodeStorageExceededException", "Code storage limit exceeded."), "Service Quotas"),
    ],
)  # fmt: skip
def test_what_aws_refuses_is_one_line_that_says_what_to_do(
    config: str, monkeypatch: pytest.MonkeyPatch, operation: str, error: ClientError, advice: str
) -> None:
    call = BaseClient._make_api_call

    def refuse(client: Any, asked: str, parameters: Any) -> Any:
        if asked == operation:
            raise error
        return call(client, asked, parameters)

    with monkeypatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", refuse)
        refused = run("deploy", "--config", config, "--yes")
    assert refused.exit_code == 1
    line = refused.stderr.strip().splitlines()[-1]
    assert line.startswith("infiniray: ")
    assert advice in line
    assert "Traceback" not in refused.output
    assert n_functions() == 0
    assert run("deploy", "--config", config, "--yes").exit_code == 0  # once that is mended
    assert n_functions() == 6


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        ("platform.region=us-est-1", "Set platform.region, perhaps to us-"),
        ("deploy.account='999999999999'", "are of account 123456789012"),
        ("deploy.role=arn:aws:iam::999999999999:role/r", "Name a role of this account"),
        ("deploy.reserved_concurrency=160", "Ask for more under Service Quotas"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_made(
    config: str, monkeypatch: pytest.MonkeyPatch, setting: str, advice: str
) -> None:
    call = BaseClient._make_api_call

    def answer(client: Any, asked: str, parameters: Any) -> Any:
        if asked == "GetAccountSettings":  # which moto has not
            return {"AccountLimit": {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 1000}}
        return call(client, asked, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", answer)
    refused = run("deploy", "--config", config, "--yes", "--set", setting)
    assert (refused.exit_code, advice in refused.stderr) == (1, True), refused.output
    assert boto3.client("iam").list_roles()["Roles"] == []
    assert n_functions() == 0


def test_the_bar_counts_what_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal."""
    shown = io.StringIO()
    monkeypatch.setattr(commands, "says", lambda: Console(file=shown, force_terminal=True, width=80))
    monkeypatch.setattr(commands.sys.stderr, "isatty", lambda: True)
    changes = tuple(Change(action=Action.CREATE, kind=Kind.FUNCTION, name=f"n{i}") for i in range(3))
    with commands._progress(Plan(stages=(changes,), n_unchanged=0), "deploying") as on_done:
        for change in changes[:2]:
            on_done(change)
    assert "deploying" in shown.getvalue()
    assert "2/3" in shown.getvalue()


def test_the_platform_that_up_starts_needs_no_deploying() -> None:
    refused = run("deploy", "--yes")
    assert refused.exit_code == 2
    assert "infiniray up" in refused.stderr


def test_no_credentials_are_one_line(config: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    refused = run("deploy", "--config", config)
    assert refused.exit_code == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("infiniray: connect (AWS): Unable to locate credentials")
