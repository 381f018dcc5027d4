"""What a caller does whose turn it is: with a client that records what it is asked. No Ray."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from infiniray.cluster.steps import Block, Steps
from infiniray.computing import Computation, compute, compute_async
from infiniray.errors import (
    CacheUnavailable,
    InfiniRayError,
    LeaseLost,
    PoolFull,
    ValueNotStorable,
    ValueTooLarge,
)

PATIENCE_S = 30.0


class FakeClient:
    """Records calls. ``failures`` by method are raised, first one first."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.failures: dict[str, Iterator[InfiniRayError]] = {}
        self.renewed = threading.Semaphore(0)

    def put_computed(
        self, key: str, holder: str, value: Any, ttl_s: float | None, stale_s: float, timeout_s: float | None
    ) -> Steps[None]:
        yield from self._called("put")

    def renew_turn(self, key: str, holder: str, lease_s: float, timeout_s: float) -> Steps[None]:
        try:
            yield from self._called("renew")
        finally:
            self.renewed.release()

    def give_up_turn(self, key: str, holder: str, timeout_s: float) -> Steps[None]:
        yield from self._called("give_up")

    def _called(self, method: str) -> Steps[None]:
        yield Block(lambda: self.calls.append(method))
        for error in self.failures.get(method, iter(())):
            raise error

    def await_renewals(self, n: int) -> None:
        for _ in range(n):
            assert self.renewed.acquire(timeout=PATIENCE_S)


def turn(client: FakeClient, lease_s: float = 600.0) -> Computation:
    fake: Any = client
    return Computation(client=fake, key="k", ttl_s=None, stale_s=0, lease_s=lease_s, timeout_s=None)


def unavailable() -> CacheUnavailable:
    return CacheUnavailable(detail="restarting")


def test_every_turn_has_a_holder_of_its_own() -> None:
    client = FakeClient()
    assert len({turn(client).holder for _ in range(100)}) == 100


def test_what_is_computed_is_stored_and_returned() -> None:
    client = FakeClient()
    assert compute(turn(client), lambda: 7) == 7
    assert client.calls == ["put"]


@pytest.mark.parametrize("error", [LeaseLost(key="k"), PoolFull(need_bytes=2, free_bytes=1), unavailable()])
def test_a_value_that_is_not_stored_now_is_returned_all_the_same(error: InfiniRayError) -> None:
    client = FakeClient()
    client.failures["put"] = iter([error])
    assert compute(turn(client), lambda: 7) == 7


@pytest.mark.parametrize("error", [ValueNotStorable(detail="a lock"), ValueTooLarge(size_bytes=2, limit_bytes=1)])
def test_a_value_that_can_never_be_stored_is_an_error(error: InfiniRayError) -> None:
    client = FakeClient()
    client.failures["put"] = iter([error])
    with pytest.raises(type(error)):
        compute(turn(client), lambda: 7)
    assert client.calls == ["put", "give_up"]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, PoolFull(need_bytes=2, free_bytes=1)])
def test_what_the_function_raises_goes_to_the_caller_and_the_turn_to_the_next(error: Any) -> None:
    def fn() -> None:
        raise error

    client = FakeClient()
    client.failures["give_up"] = iter([unavailable()])  # it must not hide the function's own
    with pytest.raises(error if isinstance(error, type) else type(error)):
        compute(turn(client), fn)
    assert client.calls == ["give_up"]


def test_the_lease_is_renewed_while_the_function_runs_even_if_a_renewal_fails() -> None:
    client = FakeClient()
    client.failures["renew"] = iter([unavailable()])
    compute(turn(client, lease_s=0.03), lambda: client.await_renewals(3))
    assert client.calls.count("renew") >= 3
    assert client.calls.count("put") == 1
    assert not any(thread.name.startswith("infiniray-lease") for thread in threading.enumerate())


def test_a_lost_lease_is_not_renewed_again() -> None:
    client = FakeClient()
    client.failures["renew"] = iter([LeaseLost(key="k")])

    def fn() -> None:
        client.await_renewals(1)
        for thread in threading.enumerate():
            if thread.name.startswith("infiniray-lease"):
                thread.join(PATIENCE_S)
                assert not thread.is_alive()

    compute(turn(client, lease_s=0.03), fn)
    assert client.calls == ["renew", "put"]


async def test_the_asynchronous_form_renews_stores_and_leaves_no_task() -> None:
    client = FakeClient()
    client.failures["renew"] = iter([unavailable()])

    async def fn() -> int:
        await asyncio.to_thread(client.await_renewals, 3)
        return 7

    assert await compute_async(turn(client, lease_s=0.03), fn) == 7
    assert client.calls.count("put") == 1
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_the_asynchronous_form_gives_up_when_it_fails_or_is_cancelled() -> None:
    async def fails() -> None:
        raise ZeroDivisionError

    client = FakeClient()
    with pytest.raises(ZeroDivisionError):
        await compute_async(turn(client), fails)
    assert client.calls == ["give_up"]

    has_begun = asyncio.Event()

    async def hangs() -> None:
        has_begun.set()
        await asyncio.Event().wait()

    client = FakeClient()
    task = asyncio.create_task(compute_async(turn(client), hangs))
    await has_begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.calls == ["give_up"]
    assert asyncio.all_tasks() == {asyncio.current_task()}
