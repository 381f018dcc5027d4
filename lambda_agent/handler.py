"""Where the platform enters: ``lambda_agent.handler.handle``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Protocol

from lambda_agent.instance import Instance
from lambda_agent.invocation import Invocation, StaleEpoch
from lambda_agent.session import Session

__all__ = ["answer", "handle"]

_instance: Instance | None = None


class Context(Protocol):
    """What is used of the platform's context object."""

    def get_remaining_time_in_millis(self) -> int: ...


def handle(event: Any, context: Context) -> dict[str, object]:
    """Serve one session: dial the shard (or use the kept connection), answer requests, linger, say BYE.

    A warm-up is no session: it returns at once, and nobody is dialled.

    Returns what the shard needs for its books (session, reason, instance, epoch, n_chunks, used_bytes), and of a
    session what it did (requests, bytes_in, bytes_out, linger_ms, protocol_errors), of a warm-up what the instance
    has seen (spans).

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
    return answer(_instance, event, time.monotonic() + context.get_remaining_time_in_millis() / 1000)


def answer(
    instance: Instance,
    event: Any,
    end_s: float,
    new_session: Callable[[Instance, Invocation, float], Session] = Session,
) -> dict[str, object]:
    """What :func:`handle` does, on this instance, until ``end_s`` (monotonic clock) at the latest."""
    invocation = Invocation.from_event(event, instance.secret)
    if invocation.epoch < instance.epoch:
        raise StaleEpoch(f"membership epoch {invocation.epoch} is outdated; this node has seen {instance.epoch}")
    instance.epoch = invocation.epoch
    names = {"session": invocation.session, "reason": invocation.reason}
    if invocation.reason == "warm":
        return {**names, **instance.holdings(), "spans": instance.store.spans.to_wire()}
    work = new_session(instance, invocation, end_s).run()
    return {**names, **instance.holdings(), **work}
