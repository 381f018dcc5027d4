"""Functions, shards, the supervisor, the network and the platform fail under readers and writers, whose histories are
judged: each key behaves like a register that may lose its value, where losses may be, and nowhere else."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from chaos import Chaos
from history import Operation, Outcome, Verb
from linearize import Span, check, unexcused_misses
from traffic import TEST, Load, traffic

import infiniray
from infiniray import Cache

SETTINGS: dict[str, Any] = {
    "nodes": 8,
    "shards": 2,
    "scheme": "rs:2+1",
    "memory_mb": 256,
    "session": {"linger_s": "50ms"},
    "availability": {"backup_interval_s": 2, "warm_interval_s": 2},
}
#: How much later than its deadline an operation may end on a machine that is busy.
GRACE_S = 5.0
#: Operations of the threads between two injuries.
PAUSE = 60


@pytest.fixture(scope="module")
def chaos_cache(local_ray: str) -> Iterator[Cache]:
    """8 nodes, 2 shards, rs:2+1, backups all the time."""
    with infiniray.start(**SETTINGS, name="chaos") as cache:
        yield cache


@pytest.fixture
def chaos(chaos_cache: Cache) -> Chaos:
    return Chaos(chaos_cache, seed=3)


@pytest.fixture
def cache(chaos_cache: Cache) -> Cache:
    """A fresh namespace of it."""
    return chaos_cache.namespace(uuid.uuid4().hex[:8])


@pytest.fixture
def load(tmp_path: Path) -> Load:
    kept, deleted = tuple(f"kept-{i}" for i in range(6)), tuple(f"deleted-{i}" for i in range(3))
    return Load(keys=kept + deleted, deleted=deleted, stop=tmp_path / "stop")


def judge(history: Sequence[Operation], load: Load) -> None:
    """What must hold whatever happened."""
    flaws = check(history)
    assert not flaws, "\n".join(map(str, flaws))
    late = [o for o in history if o.took_s > load.deadline_s + GRACE_S]
    assert not late, "\n".join(map(str, late))
    failed = [o for o in history if o.outcome in (Outcome.ERROR, Outcome.INDETERMINATE) and not o.is_retryable]
    assert not failed, "\n".join(map(str, failed))
    done = Counter(o.verb for o in history if o.outcome is Outcome.OK)
    assert min(done[verb] for verb in Verb) >= 10, done
    assert {o.worker for o in history} == {TEST, *range(1, 7)}  # 4 threads, 2 tasks
    unsettled = [o for o in last(history) if o.outcome is Outcome.ERROR]
    assert not unsettled, "\n".join(map(str, unsettled))


def last(history: Sequence[Operation]) -> list[Operation]:
    """A read of each key when all was over."""
    return [o for o in history if o.worker == TEST]


def judge_lossless(history: Sequence[Operation], losses: Sequence[Span] = ()) -> None:
    lost = unexcused_misses(history, losses)
    assert not lost, "\n".join(map(str, lost))


def test_functions_vanish(cache: Cache, chaos: Chaos, load: Load) -> None:
    """One by one and in bursts, with FIN and without; what was lost stays lost until it is written again."""
    with traffic(cache, load) as going:
        going.proceed(PAUSE)
        for _ in range(3):
            chaos.kill_function()
            going.proceed(PAUSE)
        chaos.reclaim_burst()
        going.proceed(PAUSE)
        chaos.reclaim_burst(silent=True)
        going.proceed(PAUSE)
        chaos.reclaim_burst(1.0)
        going.proceed(PAUSE)
        history = going.end()
    judge(history, load)
    judge_lossless(history, chaos.spans)


def test_the_platform_refuses(cache: Cache, chaos: Chaos, load: Load) -> None:
    """429 and 500 lose nothing."""
    before = chaos.admin.stats()
    with traffic(cache, load) as going:
        for _ in range(3):
            going.proceed(PAUSE)
            chaos.throttle(8)
            going.proceed(PAUSE)
            chaos.fail(8)
        going.proceed(PAUSE)
        history = going.end()
    after = chaos.admin.stats()
    assert after["throttled"] > before["throttled"]
    assert after["failed"] > before["failed"]
    judge(history, load)
    judge_lossless(history)


def test_a_node_is_cut_off(cache: Cache, chaos: Chaos, load: Load) -> None:
    """One at a time, which redundancy makes up for."""
    with traffic(cache, load) as going:
        going.proceed(PAUSE)
        with chaos.cut_node():
            going.proceed(2 * PAUSE)
        going.proceed(PAUSE)
        history = going.end()
    judge(history, load)
    judge_lossless(history)


def test_shards_are_killed(cache: Cache, chaos: Chaos, load: Load) -> None:
    """A killed shard comes back with every object that was committed (DESIGN section 8)."""
    with traffic(cache, load) as going:
        for _ in range(3):
            going.proceed(2 * PAUSE)
            chaos.kill_shard()
        going.proceed(2 * PAUSE)
        history = going.end()
    judge(history, load)
    judge_lossless(history)
    assert all(o.outcome is Outcome.OK for o in last(history) if o.key not in load.deleted)


def test_the_supervisor_is_killed(cache: Cache, chaos: Chaos, load: Load) -> None:
    """The data path does not notice."""
    with traffic(cache, load) as going:
        for _ in range(2):
            going.proceed(PAUSE)
            chaos.kill_supervisor()
        going.proceed(PAUSE)
        history = going.end()
    judge(history, load)
    judge_lossless(history)
    failed = [o for o in history if o.outcome in (Outcome.ERROR, Outcome.INDETERMINATE)]
    assert not failed, "\n".join(map(str, failed))


@pytest.mark.parametrize("seed", [1, 2])
def test_everything_at_once_and_no_process_is_left(local_ray: str, load: Load, seed: int) -> None:
    with infiniray.start(**SETTINGS, name="turmoil") as whole:
        chaos = Chaos(whole, seed)
        cache = whole.namespace("turmoil")
        pids = chaos.pids()
        with traffic(cache, load) as going:
            going.proceed(PAUSE)
            chaos.everything(lambda: going.proceed(PAUSE))
            pids |= chaos.pids()
            history = going.end()
        judge(history, load)
        assert len({injury.what for injury in chaos.injuries}) == 6
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=20)
    assert not alive
