"""The straggler model: it follows the read policy's rules, and comes near the paper's medians."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from infiniray.cli.main import main
from infiniray.codec.schemes import Scheme
from infiniray.core.policy import Hedge, Policy
from infiniray.errors import ConfigError
from workloads.lectures.straggler_model import ChunkTimes, HedgeRule, Layout, NodeModel, Reads, draw_times, model_reads
from workloads.lectures.stragglers import compare_hedge_delays, compare_layouts, straggler_page

KB, MB = 1000, 1000**2
DECODE_S_PER_BYTE = 1e-9
NODES = NodeModel(decode_bytes_per_s=1 / DECODE_S_PER_BYTE)
ALL, DELAYED, NEVER = HedgeRule(hedge=Hedge.ALL), HedgeRule(hedge=Hedge.DELAYED), HedgeRule(hedge=None)


def read(scheme: str, rule: HedgeRule, *transfer_s: float, object_bytes: int = 4 * KB, start_s: float = 0.0) -> Reads:
    """One read of one part whose chunks take so long each."""
    transfer = np.array([[transfer_s]])
    times = ChunkTimes(start_s=np.full_like(transfer, start_s), transfer_s=transfer)
    return model_reads(NODES, Layout(scheme=Scheme.parse(scheme)), rule, object_bytes, times)


def test_first_d_ends_with_the_kth_chunk_and_its_decoding() -> None:
    found = read("rs:4+2", ALL, 0.1, 0.1, 0.1, 9.0, 0.2, 9.0)
    assert found.is_decoded.item()
    assert found.latency_s.item() == pytest.approx(0.2 + 4 * KB * DECODE_S_PER_BYTE)
    assert found.uncancelled_bytes.item() == 6 * KB


def test_late_chunks_are_cancelled_on_the_wire() -> None:
    found = read("rs:4+2", ALL, 0.1, 0.1, 0.1, 0.4, 0.2, 0.8)
    assert found.moved_bytes.item() == pytest.approx((4 + 0.2 / 0.4 + 0.2 / 0.8) * KB)


def test_what_has_not_begun_moves_nothing() -> None:
    found = read("rs:4+2", ALL, 0.1, 0.1, 0.1, 0.1, 0.2, 0.2, start_s=0.5)
    assert found.moved_bytes.item() == pytest.approx((4 + 2 * 0.5) * KB)
    assert not found.is_decoded.item()


def test_without_redundancy_the_slowest_counts() -> None:
    for scheme, rule in (("stripe:4", ALL), ("stripe:4", DELAYED), ("rs:4+2", NEVER)):
        found = read(scheme, rule, *([0.1, 5.0, 0.1, 0.1] + [0.1, 0.1] * ("rs" in scheme)))
        assert found.latency_s.item() == pytest.approx(5.0)
        assert found.moved_bytes.item() == pytest.approx(4 * KB)


def test_parity_is_asked_for_when_the_last_are_a_quarter_late() -> None:
    # k - r = 2 chunks are here at 0.04 s, so that others are overdue at 0.05 s; parity takes 0.03 s from there.
    found = read("rs:4+2", DELAYED, 0.04, 0.04, 1.0, 1.0, 0.03, 0.03, object_bytes=40 * MB)
    assert found.latency_s.item() == pytest.approx(0.05 + 0.03 + 40 * MB * DECODE_S_PER_BYTE)


def test_the_delay_is_the_least_to_wait() -> None:
    found = read("rs:4+2", DELAYED, 0.001, 0.001, 1.0, 1.0, 0.03, 0.03)
    assert found.latency_s.item() == pytest.approx(DELAYED.hedge_delay_s + 0.03 + 4 * KB * DECODE_S_PER_BYTE)


def test_parity_comes_at_the_latest_when_the_object_is_overdue_as_a_whole() -> None:
    found = read("rs:4+2", DELAYED, 1.0, 1.0, 1.0, 1.0, 0.03, 0.03)
    assert found.uncancelled_bytes.item() == 6 * KB
    assert found.latency_s.item() == pytest.approx(1.0)  # two of parity, and then two of data
    latest_s = DELAYED.at_latest_s(Scheme.parse("rs:4+2"), 4 * KB)
    assert latest_s == pytest.approx(0.02 + 4 * KB / (5 * 20 * (1 << 20)))


def test_nothing_more_is_asked_for_when_all_are_in_time() -> None:
    found = read("rs:4+2", DELAYED, 0.1, 0.1, 0.1, 0.11, 0.001, 0.001, object_bytes=40 * MB)
    assert found.uncancelled_bytes.item() == 40 * MB
    assert not found.is_decoded.item()


def test_a_copy_needs_no_decoding() -> None:
    found = read("mirror:2", DELAYED, 1.0, 0.1)
    assert found.latency_s.item() == pytest.approx(DELAYED.hedge_delay_s + 0.1)
    assert not found.is_decoded.item()


def test_a_read_ends_with_its_slowest_part() -> None:
    times = ChunkTimes(start_s=np.zeros((1, 2, 1)), transfer_s=np.array([[[0.1], [0.7]]]))
    found = model_reads(NODES, Layout(scheme=Scheme.parse("mirror:1"), n_parts=2), NEVER, 4 * KB, times)
    assert (found.latency_s.item(), found.moved_bytes.item()) == (0.7, 4 * KB)


def test_the_rule_has_the_policys_numbers() -> None:
    policy = Policy.__dataclass_fields__
    assert DELAYED.hedge_delay_s == policy["hedge_delay_s"].default
    assert DELAYED.min_bytes_per_s == policy["min_bytes_per_s"].default


@pytest.mark.parametrize(("object_mb", "paper_s"), [(10, 0.033), (40, 0.068), (100, 0.144)])
def test_the_model_comes_near_the_papers_medians(object_mb: int, paper_s: float) -> None:
    """FAST'20 Fig. 11, functions of 1024 MB, 10+2."""
    layout, model = Layout(scheme=Scheme.parse("rs:10+2")), NodeModel()
    times = draw_times(model, layout, object_mb * 1000**2, 2000, 0)
    found = model_reads(model, layout, ALL, object_mb * 1000**2, times)
    assert float(np.median(found.latency_s)) == pytest.approx(paper_s, rel=0.15)


