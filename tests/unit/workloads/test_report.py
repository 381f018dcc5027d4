from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from matplotlib.figure import Figure

from infiniray.cli.main import main
from workloads.errors import ResultsError
from workloads.replay.results import COSTS, EVENTS, REQUESTS, OutcomeName, Result, Run, RunInfo, RunWriter, table_of
from workloads.report.build import build_report, write_report
from workloads.report.columns import bins_of, key_numbers
from workloads.report.distributions import reuse_figure, reuse_times_s, size_figure
from workloads.report.hours import cost_figure, outcomes_figure
from workloads.report.latency import latency_figure, latency_rows
from workloads.report.rates import LINES, lines_of, rates_figure, read_lines
from workloads.report.style import cumulative, readable_number, styled

HOUR = 3600.0


@pytest.fixture(autouse=True)
def _styled() -> Iterator[None]:
    with styled():
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, and saved as nothing: drawing them takes seconds, and does not change what is said."""
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **how: None)


def row(at_s: float, key: str = "k", size_bytes: int = 1000, **more: Any) -> Result:
    plain: dict[str, Any] = {
        "request_s": at_s,
        "intended_s": at_s,
        "latency_s": 0.1,
        "service_s": 0.1,
        "size_bytes": size_bytes,
        "key": key,
        "op": "get",
        "outcome": OutcomeName.HIT,
        "system": "infiniray",
        "worker": 0,
    }
    return Result(**{**plain, **more})


def costs(*rows: tuple[float, str, float]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"request_s": s, "purpose": p, "usd": usd, "system": "infiniray"} for s, p, usd in rows], COSTS
    )


def events(*rows: tuple[float, str, int]) -> pa.Table:
    return pa.Table.from_pylist(
        [{"request_s": s, "kind": kind, "n": n, "system": "infiniray"} for s, kind, n in rows], EVENTS
    )


DAY = [
    row(
        hour * HOUR + i * 60.0,
        key=f"k{(7 * hour + i) % 40}",
        size_bytes=10 ** (3 + i % 6),
        outcome=(OutcomeName.HIT, OutcomeName.HIT, OutcomeName.MISS, OutcomeName.RESET)[i % 4],
        latency_s=0.01 * (1 + i),
    )
    for hour in range(24)
    for i in range(20)
]


def day(system: str = "infiniray", **more: Any) -> Run:
    return Run(
        info=RunInfo(system=system, trace="day.csv", **more),
        requests=table_of(replace(r, system=system) for r in DAY),
        costs=costs(*((hour * HOUR, p, 0.01) for hour in range(24) for p in ("serving", "warmup"))),
        events=events((HOUR, "repair", 3), (2 * HOUR, "reclaim", 40)),
    )


def labels(figure: Figure | None) -> set[str]:
    assert figure is not None
    legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return {text.get_text() for legend in legends if legend for text in legend.get_texts()}


def heights(figure: Figure | None, panel: int, label: str) -> list[float]:
    """Of the bars that the legend calls so."""
    assert figure is not None
    found = [bars for bars in figure.axes[panel].containers if str(bars.get_label()).startswith(label)]
    assert len(found) == 1
    return [bar.get_height() for bar in found[0]]


# ---------------------------------------------------------------- what is drawn


def test_every_axis_says_what_it_shows_and_in_which_unit() -> None:
    run = day()
    table = run.requests
    figures = [
        size_figure(table),
        reuse_figure(table),
        cost_figure(run.costs, 24 * HOUR),
        outcomes_figure(table, run.events, 24 * HOUR),
        latency_figure(table, hits_only=True),
        rates_figure(lines()),
    ]
    for figure in figures:
        assert figure is not None
        for axes in figure.axes:
            if not axes.get_visible():
                continue
            assert axes.get_title(loc="left")
            assert axes.get_ylabel()
            assert axes.get_xlabel() or axes is not figure.axes[-1]


def test_reuse_is_told_by_key_and_in_time_order() -> None:
    table = table_of(
        [row(0, "a"), row(5, "b"), row(7, "a"), row(8, "p", op="put"), row(9, "p"), row(3, "a"), row(95, "b")]
    )
    assert sorted(reuse_times_s(table)) == [3, 4, 90]  # a: 0, 3, 7; b: 5, 95; the PUT is no access
    assert list(key_numbers(table)) == [0, 1, 0, 2, 2, 0, 1]


def test_sizes_count_each_object_once() -> None:
    figure = size_figure(table_of([row(0, "a", 100), row(1, "a", 100), row(2, "b", 10**9)]))
    assert {"requests", "objects (2)", "bytes of the objects (1.0 GB)"} == labels(figure)
    assert figure is not None
    by_request = figure.axes[0].get_lines()[0]
    assert list(np.asarray(by_request.get_ydata())) == pytest.approx([0, 100 / 3, 200 / 3, 100])


def test_costs_stack_by_hour_and_purpose() -> None:
    table = costs((10, "serving", 1.0), (20, "serving", 0.5), (HOUR, "backup", 2.0), (4.5 * HOUR, "backup", 0.25))
    figure = cost_figure(table, 5 * HOUR)
    assert heights(figure, 0, "serving") == [1.5, 0, 0, 0, 0]
    assert heights(figure, 0, "backup") == [0, 2.0, 0, 0, 0.25]
    assert labels(figure) == {"serving: $1.50 (40%)", "backup: $2.25 (60%)"}
    assert figure is not None
    assert figure.axes[0].get_ylabel() == "USD per hour"
    assert "$3.75 in all" in figure.axes[0].get_title(loc="left")


def test_outcomes_are_counted_by_hour() -> None:
    hours = [0, 0, 1, 1, 4]
    named = [OutcomeName.MISS, OutcomeName.HIT, OutcomeName.RESET, OutcomeName.HIT, OutcomeName.ERROR]
    table = table_of(
        [row(h * HOUR + 1, outcome=o) for h, o in zip(hours, named, strict=True)]
        + [row(3 * HOUR, op="put", outcome=OutcomeName.STORED)]
    )
    figure = outcomes_figure(table, events((HOUR, "repair", 3), (HOUR, "repair", 2)), 5 * HOUR)
    assert heights(figure, 0, "hit") == [1, 1, 0, 0, 0]
    assert heights(figure, 0, "miss") == [1, 0, 0, 0, 0]
    assert heights(figure, 1, "reset") == [0, 1, 0, 0, 0]
    assert heights(figure, 1, "error") == [0, 0, 0, 0, 1]
    assert {"repair: 5", "reset: 1", "error: 1", "hit: 2", "miss: 1"} == labels(figure)


def test_latencies_have_a_panel_for_each_size_class_and_a_line_for_each_system() -> None:
    table = table_of(
        [
            *[row(i, size_bytes=10, latency_s=0.001 * (i + 1)) for i in range(100)],
            row(0, size_bytes=5 * 10**7, latency_s=1.0),
            row(0, size_bytes=10, latency_s=9.0, outcome=OutcomeName.MISS),
            *[row(i, size_bytes=10, latency_s=0.002, system="redis") for i in range(3)],
        ]
    )
    figure = latency_figure(table, hits_only=True)
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["objects < 1 MB", "objects 10-100 MB"]
    assert [len(axes.get_lines()) for axes in figure.axes] == [2, 1]
    assert labels(figure) == {"infiniray", "redis"}
    rows = {(r.size_class, r.system): r for r in latency_rows(table, hits_only=True)}
    small = rows["< 1 MB", "infiniray"]
    assert (small.n, small.p50_s, small.p99_s) == (100, pytest.approx(0.0505), pytest.approx(0.09901))
    assert rows[None, "infiniray"].n == 101
    assert {(r.size_class, r.n) for r in latency_rows(table, hits_only=False) if r.system == "infiniray"} == {
        ("< 1 MB", 101),
        ("10-100 MB", 1),
        (None, 102),
    }


def lines() -> pa.Table:
    rows = [
        ("ours", 0.1, 1e-5, True),
        ("with hosts", 1.1, 1e-5, True),
        ("nodes", 10.1, 0.0, False),
        ("s3", 0.01, 1e-7, False),
    ]
    return pa.Table.from_pylist([dict(zip(LINES.names, line, strict=True)) for line in rows], LINES)


def test_crossovers_are_where_lines_cross() -> None:
    figure = rates_figure(lines())
    assert labels(figure) == {"ours", "with hosts", "nodes\n    cheaper above 1,000,000/h", "s3\n    always cheaper"}
    assert figure is not None
    dots = [line for line in figure.axes[0].get_lines() if line.get_marker() == "o"]
    assert [(dot.get_xdata(), dot.get_ydata()) for dot in dots] == [([pytest.approx(1e6)], [pytest.approx(10.1)])]


def test_a_crossover_beyond_the_usual_rates_is_on_the_picture() -> None:
    far = pa.Table.from_pylist(
        [
            {"name": "ours", "fixed_usd_per_hour": 0.0, "usd_per_request": 1e-9, "is_ours": True},
            {"name": "nodes", "fixed_usd_per_hour": 10.0, "usd_per_request": 0.0, "is_ours": False},
        ],
        LINES,
    )
    figure = rates_figure(far)
    assert figure is not None
    assert figure.axes[0].get_xlim()[1] > 1e10


def test_what_the_cost_command_prints_becomes_lines(tmp_path: Path) -> None:
    printed = CliRunner().invoke(main, ["cost", "--prices", "2019", "--hedge", "all", "--object-size", "1MB", "--json"])
    assert printed.exit_code == 0, printed.output
    table = lines_of(json.loads(printed.output))
    by_name = {line["name"]: line for line in table.to_pylist()}
    assert by_name["InfiniCache, closed form"]["usd_per_request"] == pytest.approx(3.24e-5, rel=1e-3)
    assert by_name["ElastiCache, 1 x cache.r5.24xlarge"]["fixed_usd_per_hour"] == pytest.approx(10.368)
    drawn = rates_figure(table)
    verdicts = labels(drawn)
    assert drawn is not None
    assert "976.6 KiB an object, 500.0 GiB held, 0% PUTs; 400 functions of 1536 MB, 10+2; prices as of 2019-12-26" in (
        drawn.axes[0].get_xlabel()
    )
    assert "ElastiCache, 1 x cache.r5.24xlarge\n    cheaper above 312,000/h" in verdicts  # FAST'20 Fig. 17
    (tmp_path / "costs.json").write_text(printed.output)
    assert read_lines(tmp_path / "costs.json").equals(table)


def test_what_is_told_by_the_hour_is_not_drawn_as_though_it_were_told_by_the_minute() -> None:
    hourly = costs((0.5 * HOUR, "serving", 0.3), (1.5 * HOUR, "serving", 0.1))
    drawn = cost_figure(hourly, 2 * HOUR, told_every_s=HOUR)
    assert heights(drawn, 0, "serving") == pytest.approx([0.3, 0.1])
    assert drawn is not None
    assert drawn.axes[0].get_ylabel() == "USD per hour"


def test_what_comes_after_the_traces_end_is_drawn_where_it_came() -> None:
    requests = table_of([row(minute * 60.0) for minute in range(6)])
    late = EVENTS.empty_table().schema
    events = pa.Table.from_pylist([{"request_s": 600.0, "kind": "repair", "n": 3, "system": "s"}], late)
    figure = outcomes_figure(requests, events, 300.0)
    assert figure is not None
    assert figure.axes[0].get_xlim()[1] == pytest.approx(10)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"metered": {}}', '{"metered": 3}'])
def test_another_file_than_a_cost_comparison_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ResultsError, match="infiniray cost --json"):
        read_lines(tmp_path / "c.json")


def test_there_is_no_picture_of_nothing() -> None:
    empty = REQUESTS.empty_table()
    assert size_figure(empty) is None
    assert reuse_figure(empty) is None
    assert latency_figure(empty, hits_only=False) is None
    assert outcomes_figure(empty, EVENTS.empty_table(), 0.0) is None
    assert cost_figure(COSTS.empty_table(), 0.0) is None
    assert rates_figure(LINES.empty_table()) is None


@pytest.mark.parametrize(
    "requests",
    [
        [row(0)],
        [row(0, size_bytes=0)],
        [row(0), row(0)],
        [row(0, latency_s=0.0)],
        [row(10 * 86400.0), row(0)],
        [row(0, op="put", outcome=OutcomeName.STORED)],
        [row(0, outcome=OutcomeName.ERROR, error="WrongBytes")],
    ],
)
def test_small_and_odd_runs_give_a_report_too(requests: list[Result]) -> None:
    run = Run(info=RunInfo(system="infiniray", trace="t"), requests=table_of(requests))
    assert "What came of it" in build_report([run]).html


@pytest.mark.parametrize(
    ("span_s", "name", "n"),
    [(50 * HOUR, "hour", 50), (5 * HOUR, "hour", 5), (393.0, "minute", 7), (45.0, "10 s", 5), (0.0, "second", 1)],
)
def test_bins_are_hours_unless_the_trace_is_short(span_s: float, name: str, n: int) -> None:
    bins = bins_of(span_s)
    assert (bins.width_name, len(bins.edges_s) - 1) == (name, n)
    assert bins.edges_s[-1] >= span_s
    assert bins.sums(np.array([0.0, span_s, span_s + 1])).sum() == 3  # nothing falls beside


def test_cumulative_ends_at_the_whole_however_many_points_there_are() -> None:
    values, shares = cumulative(np.arange(100_000.0)[::-1])
    assert len(values) < 5000
    assert (values[0], values[-1], shares[0], shares[-1]) == (0.0, 99_999.0, 0.0, 100.0)
    assert np.all(np.diff(shares) >= 0)


@pytest.mark.parametrize(
    ("value", "text"),
    [(312_191.99, "312,000"), (16.514, "16.5"), (0.00121, "0.00121"), (3.75, "3.75"), (0.0, "0"), (999.9, "1,000")],
)
def test_three_digits_that_count(value: float, text: str) -> None:
    assert readable_number(value) == text


# ---------------------------------------------------------------- the page


def test_the_page_holds_its_pictures_and_needs_no_other_file(tmp_path: Path) -> None:
    report = build_report([day(), day("redis")], lines=lines())
    files = write_report(report, tmp_path / "out" / "page.html")
    page = files[0].read_text()
    assert [file.name for file in files[1:]] == [
        "page-sizes.png",
        "page-reuse.png",
        "page-latency-hits.png",
        "page-latency-all.png",
        "page-outcomes-infiniray.png",
        "page-cost-infiniray.png",
        "page-outcomes-redis.png",
        "page-cost-redis.png",
        "page-rates.png",
    ]
    embedded = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    assert [base64.b64decode(one) for one in embedded] == [file.read_bytes() for file in files[1:]]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files[1:])
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http" not in page.replace("data:image", "")
    assert page.count("<section>") == page.count("</section>") == 7


def test_the_same_runs_give_the_same_report() -> None:
    assert build_report([day()], lines=lines()) == build_report([day()], lines=lines())


def test_figures_of_the_overview(undrawn: None) -> None:
    page = build_report([day()]).html
    cells = re.findall(r"<td>([^<]*)</td>", page)
    assert cells[:10] == ["infiniray", "480", "240 (50.0%)", "120", "120", "0", "0", "8.00", "100.0", "0.480"]


def test_the_overview_does_not_hide_failed_inserts_and_waiting(undrawn: None) -> None:
    rows = [row(i, latency_s=2.1, service_s=0.1, outcome=OutcomeName.MISS, error="PoolFull") for i in range(3)]
    rows.append(row(9, latency_s=2.1, service_s=0.1, outcome=OutcomeName.ERROR, error="DeadlineExceeded"))
    page = build_report([Run(info=RunInfo(system="s", trace="t"), requests=table_of(rows))]).html
    _, _, _, misses, _, errors, failed_inserts, _, waiting_ms, _ = re.findall(r"<td>([^<]*)</td>", page)[:10]
    assert (misses, errors, failed_inserts, waiting_ms) == ("3", "1", "3", "2,000.0")


def test_what_was_run_stands_side_by_side(undrawn: None) -> None:
    first, second = day("one"), day("two")
    first.info.notes["workers"] = "7 of them"
    page = build_report([first, second]).html
    assert "<th></th><th>one</th><th>two</th>" in page
    assert "<td>workers</td><td>7 of them</td><td></td>" in page


def test_what_a_trace_says_is_text_not_markup(undrawn: None) -> None:
    run = day("<script>alert(1)</script>")
    run.info.notes["<b>"] = '"&'
    page = build_report([replace(run, info=replace(run.info, trace="<i>t</i>"))]).html
    for markup in ("<script>", "<b>", "<i>"):
        assert markup not in page
    assert "&lt;script&gt;" in page


def test_a_replay_that_was_sped_up_says_so(undrawn: None) -> None:
    assert "60 times as fast as the trace" in build_report([day(speed_up=60.0)]).html
    assert "times as fast" not in build_report([day()]).html


def test_two_runs_by_one_name_and_no_run_at_all_are_refused() -> None:
    with pytest.raises(ResultsError, match="more than one run is called infiniray"):
        build_report([day(), day()])
    with pytest.raises(ResultsError, match="neither a run"):
        build_report([])


def test_the_command(tmp_path: Path) -> None:
    run = day()
    with RunWriter(tmp_path / "run", run.info) as writer:
        writer.requests.write(run.requests)
        writer.costs.write(run.costs)
    out = tmp_path / "r.html"
    done = CliRunner().invoke(main, ["report", str(tmp_path / "run"), "--out", str(out), "--title", "A day", "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.output)
    assert printed["page"] == str(out)
    assert all(Path(picture).is_file() for picture in printed["pictures"])
    assert "<title>A day</title>" in out.read_text()


def test_runs_of_one_system_are_told_apart_by_their_folders(undrawn: None, tmp_path: Path) -> None:
    for name in ("cold", "warm"):
        with RunWriter(tmp_path / name, day().info) as writer:
            writer.requests.write(day().requests)
            writer.costs.write(day().costs)
    out = tmp_path / "r.html"
    done = CliRunner().invoke(main, ["report", str(tmp_path / "cold"), str(tmp_path / "warm"), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "infiniray, cold (live), infiniray, warm (live)" in out.read_text()
    assert len(list(tmp_path.glob("r-cost-infiniray-*.png"))) == 2


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    nothing = CliRunner().invoke(main, ["report"])
    assert nothing.exit_code == 2
    no_run = CliRunner().invoke(main, ["report", str(tmp_path)])
    assert no_run.exit_code == 1
    assert "not a run" in no_run.output
