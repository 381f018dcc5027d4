"""Functions deployed apart from the cache that uses them: deploy, up, put, get, down, undeploy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

import infiniray
from infiniray.config import Config
from infiniray.errors import NotDeployed
from infiniray.faas.deploy.deployment import Deployment
from infiniray.faas.local.launch import LocalPlatform

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]
COMMAND = [sys.executable, "-m", "infiniray.cli.main"]
CONFIG = """
pool: {{nodes: 6, memory_mb: 256}}
ring: {{shards: 1}}
redundancy: [{{scheme: "rs:2+1"}}]
platform: {{endpoint_url: "{endpoint}"}}
"""


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    with LocalPlatform.start(directory=tmp_path_factory.mktemp("platform")) as platform:
        yield platform


def functions_of(platform: LocalPlatform) -> dict[str, str]:
    """{name: revision}"""
    client = boto3.client(
        "lambda", endpoint_url=platform.endpoint, region_name="us-east-1",
        aws_access_key_id="x", aws_secret_access_key="x",
    )  # fmt: skip
    return {function["FunctionName"]: function["RevisionId"] for function in client.list_functions()["Functions"]}


def test_start_uses_deployed_functions_and_leaves_them(platform: LocalPlatform, local_ray: str) -> None:
    settings = {
        "name": "apart", "pool": {"nodes": 4, "memory_mb": 256}, "ring": {"shards": 1},
        "redundancy": [{"scheme": "rs:2+1"}], "platform": {"endpoint_url": platform.endpoint},
    }  # fmt: skip
    config = Config.load(None, settings, environ={})
    with pytest.raises(NotDeployed, match="infiniray deploy"):
        infiniray.start(config=config)
    deployment = Deployment.connect(config)
    deployment.deploy(deployment.plan())
    with infiniray.start(config=config) as cache:
        cache.put("k", b"x" * 1_000_000)
        assert bytes(cache.get("k", raw=True)) == b"x" * 1_000_000
    assert len(functions_of(platform)) == 4
    deployment.undeploy(deployment.plan_removal())
    assert functions_of(platform) == {}


def test_a_cache_on_deployed_functions(platform: LocalPlatform, tmp_path: Path) -> None:
    config, source, copy = tmp_path / "config.yaml", tmp_path / "source", tmp_path / "copy"
    config.write_text(CONFIG.format(endpoint=platform.endpoint))
    source.write_bytes(os.urandom(3_000_001))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "INFINIRAY_", "AWS_"))}
    environ = {**inherited, "INFINIRAY_STATE_DIR": str(tmp_path / "state"), "AWS_EC2_METADATA_DISABLED": "true"}

    def command(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [*COMMAND, *arguments], env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    with_config = ["--config", str(config)]
    try:
        refused = command("up", *with_config, code=1)
        assert "infiniray deploy" in refused.stderr
        plan = json.loads(command("deploy", *with_config, "--plan", "--json").stdout)
        assert (len(plan["changes"]), plan["done"], functions_of(platform)) == (6, False, {})
        command("deploy", *with_config, "--yes")
        deployed = functions_of(platform)
        assert len(deployed) == 6

        command("up", *with_config)
        command("put", str(source), "k")
        command("get", "k", str(copy))
        assert copy.read_bytes() == source.read_bytes()
        command("down")
        assert functions_of(platform) == deployed  # neither updated by `up` nor deleted by `down`

        command("undeploy", *with_config, "--yes")
        assert functions_of(platform) == {}
    finally:
        command("down")
