"""Waiting for what a supervisor does by itself, and saying meanwhile how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from infiniray.cli.output import fail, says

if TYPE_CHECKING:
    from infiniray.cache import Cache

__all__ = ["wait_for"]

_POLL_S = 0.3


def wait_for(
    cache: Cache, work: str, line: Callable[[dict[str, Any]], str], timeout_s: float
) -> tuple[dict[str, Any] | None, float]:
    """Wait until the ``work`` of a cache's status is over: what is left to be said of it, and the seconds that it took.

    A supervisor that is away is waited for: it is restarted, and goes on.
    """
    from infiniray.errors import InfiniRayError

    began_s = time.monotonic()
    with says().status("beginning") as spinner:
        while True:
            try:
                state = cache.status()[work]
            except InfiniRayError as error:
                if not error.retryable:
                    raise
                said = "the supervisor is away"
            else:
                if state is None or not state["is_running"]:
                    return state, round(time.monotonic() - began_s, 1)
                said = line(state)
            spinner.update(said)
            if not time.monotonic() - began_s < timeout_s:
                fail(f"not over after {timeout_s:g} s, and goes on: {said}")
            time.sleep(_POLL_S)
