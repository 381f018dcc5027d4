"""The bench commands: :mod:`workloads.bench` on embedded caches; docs/performance.md has the protocol of each."""

from infiniray.cli.bench.comeback import backup, recovery, repair
from infiniray.cli.bench.loads import floors, memory, mixed, processes, shards, stragglers
from infiniray.cli.bench.table import bench

__all__ = ["bench"]

for command in (mixed, memory, processes, floors, stragglers, shards, recovery, repair, backup):
    bench.add_command(command)
