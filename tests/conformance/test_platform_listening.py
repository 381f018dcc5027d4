"""What can be dialled from another machine: nothing, unless it is configured."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from platform_harness import Lambda, descendants_of

from infiniray.config import Config
from infiniray.runtime.driver import ShardDriver

SECRET = bytes(range(32))


class NoDecisions:
    """A shard's brain that never has anything done."""

    def __init__(self) -> None:
        self.context = SimpleNamespace(epoch=1)
        self.nodes: dict[str, int] = {}

    def handle(self, event: Any, now_s: float) -> list[Any]:
        return []


class NoFunctions:
    async def close(self) -> None:
        return None


def listening(pid: int) -> list[tuple[str, int]]:
    """(address, port) of each TCP socket on which a process waits for others."""
    connections = psutil.Process(pid).net_connections("inet")
    return [(c.laddr.ip, c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN]


def are_loopback(places: list[tuple[str, int]]) -> bool:
    return all(ipaddress.ip_address(host).is_loopback for host, _ in places)


def test_the_embedded_platform_listens_on_loopback_alone(own_lambda: Callable[..., Lambda]) -> None:
    functions = own_lambda()
    assert functions.call(functions.deploy("echo"), {"a": 1}) == {
        "a": 1
    }  # an instance runs, and with it its runtime API
    places = listening(functions.platform.pid)
    assert len(places) >= 2
    assert are_loopback(places)


def test_a_function_listens_nowhere(own_lambda: Callable[..., Lambda]) -> None:
    functions = own_lambda()
    functions.call(functions.deploy("echo"), {"a": 1})
    processes = descendants_of(functions.platform.pid)
    assert processes
    # instances keep no descriptor of the platform's own listeners either
    assert [place for pid in processes for place in listening(pid)] == []


@pytest.mark.parametrize("host", [None, "127.0.0.1", "::1"])
async def test_a_shard_listens_where_it_is_told_and_by_default_on_loopback(host: str | None) -> None:
    before = set(listening(os.getpid()))
    told: dict[str, Any] = {} if host is None else {"listen_host": host}
    driver = ShardDriver(NoDecisions(), NoFunctions(), None, SECRET, **told)  # type: ignore[arg-type]
    await driver.start()
    try:
        (place,) = set(listening(os.getpid())) - before
    finally:
        await driver.close()
    assert place[0] == (host or "127.0.0.1")
    assert are_loopback([place])


def test_the_default_configuration_is_loopback() -> None:
    platform = Config().platform
    assert (platform.kind, platform.listen_host, platform.advertise_host) == ("local", "127.0.0.1", None)
