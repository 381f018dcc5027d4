"""What slow nodes cost a read: GETs while all nodes are alike, and while some send at a tenth, in turns."""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from infiniray.codec.schemes import Scheme
from infiniray.units import format_bytes
from workloads.bench.measuring import random_values
from workloads.bench.stand import Stand
from workloads.errors import TargetFailed

__all__ = ["StragglerRow", "measure_stragglers", "render_stragglers"]

_FACTOR = 10.0
#: Reads in one turn; the nodes that are slow are others in every turn.
_READS_OF_TURN = 10
#: A read that was undisturbed leaves nothing behind; one that was not leaves chunks on their way.
_UNCOUNTED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StragglerRow:
    """GETs of one object whose chunks are on all nodes, each of which sends ``node_bytes_per_s``.

    ``quiet_bytes_per_s`` is of the median read, ``share_of_line`` that over what the nodes of a read can send together.
    ``p99_ratio`` is the 99th percentile with slow nodes over the median without.
    """

    op: str
    size_bytes: int
    scheme: str
    hedge: str
    node_bytes_per_s: int
    slowed: int
    n_quiet: int
    n_slowed: int
    quiet_median_s: float
    quiet_p99_s: float
    quiet_bytes_per_s: float
    share_of_line: float
    slowed_median_s: float
    slowed_p99_s: float
    p99_ratio: float

    def to_json_dict(self) -> dict[str, Any]:
        return {"system": "infiniray", **asdict(self)}


def measure_stragglers(here: Stand, *, size_bytes: int, reads: int, slowed: int) -> StragglerRow:
    """Read an object about ``reads`` times with ``slowed`` nodes at a tenth, and as often without.

    Args:
        here: with a shaped network, one scheme, and no more nodes than that has chunks.

    Raises:
        TargetFailed: other bytes came back than were stored.
    """
    scheme = Scheme.parse(here.conditions.scheme)
    ((key, value),) = random_values(size_bytes, ["stragglers"]).items()
    here.settle()
    here.cache.put(key, value)
    functions = here.nodes.functions()
    choice = random.Random(size_bytes)
    quiet: list[float] = []
    disturbed: list[float] = []
    for _ in range(-(-reads // _READS_OF_TURN)):
        here.settle()
        quiet += _reads(here, key, value)
        slow = choice.sample(functions, slowed)
        here.nodes.slow(slow, _FACTOR)
        try:
            disturbed += _reads(here, key, value)
        finally:
            here.nodes.slow(slow, 1.0)
    here.cache.delete(key)
    median_s = float(np.median(quiet))
    slowed_p99_s = float(np.percentile(disturbed, 99))
    rate = here.setting.node_bytes_per_s
    return StragglerRow(
        op="get",
        size_bytes=size_bytes,
        scheme=here.conditions.scheme,
        hedge=here.setting.hedge,
        node_bytes_per_s=rate,
        slowed=slowed,
        n_quiet=len(quiet),
        n_slowed=len(disturbed),
        quiet_median_s=median_s,
        quiet_p99_s=float(np.percentile(quiet, 99)),
        quiet_bytes_per_s=size_bytes / median_s,
        share_of_line=size_bytes / median_s / (scheme.k * rate),
        slowed_median_s=float(np.median(disturbed)),
        slowed_p99_s=slowed_p99_s,
        p99_ratio=slowed_p99_s / median_s,
    )


def _reads(here: Stand, key: str, value: Any) -> list[float]:
    taken_s = []
    for _ in range(_UNCOUNTED + _READS_OF_TURN):
        start_s = time.perf_counter()
        found = here.cache.get(key)
        taken_s.append(time.perf_counter() - start_s)
        if not np.array_equal(found, value):
            raise TargetFailed(system="infiniray", detail=f"{key} came back with other bytes than were stored")
    return list(itertools.islice(taken_s, _UNCOUNTED, None))


def render_stragglers(row: StragglerRow) -> str:
    """For people."""
    return (
        f"get {format_bytes(row.size_bytes)} {row.scheme}, nodes send {format_bytes(row.node_bytes_per_s)}/s, "
        f"hedge {row.hedge}: median {row.quiet_median_s * 1e3:.1f} ms, p99 {row.quiet_p99_s * 1e3:.1f} ms, "
        f"{row.quiet_bytes_per_s / 1e6:,.0f} MB/s = {row.share_of_line:.1%} of the line ({row.n_quiet} reads); "
        f"with {row.slowed} nodes at a tenth: median {row.slowed_median_s * 1e3:.1f} ms, p99 "
        f"{row.slowed_p99_s * 1e3:.1f} ms = {row.p99_ratio:.2f} x the undisturbed median ({row.n_slowed} reads)"
    )
