"""Functions, shards, the supervisor, the network and the platform fail under readers and writers, whose histories are
judged: each key behaves like a register that may lose its value, where losses may be, and nowhere else.

Each fault comes once, in under a minute. ``INFINIRAY_CHAOS=10``: each comes ten times, and the last test runs
with ten seeds; ``INFINIRAY_CHAOS_SEED=7``: they begin with this one.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from chaos import Chaos
from history import Operation, Outcome, Recorder, Verb
from linearize import Span, check, unexcused_misses
from stamps import identify, stamped
from traffic import TEST, Load, traffic

import infiniray
from infiniray import Cache, CacheUnavailable
from infiniray.channel.client import Channel
from infiniray.channel.line import ChannelLost, Write
from infiniray.channel.waiting import Exchange
from infiniray.cluster import rayapi
from infiniray.cluster.deadline import Deadline

#: How often each fault comes.
ROUNDS = int(os.environ.get("INFINIRAY_CHAOS", "1"))
FIRST_SEED = int(os.environ.get("INFINIRAY_CHAOS_SEED", "1"))
pytestmark = pytest.mark.timeout(60 + 60 * ROUNDS)

SETTINGS: dict[str, Any] = {
    "nodes": 8,
    "shards": 2,
    "scheme": "rs:2+1",
    "memory_mb": 256,
    "session": {"linger_s": "50ms"},
    "near": {"bytes": "64MiB", "max_value_bytes": "100KiB"},  # of some values, so that others come from nodes
    "availability": {"backup_interval_s": 2, "warm_interval_s": 2},
}
#: How much later than its deadline an operation may end on a machine that is busy.
GRACE_S = 5.0
#: Until somebody has met an injury.
PATIENCE_S = 30.0
#: Operations of the threads between two injuries.
PAUSE = 50
#: Lines.
LONGEST_STORY = 100


@pytest.fixture(scope="module")
def chaos_cache(local_ray: str) -> Iterator[Cache]:
    """8 nodes, 2 shards, rs:2+1, backups all the time."""
    with infiniray.start(**SETTINGS, name="chaos") as cache:
        yield cache


@pytest.fixture
def chaos(chaos_cache: Cache) -> Chaos:
    return Chaos(chaos_cache, FIRST_SEED)


@pytest.fixture
def cache(chaos_cache: Cache) -> Cache:
    """A fresh namespace of it."""
    return chaos_cache.namespace(uuid.uuid4().hex[:8])


@pytest.fixture
def load(tmp_path: Path) -> Load:
    kept, deleted = tuple(f"kept-{i}" for i in range(6)), tuple(f"deleted-{i}" for i in range(3))
    return Load(keys=kept + deleted, deleted=deleted, stop=tmp_path / "stop")


def judge(history: Sequence[Operation], load: Load, chaos: Chaos) -> None:
    """What must hold whatever happened."""
    flaws = check(history)
    assert not flaws, told([*(o for flaw in flaws for o in flaw.operations)], chaos, flaws[0].flaw.value)
    refuse([o for o in history if o.took_s > load.deadline_s + GRACE_S], chaos, "ended after their deadline")
    failed = [o for o in history if o.outcome in (Outcome.ERROR, Outcome.INDETERMINATE)]
    refuse([o for o in failed if not o.is_retryable], chaos, "failed with an error that is not retryable")
    refuse([o for o in last(history) if o in failed], chaos, "failed when all was over")
    done = Counter(o.verb for o in history if o.outcome is Outcome.OK)
    assert min(done[verb] for verb in Verb) >= 3, done
    assert {o.worker for o in history} == {TEST, *range(1, 7)}  # 4 threads, 2 tasks


def judge_lossless(history: Sequence[Operation], chaos: Chaos, losses: Sequence[Span] = ()) -> None:
    lost = unexcused_misses(history, losses)
    keys = {o.key for o in lost}
    writes = [o for o in history if o.key in keys and o.verb is not Verb.GET]
    refuse(lost, chaos, "missed what nothing can have lost", writes)


def refuse(wrong: Sequence[Operation], chaos: Chaos, why: str, context: Sequence[Operation] = ()) -> None:
    assert not wrong, told([*wrong, *context], chaos, f"{len(wrong)} operations {why}")


def told(operations: Sequence[Operation], chaos: Chaos, why: str) -> str:
    """The story, by time: operations, and what was done to the cache."""
    moments = [*((o.invoked_ns, str(o)) for o in operations), *((i.span.begin_ns, str(i)) for i in chaos.injuries)]
    lines = [text for _, text in sorted(set(moments))]
    left_out = [f"... and {len(lines) - LONGEST_STORY} more"] if len(lines) > LONGEST_STORY else []
    return "\n  ".join([f"{why}:", *lines[:LONGEST_STORY], *left_out])


def last(history: Sequence[Operation]) -> list[Operation]:
    """A read of each key when all was over."""
    return [o for o in history if o.worker == TEST]


def test_functions_vanish(cache: Cache, chaos: Chaos, load: Load) -> None:
    """One by one and in bursts, with FIN and without; what was lost stays lost until it is written again."""
    with traffic(cache, load) as going:
        going.proceed(PAUSE)
        for _ in range(ROUNDS):
            chaos.kill_function()
            going.proceed(PAUSE)
            chaos.reclaim_burst()
            going.proceed(PAUSE)
            chaos.reclaim_burst(silent=True)
            going.proceed(PAUSE)
            chaos.reclaim_burst(1.0)
            going.proceed(PAUSE)
        history = going.end()
    judge(history, load, chaos)
    judge_lossless(history, chaos, chaos.spans)


def test_the_platform_refuses(cache: Cache, chaos: Chaos, load: Load) -> None:
    """429 and 500 lose nothing."""

    def refused_once_more(order: Callable[[int], None], counter: str) -> None:
        before = chaos.admin.stats()[counter]
        order(8)
        until_s = time.monotonic() + PATIENCE_S  # whoever is awake is not invoked
        while chaos.admin.stats()[counter] == before:
            assert time.monotonic() < until_s, f"nothing was {counter}"
            going.proceed(PAUSE)

    with traffic(cache, load) as going:
        for _ in range(ROUNDS):
            going.proceed(PAUSE)
            refused_once_more(chaos.throttle, "throttled")
            refused_once_more(chaos.fail, "failed")
        going.proceed(PAUSE)
        history = going.end()
    judge(history, load, chaos)
    judge_lossless(history, chaos)


def test_a_node_is_cut_off(cache: Cache, chaos: Chaos, load: Load) -> None:
    """One at a time, which redundancy makes up for."""
    with traffic(cache, load) as going:
        going.proceed(PAUSE)
        for _ in range(ROUNDS):
            with chaos.cut_node():
                going.proceed(3 * PAUSE)
            going.proceed(PAUSE)
        history = going.end()
    judge(history, load, chaos)
    judge_lossless(history, chaos)


def test_shards_are_killed(cache: Cache, chaos: Chaos, load: Load) -> None:
    """A killed shard comes back with every object that was committed (DESIGN section 8)."""
    with traffic(cache, load) as going:
        for _ in range(ROUNDS):
            going.proceed(2 * PAUSE)
            chaos.kill_shard()
        going.proceed(2 * PAUSE)
        history = going.end()
    judge(history, load, chaos)
    judge_lossless(history, chaos)
    assert all(o.outcome is Outcome.OK for o in last(history) if o.key not in load.deleted)


@pytest.mark.parametrize("way", ["directly", "through Ray"])
def test_a_write_that_is_made_again_after_a_crash_does_not_undo_a_later_one(
    cache: Cache, chaos: Chaos, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Its shard dies when it is committed but not yet acknowledged; before the client tries again, somebody else has
    seen and replaced what it wrote."""
    first, other = Recorder(worker=1), Recorder(worker=2)
    wait, put = rayapi.wait, Channel.put

    def others_come_and_the_shard_dies() -> None:
        monkeypatch.undo()
        other.get("k", lambda: identify(cache["k"]))
        other.put("k", 2, lambda: cache.put("k", stamped(2, 2_000)))
        chaos.kill_shards()

    def lose_rays_answer(ref: rayapi.Ref, deadline: Deadline, operation: str, key: str = "") -> object:
        answer = wait(ref, deadline, operation, key)
        if operation != "PUT":
            return answer
        others_come_and_the_shard_dies()
        raise CacheUnavailable(detail="the process that should have answered was killed")

    def lose_the_answer(channel: Channel, epoch: int, timeout_s: float, writes: Sequence[Write]) -> Exchange[Any]:
        yield from put(channel, epoch, timeout_s, writes)
        others_come_and_the_shard_dies()
        raise ChannelLost("the process that should have answered was killed", may_have_run=True)

    if way == "directly":
        monkeypatch.setattr(Channel, "put", lose_the_answer)
    else:
        monkeypatch.setattr(cache._session.client, "_channels", None)
        monkeypatch.setattr(rayapi, "wait", lose_rays_answer)
    first.put("k", 1, lambda: cache.put("k", stamped(1, 2_000)))
    other.get("k", lambda: identify(cache["k"]))
    assert [o.value for o in other.operations[:2]] == [1, 2]
    flaws = check([*first.operations, *other.operations])
    assert not flaws, str(flaws[0])


