"""The lean invoke path, against the platform: one execution for each call, typed errors."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from platform_harness import Gate, Lambda

from infiniray.errors import PlatformError, PlatformThrottled
from infiniray.faas.client import lambda_client
from infiniray.faas.invoker import FunctionInvoker


@pytest.fixture
async def invoker(functions: Lambda) -> AsyncIterator[FunctionInvoker]:
    client = lambda_client(functions.platform.endpoint, "us-east-1")
    invoker = FunctionInvoker(client, max_connections=32)
    yield invoker
    await invoker.close()
    client.close()


async def test_an_answer(functions: Lambda, invoker: FunctionInvoker) -> None:
    result = await invoker.invoke(functions.deploy("echo"), b'{"a": 1}', timeout_s=20)
    assert (result.status, result.function_error, json.loads(result.payload)) == (200, None, {"a": 1})


async def test_a_function_error_is_a_result(functions: Lambda, invoker: FunctionInvoker) -> None:
    result = await invoker.invoke(functions.deploy("fail"), b"{}", timeout_s=20)
    assert (result.status, result.function_error) == (200, "Unhandled")
    assert json.loads(result.payload)["errorType"] == "ValueError"


async def test_an_arn_is_a_name(functions: Lambda, invoker: FunctionInvoker) -> None:
    name = functions.deploy("echo")
    arn = functions.boto.get_function(FunctionName=name)["Configuration"]["FunctionArn"]
    assert (await invoker.invoke(arn, b"3", timeout_s=20)).payload == b"3"


async def test_throttled(functions: Lambda, invoker: FunctionInvoker) -> None:
    name = functions.deploy("echo")
    functions.admin.throttle(1)
    with pytest.raises(PlatformThrottled) as caught:
        await invoker.invoke(name, b"{}", timeout_s=20)
    assert (caught.value.function, caught.value.retry_after_s) == (name, 0.0)
    assert (await invoker.invoke(name, b"1", timeout_s=20)).payload == b"1"


async def test_a_service_error_is_not_tried_again(functions: Lambda, invoker: FunctionInvoker) -> None:
    name = functions.deploy("echo")
    functions.admin.fail(1)
    before = functions.admin.stats()
    with pytest.raises(PlatformError, match="500"):
        await invoker.invoke(name, b"{}", timeout_s=20)
    after = functions.admin.stats()
    assert (after["failed"] - before["failed"], after["invocations"] - before["invocations"]) == (1, 0)


async def test_an_unknown_function(invoker: FunctionInvoker) -> None:
    with pytest.raises(PlatformError, match="404"):
        await invoker.invoke("nobody", b"{}", timeout_s=20)


async def test_no_answer_in_time_is_one_execution(functions: Lambda, invoker: FunctionInvoker, gate: Gate) -> None:
    name = functions.deploy("held")
    before = functions.admin.stats()["invocations"]
    with pytest.raises(PlatformError, match=r"no answer within 0\.3 s"):
        await invoker.invoke(name, json.dumps(gate.event).encode(), timeout_s=0.3)
    assert functions.admin.stats()["invocations"] == before + 1
    await asyncio.to_thread(gate.wait)  # it runs on over there
    assert functions.instance(name)["state"] == "busy"


async def test_no_platform(gate: Gate) -> None:
    client = lambda_client(f"http://127.0.0.1:{gate.port}", "us-east-1")
    gate.close()
    invoker = FunctionInvoker(client, max_connections=1)
    with pytest.raises(PlatformError, match="ConnectionRefusedError"):
        await invoker.invoke("f", b"{}", timeout_s=20)
    await invoker.close()
    client.close()


async def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    client = lambda_client(None, "us-east-1")
    invoker = FunctionInvoker(client)
    with pytest.raises(PlatformError, match="credentials"):
        await invoker.invoke("f", b"{}", timeout_s=20)
    await invoker.close()
    client.close()


async def test_many_at_once_over_kept_connections(functions: Lambda, invoker: FunctionInvoker) -> None:
    names = [functions.deploy("echo") for _ in range(16)]
    for _ in range(2):
        results = await asyncio.gather(
            *(invoker.invoke(name, json.dumps(name).encode(), timeout_s=20) for name in names)
        )
        assert [json.loads(result.payload) for result in results] == names
    assert all(row["invocations"] == 2 for row in functions.admin.instances())


async def test_closing_ends_what_is_open(functions: Lambda, invoker: FunctionInvoker, gate: Gate) -> None:
    name = functions.deploy("held")
    call = asyncio.create_task(invoker.invoke(name, json.dumps(gate.event).encode(), timeout_s=20))
    await asyncio.to_thread(gate.wait)
    await invoker.close()
    with pytest.raises(PlatformError, match="invoke of function"):
        await call
    assert functions.instance(name)["state"] == "busy"  # it runs on over there


async def test_a_closed_one_opens_no_more_connections(functions: Lambda, invoker: FunctionInvoker) -> None:
    await invoker.close()
    before = functions.admin.stats()["invocations"]
    with pytest.raises(PlatformError, match="closed"):
        await invoker.invoke(functions.deploy("echo"), b"{}", timeout_s=20)
    assert functions.admin.stats()["invocations"] == before


def test_the_boto3_client_tries_once(functions: Lambda) -> None:
    name = functions.deploy("echo")
    with contextlib.closing(lambda_client(functions.platform.endpoint, "us-east-1")) as client:
        functions.admin.fail(1)
        with pytest.raises(client.exceptions.ServiceException):
            client.invoke(FunctionName=name)
        functions.admin.throttle(1)
        with pytest.raises(client.exceptions.TooManyRequestsException):
            client.invoke(FunctionName=name)
        assert client.invoke(FunctionName=name)["StatusCode"] == 200
