"""What choices come to, by simulation: the shards' own decisions in virtual time (:mod:`infiniray.sim.experiment`)."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Sequence

from infiniray.config import Config
from infiniray.sim.client import Asked
from infiniray.sim.experiment import run_experiment
from infiniray.sim.reclaims import Sample
from workloads.planner.configured import configured
from workloads.planner.space import MapAll, Outcome, Settings
from workloads.trace import Method, Request

__all__ = ["Simulated", "asked_of", "several_at_once"]


def asked_of(requests: Iterable[Request]) -> list[Asked]:
    """A trace as the simulation takes it, all of it in memory: it is simulated many times."""
    return [Asked(r.timestamp_s, r.key, r.size_bytes, r.method is Method.GET) for r in requests]


@contextlib.contextmanager
def several_at_once(n_workers: int) -> Iterator[MapAll]:
    """Processes to simulate in, as a ``map``; 1: this one. They are gone when the context ends, busy or not."""
    if n_workers == 1:
        yield map
        return
    pool = multiprocessing.get_context("spawn").Pool(n_workers, initializer=_leave_interrupts_to_the_parent)
    try:
        yield pool.imap
    finally:
        pool.terminate()
        pool.join()


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Simulated:
    """I simulate ``base`` with other settings, on what of a trace comes before ``until_s``, under the same reclaims and
    with the same seed each time."""

    def __init__(
        self,
        base: Config,
        trace: Sequence[Asked],
        reclaims: Sequence[Sample] = (),
        *,
        until_s: float = float("inf"),
        seed: int = 0,
    ) -> None:
        self._base = base
        self._trace = trace
        self._reclaims = reclaims
        self._until_s = until_s
        self._seed = seed

    def __call__(self, settings: Settings, /) -> Outcome:
        """Raises ConfigError: the settings do not go together."""
        requests = itertools.takewhile(lambda asked: asked.at_s <= self._until_s, self._trace)
        config = configured(self._base, settings)
        figures = run_experiment(config, requests, self._reclaims, seed=self._seed).figures
        costs = dict(figures["cost_usd"])
        return Outcome(
            hit_ratio=figures["hit_ratio"] or 0.0,
            availability=figures["availability"] or 0.0,  # None: nothing was hit
            cost_usd=costs.pop("total"),
            cost_by_purpose=costs,
        )
