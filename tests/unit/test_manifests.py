"""What docs/aws.md has users run: its files are what their readers accept, its commands exist, its figures hold."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.client
import botocore.session
import click
import pytest
import yaml
from moto import mock_aws
from ray._raylet import Config as RayConfig
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import cli as ray_cli

from infiniray.cli.main import main
from infiniray.config import Config
from infiniray.cost.model import Behaviour, Load, Pool, closed_form, metered_cost, transfer_ms
from infiniray.cost.price_book import load_price_book
from infiniray.faas.deploy.deployment import Deployment
from infiniray.faas.deploy.floor import cost_floor

TOP = Path(__file__).parents[2]
AWS = TOP / "configs" / "aws.yaml"
RAY_EC2, KUBERAY = TOP / "deploy" / "ec2-cluster.yaml", TOP / "deploy" / "kuberay.yaml"
PAGE = TOP / "docs" / "aws.md"


# ---------------------------------------------------------------- files


def test_the_configuration_for_aws_loads_and_lets_shards_spread() -> None:
    config = Config.load(AWS)
    assert (config.platform.kind, config.platform.endpoint_url) == ("aws", None)
    assert (config.pool.nodes, config.pool.memory_mb, config.ring.shards) == (64, 1536, 4)
    assert (config.platform.listen_host, config.platform.advertise_host) == ("auto", None)


def test_ray_accepts_the_cluster() -> None:
    cluster = yaml.safe_load(RAY_EC2.read_text())
    validate_config(prepare_config(cluster))
    assert cluster["provider"]["region"] == Config.load(AWS).platform.region
    assert cluster["provider"]["availability_zone"].startswith(cluster["provider"]["region"])
    assert cluster["head_node_type"] in cluster["available_node_types"]


def test_ec2_accepts_its_machines() -> None:
    model = botocore.session.get_session().get_service_model("ec2").operation_model("RunInstances")
    for kind in yaml.safe_load(RAY_EC2.read_text())["available_node_types"].values():
        machine = dict(kind["node_config"])
        assert machine.pop("SubnetIds")  # Ray chooses one of them
        parameters = {**machine, "MinCount": 1, "MaxCount": 1}
        report = botocore.validate.ParamValidator().validate(parameters, model.input_shape)
        assert not report.has_errors(), report.generate_report()
        assert f"ec2.{machine['InstanceType']}" in load_price_book().entries


def test_the_manifest_is_a_ray_cluster_whose_parts_fit() -> None:
    (manifest,) = yaml.safe_load_all(KUBERAY.read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayCluster")
    head, workers = manifest["spec"]["headGroupSpec"], manifest["spec"]["workerGroupSpecs"]
    images, accounts = set(), set()
    for group in (head, *workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        images.add(container["image"])
        accounts.add(pod["serviceAccountName"])
    (image,) = images
    (account,) = accounts
    page = PAGE.read_text()
    assert f"--tag {image} " in page
    assert f"--name {account} " in page
    assert f"FROM rayproject/ray:{manifest['spec']['rayVersion']}-" in page
    (mount,) = (m for m in head["template"]["spec"]["containers"][0]["volumeMounts"] if m["name"] == "configuration")
    assert f"--config {mount['mountPath']}/aws.yaml" in page


@pytest.mark.parametrize("name", ["RAY_health_check_timeout_ms", "RAY_health_check_failure_threshold"])
def test_both_give_up_a_silent_machine_alike_and_within_the_deadline(name: str) -> None:
    (command,) = (line for line in yaml.safe_load(RAY_EC2.read_text())["head_start_ray_commands"] if "start" in line)
    on_ec2 = {key: int(value) for key, value in re.findall(r"(RAY_\w+)=(\d+)", command)}
    (head,) = yaml.safe_load(KUBERAY.read_text())["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    on_kubernetes = {row["name"]: int(row["value"]) for row in head["env"]}
    assert on_ec2[name] == on_kubernetes[name]
    assert hasattr(RayConfig, name.removeprefix("RAY_"))
    period_ms = RayConfig.health_check_period_ms()
    given_up_s = on_ec2["RAY_health_check_failure_threshold"] * (
        (on_ec2["RAY_health_check_timeout_ms"] + period_ms) / 1000
    )
    assert f"falls silent after {given_up_s:g} s" in PAGE.read_text()
    assert given_up_s < Config.load(AWS).limits.deadline_s


# ---------------------------------------------------------------- commands


def commands() -> Iterator[list[str]]:
    """Every command line of infiniray and Ray: in the page's blocks, in what they run elsewhere, in the cluster."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)).replace("\\\n", " ")
    cluster = yaml.safe_load(RAY_EC2.read_text())
    lines = blocks.splitlines() + cluster["head_start_ray_commands"] + cluster["worker_start_ray_commands"]
    for line in lines:
        for part in re.split(r";|&&", line):
            yield from _within(shlex.split(part, comments=True))


