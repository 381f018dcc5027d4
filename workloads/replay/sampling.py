"""What goes on inside the cache during a replay, seen from its counters: repairs, reclaims, and the platform's bill."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol

from infiniray.errors import InfiniRayError
from workloads.replay.results import RunWriter

__all__ = ["Sampler", "StatsSource"]

#: {kind of event: path to its counter in the cache's statistics}
_COUNTERS = {
    "repair": ("repairs",),
    "degraded read": ("degraded_reads",),
    "eviction": ("evictions",),
    "reclaim": ("platform", "reclaimed"),
}
_BILL = ("platform", "bill", "by_reason")
_JOIN_S = 60.0


class StatsSource(Protocol):
    """What is sampled; :class:`infiniray.Cache` does."""

    def stats(self) -> dict[str, Any]: ...


class Sampler:
    """I read the cache's counters every ``every_s`` seconds and write what they have grown by to the run's tables.

    Context manager: a first reading when entered, a last one when left. A reading that fails is left out; the next one
    covers its time too.

    Args:
        request_s: the time of the trace that the replay has come to.
    """

    def __init__(
        self,
        cache: StatsSource,
        writer: RunWriter,
        request_s: Callable[[], float],
        *,
        system: str,
        every_s: float = 2.0,
    ) -> None:
        self._cache = cache
        self._writer = writer
        self._request_s = request_s
        self._system = system
        self._every_s = every_s
        self._before: tuple[dict[str, int], dict[str, float]] | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replay-sampler")
        self.n_failed = 0

    def __enter__(self) -> Sampler:
        self.sample()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(_JOIN_S)
        if not self._thread.is_alive():
            self.sample()

    def sample(self) -> None:
        """One reading."""
        try:
            stats = self._cache.stats()
        except InfiniRayError:
            self.n_failed += 1
            return
        counters = {kind: int(_at(stats, path) or 0) for kind, path in _COUNTERS.items()}
        now = counters, _spent_usd(stats)
        if self._before is not None:
            self._write(self._before, now)
        self._before = now

    def _run(self) -> None:
        while not self._ended.wait(self._every_s):
            self.sample()

    def _write(
        self, before: tuple[dict[str, int], dict[str, float]], now: tuple[dict[str, int], dict[str, float]]
    ) -> None:
        row = {"request_s": self._request_s(), "system": self._system}
        grown = {kind: n - before[0][kind] for kind, n in now[0].items()}  # a shard that restarts counts from 0
        spent = {purpose: usd - before[1].get(purpose, 0.0) for purpose, usd in now[1].items()}
        self._writer.events.write_rows([{**row, "kind": kind, "n": n} for kind, n in grown.items() if n > 0])
        costs = [{**row, "purpose": purpose, "usd": usd} for purpose, usd in spent.items() if usd > 0]
        self._writer.costs.write_rows(costs)


def _at(stats: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """None where AWS, or a platform that does not answer, tells nothing."""
    found: Any = stats
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _spent_usd(stats: Mapping[str, Any]) -> dict[str, float]:
    return {purpose: float(line["usd"]) for purpose, line in (_at(stats, _BILL) or {}).items()}


def elapsed_trace_s(began_s: float, speed_up: float) -> float:
    """The time of the trace that a replay has come to which began at ``began_s`` of the monotonic clock. Beyond the
    trace's end where it is late, so that what is spent then is not taken for its last minute."""
    return max(0.0, time.monotonic() - began_s) * speed_up
