"""The life of one instance: INIT, then idle (frozen) and busy in turns, until it is reclaimed or breaks.

The instance is a process that runs AWS's runtime client against a Runtime API of its own
(:mod:`~infiniray.faas.local.runtime_api`). It is free again when it asks for its *next*
invocation, not when it responds, and the caller is answered then.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import json
import os
import signal
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from infiniray.faas.local.functions import Function
from infiniray.faas.local.nursery import Nursery
from infiniray.faas.local.runtime_api import RuntimeConnection

__all__ = ["Instance", "InstanceState", "Outcome"]

MAX_RESPONSE_BYTES = 6 << 20
_LOG_TAIL_BYTES = 4096
_PIPE_BYTES = 1 << 16
_MiB = 1 << 20


class InstanceState(enum.Enum):
    INIT = "init"  # from the fork to the first `next`
    IDLE = "idle"  # frozen
    BUSY = "busy"
    GONE = "gone"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an invocation ended. ``error_type`` is None when the function answered."""

    payload: bytes
    error_type: str | None = None
    duration_s: float = 0.0
    log_tail: bytes = b""


@dataclass(slots=True)
class _Invocation:
    request_id: str
    deadline_ms: int
    done: asyncio.Future[Outcome]
    answer: Outcome | None = None


class Instance:
    """I am one execution environment. One invocation at a time; nothing runs in me between invocations."""

    def __init__(self, function: Function, on_change: Callable[[Instance], None]) -> None:
        self.id = uuid.uuid4().hex[:12]
        self.function = function
        self.state = InstanceState.INIT
        self.pid = 0
        self.started_s = self.used_s = time.monotonic()
        self.init_s = 0.0
        self.n_invocations = 0
        self.runtime_port = 0
        self.kill_reason: str | None = None  # why we killed it, if we did
        self.is_taken = True  # by an invocation, at first the one that it was started for
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._connections: set[RuntimeConnection] = set()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._turn: RuntimeConnection | None = None  # where a `next` waits to be answered
        self._current: _Invocation | None = None
        self._init_error: Outcome | None = None
        self._init_end_s = 0.0
        self._log: deque[bytes] = deque(maxlen=64)
        self._output = -1

    # ------------------------------------------------------------ life

    @property
    def is_free(self) -> bool:
        """Whether an invocation may take it: frozen, promised to nobody, and not about to be killed."""
        return self.state is InstanceState.IDLE and not self.is_taken and self.kill_reason is None

    async def fork(self, nursery: Nursery) -> None:
        """Start the process.

        Raises:
            asyncio.TimeoutError, OSError: there is none.
        """
        self._server = await self._loop.create_server(
            lambda: RuntimeConnection(self, MAX_RESPONSE_BYTES + 1, self._connections), "127.0.0.1", 0
        )
        self.runtime_port = self._server.sockets[0].getsockname()[1]
        self._output, theirs = os.pipe()
        os.set_blocking(self._output, False)
        self._loop.add_reader(self._output, self._read_output)
        self.started_s = self.used_s = time.monotonic()
        try:
            # The watchdog enforces the limit; this is what stops a burst between two of its looks.
            data_limit_bytes = (self.function.memory_mb + 256) * _MiB
            root = str(self.function.code_root)
            self.pid = await nursery.spawn(self._environ(), root, data_limit_bytes, theirs, self._exited)
        finally:
            os.close(theirs)
        if self.state is InstanceState.IDLE:  # it asked before we knew whom to freeze
            self._signal(signal.SIGSTOP)

    async def init_ended(self, timeout_s: float) -> bool:
        """Wait for the end of INIT: its first `next`, an error or its end. False if that takes longer."""
        await asyncio.wait([self._ready], timeout=timeout_s)
        return self._ready.done()

    async def init(self, timeout_s: float) -> None:
        """Wait for the first `next`. Afterwards the instance is idle, or going with :attr:`init_failure` set."""
        left_s = self.started_s + timeout_s - time.monotonic()
        if not await self.init_ended(max(0.0, left_s)):
            self._init_error = self._failure("Sandbox.Timedout", f"INIT timed out after {timeout_s:.2f} seconds")
        self.init_s = self._init_end_s - self.started_s if self._ready.done() else timeout_s
        if self._init_error is not None:
            self.kill("init failed")

    @property
    def init_failure(self) -> Outcome | None:
        return self._init_error

    async def run(self, payload: bytes) -> Outcome:
        """One invocation, on an instance that was taken for it."""
        turn, self._turn = self._turn, None
        if turn is None:  # it was reclaimed between INIT and now
            return self._exit_failure(self.id, _how_it_ended(-signal.SIGKILL))
        self.is_taken = True
        self.state = InstanceState.BUSY
        self.n_invocations += 1
        self._log.clear()
        begun_s = time.monotonic()
        timeout_s = self.function.timeout_s
        invocation = _Invocation(str(uuid.uuid4()), int((time.time() + timeout_s) * 1000), self._loop.create_future())
        self._current = invocation
        self._on_change(self)
        turn.invoke(self._headers(invocation), payload)
        self._signal(signal.SIGCONT)  # after the payload is there: so it wakes once
        alarm = self._loop.call_later(timeout_s, self._time_out, invocation)
        try:
            outcome = await asyncio.shield(invocation.done)
        finally:
            alarm.cancel()
        self.used_s = time.monotonic()
        self._read_output()  # what it printed last may still be in the pipe
        return Outcome(
            payload=outcome.payload,
            error_type=outcome.error_type,
            duration_s=self.used_s - begun_s,
            log_tail=b"".join(self._log)[-_LOG_TAIL_BYTES:],
        )

    def kill(self, reason: str) -> None:
        """End the process; works on a frozen one, too."""
        if self.state is not InstanceState.GONE:
            self.kill_reason = self.kill_reason or reason
            self._signal(signal.SIGKILL)

    def hang(self) -> None:
        """Stop the process in the middle of whatever it does (fault injection)."""
        self._signal(signal.SIGSTOP)

    async def close(self) -> None:
        """Release what the instance held; its process must have ended."""
        if self._output >= 0:
            self._loop.remove_reader(self._output)
            os.close(self._output)
            self._output = -1
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(self._connections):
            connection.close()

    # ------------------------------------------------------------ what the Runtime API is told

    def asked_next(self, connection: RuntimeConnection) -> None:
        """It is idle from here on, until there is an invocation."""
        if self.state is InstanceState.GONE:
            return
        if self._current is not None:
            self.is_taken = False
        self._finish()
        self._turn = connection
        self.state = InstanceState.IDLE
        self._signal(signal.SIGSTOP)
        self._on_change(self)
        self._end_init()

    def responded(self, request_id: str, body: bytes) -> int:
        return self._respond(request_id, Outcome(payload=body))

    def failed(self, request_id: str, body: bytes) -> int:
        return self._respond(request_id, Outcome(payload=body, error_type=_error_type(body)))

    def init_failed(self, body: bytes) -> int:
        self._init_error = Outcome(payload=body, error_type=_error_type(body))
        self._end_init()
        return 202

    def _headers(self, invocation: _Invocation) -> dict[str, str]:
        return {
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": self.function.arn,
            "Lambda-Runtime-Trace-Id": f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Sampled=0",
        }

    def _end_init(self) -> None:
        if not self._ready.done():
            self._init_end_s = time.monotonic()
            self._ready.set_result(None)

    def _respond(self, request_id: str, answer: Outcome) -> int:
        current = self._current
        if current is None or current.request_id != request_id:
            return 400
        if len(answer.payload) > MAX_RESPONSE_BYTES:
            detail = f"Response payload size exceeded maximum allowed payload size ({MAX_RESPONSE_BYTES} bytes)."
            answer = self._failure("Function.ResponseSizeTooLarge", detail)
        current.answer = answer
        return 202

    def _finish(self) -> None:
        """It asks for more: the invocation before is over."""
        current, self._current = self._current, None
        if current is not None and not current.done.done():
            current.done.set_result(current.answer or self._failure("Runtime.Unknown", "no response"))

    def _time_out(self, invocation: _Invocation) -> None:
        if not invocation.done.done():
            detail = f"{_now()} {invocation.request_id} Task timed out after {self.function.timeout_s:.2f} seconds"
            invocation.done.set_result(self._failure("Sandbox.Timedout", detail))
            self.kill("timeout")

    # ------------------------------------------------------------ the process

    def _exited(self, status: int) -> None:
        self.state = InstanceState.GONE
        failure = self._exit_failure(self._current.request_id if self._current else self.id, _how_it_ended(status))
        if not self._ready.done():
            self._init_error = self._init_error or failure
            self._end_init()
        current, self._current = self._current, None
        if current is not None and not current.done.done():
            current.done.set_result(failure)
        self._turn = None
        self._on_change(self)

    def _signal(self, number: signal.Signals) -> None:
        if self.pid and self.state is not InstanceState.GONE:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def _read_output(self) -> None:
        if self._output < 0:
            return
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._output, _PIPE_BYTES)
            if data:
                self._log.append(data[-_LOG_TAIL_BYTES:])
            else:
                self._loop.remove_reader(self._output)

    def _environ(self) -> dict[str, str]:
        function = self.function
        return {
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_SESSION_TOKEN": "local",
            **function.environment,
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{self.runtime_port}",
            "AWS_LAMBDA_FUNCTION_NAME": function.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{function.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": f"{time.strftime('%Y/%m/%d')}/[$LATEST]{self.id}",
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{function.runtime}",
            "AWS_REGION": function.region,
            "AWS_DEFAULT_REGION": function.region,
            "_HANDLER": function.handler,
            "LAMBDA_TASK_ROOT": str(function.code_root),
            "LAMBDA_RUNTIME_DIR": "/var/runtime",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
        }

    def _exit_failure(self, request_id: str, how: str) -> Outcome:
        return self._failure("Runtime.ExitError", f"RequestId: {request_id} Error: Runtime exited {how}")

    @staticmethod
    def _failure(kind: str, message: str) -> Outcome:
        body: dict[str, Any] = {"errorType": kind, "errorMessage": message}
        return Outcome(payload=json.dumps(body).encode(), error_type=kind)


def _how_it_ended(status: int) -> str:
    """In AWS's words."""
    if status == 0:
        return "without providing a reason"
    if status == -signal.SIGKILL:
        return "with error: signal: killed"
    if status < 0:
        return f"with error: signal: {signal.strsignal(-status) or -status}".lower()
    return f"with error: exit status {status}"


def _error_type(body: bytes) -> str:
    """awslambdaric names the type in the body; there is no header."""
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(body).get("errorType") or "Unhandled")
    return "Unhandled"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
