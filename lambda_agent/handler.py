"""Where the platform enters: ``lambda_agent.handler.handle``."""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

from lambda_agent.instance import Instance
from lambda_agent.invocation import Invocation, StaleEpoch
from lambda_agent.session import Session

__all__ = ["handle"]

_instance: Instance | None = None


class Context(Protocol):
    """What is used of the platform's context object."""

    def get_remaining_time_in_millis(self) -> int: ...


def handle(event: Any, context: Context) -> dict[str, object]:
    """Serve one session: dial the shard (or use the kept connection), answer requests, linger, say BYE.

    Returns what the platform needs for the bill and the shard for its books: session, reason, instance,
    requests, bytes_in, bytes_out, n_chunks, used_bytes, linger_ms, protocol_errors.

    Raises:
        InvalidInvocation: the event is not by a shard of this pool.
        StaleEpoch: a shard of a newer membership has been here.
        LinkLost: the shard cannot be reached.
        HandshakeFailed: whoever was dialled did not prove to be the shard.
    """
    global _instance
    if _instance is None:
        # Not at import: platforms fork or restore many instances from one that has imported this already, and
        # they would all have the same id.
        _instance = Instance.from_environment(os.environ)
    instance = _instance
    end_s = time.monotonic() + context.get_remaining_time_in_millis() / 1000
    invocation = Invocation.from_event(event, instance.secret)
    if invocation.epoch < instance.epoch:
        raise StaleEpoch(f"membership epoch {invocation.epoch} is outdated; this node has seen {instance.epoch}")
    instance.epoch = invocation.epoch
    return Session(instance, invocation, end_s).run()