def test_the_same_seed_gives_the_same() -> None:
    one, same, other = (compare_layouts(NodeModel(), 10**7, 200, seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_erasure_coding_cuts_the_tail_at_less_storage_than_copies() -> None:
    rows = {(row.layout, row.hedge): row for row in compare_layouts(NodeModel(), 40 * 1000**2, 4000, 0)}
    coded, copied = rows["rs:10+2", "all"], rows["10 x mirror:2", "all"]
    bare, delayed = rows["stripe:10", "never"], rows["rs:10+2", "delayed"]
    assert coded.overhead == 1.2
    assert copied.overhead == 2
    assert bare.p99_s > 5 * coded.p99_s
    assert coded.p99_s < 1.25 * copied.p99_s
    assert bare.moved == pytest.approx(1)
    assert delayed.moved < 1.05 < coded.moved < 1.2 < copied.moved
    assert coded.p99_s < delayed.p99_s < bare.p99_s / 3


def test_a_longer_delay_moves_less_and_waits_longer() -> None:
    rows = [row for row in compare_hedge_delays(NodeModel(), 40 * 1000**2, 2000, 0) if row.layout == "10 x mirror:2"]
    assert rows[0].moved > 1.5 > rows[2].moved > rows[-1].moved
    assert [row.p99_s for row in rows] == sorted(row.p99_s for row in rows)


def test_a_model_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="stragglers"):
        NodeModel(straggler_share=2)


def test_the_page_says_that_it_is_a_model() -> None:
    page = straggler_page(object_bytes=10**6, n_reads=100)
    assert "model" in page.title
    assert all(table.title.startswith("MODEL") for table in page.tables)
    for axes in page.figures["stragglers"].axes:
        assert "model" in axes.get_xlabel()
        assert axes.get_ylabel()


def test_the_command_gives_one_document() -> None:
    result = CliRunner().invoke(main, ["lecture", "stragglers", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["is_model"] is True
    assert {"p50_s", "p99_s", "moved", "overhead"} <= set(document["layouts"][0])
