"""What the machine's own floors are measured with leaves nothing behind, and counts what it says."""

from __future__ import annotations

import os

from infiniray.codec import isal
from workloads.bench.floors import measure_floors, render_floors
from workloads.bench.processes import measure_socket, render_processes


def test_each_floor_is_measured_and_nothing_stays_open() -> None:
    measure_floors(1 << 20, 1)  # what is loaded once
    n_open = len(os.listdir("/proc/self/fd"))
    floors = measure_floors(4_000_000, 2)  # ten chunks of one length: the kernel can be called by itself
    assert len(os.listdir("/proc/self/fd")) == n_open
    assert len({floor.what for floor in floors}) == len(floors) == (8 if isal.load() is None else 9)
    for floor in floors:
        assert floor.cpu_s > 0
        assert floor.bytes_per_s == floor.size_bytes / floor.cpu_s
        assert floor.to_json_dict()["system"] == "floor"
    assert len(render_floors(floors).splitlines()) == len(floors)


def test_a_sockets_share_is_that_of_this_process_alone() -> None:
    put, get = measure_socket(size_bytes=4 << 20, least_s=0.05)
    assert (put.op, get.op) == ("put", "get")
    for row in (put, get):
        assert row.n_calls > 0
        assert 0 < row.user_s + row.system_s <= 3 * row.wall_s  # two threads, and this one
        assert row.role in render_processes([row])
