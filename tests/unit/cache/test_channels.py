"""The connections of a process: shared by its handles, and remembered where there are none. No Ray."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from infiniray.channel.server import Endpoint
from infiniray.channel.waiting import READABLE
from infiniray.cluster import channels as channels_module
from infiniray.cluster.channels import Channels, channels_of, let_go
from infiniray.cluster.deadline import Deadline
from infiniray.cluster.steps import Steps, Talk, TalkAll, run, run_async
from infiniray.errors import DeadlineExceeded

ENDPOINT = Endpoint(protocol=1, name="n", address=None, secret=b"secret", shared_min_bytes=1000)


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels_module, "_known", type(channels_module._known)())


def test_handles_of_one_cache_share_connections() -> None:
    channels = channels_of("ray-1", "a")
    assert channels_of("ray-1", "a") is channels
    assert channels_of("ray-2", "a") is not channels
    assert channels_of("ray-1", "b") is not channels
    let_go("ray-1", "a")
    assert channels_of("ray-1", "a") is not channels


def test_only_those_of_the_last_few_caches_are_kept() -> None:
    first = channels_of("ray", "first")
    for i in range(20):
        channels_of("ray", f"cache-{i}")
    assert len(channels_module._known) == channels_module._MAX_KNOWN
    assert channels_of("ray", "first") is not first


def test_one_channel_for_each_incarnation_of_a_shard() -> None:
    channels = Channels()
    channel = channels.open("shard", ENDPOINT)
    assert channels.open("shard", ENDPOINT) is channels.find("shard") is channel
    later = channels.open("shard", replace(ENDPOINT, name="m"))
    assert later is channels.find("shard")
    assert later is not channel
    assert channel is not None
    channels.forget("shard", channel)  # whoever had the former one
    assert channels.find("shard") is later


def test_where_there_is_none_is_asked_after_a_while() -> None:
    now_s = [0.0]
    channels = Channels(lambda: now_s[0])
    assert channels.is_worth_asking("shard")
    assert channels.open("shard", None) is None
    assert not channels.is_worth_asking("shard")
    assert channels.is_worth_asking("another")
    now_s[0] = 11.0
    assert channels.is_worth_asking("shard")


def test_the_secret_is_not_shown() -> None:
    assert "secret" not in repr(ENDPOINT)


def _silent(descriptor: int) -> Any:
    yield descriptor, READABLE


def _asks(step: Talk | TalkAll) -> Steps[Any]:
    return (yield step)


@pytest.fixture
def quiet() -> Iterator[int]:
    """A descriptor that is never readable."""
    read, write = os.pipe()
    yield read
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_exchange_that_takes_too_long_ends_at_the_deadline(
    quiet: int, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infiniray.cluster.rayapi.GRACE_S", 0.0)
    talk = Talk(exchange=_silent(quiet), deadline=Deadline.after(0.05), operation="GET", key="k")
    with pytest.raises(DeadlineExceeded, match="no answer from the shard"):
        await run_async(_asks(talk)) if is_async else run(_asks(talk))


@pytest.mark.parametrize("is_async", [False, True])
async def test_of_several_each_ends_by_itself(quiet: int, is_async: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infiniray.cluster.rayapi.GRACE_S", 0.0)

    def done() -> Any:
        return (yield lambda: "done")

    def fails() -> Any:
        yield lambda: 1 // 0

    talk = TalkAll(exchanges=[done(), _silent(quiet), fails()], deadline=Deadline.after(0.05))
    results = await run_async(_asks(talk)) if is_async else run(_asks(talk))
    assert [type(result).__name__ for result in results] == ["str", "TimedOut", "ZeroDivisionError"]
