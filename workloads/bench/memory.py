"""What client and shard hold in memory while large objects are moved, and afterwards."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
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
    memory and files, each page once."""

    client_bytes: int
    shard_bytes: int
    shared_bytes: int

    @classmethod
    def of(cls, shard_pid: int) -> Resident:
        """As it is now. Takes tens of milliseconds."""
        return replace(cls.private(shard_pid), shared_bytes=_shared_bytes([os.getpid(), shard_pid]))

    @classmethod
    def private(cls, shard_pid: int) -> Resident:
        """Without what is shared; takes a tenth of a millisecond."""
        client, shard = (psutil.Process(pid).memory_info() for pid in (os.getpid(), shard_pid))
        return cls(client_bytes=client.rss - client.shared, shard_bytes=shard.rss - shard.shared, shared_bytes=0)

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

    ``peak_bytes`` is the most private memory of client and shard at one instant, and shared memory that either has
    touched when the operation is over and its results are there: it stays mapped, so this can only be too much.
    ``peak_ratio`` is that for each byte in flight.

    Once results are gone ``after_bytes`` is private growth, and ``after_shared_bytes`` what is kept mapped for the next
    value. ``idle_bytes`` is all of both when nothing has been used for as long as the cache keeps such memory.
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
    after_shared_bytes: int
    idle_bytes: int
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
    idle_s: float = 0.0,
) -> list[MemoryRow]:
    """PUT, then GET, ``clients`` objects at once, with both processes watched.

    Args:
        settle_s: private memory that is let go has so long to get back to the system.
        idle_s: and shared memory so much longer, at the end.
    """
    values = random_values(size_bytes, [f"memory/{i}" for i in range(clients)])
    warm_up = random_values(_WARM_UP_BYTES, ["memory/warm-up"])
    peaks: dict[str, list[Resident]] = {"put": [], "get": []}
    afters: dict[str, list[Resident]] = {"put": [], "get": []}
    with ThreadPoolExecutor(clients) as pool:
        for key, value in warm_up.items():
            target.put(key, value)
            target.get(key)
        time.sleep(settle_s / 5)
        gc.collect()
        base = Resident.of(shard_pid)

        def watched(op: str, act: Callable[[str], Any]) -> None:
            with _watching(shard_pid) as seen:
                held = list(pool.map(act, values))
            shared_bytes = Resident.of(shard_pid).shared_bytes
            del held
            peak = max(seen, key=lambda resident: resident.private_bytes)
            peaks[op].append(replace(peak, shared_bytes=shared_bytes).since(base))
            _await(lambda: Resident.private(shard_pid).since(base).private_bytes, settle_s)
            afters[op].append(Resident.of(shard_pid).since(base))

        for _ in range(rounds):
            watched("put", lambda key: target.put(key, values[key]))
            watched("get", target.get)
    for key in (*values, *warm_up):
        target.delete(key)
    idle_bytes = _await(lambda: Resident.of(shard_pid).since(base).all_bytes, idle_s)
    rows = []
    for op in ("put", "get"):
        peak = max(peaks[op], key=lambda resident: resident.all_bytes)
        after = afters[op][-1]
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
                after_bytes=after.private_bytes,
                after_shared_bytes=after.shared_bytes,
                idle_bytes=idle_bytes,
                is_back=max(after.private_bytes, idle_bytes) <= _SLACK_BYTES,
            )
        )
    return rows


@contextmanager
def _watching(shard_pid: int) -> Iterator[list[Resident]]:
    """Private memory, looked at all the time; at least once."""
    seen: list[Resident] = []
    over = threading.Event()

    def watch() -> None:
        while True:
            seen.append(Resident.private(shard_pid))
            if over.wait(_SAMPLE_S):
                return

    watcher = threading.Thread(target=watch, name="memory", daemon=True)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()


def _await(growth_bytes: Callable[[], int], within_s: float) -> int:
    """The growth once it has gone, or has had its time to."""
    gc.collect()
    deadline_s = time.monotonic() + within_s
    while True:
        n_bytes = growth_bytes()
        if n_bytes <= _SLACK_BYTES or time.monotonic() > deadline_s:
            return n_bytes
        time.sleep(0.05)


def _shared_bytes(pids: Sequence[int]) -> int:
    """What is resident of files, and of shared memory, in these processes. A process may have the same pages mapped
    twice, to read and to write: of mappings of the same part of a file the one that has touched most counts."""
    parts: dict[tuple[str, ...], int] = {}
    for pid in pids:
        for part, n_bytes in _mapped_parts(Path(f"/proc/{pid}/smaps").read_text(errors="replace")):
            parts[part] = max(parts.get(part, 0), n_bytes)
    return sum(parts.values())


def _mapped_parts(smaps: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """(which part of which file, resident bytes of it) of each mapping of a file (proc_pid_smaps(5))."""
    part: tuple[str, ...] = ()
    is_file, n_kib = False, 0
    for line in smaps.splitlines():
        words = line.split()
        if not words[0].endswith(":"):  # a mapping begins: address, permissions, offset, device, inode
            start, _, end = words[0].partition("-")
            part = (*words[2:5], str(int(end, 16) - int(start, 16)))
            is_file = words[4] != "0"
        elif words[0] == "Rss:":
            n_kib = int(words[1])
        elif words[0] == "Anonymous:" and is_file:  # of these pages the process has copies of its own
            yield part, (n_kib - int(words[1])) << 10


def render_memory(rows: list[MemoryRow]) -> str:
    """For people."""
    return "\n".join(
        f"{row.op} {row.clients} x {format_bytes(row.size_bytes)} {row.scheme}: peak {row.peak_bytes / 1e6:,.1f} MB = "
        f"{row.peak_ratio:.2f} x what is in flight (client {row.peak_client_bytes / 1e6:,.1f}, "
        f"shard {row.peak_shard_bytes / 1e6:,.1f}, shared {row.peak_shared_bytes / 1e6:,.1f}); "
        f"afterwards {row.after_bytes / 1e6:+,.1f} MB and {row.after_shared_bytes / 1e6:,.1f} shared for the next, "
        f"when idle {row.idle_bytes / 1e6:+,.1f} MB{'' if row.is_back else ', not back'}"
        for row in rows
    )
