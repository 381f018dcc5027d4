"""A shard finds out whether its nodes can dial it, and why not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from blackhole import black_hole
from grid import Grid

from infiniray.errors import PlatformError, PlatformThrottled, ShardUnreachable
from infiniray.runtime import reaching
from lambda_agent import session

MakeGrid = Callable[..., Awaitable[Grid]]


@pytest.fixture(autouse=True)
def _in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching, "_PAUSE_S", 0.01)
    monkeypatch.setattr(session, "DIAL_S", 0.3)


def n_invoked(pool: Grid) -> int:
    return sum(node.n_invocations for node in pool.nodes.values())


async def refusal(pool: Grid, timeout_s: float = 10.0) -> ShardUnreachable:
    with pytest.raises(ShardUnreachable) as raised:
        await pool.driver.require_reachable(timeout_s=timeout_s)
    assert (raised.value.shard, raised.value.address) == ("shard-0", pool.driver.address)
    assert raised.value.function in pool.nodes
    return raised.value


async def test_one_node_that_dials_is_enough_and_is_asked_once(grid: MakeGrid) -> None:
    pool = await grid()
    await pool.driver.require_reachable(timeout_s=10)
    await pool.driver.require_reachable(timeout_s=10)
    assert n_invoked(pool) == 1
    assert pool.state.stats()["nodes_connected"] == 1


async def test_whoever_asks_at_the_same_time_waits_for_the_same_answer(grid: MakeGrid) -> None:
    pool = await grid()
    await asyncio.gather(*(pool.driver.require_reachable(timeout_s=10) for _ in range(3)))
    assert n_invoked(pool) == 1


@pytest.mark.parametrize(
    ("host", "reported", "advice"),
    [
        ("127.0.0.9", "DialRefused: cannot reach the shard at 127.0.0.9:", "platform.listen_host"),
        ("a..b", "NameUnknown: cannot reach the shard at a..b:", "cannot resolve that name"),
        ("nowhere.invalid", "NameUnknown: cannot reach the shard at nowhere.invalid:", "cannot resolve that name"),
    ],
)
async def test_an_address_that_leads_nowhere(grid: MakeGrid, host: str, reported: str, advice: str) -> None:
    pool = await grid()
    pool.driver._sessions.address = f"{host}:{pool.driver.address.rpartition(':')[2]}"
    error = await refusal(pool)
    assert error.detail.startswith(reported)
    assert advice in error.advice
    assert sorted(node.n_invocations for node in pool.nodes.values())[-3:] == [0, 1, 1]  # two are enough


async def test_an_address_that_does_not_answer(grid: MakeGrid) -> None:
    pool = await grid()
    with black_hole("127.0.0.1") as port:
        pool.driver._sessions.address = f"127.0.0.1:{port}"
        error = await refusal(pool)
    assert error.detail == f"DialTimedOut: cannot reach the shard at 127.0.0.1:{port}: timed out"
    assert "security group" in error.advice


async def test_somebody_else_answers_at_the_address(grid: MakeGrid) -> None:
    pool, other = await grid(), await grid()
    for node in other.nodes.values():
        node.secret = bytes(32)
    other.driver._listener.keys = type(other.driver.keys)(current=bytes(32))
    pool.driver._sessions.address = other.driver.address
    error = await refusal(pool)
    assert error.detail.startswith("HandshakeFailed: ")
    assert "Something else than the shard" in error.advice


async def test_functions_with_another_secret(grid: MakeGrid) -> None:
    pool = await grid()
    for node in pool.nodes.values():
        node.secret = bytes(32)
    error = await refusal(pool)
    assert error.detail.startswith("InvalidInvocation: ")
    assert "another secret" in error.advice


async def test_functions_that_are_broken(grid: MakeGrid) -> None:
    pool = await grid()
    for node in pool.nodes.values():
        node.break_()
    error = await refusal(pool)
    assert (error.detail, error.advice) == ("RuntimeError: broken", "The function's log says more")


async def test_one_that_stumbles_is_not_believed(grid: MakeGrid) -> None:
    pool = await grid()
    next(iter(pool.nodes.values())).break_()
    await pool.driver.require_reachable(timeout_s=10)
    assert n_invoked(pool) == 2


def failing(pool: Grid, error: Exception, n_each: int) -> None:
    for node in pool.nodes.values():
        node.errors = [error] * n_each


async def test_a_shard_that_may_not_invoke(grid: MakeGrid) -> None:
    pool = await grid()
    failing(pool, PlatformError(operation="invoke", function="n", detail="HTTP 403: not authorized"), 1)
    error = await refusal(pool)
    assert "HTTP 403: not authorized" in error.detail
    assert "--host-policy" in error.advice


async def test_a_busy_platform_is_asked_again(grid: MakeGrid) -> None:
    pool = await grid()
    throttled: dict[str, Any] = {"operation": "invoke", "function": "n", "detail": "429", "retry_after_s": 0.0}
    for node in list(pool.nodes.values())[:5]:
        node.errors = [PlatformThrottled(**throttled)]
    await pool.driver.require_reachable(timeout_s=10)
    assert n_invoked(pool) == 6


async def test_one_that_is_busy_until_the_end_says_so(grid: MakeGrid) -> None:
    pool = await grid()
    failing(pool, PlatformThrottled(operation="invoke", function="n", detail="429", retry_after_s=0.0), 1000)
    assert "429" in (await refusal(pool, timeout_s=0.2)).detail


async def test_no_word_is_an_answer_too(grid: MakeGrid) -> None:
    pool = await grid()
    with black_hole("127.0.0.1") as port:
        pool.driver._sessions.address = f"127.0.0.1:{port}"
        error = await refusal(pool, timeout_s=0.1)
    assert error.detail == "no word of it within 0.1 s"
