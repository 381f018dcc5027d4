"""Consistent against modulo hashing: what moves when a server joins or leaves, and how evenly keys spread.

Consistent hashing is the cache's own :class:`~infiniray.core.ring.Ring` (Karger et al., STOC'97). Modulo hashing is
what one would write first: ``hash(key) % n_servers``.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from infiniray.core.ring import Ring
from workloads.lectures.page import Page, PageTable
from workloads.report.style import INKS, figure, styled

__all__ = ["Balance", "Moves", "hashing_page", "measure_balance", "measure_moves", "modulo_owner", "ring_owner"]

#: key -> the server that has it
Owner = Callable[[str], str]

_VIRTUAL_NODES = (1, 4, 16, 64, 128, 256, 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What a change of servers does to ``n_keys`` keys, by one way of hashing.

    ``n_needless`` of the ``n_moved`` keys went from one server to another though both were there before and after.
    ``fair_share`` is what has to move if keys are even before and after.
    """

    method: str
    change: str
    n_keys: int
    n_moved: int
    n_needless: int
    fair_share: float

    @property
    def moved_share(self) -> float:
        return self.n_moved / self.n_keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """How evenly keys spread over servers of ``virtual_nodes`` points each, the mean of several rings.

    ``deviation``: standard deviation of the servers' shares, over their mean; ``fullest``: the largest, over the mean.
    ``expected`` is the rule of thumb ``1 / sqrt(virtual_nodes)`` for the deviation.
    """

    virtual_nodes: int
    deviation: float
    fullest: float

    @property
    def expected(self) -> float:
        return 1 / math.sqrt(self.virtual_nodes)


def ring_owner(servers: Sequence[str], virtual_nodes: int = 128) -> Owner:
    """Consistent hashing. Raises ConfigError without servers."""
    return Ring(epoch=1, shards=dict.fromkeys(servers, 1.0), virtual_nodes=virtual_nodes).owner


def modulo_owner(servers: Sequence[str]) -> Owner:
    """``hash(key) % n_servers``, with a hash that is the same in every process."""
    return lambda key: servers[_hash(key) % len(servers)]


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


# ---------------------------------------------------------------- what moves


