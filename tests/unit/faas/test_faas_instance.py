"""The life of an instance, driven through its Runtime API without a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from infiniray.faas.local.functions import Function
from infiniray.faas.local.instances import Instance, InstanceState

DEADLINE_S = 20.0


class FakeNursery:
    """Forks nothing: the test plays the process. Its pid 0 gets no signals."""

    def __init__(self) -> None:
        self.exited: Callable[[int], None] | None = None
        self.output = -1

    async def spawn(
        self, environ: dict[str, str], root: str, data_limit_bytes: int, output: int, on_exit: Callable[[int], None]
    ) -> int:
        self.exited = on_exit
        self.output = os.dup(output)
        return 0

    def end(self, status: int) -> None:
        assert self.exited is not None
        self.exited(status)


class Runtime:
    """The function's side of the Runtime API."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._root = f"http://127.0.0.1:{port}/2018-06-01/runtime"

    def ask_next(self) -> asyncio.Task[tuple[str, bytes]]:
        async def ask() -> tuple[str, bytes]:
            async with self._session.get(f"{self._root}/invocation/next") as answer:
                return answer.headers["Lambda-Runtime-Aws-Request-Id"], await answer.read()

        return asyncio.get_running_loop().create_task(ask())

    async def post(self, path: str, body: bytes) -> int:
        async with self._session.post(f"{self._root}/{path}", data=body) as answer:
            return answer.status


@pytest.fixture
def nursery() -> Any:
    nursery = FakeNursery()
    yield nursery
    if nursery.output >= 0:
        os.close(nursery.output)


@pytest.fixture
async def instance(nursery: FakeNursery, tmp_path: Path) -> AsyncIterator[Instance]:
    function = Function(
        name="f", region="us-east-1", role="", runtime="python3.12", handler="app.f", memory_mb=128, timeout_s=10,
        code_root=tmp_path, code_sha256="", code_bytes=0,
    )  # fmt: skip
    changes: list[InstanceState] = []
    instance = Instance(function, lambda changed: changes.append(changed.state))
    await instance.fork(nursery)  # type: ignore[arg-type]
    yield instance
    if instance.state is not InstanceState.GONE:
        nursery.end(-signal.SIGKILL)
    await instance.close()
    assert changes[-1] is InstanceState.GONE


@pytest.fixture
async def runtime(instance: Instance) -> AsyncIterator[Runtime]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session:
        yield Runtime(session, instance.runtime_port)


async def ready(instance: Instance, runtime: Runtime) -> asyncio.Task[tuple[str, bytes]]:
    turn = runtime.ask_next()
    assert await instance.init_ended(DEADLINE_S)
    await instance.init(DEADLINE_S)
    return turn


async def test_it_is_taken_from_birth_and_free_after_its_first_invocation(instance: Instance, runtime: Runtime) -> None:
    assert (instance.state, instance.is_free) == (InstanceState.INIT, False)
    turn = await ready(instance, runtime)
    assert (instance.state, instance.is_free) == (InstanceState.IDLE, False)
    run = asyncio.create_task(instance.run(b"1"))
    request_id, payload = await turn
    assert payload == b"1"
    assert (instance.state, instance.is_free) == (InstanceState.BUSY, False)
    assert await runtime.post(f"invocation/{request_id}/response", b"2") == 202
    turn = runtime.ask_next()
    assert (await run).payload == b"2"
    assert (instance.state, instance.is_free) == (InstanceState.IDLE, True)
    turn.cancel()


async def test_the_caller_is_answered_at_the_next_next(instance: Instance, runtime: Runtime) -> None:
    turn = await ready(instance, runtime)
    run = asyncio.create_task(instance.run(b"{}"))
    request_id, _ = await turn
    await runtime.post(f"invocation/{request_id}/response", b"{}")
    assert not run.done()
    assert instance.state is InstanceState.BUSY
    turn = runtime.ask_next()
    await run
    turn.cancel()


