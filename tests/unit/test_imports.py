"""What is loaded by whom: each command, and each process that connects to a cache, waits for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

#: What only those need who run a cache, not those who use it or end it.
HEAVY = ("aiohttp", "boto3", "infiniray.cluster.shard", "infiniray.cluster.supervisor", "infiniray.runtime")


@pytest.mark.parametrize("module", ["infiniray.lifecycle", "infiniray.cache", "infiniray.cluster.hosting"])
def test_who_connects_or_ends_a_cache_loads_nothing_of_what_runs_it(module: str) -> None:
    program = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = json.loads(done.stdout)
    assert module in loaded
    assert [name for name in HEAVY if name in loaded] == []
