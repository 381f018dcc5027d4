"""What invokes the agent in these tests, in the platform's place."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from infiniray.wire import auth
from lambda_agent import handler

SECRET = bytes(range(32))
#: Longer than any test: the session ends because the shard hangs up.
LONG_MS = 60_000


class Context:
    def __init__(self, remaining_ms: int) -> None:
        self._remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> int:
        return self._remaining_ms


class Agent:
    """One instance of the node, invoked as the platform would, in a thread."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1)
        self._n_sessions = 0

    def event(self, address: str, /, **changes: Any) -> dict[str, Any]:
        self._n_sessions += 1
        event = {
            "reason": "serve",
            "node": "n1",
            "session": f"s{self._n_sessions}",
            "address": address,
            "epoch": 1,
            "linger_ms": LONG_MS,
            **changes,
        }
        claim = {name: event[name] for name in ("node", "session", "address", "epoch")}
        return {"proof": auth.invoke_proof(SECRET, **claim), **event}

    def handle(self, event: Any, *, remaining_ms: int = LONG_MS) -> Future[dict[str, Any]]:
        return self._pool.submit(handler.handle, event, Context(remaining_ms))

    def invoke(self, address: str, /, *, remaining_ms: int = LONG_MS, **changes: Any) -> Future[dict[str, Any]]:
        return self.handle(self.event(address, **changes), remaining_ms=remaining_ms)

    def close(self) -> None:
        if handler._instance is not None:
            handler._instance.hang_up()
            handler._instance = None
        self._pool.shutdown(cancel_futures=True)
