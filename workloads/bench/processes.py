"""Where the CPU time of PUT and GET goes: seconds, page faults and switches of each process that takes part."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import psutil

from infiniray.units import format_bytes
from workloads.baselines import LoopbackTarget
from workloads.bench.measuring import random_values
from workloads.bench.stand import Stand

__all__ = ["ProcessRow", "measure_processes", "measure_socket", "render_processes"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
#: Ticks are coarse: so much time has a hundred of them.
_LEAST_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRow:
    """What the ``n_processes`` of one role did for one call, on average; ``wall_s`` is how long that took.

    ``faults`` are pages that the kernel had to provide or map, ``switches`` times that a thread gave up or lost its
    CPU.
    """

    op: str
    size_bytes: int
    scheme: str
    awake: bool
    role: str
    n_processes: int
    n_calls: int
    wall_s: float
    user_s: float
    system_s: float
    faults: float
    switches: float

    def to_json_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Used:
    """By one process so far."""

    user_s: float
    system_s: float
    faults: int
    switches: int

    @classmethod
    def of(cls, pid: int) -> _Used:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        switches = psutil.Process(pid).num_ctx_switches()
        return cls(
            int(fields[11]) / _TICKS_PER_S,
            int(fields[12]) / _TICKS_PER_S,
            int(fields[7]),
            switches.voluntary + switches.involuntary,
        )


def measure_processes(here: Stand, *, size_bytes: int, least_s: float = _LEAST_S) -> list[ProcessRow]:
    """PUT one object again and again for ``least_s``, then GET it, and see who worked how much."""
    ((key, value),) = random_values(size_bytes, ["processes"]).items()
    rows = []
    for op, act in (("put", lambda: here.cache.put(key, value)), ("get", lambda: here.cache.get(key))):
        here.settle()
        act()
        rows += _watched(here, op, size_bytes, act, least_s)
    here.cache.delete(key)
    return rows


def _watched(here: Stand, op: str, size_bytes: int, act: Callable[[], Any], least_s: float) -> list[ProcessRow]:
    roles = _roles(here)
    before = {pid: _Used.of(pid) for pid in roles}
    n_calls, wall_s = 0, 0.0
    while wall_s < least_s:
        if not here.conditions.awake:  # nodes that are awake stay so for longer than this takes
            here.settle()
        start_s = time.perf_counter()
        act()
        wall_s += time.perf_counter() - start_s
        n_calls += 1
    after = {pid: _Used.of(pid) for pid in roles if psutil.pid_exists(pid)}
    rows = []
    for role in dict.fromkeys(roles.values()):
        pids = [pid for pid in after if roles[pid] == role]
        rows.append(
            ProcessRow(
                op=op,
                size_bytes=size_bytes,
                scheme=here.conditions.scheme,
                awake=here.conditions.awake,
                role=role,
                n_processes=len(pids),
                n_calls=n_calls,
                wall_s=wall_s / n_calls,
                user_s=sum(after[pid].user_s - before[pid].user_s for pid in pids) / n_calls,
                system_s=sum(after[pid].system_s - before[pid].system_s for pid in pids) / n_calls,
                faults=sum(after[pid].faults - before[pid].faults for pid in pids) / n_calls,
                switches=sum(after[pid].switches - before[pid].switches for pid in pids) / n_calls,
            )
        )
    return rows


def measure_socket(*, size_bytes: int, least_s: float = _LEAST_S) -> list[ProcessRow]:
    """The same of a loopback connection, sender, receiver and kernel together."""
    target = LoopbackTarget()
    ((key, value),) = random_values(size_bytes, ["socket"]).items()
    rows = []
    try:
        for op, act in (("put", lambda: target.put(key, value)), ("get", lambda: target.get(key))):
            act()
            before, start_s, n_calls = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), 0
            while (wall_s := time.perf_counter() - start_s) < least_s or not n_calls:
                act()
                n_calls += 1
            used = resource.getrusage(resource.RUSAGE_SELF)
            switches = used.ru_nvcsw + used.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw
            rows.append(
                ProcessRow(
                    op=op,
                    size_bytes=size_bytes,
                    scheme="",
                    awake=True,
                    role=target.name,
                    n_processes=1,
                    n_calls=n_calls,
                    wall_s=wall_s / n_calls,
                    user_s=(used.ru_utime - before.ru_utime) / n_calls,
                    system_s=(used.ru_stime - before.ru_stime) / n_calls,
                    faults=(used.ru_minflt - before.ru_minflt) / n_calls,
                    switches=switches / n_calls,
                )
            )
    finally:
        target.close()
    return rows


def _roles(here: Stand) -> dict[int, str]:
    """Of all processes that the benchmark has started, and its own."""
    roles = {os.getpid(): "client", here.shard_pid: "shard"}
    for pid in here.nodes.pids():
        roles[pid] = "nodes"
    for process in psutil.Process().children(recursive=True):
        with_args = " ".join(process.cmdline())
        if process.pid in roles or not with_args:
            continue
        if "raylet" in process.name():
            role = "ray's store"
        elif with_args.startswith("ray::") and "Supervisor" not in with_args:
            role = "codec tasks"
        else:
            role = "platform" if "infiniray" in with_args else "others"
        roles[process.pid] = role
    return roles


def render_processes(rows: list[ProcessRow]) -> str:
    """For people."""
    lines = []
    for row in rows:
        if row.user_s + row.system_s == 0:
            continue
        lines.append(
            f"{row.op} {format_bytes(row.size_bytes):>9} {row.scheme:7} {'awake ' if row.awake else 'asleep'} "
            f"{row.wall_s * 1e3:9.3f} ms  {row.role:12} x{row.n_processes:<3} user {row.user_s * 1e3:8.3f} ms "
            f"system {row.system_s * 1e3:8.3f} ms  faults {row.faults:9.1f}  switches {row.switches:8.1f}"
        )
    return "\n".join(lines)
