"""The report: which plots of which runs, in which order, and the page that they are on."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from workloads.errors import ResultsError
from workloads.replay.results import Run
from workloads.report.distributions import reuse_figure, size_figure
from workloads.report.hours import cost_figure, outcomes_figure
from workloads.report.latency import LatencyRow, latency_figure, latency_rows
from workloads.report.page import Picture, Section, TextTable, page_html
from workloads.report.rates import rates_figure
from workloads.report.style import readable_number, styled
from workloads.whole_file import whole_file

__all__ = ["Report", "build_report", "write_report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The page, and the pictures that are on it."""

    html: str
    pictures: tuple[Picture, ...]


def build_report(runs: Sequence[Run], *, lines: pa.Table | None = None, title: str = "InfiniRay: report") -> Report:
    """The report on some runs, and on ``lines`` of cost over request rate (:data:`workloads.report.rates.LINES`).

    Raises:
        ResultsError: there is nothing to report, or two runs go by the same name.
    """
    if not runs and lines is None:
        raise ResultsError(path="report", detail="neither a run nor a cost comparison to report on")
    names = [run.info.system for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ResultsError(path="report", detail=f"more than one run is called {', '.join(sorted(twice))}")
    with styled():
        sections = [*([_overview(runs)] if runs else []), *_workload(runs), *_latency(runs)]
        for run in runs:
            sections += _hours(run)
        sections += _rates(lines)
    what = ", ".join(f"{run.info.system} ({run.info.kind})" for run in runs)
    pictures = tuple(picture for section in sections for picture in section.pictures)
    return Report(html=page_html(title, what, sections), pictures=pictures)


def write_report(report: Report, path: Path) -> list[Path]:
    """Write the page to ``path`` and its pictures beside it; the page does not need them. Returns all files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path]
    for picture in report.pictures:
        files.append(path.with_name(f"{path.stem}-{picture.name}.png"))
        with whole_file(files[-1]) as partial:
            partial.write_bytes(picture.png)
    with whole_file(path) as partial:
        partial.write_text(report.html, encoding="utf-8")
    return files


# ---------------------------------------------------------------- sections


def _overview(runs: Sequence[Run]) -> Section:
    headings = (
        *("system", "GETs", "hits", "misses", "resets", "errors", "failed inserts"),
        *("read (GB)", "waiting, p99 (ms)", "cost (USD)"),
    )
    rows = []
    for run in runs:
        outcomes = {row["values"]: row["counts"] for row in pc.value_counts(run.requests["outcome"]).to_pylist()}
        n_gets = pc.sum(pc.equal(run.requests["op"], "get")).as_py() or 0
        n_hits = outcomes.get("hit", 0)
        hits = f"{n_hits:,} ({n_hits / n_gets:.1%})" if n_gets else "0"
        counts = [f"{outcomes.get(name, 0):,}" for name in ("miss", "reset", "error")]
        read_gb = f"{(pc.sum(run.requests['size_bytes']).as_py() or 0) / 1e9:,.2f}"
        usd = readable_number(pc.sum(run.costs["usd"]).as_py()) if run.costs.num_rows else "not metered"
        counts.append(f"{_n_failed_inserts(run.requests):,}")
        rows.append((run.info.system, f"{n_gets:,}", hits, *counts, read_gb, _ms(_waiting_p99_s(run.requests)), usd))
    text = (
        "A reset is a GET for an object that was stored and is lost; an error one that the system failed to answer; a "
        "failed insert leaves a miss what it was, and the next GET of the object will miss too. Waiting is for one's "
        "turn, while as many requests as are allowed at once are under way: where it is long, the system did not keep "
        "up with the trace, and latencies say by how much."
    )
    return Section(title="What came of it", text=text, tables=(TextTable(headings=headings, rows=rows), _about(runs)))


def _n_failed_inserts(requests: pa.Table) -> int:
    has_failed = pc.and_(pc.is_valid(requests["error"]), pc.is_in(requests["outcome"], pa.array(["miss", "reset"])))
    return pc.sum(has_failed).as_py() or 0


def _waiting_p99_s(requests: pa.Table) -> float:
    waited_s = pc.max_element_wise(pc.subtract(requests["latency_s"], requests["service_s"]), 0.0)
    found = pc.quantile(waited_s, 0.99)[0].as_py() if requests.num_rows else None
    return found or 0.0


def _about(runs: Sequence[Run]) -> TextTable:
    """What was run and how: a column for each run, a row for each thing that is said of any of them."""
    said = []
    for run in runs:
        info = run.info
        faster = f", {info.speed_up:,.10g} times as fast as the trace" if info.speed_up != 1 else ""
        said.append({"run": info.kind + faster, "trace": info.trace, **info.notes})
    names = dict.fromkeys(name for notes in said for name in notes)
    rows = [(name, *(notes.get(name, "") for notes in said)) for name in names]
    return TextTable(headings=("", *(run.info.system for run in runs)), rows=rows, is_text=True)


def _workload(runs: Sequence[Run]) -> list[Section]:
    """Once for each trace: systems that replayed the same one saw the same requests."""
    sections = []
    seen: set[tuple[str, int]] = set()
    for run in runs:
        what = (run.info.trace, run.requests.num_rows)
        if what in seen:
            continue
        seen.add(what)
        suffix = f"-{len(seen)}" if len(seen) > 1 else ""
        pictures = [
            *_drawn(
                size_figure(run.requests),
                f"sizes{suffix}",
                "Cumulative distribution of object sizes: over requests, over objects, and over the objects' bytes.",
            ),
            *_drawn(
                reuse_figure(run.requests),
                f"reuse{suffix}",
                "Left: time between one GET of an object and the next. Right: how many of the GETs go to how few of "
                "the objects.",
            ),
        ]
        sections.append(Section(title=f"The workload: {run.info.trace}", pictures=pictures))
    return sections


def _latency(runs: Sequence[Run]) -> list[Section]:
    if not runs:
        return []
    requests = pa.concat_tables([run.requests for run in runs])
    sections = []
    for hits_only, name, title, text in (
        (
            True,
            "latency-hits",
            "Latency of hits",
            "From when the trace says that the request starts until the caller has the bytes. Where the same object is "
            "being inserted at that moment, waiting for it is part of that.",
        ),
        (
            False,
            "latency-all",
            "Latency of all GETs",
            "What an application sees: a miss, a reset and an error wait for the backing store too.",
        ),
    ):
        shows = "Cumulative distribution of latency by object size, one line for each system; further left is faster."
        pictures = _drawn(latency_figure(requests, hits_only=hits_only), name, shows)
        if pictures:
            table = _latency_table(latency_rows(requests, hits_only=hits_only))
            sections.append(Section(title=title, text=text, pictures=pictures, tables=(table,)))
    return sections


def _latency_table(rows: Sequence[LatencyRow]) -> TextTable:
    cells = [
        (row.size_class or "all", row.system, f"{row.n:,}", *(_ms(x) for x in (row.p50_s, row.p90_s, row.p99_s)))
        for row in rows
    ]
    return TextTable(headings=("object size", "system", "GETs", "p50 (ms)", "p90 (ms)", "p99 (ms)"), rows=cells)


def _hours(run: Run) -> list[Section]:
    span_s = pc.max(run.requests["request_s"]).as_py() or 0.0
    slug = _slug(run.info.system)
    told_every_s = run.info.told_every_s
    pictures = [
        *_drawn(
            outcomes_figure(run.requests, run.events, span_s, told_every_s=told_every_s),
            f"outcomes-{slug}",
            "What came of GETs over the time of the trace, and what happened inside.",
        ),
        *_drawn(
            cost_figure(run.costs, span_s, told_every_s=told_every_s),
            f"cost-{slug}",
            "Dollars by purpose over the time of the trace.",
        ),
    ]
    if not pictures:
        return []
    faster = f"This run was {run.info.speed_up:,.10g} times as fast as the trace, so an hour of the trace holds fewer "
    faster += "warm-ups and backups than an hour of operation would."
    return [
        Section(title=f"Over time: {run.info.system}", text=faster if run.info.speed_up != 1 else "", pictures=pictures)
    ]


def _rates(lines: pa.Table | None) -> list[Section]:
    if lines is None:
        return []
    shows = "Dollars per hour over requests per hour, for this system and for what would hold the same objects."
    pictures = _drawn(rates_figure(lines), "rates", shows)
    return [Section(title="Cost against request rate", pictures=pictures)] if pictures else []


def _drawn(drawn: Figure | None, name: str, shows: str) -> list[Picture]:
    if drawn is None:
        return []
    png = io.BytesIO()
    drawn.savefig(png, format="png", metadata={"Software": None})  # the same plot gives the same bytes
    return [Picture(name=name, png=png.getvalue(), shows=shows)]


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f}"


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "run"
