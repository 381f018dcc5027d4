"""Stores of every kind: a directory, moto's S3 server, and fsspec's file system in memory."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from backing_doubles import KEYS, Process, World  # type: ignore[import-not-found]

from infiniray.config import BackingConfig


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_endpoint: str) -> Iterator[dict[str, Any]]:
    """A new bucket's name, and the options to reach it."""
    options = {"endpoint_url": s3_endpoint, **KEYS}
    client = boto3.client("s3", **options)
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    yield {"name": name, "options": options, "client": client}
    client.close()


@pytest.fixture(params=["directory", "s3", "memory"])
def store_config(request: pytest.FixtureRequest, tmp_path: Path) -> BackingConfig:
    """A store that is empty."""
    if request.param == "directory":
        (tmp_path / "store").mkdir()
        return BackingConfig(url=str(tmp_path / "store"))
    if request.param == "memory":
        return BackingConfig(url=f"memory://{uuid.uuid4().hex}")
    bucket = request.getfixturevalue("bucket")
    return BackingConfig(url=f"s3://{bucket['name']}/some/prefix", options=bucket["options"])


@pytest.fixture
def world(store_config: BackingConfig) -> Iterator[World]:
    world = World(store_config)
    yield world
    world.close()


@pytest.fixture
def dies(monkeypatch: pytest.MonkeyPatch) -> Callable[[World, Process], None]:
    """A process ends with what it has acknowledged: as others see it, it is not heard of any more."""

    def die(world: World, process: Process) -> None:
        beat = process.backing._marks._beat_name(process.backing._marks.writer)
        world.records.texts[beat] = "0.0"
        monkeypatch.setattr(process.backing._marks, "beat", lambda: None)

    return die