def _within(words: list[str]) -> Iterator[list[str]]:
    for index, word in enumerate(words):
        if " " in word and "infiniray" in word:
            yield from _within(shlex.split(word))
        if word.rpartition("/")[2] in ("infiniray", "ray") and words[index - 1 : index] in ([], ["--"]):
            yield [word.rpartition("/")[2], *words[index + 1 :]]


@pytest.mark.parametrize("words", [pytest.param(words, id=" ".join(words)) for words in commands()])
def test_a_command_and_its_options_exist(words: list[str]) -> None:
    program, name, *rest = words
    group: click.Group = main if program == "infiniray" else ray_cli
    command = group.get_command(click.Context(group), name)
    assert command is not None
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known


def test_there_are_commands_to_test() -> None:
    found = {tuple(words[:2]) for words in commands()}
    assert {("infiniray", name) for name in ("deploy", "doctor", "up", "status", "down", "undeploy")} <= found
    assert {("ray", name) for name in ("up", "exec", "rsync-up", "down", "start", "stop")} <= found


def test_settings_and_links_that_the_page_names_exist() -> None:
    page = PAGE.read_text()
    sections = Config.model_fields
    for section, name in re.findall(r"`(\w+)\.(\w+)[`:]", page):
        if section in sections:
            assert name in sections[section].annotation.model_fields, f"{section}.{name}"  # type: ignore[union-attr]
    for link in re.findall(r"\]\(([^)#]+)\)", page):
        assert (PAGE.parent / link).exists(), link


def test_the_architecture_page_leads_to_the_others() -> None:
    links = re.findall(r"\]\(([\w-]+\.md)\)", (TOP / "docs" / "architecture.md").read_text())
    others = {path.name for path in (TOP / "docs").glob("*.md")} - {"architecture.md"}
    assert {"aws.md", "backing.md", "simulation.md", "traces.md"} <= set(links) <= others


# ---------------------------------------------------------------- permissions


def test_what_deploying_asks_of_aws_is_what_the_page_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    call = botocore.client.BaseClient._make_api_call

    def recorded(client: Any, operation: str, parameters: Any) -> Any:
        asked.add(_action(client.meta.service_model.service_name, operation))
        return call(client, operation, parameters)

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="code")
        monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", recorded)
        for memory_mb in (1536, 2048):  # made, then changed
            deployment = Deployment.connect(_small(memory_mb))
            deployment.deploy(deployment.plan())
        deployment.undeploy(deployment.plan_removal())
    allowed = _allowed()
    assert "lambda:CreateFunction" in asked
    assert asked - {"sts:GetCallerIdentity"} <= allowed  # which everybody may
    assert {action for action in allowed if action.startswith("iam:Put")} <= asked


def _small(memory_mb: int) -> Config:
    overrides = {
        "pool": {"nodes": 6, "memory_mb": memory_mb},
        "ring": {"shards": 1},
        "redundancy": [{"scheme": "rs:2+1"}],
        "deploy": {"code_bucket": "code", "reserved_concurrency": 2},
    }
    return Config.load(AWS, overrides)


def _action(service: str, operation: str) -> str:
    """In IAM's words."""
    return {"s3:ListObjectsV2": "s3:ListBucket"}.get(f"{service}:{operation}", f"{service}:{operation}")


def _allowed() -> set[str]:
    (policy,) = re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return {action for statement in json.loads(policy)["Statement"] for action in statement["Action"]}


# ---------------------------------------------------------------- figures


def test_what_it_costs_is_calculated() -> None:
    config, book = Config.load(AWS), load_price_book()
    pool = Pool(n_nodes=config.pool.nodes, memory_mb=config.pool.memory_mb, data_chunks=10, parity_chunks=2)
    behaviour = Behaviour(serve_ms=5 + transfer_ms(1_000_000))
    rates = book.function_rates("x86")
    backups = closed_form(rates, pool, behaviour).backup_usd_per_hour
    get = metered_cost(rates, pool, Load(requests_per_hour=1, object_bytes=10_000_000), behaviour).usd_per_request
    hosts, small = (2 * book.entries[f"ec2.{kind}"].usd for kind in ("c5n.4xlarge", "c5n.large"))
    rows = [
        f"{cost_floor(config).usd_per_month:.2f} a month of 30 days |",
        f"{backups:.4f} an hour, {backups * 730:.0f} a month;",
        f"| GET of 10 MB | {get * 1e6:.2f} a million |",
        f"| 2 x `c5n.4xlarge` | {hosts:.3f} an hour, {hosts * 730:.0f} a month of 730 h |",
        f"| 2 x `c5n.large`, to try it | {small:.3f} an hour, {small * 730:.0f} a month |",
    ]
    page = PAGE.read_text()
    assert [row for row in rows if row not in page] == []
