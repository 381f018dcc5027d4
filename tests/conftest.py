"""Fixtures that several kinds of tests share."""

from __future__ import annotations

import functools
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_collection_finish() -> None:
    """What is there before the first test stays: tests that collect garbage need not look through it each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def local_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One local Ray for the whole session: its address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
        object_store_memory=1 << 30,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture(scope="session", autouse=True)
def _no_settings() -> Iterator[None]:
    """Tests, and what fixtures start for several of them, do not see the settings in the user's environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("INFINIRAY_")]:
            patch.delenv(name)
        for name in ("RAY_ADDRESS", "COLUMNS"):  # as wide as the terminal is
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _services_are_read_once() -> Iterator[None]:
    """boto3 sessions share what botocore's files say of AWS's services; each reads them anew, in half a second."""
    from botocore.loaders import JSONFileLoader

    files = JSONFileLoader()
    read = functools.cache(files.load_file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda self, path: read(path))
        yield


@pytest.fixture(autouse=True)
def _own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not see the user's running caches."""
    monkeypatch.setenv("INFINIRAY_STATE_DIR", str(tmp_path / "infiniray-state"))


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Ctrl-C interrupts, also where a shell has started this in the background, and had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
