"""Looking after shards: whoever does not answer is asked again, and a restarted one is woken by being asked."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from infiniray.cluster import rayapi
from infiniray.cluster.deadline import Deadline
from infiniray.errors import InfiniRayError

__all__ = ["HealthWatch"]

_INTERVAL_S = 1.0
_PATIENCE_S = 5.0


class HealthWatch:
    """I ask every shard how it is, once a second, in a thread that ends with the process or with :meth:`stop`.

    Ray restarts the process of an actor that died, but tells nobody: the first call starts the shard in it. Without me
    that would be the next request, which then would wait for the whole recovery.

    All are asked at once and share one patience, so that a shard that hangs keeps no other waiting for long.
    """

    def __init__(self, actors: Callable[[], tuple[str, ...]]) -> None:
        self._actors = actors
        self._is_over = threading.Event()
        threading.Thread(target=self._watch, name="health", daemon=True).start()

    def stop(self) -> None:
        self._is_over.set()

    def _watch(self) -> None:
        while not self._is_over.wait(_INTERVAL_S):
            self._ask_all()

    def _ask_all(self) -> None:
        asked: list[tuple[str, rayapi.Ref]] = []
        for name in self._actors():
            with contextlib.suppress(InfiniRayError):
                asked.append((name, rayapi.find_actor(name).health.remote()))
        patience = Deadline.after(_PATIENCE_S)
        for name, ref in asked:
            with contextlib.suppress(InfiniRayError):  # it is asked again
                rayapi.wait(ref, patience, "health", name)
