"""The RAID levels over functions instead of disks: capacity, losses, rebuild, and how fast the codec computes them.

RAID levels as Patterson, Gibson and Katz define them (SIGMOD'88), RAID-6 as P + Q over GF(2^8); each is one of the
cache's own redundancy schemes, and what it tolerates is tried out by decoding, not looked up.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from infiniray.codec.buffers import ByteArray
from infiniray.codec.coder import Coder
from infiniray.codec.measure import take_turns
from infiniray.codec.schemes import Scheme, SchemeKind
from infiniray.errors import ConfigError, SchemeError
from workloads.lectures.page import Page, PageTable
from workloads.report.style import INKS, figure, styled

__all__ = ["Level", "LevelFigures", "measure_encode", "measure_level", "raid_levels", "raid_page", "survives"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """A RAID level over ``n_nodes``: each stripe is one ``scheme`` wide, and groups of nodes as wide divide the pool.

    ``rotates``: parity is on another node from stripe to stripe.
    """

    name: str
    scheme: Scheme
    n_nodes: int
    rotates: bool = True

    @property
    def n_groups(self) -> int:
        return self.n_nodes // self.scheme.n


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelFigures:
    """What a level gives, in nodes of capacity and of losses.

    ``losses_sure`` whichever nodes go; ``losses_lucky`` at most, if they go in the right places. ``n_decoded`` of
    ``n_tried`` ways to lose that many chunks for sure were decoded to the same bytes. ``rebuild_reads``: chunks read
    for each that is rebuilt; None where nothing can be. ``parity_share_of_busiest``: of all parity, on one node.
    """

    name: str
    scheme: str
    capacity_nodes: float
    losses_sure: int
    losses_lucky: int
    n_tried: int
    n_decoded: int
    rebuild_reads: int | None
    parity_share_of_busiest: float | None
    encode_gb_per_s: float | None = None


def raid_levels(n_nodes: int = 8) -> list[Level]:
    """RAID-0, 1, 4, 5, 6 over ``n_nodes``, and the paper's 10+2.

    Raises:
        ConfigError: fewer than four nodes, or an odd number of them.
    """
    if n_nodes < 4 or n_nodes % 2:
        raise ConfigError(detail=f"RAID levels are compared over an even number of nodes, at least 4, not {n_nodes}")
    return [
        Level(name="RAID-0", scheme=Scheme(SchemeKind.STRIPE, n_nodes, 0), n_nodes=n_nodes),
        Level(name="RAID-1", scheme=Scheme(SchemeKind.MIRROR, 1, 1), n_nodes=n_nodes),
        Level(name="RAID-4", scheme=Scheme(SchemeKind.XOR, n_nodes - 1, 1), n_nodes=n_nodes, rotates=False),
        Level(name="RAID-5", scheme=Scheme(SchemeKind.XOR, n_nodes - 1, 1), n_nodes=n_nodes),
        Level(name="RAID-6", scheme=Scheme(SchemeKind.RS, n_nodes - 2, 2), n_nodes=n_nodes),
        Level(name="InfiniCache", scheme=Scheme(SchemeKind.RS, 10, 2), n_nodes=12),
    ]


# ---------------------------------------------------------------- what a level gives


def measure_level(level: Level, coder: Coder, object_bytes: int = 10_007) -> LevelFigures:
    """All but the speed. Each way to lose ``r`` chunks is tried on an object of ``object_bytes``."""
    scheme = level.scheme
    ways = list(itertools.combinations(range(scheme.n), scheme.r))
    data = np.random.default_rng(0).integers(0, 256, object_bytes, dtype=np.uint8)
    return LevelFigures(
        name=level.name,
        scheme=str(scheme),
        capacity_nodes=level.n_nodes * scheme.capacity_share,
        losses_sure=scheme.losses_tolerated,
        losses_lucky=level.n_groups * scheme.losses_tolerated,
        n_tried=len(ways),
        n_decoded=sum(survives(scheme, coder, data, lost) for lost in ways),
        rebuild_reads=scheme.k if scheme.r else None,
        parity_share_of_busiest=_parity_share_of_busiest(level),
    )


def survives(scheme: Scheme, coder: Coder, data: ByteArray, lost: Sequence[int]) -> bool:
    """Whether the object comes back, byte by byte, without the chunks ``lost``."""
    ranges = [scheme.chunk_range(index, len(data)) for index in range(scheme.k)]
    chunks = [data[start:stop] for start, stop in ranges] + coder.encode(scheme, data)
    present = {index: chunk for index, chunk in enumerate(chunks) if index not in lost}
    wanted = {index: np.empty_like(chunks[index]) for index in lost}
    try:
        coder.reconstruct(scheme, len(data), present, wanted)
    except SchemeError:  # too few chunks are left
        return False
    return all(np.array_equal(rebuilt, chunks[index]) for index, rebuilt in wanted.items())


def _parity_share_of_busiest(level: Level) -> float | None:
    """Of the parity chunks of as many stripes as there are nodes; None where there is none (a copy is data)."""
    scheme = level.scheme
    if not scheme.r or scheme.kind is SchemeKind.MIRROR:
        return None
    stripes = range(scheme.n)
    held_by = Counter(
        (index + stripe * level.rotates) % scheme.n for stripe in stripes for index in range(scheme.k, scheme.n)
    )
    return max(held_by.values()) / held_by.total()


def measure_encode(
    schemes: Sequence[Scheme], coder: Coder, object_bytes: int = 16 << 20, rounds: int = 9
) -> dict[Scheme, float]:
    """Median speed of computing what a scheme adds to an object, in bytes of the object per second.

    Striping adds nothing and is left out; a mirror's copy is a copy in memory.

    Raises:
        SchemeError: nothing to measure.
    """
    if object_bytes < 1 or rounds < 1:
        raise SchemeError(detail=f"cannot measure {rounds} rounds on {object_bytes} bytes")
    data = np.random.default_rng(0).integers(0, 256, object_bytes, dtype=np.uint8)
    runs = {scheme: _encoding(scheme, coder, data) for scheme in schemes if scheme.r}
    return {scheme: object_bytes / median_s for scheme, median_s in take_turns(runs, rounds).items()}


def _encoding(scheme: Scheme, coder: Coder, data: ByteArray) -> Callable[[], object]:
    outputs = list(np.empty((scheme.r, scheme.chunk_bytes(len(data))), dtype=np.uint8))
    if scheme.kind is SchemeKind.MIRROR:
        (copy,) = outputs
        return lambda: np.copyto(copy, data)
    return lambda: coder.encode_into(scheme, data, outputs)


# ---------------------------------------------------------------- the page


def raid_page(n_nodes: int = 8, object_bytes: int = 16 << 20, rounds: int = 9, *, draws: bool = True) -> Page:
    """The table, measured on this machine with the fastest kernel it has. Raises as :func:`raid_levels`."""
    levels, coder = raid_levels(n_nodes), Coder()
    speeds = measure_encode([level.scheme for level in levels], coder, object_bytes, rounds)
    rows = [_with_speed(measure_level(level, coder), speeds.get(level.scheme)) for level in levels]
    return Page(
        name="raid",
        title="RAID levels over functions",
        tables=[_table(rows, n_nodes, object_bytes, coder.kernel.name)],
        document={
            "n_nodes": n_nodes,
            "object_bytes": object_bytes,
            "kernel": coder.kernel.name,
            "levels": [asdict(row) for row in rows],
        },
        figures={"raid": _draw(rows, levels)} if draws else {},
    )


def _with_speed(row: LevelFigures, bytes_per_s: float | None) -> LevelFigures:
    return LevelFigures(**asdict(row) | {"encode_gb_per_s": None if bytes_per_s is None else bytes_per_s / 1e9})


def _table(rows: Sequence[LevelFigures], n_nodes: int, object_bytes: int, kernel: str) -> PageTable:
    return PageTable(
        title=f"{n_nodes} nodes (InfiniCache's own: 12) of one unit; encoding {object_bytes >> 20} MiB with {kernel}",
        headings=(
            "level", "scheme", "capacity", "losses, any", "losses, lucky", "ways decoded", "reads to rebuild",
            "parity on one node", "encode",
        ),
        rows=[_cells(row) for row in rows],
        note="RAID-4 and 5 compute the same; only where parity lies differs. The cache places chunks at random, which "
        "spreads parity as rotating it does.",
    )  # fmt: skip


def _cells(row: LevelFigures) -> tuple[str, ...]:
    share, reads, speed = row.parity_share_of_busiest, row.rebuild_reads, row.encode_gb_per_s
    return (
        row.name,
        row.scheme,
        f"{row.capacity_nodes:g}",
        f"{row.losses_sure}",
        f"{row.losses_lucky}",
        f"{row.n_decoded} of {row.n_tried}" if row.losses_sure else "",
        "lost" if reads is None else f"{reads}",
        "" if share is None else f"{share:.0%}",
        "nothing to do" if speed is None else f"{speed:.1f} GB/s",
    )


def _draw(rows: Sequence[LevelFigures], levels: Sequence[Level]) -> Figure:
    with styled():
        made, (left, right) = figure(2, width=11.0)
        _draw_space(left, rows, levels)
        _draw_speed(right, [row for row in rows if row.encode_gb_per_s is not None])
    return made


def _draw_space(axes: Axes, rows: Sequence[LevelFigures], levels: Sequence[Level]) -> None:
    shares = [100 * row.capacity_nodes / level.n_nodes for row, level in zip(rows, levels, strict=True)]
    axes.bar([row.name for row in rows], shares, color=INKS[0])
    for place, (row, share) in enumerate(zip(rows, shares, strict=True)):
        losses = " to ".join(str(n) for n in sorted({row.losses_sure, row.losses_lucky}))
        axes.text(place, share + 1.5, f"{losses} lost", ha="center", fontsize=9.5)
    axes.set_ylim(0, 112)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(False, axis="x")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}%"))
    axes.set_ylabel("share of the memory left for objects")
    axes.set_xlabel("level; above the bars: how many nodes may go")
    axes.set_title("What is left, and what may be lost?")


def _draw_speed(axes: Axes, rows: Sequence[LevelFigures]) -> None:
    names = [f"{row.name}\n{row.scheme}" for row in rows]
    axes.bar(names, [row.encode_gb_per_s or 0.0 for row in rows], color=INKS[2])
    axes.grid(False, axis="x")
    axes.tick_params(axis="x", labelsize=9)
    axes.set_ylabel("GB of objects per second, one core")
    axes.set_xlabel("level and scheme")
    axes.set_title("How fast is it computed?")