def measure_moves(
    n_servers: int = 10, n_keys: int = 50_000, virtual_nodes: int = 128
) -> tuple[Moves, Moves, Moves, Moves]:
    """One server joins ``n_servers``; one of ``n_servers`` leaves (not the last: modulo is no better then, by luck).

    Needs at least two servers. By the ring and by modulo, in this order.
    """
    before = [f"server-{i}" for i in range(n_servers)]
    joined, left = [*before, f"server-{n_servers}"], before[: n_servers // 2] + before[n_servers // 2 + 1 :]
    keys = [f"object-{i}" for i in range(n_keys)]
    owners: dict[str, Callable[[Sequence[str]], Owner]] = {
        "ring": lambda servers: ring_owner(servers, virtual_nodes),
        "modulo": modulo_owner,
    }
    joins = [_moves(name, "joins", owner, before, joined, keys) for name, owner in owners.items()]
    leaves = [_moves(name, "leaves", owner, before, left, keys) for name, owner in owners.items()]
    return joins[0], joins[1], leaves[0], leaves[1]


def _moves(
    method: str,
    change: str,
    owner: Callable[[Sequence[str]], Owner],
    before: Sequence[str],
    after: Sequence[str],
    keys: Sequence[str],
) -> Moves:
    stays = set(before) & set(after)
    old, new = owner(before), owner(after)
    moves = [(source, target) for key in keys if (source := old(key)) != (target := new(key))]
    return Moves(
        method=method,
        change=change,
        n_keys=len(keys),
        n_moved=len(moves),
        n_needless=sum(source in stays and target in stays for source, target in moves),
        fair_share=1 / max(len(before), len(after)),
    )


# ---------------------------------------------------------------- how even


def measure_balance(
    virtual_nodes: Sequence[int] = _VIRTUAL_NODES, n_servers: int = 10, n_keys: int = 20_000, n_rings: int = 5
) -> list[Balance]:
    """For each number of virtual nodes, the mean over ``n_rings`` rings whose servers have other names.

    Counting keys adds to the deviation about ``sqrt(n_servers / n_keys)``, which is taken off again.
    """
    keys = [f"object-{i}" for i in range(n_keys)]
    return [_balance(n_points, n_servers, keys, n_rings) for n_points in virtual_nodes]


def _balance(virtual_nodes: int, n_servers: int, keys: Sequence[str], n_rings: int) -> Balance:
    variances, fullest = [], []
    for ring in range(n_rings):
        servers = [f"server-{ring}-{i}" for i in range(n_servers)]
        counts = Counter(map(ring_owner(servers, virtual_nodes), keys))
        loads = [counts[server] * n_servers / len(keys) for server in servers]
        variances.append(statistics.pvariance(loads, 1.0))
        fullest.append(max(loads))
    counting_variance = (n_servers - 1) / len(keys)
    return Balance(
        virtual_nodes=virtual_nodes,
        deviation=math.sqrt(max(0.0, statistics.mean(variances) - counting_variance)),
        fullest=statistics.mean(fullest),
    )


# ---------------------------------------------------------------- the page


def hashing_page(n_servers: int = 10, n_keys: int = 50_000, *, draws: bool = True) -> Page:
    """Both measurements, as tables and as a figure."""
    moves = measure_moves(n_servers, n_keys)
    balance = measure_balance(n_servers=n_servers)
    return Page(
        name="hashing",
        title="Consistent against modulo hashing",
        tables=[_moves_table(moves, n_servers), _balance_table(balance, n_servers)],
        document={
            "n_servers": n_servers,
            "moves": [asdict(row) | {"moved_share": row.moved_share} for row in moves],
            "balance": [asdict(row) | {"expected": row.expected} for row in balance],
        },
        figures={"hashing": _draw(moves, balance, n_servers)} if draws else {},
    )


def _moves_table(moves: Sequence[Moves], n_servers: int) -> PageTable:
    return PageTable(
        title=f"{moves[0].n_keys:,} keys on {n_servers} servers: what moves when one ...",
        headings=("change", "hashing", "keys moved", "share", "a fair share", "between servers that stay"),
        rows=[
            (
                row.change, row.method, f"{row.n_moved:,}", f"{row.moved_share:.1%}", f"{row.fair_share:.1%}",
                f"{row.n_needless:,}",
            )
            for row in moves
        ],
        note="On the ring keys move to the server that joins, or from the one that leaves, and nowhere else.",
    )  # fmt: skip


def _balance_table(balance: Sequence[Balance], n_servers: int) -> PageTable:
    return PageTable(
        title=f"How evenly keys spread over {n_servers} servers, by points of each on the ring",
        headings=("virtual nodes", "deviation of a server's load", "expected 1/sqrt(v)", "fullest server, of the mean"),
        rows=[
            (f"{row.virtual_nodes}", f"{row.deviation:.1%}", f"{row.expected:.1%}", f"{row.fullest:.0%}")
            for row in balance
        ],
        note="Four times the points halve the deviation. The cache's own rings have 128 for a shard of weight 1.",
    )


def _draw(moves: Sequence[Moves], balance: Sequence[Balance], n_servers: int) -> Figure:
    with styled():
        made, (left, right) = figure(2, width=11.0)
        _draw_moves(left, moves, n_servers)
        _draw_balance(right, balance)
    return made


def _draw_moves(axes: Axes, moves: Sequence[Moves], n_servers: int) -> None:
    labels = [f"{row.method},\none {row.change}" for row in moves]
    needed = [100 * (row.n_moved - row.n_needless) / row.n_keys for row in moves]
    needless = [100 * row.n_needless / row.n_keys for row in moves]
    axes.bar(labels, needed, color=INKS[0], label="to the new server, or from the one that leaves")
    axes.bar(labels, needless, bottom=needed, color=INKS[1], label="between servers that stay")
    for place, row in enumerate(moves):
        axes.text(place, 100 * row.moved_share + 1, f"{row.moved_share:.1%}", ha="center")
    axes.set_ylim(0, 125)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(False, axis="x")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}%"))
    axes.set_ylabel("share of the keys that move")
    axes.set_xlabel(f"hashing, and the change to {n_servers} servers")
    axes.set_title("What moves?")
    axes.legend(loc="upper left", fontsize=9.5)


def _draw_balance(axes: Axes, balance: Sequence[Balance]) -> None:
    points = [row.virtual_nodes for row in balance]
    axes.plot(points, [100 * row.deviation for row in balance], "o-", color=INKS[0], label="measured")
    axes.plot(points, [100 * row.expected for row in balance], "--", color=INKS[6], label="1/sqrt(v)")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(points, [str(n) for n in points])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}%"))
    axes.set_xlabel("virtual nodes (points of each server on the ring)")
    axes.set_ylabel("deviation of a server's load, of the mean")
    axes.set_title("How even?")
    axes.legend()
