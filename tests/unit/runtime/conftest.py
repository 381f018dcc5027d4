from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from grid import Grid
from node_peer import SECRET, soon
from script import GatedCoder, Script, ScriptedInvoker, Stage

from infiniray.core import events as ev
from infiniray.runtime.certificates import ShardCertificate, new_certificate
from infiniray.runtime.driver import ShardDriver


@pytest.fixture
async def leaks() -> AsyncIterator[None]:
    """After the test: no task, no socket is left, and nothing went wrong unseen."""
    loop = asyncio.get_running_loop()
    unseen: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unseen.append(context))
    n_sockets = _n_sockets()
    yield
    gc.collect()  # tasks that failed and sockets that nobody closed say so now
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert _n_sockets() == n_sockets
    assert not unseen


def _n_sockets() -> int:
    n_sockets = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            n_sockets += os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
        except FileNotFoundError:  # the directory itself was open while it was listed
            continue
    return n_sockets


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Modules that say so run once without TLS, and once with it."""
    if "certificate" in metafunc.fixturenames and getattr(metafunc.module, "WITH_TLS_TOO", False):
        metafunc.parametrize("certificate", ["plain", "tls"], indirect=True)


@pytest.fixture
def certificate(request: pytest.FixtureRequest) -> ShardCertificate | None:
    """What shards show; None: they speak no TLS."""
    return new_certificate() if getattr(request, "param", "plain") == "tls" else None


@pytest.fixture
async def stage(leaks: None, certificate: ShardCertificate | None) -> AsyncIterator[Stage]:
    """A driver that listens, with a scripted state for the nodes n0 and n1."""
    script, invoker, coder = Script(("n0", "n1")), ScriptedInvoker(), GatedCoder()
    driver = ShardDriver(script, invoker, coder, SECRET, certificate=certificate)  # type: ignore[arg-type]
    await driver.start()
    await script.next(ev.Started)
    script.seen.clear()
    script.times_s.clear()
    made = Stage(script, invoker, coder, driver)
    made.certificate = "" if certificate is None else certificate.fingerprint
    yield made
    made.hang_up()
    coder.gate.set()
    await soon(driver.close())
    assert not driver._links
    assert not driver._buffers
    assert not driver._waiting
    assert len(driver._timers) == 0


@pytest.fixture
async def grid(leaks: None, certificate: ShardCertificate | None) -> AsyncIterator[Callable[..., Awaitable[Grid]]]:
    """Makes grids; see :class:`Grid` for what can be set."""
    grids: list[Grid] = []

    async def make(**options: Any) -> Grid:
        grids.append(Grid(**options, certificate=certificate))
        await grids[-1].start()
        return grids[-1]

    yield make
    for made in grids:
        await soon(made.close())
