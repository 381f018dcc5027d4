"""Lecture pages: hashing and RAID levels do what the lecture says, and the command tells and draws it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from infiniray.cli.main import main
from infiniray.codec.coder import Coder
from infiniray.codec.kernels import find_kernel
from infiniray.codec.schemes import Scheme
from infiniray.errors import ConfigError, SchemeError
from workloads.lectures.hashing import hashing_page, measure_balance, measure_moves, modulo_owner, ring_owner
from workloads.lectures.page import save_figures
from workloads.lectures.raid import measure_encode, measure_level, raid_levels, raid_page, survives

# ---------------------------------------------------------------- hashing


def test_on_the_ring_keys_move_only_to_the_server_that_joins() -> None:
    ring_joins, _, ring_leaves, _ = measure_moves(n_servers=10, n_keys=5000)
    for moves in (ring_joins, ring_leaves):
        assert moves.n_needless == 0
        assert 0.6 * moves.fair_share < moves.moved_share < 1.4 * moves.fair_share


def test_modulo_moves_nearly_all_and_mostly_between_servers_that_stay() -> None:
    _, joins, _, leaves = measure_moves(n_servers=10, n_keys=5000)
    for moves in (joins, leaves):
        assert moves.moved_share == pytest.approx(0.9, abs=0.03)
        assert moves.n_needless > 0.8 * moves.n_moved


def test_a_fair_share_is_one_of_the_larger_number_of_servers() -> None:
    joins, _, leaves, _ = measure_moves(n_servers=4, n_keys=10)
    assert (joins.fair_share, leaves.fair_share) == (1 / 5, 1 / 4)


@pytest.mark.parametrize("owner", [ring_owner, modulo_owner])
def test_every_server_gets_keys_and_always_the_same(owner: object) -> None:
    servers = ["a", "b", "c"]
    assert callable(owner)
    first, second = owner(servers), owner(servers)
    keys = [f"k{i}" for i in range(500)]
    assert {first(key) for key in keys} == set(servers)
    assert all(first(key) == second(key) for key in keys)


def test_balance_follows_the_rule_of_thumb() -> None:
    few, many = measure_balance((16, 256), n_keys=10_000, n_rings=6)
    assert (few.expected, many.expected) == (1 / 4, 1 / 16)
    for row in (few, many):
        assert 0.6 * row.expected < row.deviation < 1.5 * row.expected
        assert row.fullest > 1
    assert many.fullest < few.fullest


# ---------------------------------------------------------------- RAID levels


def coder() -> Coder:
    return Coder(find_kernel("zfec"))


def test_levels_are_as_the_lecture_tells_them() -> None:
    rows = {row.name: row for row in (measure_level(level, coder(), 1001) for level in raid_levels(8))}
    told = {name: (row.capacity_nodes, row.losses_sure, row.losses_lucky) for name, row in rows.items()}
    assert told == {
        "RAID-0": (8, 0, 0),
        "RAID-1": (4, 1, 4),
        "RAID-4": (7, 1, 1),
        "RAID-5": (7, 1, 1),
        "RAID-6": (6, 2, 2),
        "InfiniCache": (10, 2, 2),
    }
    assert {name: row.rebuild_reads for name, row in rows.items()} == {
        "RAID-0": None, "RAID-1": 1, "RAID-4": 7, "RAID-5": 7, "RAID-6": 6, "InfiniCache": 10,
    }  # fmt: skip
    assert all(row.n_decoded == row.n_tried for row in rows.values())
    assert rows["RAID-6"].n_tried == 28
    assert (rows["RAID-4"].parity_share_of_busiest, rows["RAID-5"].parity_share_of_busiest) == (1, 1 / 8)


@pytest.mark.parametrize("text", ["stripe:4", "mirror:2", "xor:3+1", "rs:4+2"])
def test_one_loss_more_than_tolerated_is_one_too_many(text: str) -> None:
    scheme = Scheme.parse(text)
    data = np.arange(1001, dtype=np.uint32).view(np.uint8)
    assert survives(scheme, coder(), data, range(scheme.r))
    assert not survives(scheme, coder(), data, range(scheme.r + 1))


def test_striping_has_nothing_to_encode() -> None:
    schemes = [level.scheme for level in raid_levels(4)]
    speeds = measure_encode(schemes, coder(), object_bytes=4096, rounds=1)
    assert set(speeds) == {scheme for scheme in schemes if scheme.r}
    assert all(speed > 0 for speed in speeds.values())


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 4"):
        raid_levels(7)
    with pytest.raises(SchemeError, match="0 rounds"):
        measure_encode([], coder(), rounds=0)


# ---------------------------------------------------------------- pages and the command


def test_pictures_have_labelled_axes(tmp_path: Path) -> None:
    for page in (hashing_page(4, 500), raid_page(4, object_bytes=4096, rounds=1)):
        for made in page.figures.values():
            assert made.axes
            assert all(axes.get_xlabel() and axes.get_ylabel() and axes.get_title(loc="left") for axes in made.axes)
        (file,) = save_figures(page, tmp_path / "pictures")
        assert file.name == f"{page.name}.png"
        assert file.read_bytes().startswith(b"\x89PNG")


def test_the_command_tells_and_draws(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["lecture", "hashing", "--plots", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "between servers that stay" in result.stdout
    assert (tmp_path / "hashing.png").exists()


def test_the_document_has_the_tables_numbers() -> None:
    result = CliRunner().invoke(main, ["lecture", "raid", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["lecture"], document["pictures"]) == ("raid", [])
    assert [row["name"] for row in document["levels"]][:2] == ["RAID-0", "RAID-1"]


def test_an_unknown_page_is_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["lecture", "paxos"])
    assert result.exit_code == 2
    assert "hashing" in result.output
