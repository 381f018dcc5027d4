"""A cache is brought up where there is a Ray, or not at all. No Ray."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from blackhole import black_hole

from infiniray.cluster import hosting, rayapi
from infiniray.cluster.hosting import Unhosted, clear_leftovers, host, unhost
from infiniray.cluster.state import CacheRecord, ProcessMark, StateDirectory
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


# ---------------------------------------------------------------- a guest on somebody else's Ray


def guest(state: StateDirectory, *, platform: ProcessMark | None = None) -> CacheRecord:
    endpoint = None if platform is None else "http://127.0.0.1:1"
    record = CacheRecord(
        name="default", ray_address="127.0.0.1:1", created_s=time.time(), platform=platform, platform_endpoint=endpoint
    )
    state.write(record)
    return record


def ended_process() -> ProcessMark:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    mark = ProcessMark.of(process.pid)
    process.communicate(b"\n", timeout=30)
    return mark


@pytest.fixture
def taken_down(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The Rays on which actors were ended, as if they were there."""
    attached: list[str] = []
    taken: list[str] = []
    monkeypatch.setattr(rayapi, "attach", lambda address, has_token_auth: attached.append(address))
    monkeypatch.setattr(rayapi, "disconnect", lambda: None)
    monkeypatch.setattr(hosting, "take_down", lambda name, delete_functions: taken.append(attached[-1]))
    return taken


def test_what_a_guest_leaves_whose_platform_has_crashed_is_ended_on_its_host(
    state: StateDirectory, taken_down: list[str]
) -> None:
    guest(state, platform=ended_process())
    assert clear_leftovers(state) == ["default"]
    assert taken_down == ["127.0.0.1:1"]
    assert state.records() == []


def test_so_it_is_before_it_is_brought_up_again(state: StateDirectory, taken_down: list[str]) -> None:
    guest(state, platform=ended_process())
    assert up(state, "127.0.0.1:1").startswith("no Ray can be reached")
    assert taken_down == ["127.0.0.1:1"]


def test_down_says_what_it_could_not_end(state: StateDirectory) -> None:
    guest(state)
    ended = unhost("default", state=state, say=lambda text: None)
    assert ended.was_there
    assert ended.trouble.startswith("no Ray can be reached at '127.0.0.1:1': ")
    assert unhost("default", state=state, say=lambda text: None) == Unhosted(was_there=False)
