"""What ends instances without anybody asking: memory limits, and the reclaim policies."""

from __future__ import annotations

import asyncio
import csv
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from infiniray.errors import ConfigError
from infiniray.faas.local.instances import Instance, InstanceState
from infiniray.faas.local.platform import Platform

__all__ = ["poisson", "read_timeline", "resident_bytes", "run_reclaims", "watch_memory"]

_MEMORY_TICK_S = 0.05
_RECLAIM_TICK_S = 0.25
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int) -> int:
    """Resident set of a process, 0 if it has ended."""
    try:
        with open(f"/proc/{pid}/statm") as statm:
            return int(statm.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


async def watch_memory(platform: Platform) -> None:
    """Kill instances that outgrow their function's memory size. Frozen ones cannot grow."""
    while True:
        for instance in platform.instances:
            if instance.state in (InstanceState.INIT, InstanceState.BUSY):
                limit_bytes = instance.function.memory_mb << 20
                if resident_bytes(instance.pid) > limit_bytes:
                    platform.counters["out_of_memory"] += 1
                    instance.kill("memory")
        await asyncio.sleep(_MEMORY_TICK_S)


async def run_reclaims(platform: Platform, timeline: list[tuple[float, int]]) -> None:
    """Reclaim idle instances by idle time, age, a Poisson process and a time line, as the settings say.

    Args:
        timeline: (minute, instances to reclaim) in order of time.
    """
    settings = platform.settings
    timeline = list(timeline)
    started_s = last_s = time.monotonic()
    while True:
        await asyncio.sleep(_RECLAIM_TICK_S)
        now_s = time.monotonic()
        _reclaim(platform, [i for i in platform.instances if i.is_free and _is_stale(platform, i, now_s)], "stale")
        n_random = poisson(platform.random.random, settings.reclaims_per_minute * (now_s - last_s) / 60)
        while timeline and timeline[0][0] * 60 <= now_s - started_s:
            n_random += timeline.pop(0)[1]
        _reclaim(platform, platform.some_instances(n_random, lambda i: i.is_free), "reclaimed")
        last_s = now_s


def _reclaim(platform: Platform, instances: list[Instance], reason: str) -> None:
    if instances:
        platform.reclaim(instances, is_silent=platform.settings.silent_reclaims, reason=reason)


def _is_stale(platform: Platform, instance: Instance, now_s: float) -> bool:
    idle_s, age_s = platform.settings.idle_timeout_s, platform.settings.max_lifetime_s
    return (idle_s is not None and now_s - instance.used_s > idle_s) or (
        age_s is not None and now_s - instance.started_s > age_s
    )


def poisson(uniform: Callable[[], float], mean: float) -> int:
    """A Poisson variate by multiplication of uniforms (Knuth); means here are small."""
    if mean <= 0:
        return 0
    limit, product, count = math.exp(-min(mean, 500)), 1.0, -1
    while product > limit:
        product *= uniform()
        count += 1
    return max(count, 0)


def read_timeline(path: Path) -> list[tuple[float, int]]:
    """(minute, instances to reclaim) in order of time, from a CSV whose first two columns these are; a header is
    skipped.

    Raises:
        ConfigError: not such a file.
    """
    rows: list[tuple[float, int]] = []
    try:
        with path.open(newline="") as file:
            for number, row in enumerate(csv.reader(file), 1):
                try:
                    rows.append((float(row[0]), round(float(row[1]))))
                except (ValueError, IndexError):
                    if number > 1:
                        detail = f"{path} line {number}: not a minute and a count: {row}"
                        raise ConfigError(detail=detail) from None
    except OSError as error:
        raise ConfigError(detail=f"{path}: {error.strerror}") from None
    return sorted(row for row in rows if row[1] > 0)
