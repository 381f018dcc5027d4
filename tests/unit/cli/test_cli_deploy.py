"""The commands deploy and undeploy, on AWS as moto has it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner, Result
from moto import mock_aws

from infiniray.cli.main import main
from infiniray.errors import PlatformThrottled
from infiniray.faas.deploy.functions import FunctionChanger

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
    assert "create function 6: default-node-0000 .. default-node-0005" in shown.stdout
    # 6 x 43,200 x ($0.20 / 1,000,000 + 0.001 s x 1.5 GB x $0.0000166667)
    assert "cost floor: $0.06 a month" in shown.stdout
    assert "https://aws.amazon.com/lambda/pricing/" in shown.stdout
    assert n_functions() == 0


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
    assert policy["Statement"][0]["Resource"].endswith("function:default-node-*")
    assert n_functions() == 0


@pytest.mark.usefixtures("aws")
def test_the_doctor_looks_at_a_deployment(config: str) -> None:
    findings = json.loads(run("doctor", "--config", config, "--json").stdout)["findings"]
    assert [f["level"] for f in findings if f["check"] == "functions"] == ["fail"]
    run("deploy", "--config", config, "--yes")
    findings = json.loads(run("doctor", "--config", config, "--json").stdout)["findings"]
    assert [f["level"] for f in findings if f["check"] in ("platform", "functions", "agent code")] == ["ok"] * 3


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
