"""How fast the cache comes back: after a shard is killed, after functions are reclaimed, and while it is backed up.

Real processes on the embedded platform. Times are this machine's; what is asserted anywhere are counts.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from infiniray.cache import Cache
from infiniray.errors import InfiniRayError
from infiniray.faas.local.admin import PlatformAdmin

__all__ = [
    "BackupFigures",
    "RecoveryFigures",
    "RepairFigures",
    "measure_backup",
    "measure_recovery",
    "measure_repair",
]

_CLIENTS = 8
_BATCH = 500
#: Nothing here takes longer, or it has failed.
_LIMIT_S = 300.0
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryFigures:
    """After SIGKILL of a shard's process: seconds until the first GET is served, and until every object has been."""

    first_get_s: float
    all_served_s: float
    objects_before: int
    objects_after: int

    def to_json_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairFigures:
    """After instances were reclaimed: seconds until no object lacks a chunk. ``lost_bytes``: what they held."""

    lost_bytes: int
    objects: int
    chunks_rebuilt: int
    repair_s: float
    bytes_per_s: float
    wrong_objects: int

    def to_json_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupFigures:
    """Reads without, and during, a round in which every node is backed up: medians of rounds that took turns."""

    quiet_bytes_per_s: float
    busy_bytes_per_s: float
    ratio: float
    backups: int
    bytes_copied: int

    def to_json_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_recovery(
    cache: Cache, shard_pid: Callable[[], int], *, n_objects: int, object_bytes: int
) -> RecoveryFigures:
    """Store objects, kill the process of their shard, and read them all.

    Args:
        cache: of one shard, empty.
        shard_pid: the process id of that shard.

    Raises:
        ValueError: an object came back with other bytes.
    """
    values = {f"recovery/{i}": _value(i, object_bytes) for i in range(n_objects)}
    for batch in _batches(list(values), _BATCH):
        cache.put_many({key: values[key] for key in batch})
    before = sum(1 for _ in cache.keys(prefix="recovery/"))
    os.kill(shard_pid(), signal.SIGKILL)
    began_s = time.monotonic()
    _read_checked(cache, "recovery/0", values["recovery/0"])
    first_get_s = time.monotonic() - began_s
    after = 0
    for batch in _batches(list(values), _BATCH):
        found = cache.get_many(batch)
        for key, value in found.items():
            _check(key, value, values[key])
        after += len(found)
    return RecoveryFigures(
        first_get_s=first_get_s, all_served_s=time.monotonic() - began_s, objects_before=before, objects_after=after
    )


def measure_repair(
    cache: Cache, admin: PlatformAdmin, *, n_objects: int, object_bytes: int, n_nodes: int
) -> RepairFigures:
    """Store objects, reclaim the instances of ``n_nodes`` nodes, and wait until all is whole again."""
    values = {f"repair/{i}": _value(i, object_bytes) for i in range(n_objects)}
    for key, value in values.items():
        cache.put(key, value)
    nodes = sorted({row["function"] for row in admin.instances()})[:n_nodes]
    held_before = cache.stats()["repairs"]
    stored = cache.stats()["stored_bytes"]
    lost_bytes = round(stored * len(nodes) / max(1, cache.stats()["nodes"]))
    for node in nodes:
        admin.reclaim(function=node, everything=True)
    began_s = time.monotonic()
    # A warm-up would find out within its interval; a read of every object finds out at once.
    _await(lambda: cache.stats()["endangered"] > 0 or cache.stats()["repairs"] > held_before)
    _await(lambda: cache.stats()["endangered"] == 0)
    repair_s = time.monotonic() - began_s
    wrong = sum(not np.array_equal(np.frombuffer(cache.get(key), np.uint8), value) for key, value in values.items())
    return RepairFigures(
        lost_bytes=lost_bytes, objects=n_objects, chunks_rebuilt=cache.stats()["repairs"] - held_before,
        repair_s=repair_s, bytes_per_s=lost_bytes / repair_s, wrong_objects=wrong,
    )  # fmt: skip


def measure_backup(
    cache: Cache, back_up: Callable[[], None], *, n_objects: int, object_bytes: int, rounds: int, round_s: float
) -> BackupFigures:
    """Read all the time; in every second round every node is backed up, after its objects were written anew."""
    keys = [f"backup/{i}" for i in range(n_objects)]
    quiet: list[float] = []
    busy: list[float] = []
    start = cache.stats()
    for round_ in range(2 * rounds):
        for i, key in enumerate(keys):
            cache.put(key, _value(round_ * n_objects + i, object_bytes))
        if round_ % 2:
            back_up()
        (busy if round_ % 2 else quiet).append(_read_rate(cache, keys, object_bytes, round_s))
        _await(lambda: cache.stats().get("backups_running", 0) == 0)
    end = cache.stats()
    quiet_rate, busy_rate = statistics.median(quiet), statistics.median(busy)
    return BackupFigures(
        quiet_bytes_per_s=quiet_rate, busy_bytes_per_s=busy_rate, ratio=busy_rate / quiet_rate,
        backups=end["backups"] - start["backups"], bytes_copied=end["backup_bytes"] - start["backup_bytes"],
    )  # fmt: skip


def _read_rate(cache: Cache, keys: list[str], object_bytes: int, for_s: float) -> float:
    """Bytes per second that clients read in a time."""
    until_s = time.monotonic() + for_s

    def read(client: int) -> int:
        n_read = 0
        while time.monotonic() < until_s:
            cache.get(keys[(client + n_read) % len(keys)], raw=True)
            n_read += 1
        return n_read

    with ThreadPoolExecutor(_CLIENTS) as clients:
        return sum(clients.map(read, range(_CLIENTS))) * object_bytes / for_s


def _read_checked(cache: Cache, key: str, value: np.ndarray[Any, Any]) -> None:
    deadline_s = time.monotonic() + _LIMIT_S
    while True:
        try:
            _check(key, cache.get(key), value)
            return
        except InfiniRayError as error:
            if not error.retryable or time.monotonic() > deadline_s:
                raise


def _check(key: str, found: Any, value: np.ndarray[Any, Any]) -> None:
    if not np.array_equal(np.asarray(found), value):
        raise ValueError(f"{key} came back with other bytes")


def _value(seed: int, n_bytes: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, n_bytes, np.uint8)


def _batches(keys: list[str], size: int) -> Iterator[list[str]]:
    return (keys[i : i + size] for i in range(0, len(keys), size))


def _await(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + _LIMIT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError("it did not come to an end")
        time.sleep(_POLL_S)
