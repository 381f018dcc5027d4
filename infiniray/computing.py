"""``get_or_compute``: how a caller whose turn it is computes, keeps its lease, and stores the value or gives up.

The blocking and the asynchronous form differ in who renews the lease meanwhile: a thread here, a task there. Both end
with the computation, whatever becomes of it.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from infiniray.cluster.client import Client
from infiniray.cluster.steps import Steps, run, run_async
from infiniray.errors import InfiniRayError, LeaseLost

__all__ = ["LEASE_S", "Computation", "compute", "compute_async"]

#: How long a computer may be silent before another takes over.
LEASE_S = 10.0
#: A lease is renewed this often while it lasts, so that one lost renewal does not cost it.
_RENEWALS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """One caller's turn to compute ``key``, if it gets it. ``holder`` names it, and fences what it stores."""

    client: Client
    key: str
    ttl_s: float | None
    stale_s: float
    lease_s: float
    timeout_s: float | None
    holder: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def renewal_s(self) -> float:
        return self.lease_s / _RENEWALS

    def store(self, value: Any) -> Steps[None]:
        """Store what was computed. Where that fails for a reason that may pass, or because another computer took over,
        the caller has its value all the same."""
        try:
            yield from self.client.put_computed(
                self.key, self.holder, value, self.ttl_s, self.stale_s, self.timeout_s
            )  # fmt: skip
        except InfiniRayError as error:
            if not error.retryable:
                raise

    def give_up(self) -> Steps[None]:
        """Let the next compute. If nobody hears it, the lease expires."""
        with suppress(InfiniRayError):
            yield from self.client.give_up_turn(self.key, self.holder, self.lease_s)

    def renew(self) -> Steps[bool]:
        """Whether the lease is still worth renewing: a shard that cannot be reached now may be back in time."""
        try:
            yield from self.client.renew_turn(self.key, self.holder, self.lease_s, self.renewal_s)
        except LeaseLost:
            return False
        except InfiniRayError:
            return True
        return True


def compute(turn: Computation, fn: Callable[[], Any]) -> Any:
    """The value of ``fn()``, stored. What it raises goes to the caller; then the next in line computes."""
    with _renewed(turn):
        try:
            value = fn()
            run(turn.store(value))
        except BaseException:
            run(turn.give_up())
            raise
    return value


async def compute_async(turn: Computation, fn: Callable[[], Any]) -> Any:
    """As :func:`compute`; ``fn`` may return an awaitable."""
    async with _renewed_async(turn):
        try:
            value = fn()
            if inspect.isawaitable(value):
                value = await value
            await run_async(turn.store(value))
        except BaseException:
            await run_async(turn.give_up())
            raise
    return value


@contextmanager
def _renewed(turn: Computation) -> Iterator[None]:
    """A thread renews the lease meanwhile."""
    is_over = threading.Event()

    def renew() -> None:
        while not is_over.wait(turn.renewal_s) and run(turn.renew()):
            pass

    thread = threading.Thread(target=renew, name=f"infiniray-lease-{turn.key:.40}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@asynccontextmanager
async def _renewed_async(turn: Computation) -> AsyncIterator[None]:
    """A task renews the lease meanwhile."""

    async def renew() -> None:
        is_kept = True
        while is_kept:
            await asyncio.sleep(turn.renewal_s)
            is_kept = await run_async(turn.renew())

    task = asyncio.ensure_future(renew())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
