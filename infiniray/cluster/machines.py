"""On which machines of the Ray cluster shards run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from infiniray.cluster.rayapi import Machine

__all__ = ["spread"]


def spread(shards: Sequence[str], machines: Sequence[Machine], taken: Iterable[str]) -> dict[str, str]:
    """{shard: the id of its machine}, so that no machine has two shards more than another.

    Ray spreads by resources, of which shards claim next to none: they might all come to be together. Machines without
    CPUs for tasks are left alone (as a head often is) unless there are no others.

    Args:
        machines: at least one.
        taken: the machines of shards that are there already, one for each.
    """
    machines = [machine for machine in machines if machine.n_cpus > 0] or machines
    n_shards = Counter({machine.id: 0 for machine in machines})
    n_shards.update(machine for machine in taken if machine in n_shards)
    chosen = {}
    for shard in shards:
        chosen[shard] = min(n_shards, key=lambda machine: n_shards[machine])
        n_shards[chosen[shard]] += 1
    return chosen
