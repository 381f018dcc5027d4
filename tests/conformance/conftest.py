"""A running platform, and functions on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from platform_harness import Gate, Lambda

from infiniray.faas.local.launch import LocalPlatform
from infiniray.faas.local.settings import LocalPlatformSettings


@pytest.fixture(scope="session")
def shared_lambda(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lambda]:
    with LocalPlatform.start(directory=tmp_path_factory.mktemp("platform")) as platform:
        functions = Lambda(platform)
        yield functions
        functions.close()


@pytest.fixture
def functions(shared_lambda: Lambda) -> Iterator[Lambda]:
    """The platform that most tests share; whatever they deploy and break is removed and mended."""
    yield shared_lambda
    shared_lambda.admin.clear_faults()
    for page in shared_lambda.boto.get_paginator("list_functions").paginate():
        for function in page["Functions"]:
            shared_lambda.boto.delete_function(FunctionName=function["FunctionName"])
    shared_lambda.admin.reclaim(everything=True)


@pytest.fixture
def own_lambda(tmp_path: Path) -> Iterator[Callable[..., Lambda]]:
    """Starts a platform with other settings, for one test."""
    started: list[Lambda] = []

    def start(**settings: Any) -> Lambda:
        directory = tmp_path / f"platform-{len(started)}"
        platform = LocalPlatform.start(LocalPlatformSettings(**settings), directory=directory)
        started.append(Lambda(platform))
        return started[-1]

    yield start
    for functions in started:
        functions.platform.stop()
        functions.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.close()
