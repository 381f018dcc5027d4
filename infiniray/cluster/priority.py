"""How much of a busy machine a shard gets.

Ray runs its workers at niceness 15 (``worker_niceness``), so that tasks do not starve its own processes. A shard is no
task: clients and functions at niceness 0 wait for it, and where no core is idle each of them gets 28 times its share
(sched(7): weights of 1024 and 36).
"""

from __future__ import annotations

import contextlib
import os

__all__ = ["WORKER_NICENESS", "match_ray"]

#: For the environment of a Ray that is started here: a worker gets back what it has lost only with CAP_SYS_NICE.
WORKER_NICENESS = {"RAY_worker_niceness": "0"}


def match_ray() -> None:
    """Give all threads of this process the niceness of the one that started it, which is Ray's own, where that is
    allowed."""
    try:
        wanted = os.getpriority(os.PRIO_PROCESS, os.getppid())
        threads = [int(entry) for entry in os.listdir("/proc/self/task")]
    except OSError:  # no such system
        return
    for thread in threads:
        with contextlib.suppress(OSError):  # not allowed, or it has ended
            os.setpriority(os.PRIO_PROCESS, thread, wanted)
