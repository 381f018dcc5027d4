"""What the platform's tests work with: stock boto3, functions to run, a gate that holds them, a look at processes."""

from __future__ import annotations

import io
import json
import socket
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from infiniray.faas.local.launch import LocalPlatform

DEADLINE_S = 20.0
ROLE = "arn:aws:iam::123456789012:role/test"
APP = (Path(__file__).parent / "platform_app.py").read_text()


def zipped(**modules: str) -> bytes:
    """A deployment package of modules, given by name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, source in modules.items():
            archive.writestr(f"{name}.py", source)
    return file.getvalue()


def stock_client(endpoint: str, **settings: Any) -> Any:
    """A Lambda client as anybody would make it: ``endpoint_url`` is all that is special."""
    return boto3.client(
        "lambda",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="anything",
        aws_secret_access_key="anything",
        config=Config(retries={"max_attempts": 0}, max_pool_connections=32, read_timeout=60, **settings),
    )


def wait_until(condition: Callable[[], Any]) -> Any:
    """What ``condition`` gives once that is true; for what only the kernel or another process can bring about."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not (result := condition()):
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S:g} s: {condition}"
        time.sleep(0.005)
    return result


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    return process_state(pid) not in ("", "Z", "X")


def process_state(pid: int) -> str:
    """As in ``ps``: R, S, T (stopped) ...; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants_of(pid: int) -> list[int]:
    """Parents before their children."""
    return [person for child in children_of(pid) for person in [child, *descendants_of(child)]]


class Lambda:
    """Functions on one platform, by stock boto3; those deployed here go away at the end."""

    def __init__(self, platform: LocalPlatform) -> None:
        self.platform = platform
        self.admin = platform.admin
        self.boto = stock_client(platform.endpoint)
        self._n_deployed = 0
        self._executor = ThreadPoolExecutor(16)

    def deploy(self, handler: str, *, source: str = APP, **settings: Any) -> str:
        """A new function; ``handler`` is a function in ``source``. Returns its name."""
        self._n_deployed += 1
        request: dict[str, Any] = {"FunctionName": f"{handler}-{self._n_deployed}", "MemorySize": 128, "Timeout": 10}
        request |= {"Runtime": "python3.12", "Role": ROLE, "Handler": f"app.{handler}"}
        request |= {"Code": {"ZipFile": zipped(app=source)}, **settings}
        self.boto.create_function(**request)
        name: str = request["FunctionName"]
        return name

    def call(self, name: str, event: Any = None, **settings: Any) -> Any:
        """What the function answers; it must not fail."""
        answer = self.boto.invoke(FunctionName=name, Payload=json.dumps(event or {}), **settings)
        body = json.loads(answer["Payload"].read())
        assert "FunctionError" not in answer, body
        return body

    def error(self, name: str, event: Any = None) -> dict[str, Any]:
        """The error with which the function ends; it must fail."""
        answer = self.boto.invoke(FunctionName=name, Payload=json.dumps(event or {}))
        assert (answer["StatusCode"], answer.get("FunctionError")) == (200, "Unhandled")
        body: dict[str, Any] = json.loads(answer["Payload"].read())
        return body

    def background(self, act: Callable[..., Any], *arguments: Any) -> Any:
        """A future of ``act(*arguments)``."""
        return self._executor.submit(act, *arguments)

    def instance(self, name: str) -> dict[str, Any]:
        """The one instance of a function."""
        (only,) = self.admin.instances(name)
        return only

    def close(self) -> None:
        self._executor.shutdown()
        self.boto.close()


class Gate:
    """A listener that functions connect to: where a test sees them run, and holds them until it lets them go."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(DEADLINE_S)
        self.port: int = self._listener.getsockname()[1]
        self.arrived: list[socket.socket] = []

    @property
    def event(self) -> dict[str, int]:
        """What the handlers in ``platform_app`` need to find it."""
        return {"gate": self.port}

    def wait(self) -> socket.socket:
        """The next connection of a function."""
        connection, _ = self._listener.accept()
        connection.settimeout(DEADLINE_S)
        self.arrived.append(connection)
        return connection

    def close(self) -> None:
        self._listener.close()
        for connection in self.arrived:
            connection.close()
