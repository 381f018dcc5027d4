"""Between traces, simulated experiments and the tables that reports are made of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from infiniray.sim.client import Asked, Outcome, Served
from infiniray.sim.experiment import START_S, ExperimentResult, HourRow
from workloads.replay.results import OutcomeName, Result, RunInfo, RunWriter, table_of
from workloads.trace import Method, Request

__all__ = ["SimulatedRun", "asked_of"]

_ROWS = 1000
_HOUR_S = 3600.0
_OUTCOMES = {
    Outcome.HIT: OutcomeName.HIT,
    Outcome.MISS: OutcomeName.MISS,
    Outcome.RESET: OutcomeName.RESET,
    Outcome.STORED: OutcomeName.STORED,
    Outcome.ERROR: OutcomeName.ERROR,
}
#: Names that the report's plots know.
_EVENTS = {"repairs": "repair", "degraded_reads": "degraded read", "reclaims": "reclaim", "evictions": "eviction"}


def asked_of(requests: Iterable[Request]) -> Iterator[Asked]:
    """A trace as an experiment takes it."""
    for request in requests:
        yield Asked(request.timestamp_s, request.key, request.size_bytes, request.method is Method.GET)


class SimulatedRun:
    """I write what an experiment tells into a run's folder, in memory that does not grow with it.

    Requests that were skipped because of their size are left out, as a live replay leaves them out. Context manager.
    """

    def __init__(self, folder: Path, *, system: str, trace: str) -> None:
        self._system = system
        self._writer = RunWriter(folder, RunInfo(system=system, trace=trace, kind="simulated", told_every_s=_HOUR_S))
        self._rows: list[Result] = []

    def __enter__(self) -> SimulatedRun:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._flush()
        finally:
            self._writer.__exit__(kind, error, trace)

    def tell(self, served: Served) -> None:
        """A request is over."""
        outcome = _OUTCOMES.get(served.outcome)
        if outcome is None:
            return
        asked = served.asked
        at_s = asked.at_s - START_S
        self._rows.append(
            Result(
                request_s=at_s, intended_s=at_s, latency_s=served.latency_s, service_s=served.latency_s,
                insert_s=served.insert_s, size_bytes=asked.size_bytes, key=asked.key,
                op="get" if asked.is_get else "put", outcome=outcome, error=served.error, system=self._system, worker=0,
            )
        )  # fmt: skip
        if len(self._rows) >= _ROWS:
            self._flush()

    def tell_hour(self, row: HourRow) -> None:
        """An hour is over: its costs and events count as of its middle."""
        middle_s = (row.hour + 0.5) * _HOUR_S
        self._writer.costs.write_rows(
            [
                {"request_s": middle_s, "purpose": purpose, "usd": usd, "system": self._system}
                for purpose, usd in row.cost_usd.items()
            ]
        )
        counts = {kind: getattr(row, name) for name, kind in _EVENTS.items()}
        self._writer.events.write_rows(
            [{"request_s": middle_s, "kind": kind, "n": n, "system": self._system} for kind, n in counts.items() if n]
        )

    def note(self, result: ExperimentResult) -> None:
        """Figures for the report's overview."""
        figures = result.figures
        costs = ", ".join(f"{purpose} ${usd:.2f}" for purpose, usd in figures["cost_usd"].items())
        self._writer.note(
            {
                "cost": costs,
                "availability": "-" if figures["availability"] is None else f"{figures['availability']:.2%}",
                "seed": str(figures["seed"]),
            }
        )

    def _flush(self) -> None:
        if self._rows:
            self._writer.requests.write(table_of(self._rows))
            self._rows.clear()
