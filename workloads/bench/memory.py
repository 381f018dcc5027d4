"""What client and shard hold in memory while large objects are moved, and afterwards."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from infiniray.units import format_bytes
from workloads.baselines import Target
from workloads.bench.measuring import Conditions, random_values

__all__ = ["MemoryRow", "Resident", "measure_memory", "render_memory"]

_SAMPLE_S = 0.001
_SETTLE_S = 5.0
#: Private memory this far above where it began counts as back: the interpreter's own ups and downs.
_SLACK_BYTES = 8 << 20
_WARM_UP_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Resident:
    """Private resident memory of this process and of the shard's; ``shared_bytes`` is what either has mapped of shared
    memory and files, the larger of the two: both map the same pages of Ray's store."""

    client_bytes: int
    shard_bytes: int
    shared_bytes: int

    @classmethod
    def of(cls, shard_pid: int) -> Resident:
        """As it is now."""
        client = psutil.Process(os.getpid()).memory_info()
        shard = psutil.Process(shard_pid).memory_info()
        return cls(
            client_bytes=client.rss - client.shared,
            shard_bytes=shard.rss - shard.shared,
            shared_bytes=max(client.shared, shard.shared),
        )

    def since(self, base: Resident) -> Resident:
        """The growth."""
        return Resident(
            client_bytes=self.client_bytes - base.client_bytes,
            shard_bytes=self.shard_bytes - base.shard_bytes,
            shared_bytes=self.shared_bytes - base.shared_bytes,
        )

    @property
    def private_bytes(self) -> int:
        return self.client_bytes + self.shard_bytes

    @property
    def all_bytes(self) -> int:
        return self.private_bytes + self.shared_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """Growth over what was resident before any object of this size was touched, the most that was seen in any round.

    ``peak_bytes`` is private memory of client and shard at one instant, and shared memory that either has touched so
    far, each page once: pages that Ray's store has handed out stay mapped, so this can only be too much.
    ``peak_ratio`` is that for each byte in flight. ``after_bytes`` is private growth once results are gone.
    """

    op: str
    size_bytes: int
    scheme: str
    clients: int
    awake: bool
    shaped: bool
    rounds: int
    peak_bytes: int
    peak_ratio: float
    peak_client_bytes: int
    peak_shard_bytes: int
    peak_shared_bytes: int
    after_bytes: int
    is_back: bool

    def to_json_dict(self) -> dict[str, Any]:
        return {"system": "infiniray", **asdict(self)}


def measure_memory(
    target: Target,
    conditions: Conditions,
    *,
    size_bytes: int,
    clients: int,
    rounds: int,
    shard_pid: int,
    settle_s: float = _SETTLE_S,
) -> list[MemoryRow]:
    """PUT, then GET, ``clients`` objects at once, with both processes watched.

    Args:
        settle_s: what is let go has so long to get back to the system.
    """
    values = random_values(size_bytes, [f"memory/{i}" for i in range(clients)])
    warm_up = random_values(_WARM_UP_BYTES, ["memory/warm-up"])
    peaks: dict[str, list[Resident]] = {"put": [], "get": []}
    afters: dict[str, list[int]] = {"put": [], "get": []}
    with ThreadPoolExecutor(clients) as pool:
        for key, value in warm_up.items():
            target.put(key, value)
            target.get(key)
        base = _settled(shard_pid, None, settle_s / 5)

        def watched(op: str, act: Callable[[str], Any]) -> None:
            with _watching(shard_pid, base) as seen:
                held = list(pool.map(act, values))
            del held
            peaks[op].append(max(seen, key=lambda resident: resident.all_bytes))
            afters[op].append(_settled(shard_pid, base, settle_s).since(base).private_bytes)

        for _ in range(rounds):
            watched("put", lambda key: target.put(key, values[key]))
            watched("get", target.get)
    for key in (*values, *warm_up):
        target.delete(key)
    rows = []
    for op in ("put", "get"):
        peak = max(peaks[op], key=lambda resident: resident.all_bytes)
        after_bytes = afters[op][-1]
        rows.append(
            MemoryRow(
                op=op,
                size_bytes=size_bytes,
                scheme=conditions.scheme,
                clients=clients,
                awake=conditions.awake,
                shaped=conditions.shaped,
                rounds=rounds,
                peak_bytes=peak.all_bytes,
                peak_ratio=peak.all_bytes / (size_bytes * clients),
                peak_client_bytes=peak.client_bytes,
                peak_shard_bytes=peak.shard_bytes,
                peak_shared_bytes=peak.shared_bytes,
                after_bytes=after_bytes,
                is_back=after_bytes <= _SLACK_BYTES,
            )
        )
    return rows


@contextmanager
def _watching(shard_pid: int, base: Resident) -> Iterator[list[Resident]]:
    """Growth, looked at all the time; at least once."""
    seen: list[Resident] = []
    over = threading.Event()

    def watch() -> None:
        while True:
            seen.append(Resident.of(shard_pid).since(base))
            if over.wait(_SAMPLE_S):
                return

    watcher = threading.Thread(target=watch, name="memory", daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _settled(shard_pid: int, base: Resident | None, within_s: float) -> Resident:
    """What is resident once it has come back to ``base``, or has had its time."""
    gc.collect()
    deadline_s = time.monotonic() + within_s
    while True:
        now = Resident.of(shard_pid)
        is_back = base is not None and now.since(base).private_bytes <= _SLACK_BYTES
        if is_back or time.monotonic() > deadline_s:
            return now
        time.sleep(0.05)


def render_memory(rows: list[MemoryRow]) -> str:
    """For people."""
    return "\n".join(
        f"{row.op} {row.clients} x {format_bytes(row.size_bytes)} {row.scheme}: peak {row.peak_bytes / 1e6:,.1f} MB = "
        f"{row.peak_ratio:.2f} x what is in flight (client {row.peak_client_bytes / 1e6:,.1f}, "
        f"shard {row.peak_shard_bytes / 1e6:,.1f}, shared {row.peak_shared_bytes / 1e6:,.1f}); "
        f"afterwards {row.after_bytes / 1e6:+,.1f} MB{'' if row.is_back else ', not back'}"
        for row in rows
    )