def test_the_supervisor_is_killed(cache: Cache, chaos: Chaos, load: Load) -> None:
    """The data path does not notice."""
    with traffic(cache, load) as going:
        for _ in range(ROUNDS):
            going.proceed(PAUSE)
            chaos.kill_supervisor()
            going.proceed(PAUSE)
        going.proceed(PAUSE)
        history = going.end()
    judge(history, load, chaos)
    judge_lossless(history, chaos)
    refuse([o for o in history if o.outcome in (Outcome.ERROR, Outcome.INDETERMINATE)], chaos, "failed")


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + ROUNDS))
@pytest.mark.parametrize("pause", [PAUSE, 3], ids=["in turn", "at once"])
def test_everything_happens_and_no_process_is_left(local_ray: str, load: Load, seed: int, pause: int) -> None:
    """With time to recover in between, and without."""
    with infiniray.start(**SETTINGS, name="turmoil") as whole:
        chaos = Chaos(whole, seed)
        cache = whole.namespace("turmoil")
        pids = chaos.pids()
        with traffic(cache, load) as going:
            going.proceed(PAUSE)
            chaos.everything(lambda: going.proceed(pause))
            going.proceed(PAUSE)
            pids |= chaos.pids()
            history = going.end()
        judge(history, load, chaos)
        assert len({injury.what for injury in chaos.injuries}) == 6
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)], timeout=20)
    assert not alive
