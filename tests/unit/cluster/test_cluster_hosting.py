"""A cache is brought up where there is a Ray, or not at all. No Ray."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from blackhole import black_hole

from infiniray.cluster import rayapi
from infiniray.cluster.hosting import host
from infiniray.cluster.state import CacheRecord, StateDirectory
from infiniray.config import Config
from infiniray.errors import CacheUnavailable, ConfigError, InfiniRayError


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return StateDirectory(tmp_path)


def up(state: StateDirectory, address: str) -> str:
    """What the refusal says."""
    with pytest.raises(InfiniRayError) as raised:
        host(Config.load(None, {}, environ={}), address=address, state=state, say=lambda text: None)
    assert isinstance(raised.value, ConfigError if address.startswith("ray:") else CacheUnavailable)
    return str(raised.value)


def test_where_nobody_listens(state: StateDirectory) -> None:
    assert up(state, "127.0.0.1:1").startswith("no Ray can be reached at '127.0.0.1:1': ")
    assert state.records() == []


def test_where_nobody_answers(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rayapi, "_DIAL_TIMEOUT_S", 0.2)
    with black_hole("127.0.0.1") as port:
        assert up(state, f"127.0.0.1:{port}") == f"no Ray can be reached at '127.0.0.1:{port}': timed out"
    assert state.records() == []


@pytest.mark.parametrize("address", ["a..b:6379", "nowhere.invalid:6379", "127.0.0.1:99999"])
def test_what_is_no_address(state: StateDirectory, address: str) -> None:
    assert up(state, address).startswith(f"no Ray can be reached at {address!r}: ")
    assert state.records() == []


def test_an_address_of_ray_client(state: StateDirectory) -> None:
    assert "HOST:PORT" in up(state, "ray://127.0.0.1:10001")
    assert state.records() == []


def test_a_cache_that_is_on_another_ray(state: StateDirectory) -> None:
    record = CacheRecord(name="default", ray_address="10.0.0.1:6379", created_s=time.time())
    state.write(record)
    assert "is on the Ray at 10.0.0.1:6379" in up(state, "127.0.0.1:1")
    assert state.records() == [record]
