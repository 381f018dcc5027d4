"""AWS as moto has it: everything but running functions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from infiniray.config import Config

REGION = "us-east-1"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that gives a client of a service; no request leaves the process."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with mock_aws():
        yield lambda service: boto3.client(service, region_name=REGION)


def config_of(nodes: int = 3, **sections: Any) -> Config:
    """A pool on AWS."""
    pool = {"nodes": nodes, "memory_mb": 512}
    tree = {"name": "c", "ring": {"shards": 1}, "redundancy": [{"scheme": "rs:2+1"}], "pool": pool,
            "platform": {"kind": "aws", "region": REGION}}  # fmt: skip
    for section, values in sections.items():
        known = tree.get(section, {})
        tree[section] = {**known, **values} if isinstance(known, dict) else values
    return Config.load(None, tree, environ={})


@pytest.fixture
def make_config() -> Any:
    return config_of
