"""Starting sessions: an Invoke command becomes an invocation, and its end an event."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Protocol

from infiniray.core.commands import Invoke
from infiniray.core.events import CopyReport, InvokeOutcome, InvokeReturned
from infiniray.core.ids import InstanceId
from infiniray.errors import PlatformError, PlatformThrottled
from infiniray.runtime.keys import KeyRing
from infiniray.wire import auth
from infiniray.wire.describe import SeqSpans
from infiniray.wire.frames import ProtocolError

__all__ = ["InvokeAnswer", "Invoker", "Sessions"]

#: Of what a function says of its failure.
_MAX_DETAIL = 300


class InvokeAnswer(Protocol):
    """What a platform answers; as :class:`infiniray.faas.invoker.InvokeResult`."""

    @property
    def function_error(self) -> str | None: ...

    @property
    def payload(self) -> bytes: ...


class Invoker(Protocol):
    """How functions are invoked; as :class:`infiniray.faas.invoker.FunctionInvoker`."""

    async def invoke(self, function: str, payload: bytes, *, timeout_s: float) -> InvokeAnswer: ...

    async def close(self) -> None: ...


class Sessions:
    """I hold the invocations that are out, one task each, and report how each ended."""

    def __init__(
        self,
        invoker: Invoker,
        keys: bytes | KeyRing,
        epoch: int,
        *,
        linger_s: float,
        timeout_s: float,
        certificate: str = "",
        report: Callable[[InvokeReturned], None],
        depose: Callable[[], None],
    ) -> None:
        self.address = ""  # where nodes shall dial; known when the listener listens
        self._invoker = invoker
        self.keys = KeyRing.of(keys)  # functions have one of them, nobody knows which
        self._epoch = epoch
        self._linger_s = linger_s
        self._timeout_s = timeout_s
        self._certificate = certificate  # fingerprint of what nodes shall see where they dial; "": no TLS
        self._report = report
        self._depose = depose
        self._running: set[asyncio.Task[None]] = set()

    def begin(self, command: Invoke) -> None:
        task = asyncio.get_running_loop().create_task(self._run(command))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self, command: Invoke) -> None:
        outcome, detail, retry_after_s, copy = InvokeOutcome.OK, "", 0.0, None
        is_stale = False
        try:
            answer = await self._invoker.invoke(command.node, self._payload(command), timeout_s=self._timeout_s)
            if answer.function_error is not None:
                outcome = InvokeOutcome.FUNCTION_ERROR
                told = _parse(answer.payload)
                detail = _error_text(told) or answer.payload[:_MAX_DETAIL].decode(errors="replace")
                is_stale = told.get("errorType") == "StaleEpoch"
            elif command.reason == "warm":
                copy = _copy_report(answer.payload)
        except PlatformThrottled as error:
            outcome, detail, retry_after_s = InvokeOutcome.THROTTLED, str(error), error.retry_after_s
        except PlatformError as error:
            outcome, detail = InvokeOutcome.UNREACHABLE, str(error)
        except Exception as error:  # no credentials, say: an invocation without an end would block its node for ever
            outcome, detail = InvokeOutcome.UNREACHABLE, f"{type(error).__name__}: {error}"
        self._report(
            InvokeReturned(
                node=command.node, session=command.session, outcome=outcome, detail=detail,
                retry_after_s=retry_after_s, copy=copy,
            )
        )  # fmt: skip
        if is_stale:
            self._depose()

    def _payload(self, command: Invoke) -> bytes:
        return json.dumps(
            {
                "reason": command.reason,
                "node": command.node,
                "session": command.session,
                "address": self.address,
                "epoch": self._epoch,
                **({"certificate": self._certificate} if self._certificate else {}),
                **self._proofs(command),
                "linger_ms": self._linger_s * 1000,
            }
        ).encode()

    def _proofs(self, command: Invoke) -> dict[str, Any]:
        """One, or while secrets are changed one for each that the function may have, by the secret's id."""
        proofs = {
            auth.key_id(secret): auth.invoke_proof(
                secret,
                node=command.node,
                session=command.session,
                address=self.address,
                epoch=self._epoch,
                certificate=self._certificate,
            )
            for secret in self.keys
        }
        return {"proofs": proofs} if len(proofs) > 1 else {"proof": proofs.popitem()[1]}

    async def close(self, timeout_s: float) -> None:
        """Wait for the invocations that are out, then give up on them."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._invoker.close()


def _copy_report(payload: bytes) -> CopyReport | None:
    """What an instance told at the end of a warm-up; None if that makes no sense."""
    told = _parse(payload)
    instance = told.get("instance")
    if not isinstance(instance, str) or not instance:
        return None
    try:
        return CopyReport(instance=InstanceId(instance), spans=SeqSpans.from_wire(told.get("spans")))
    except ProtocolError:
        return None


def _error_text(told: dict[str, Any]) -> str:
    """What a function raised, as ``Type: message``; empty if that is not what was told."""
    kind, message = told.get("errorType"), told.get("errorMessage")
    return f"{kind}: {message}"[:_MAX_DETAIL] if isinstance(kind, str) and isinstance(message, str) else ""


def _parse(payload: bytes) -> dict[str, Any]:
    """A JSON object; empty if it is none."""
    try:
        value = json.loads(payload)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