async def test_a_response_to_another_request_is_refused(instance: Instance, runtime: Runtime) -> None:
    turn = await ready(instance, runtime)
    run = asyncio.create_task(instance.run(b"{}"))
    request_id, _ = await turn
    assert await runtime.post("invocation/other/response", b"wrong") == 400
    await runtime.post(f"invocation/{request_id}/response", b"right")
    turn = runtime.ask_next()
    assert (await run).payload == b"right"
    assert await runtime.post(f"invocation/{request_id}/response", b"late") == 400
    turn.cancel()


async def test_the_error_type_comes_from_the_body(instance: Instance, runtime: Runtime) -> None:
    turn = await ready(instance, runtime)
    run = asyncio.create_task(instance.run(b"{}"))
    request_id, _ = await turn
    body = b'{"errorType": "ValueError", "errorMessage": "no"}'
    assert await runtime.post(f"invocation/{request_id}/error", body) == 202
    turn = runtime.ask_next()
    outcome = await run
    assert (outcome.error_type, outcome.payload) == ("ValueError", body)
    turn.cancel()


async def test_next_without_a_response_is_an_error(instance: Instance, runtime: Runtime) -> None:
    turn = await ready(instance, runtime)
    run = asyncio.create_task(instance.run(b"{}"))
    await turn
    turn = runtime.ask_next()
    assert (await run).error_type == "Runtime.Unknown"
    turn.cancel()


async def test_an_init_error_is_kept_for_the_caller(instance: Instance, runtime: Runtime, nursery: FakeNursery) -> None:
    await runtime.post("init/error", b'{"errorType": "Runtime.ImportModuleError"}')
    await instance.init(DEADLINE_S)
    assert instance.init_failure is not None
    assert instance.init_failure.error_type == "Runtime.ImportModuleError"
    nursery.end(1)
    assert instance.init_failure.error_type == "Runtime.ImportModuleError"


async def test_an_end_during_init_is_an_exit_error(instance: Instance, nursery: FakeNursery) -> None:
    nursery.end(3)
    await instance.init(DEADLINE_S)
    assert instance.init_failure is not None
    assert json.loads(instance.init_failure.payload)["errorMessage"].endswith("exit status 3")


async def test_an_init_without_end_times_out(instance: Instance) -> None:
    await instance.init(0.0)
    assert instance.init_failure is not None
    assert instance.init_failure.error_type == "Sandbox.Timedout"
    assert instance.init_s == 0.0


async def test_an_end_between_init_and_the_invocation(
    instance: Instance, runtime: Runtime, nursery: FakeNursery
) -> None:
    turn = await ready(instance, runtime)
    nursery.end(-signal.SIGKILL)
    outcome = await instance.run(b"{}")
    assert outcome.error_type == "Runtime.ExitError"
    assert json.loads(outcome.payload)["errorMessage"].endswith("signal: killed")
    turn.cancel()


async def test_one_that_is_about_to_be_killed_is_not_free(instance: Instance, runtime: Runtime) -> None:
    turn = await ready(instance, runtime)
    run = asyncio.create_task(instance.run(b"{}"))
    request_id, _ = await turn
    await runtime.post(f"invocation/{request_id}/response", b"{}")
    turn = runtime.ask_next()
    await run
    instance.kill("reclaimed")
    instance.kill("shutdown")
    assert (instance.state, instance.is_free, instance.kill_reason) == (InstanceState.IDLE, False, "reclaimed")
    turn.cancel()


async def test_the_log_is_that_of_the_invocation(instance: Instance, runtime: Runtime, nursery: FakeNursery) -> None:
    turn = await ready(instance, runtime)
    for text in (b"first", b"second"):
        run = asyncio.create_task(instance.run(b"{}"))
        request_id, _ = await turn
        os.write(nursery.output, text)
        await runtime.post(f"invocation/{request_id}/response", b"{}")
        turn = runtime.ask_next()
        assert (await run).log_tail == text
    turn.cancel()
