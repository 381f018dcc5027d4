"""Two incarnations of a shard at once, of which the former could answer from memory, without asking a node."""

from __future__ import annotations

import pytest

from infiniray.codec.schemes import SchemePolicy
from infiniray.core import recovery
from infiniray.core.ids import NodeId
from infiniray.core.near import Lead
from infiniray.core.policy import Policy, RepairMode, Warm
from infiniray.core.shard import ShardState
from infiniray.sim.driver import SimDriver

NODES = {NodeId(f"n{i}"): 64 << 20 for i in range(4)}
POLICY = Policy(
    schemes=SchemePolicy.of([(None, "mirror:3")]), warm=Warm.NONE, repair=RepairMode.NONE, backup_interval_s=0.0,
    near_bytes=1 << 20,
)  # fmt: skip


def incarnation(before: SimDriver | None) -> SimDriver:
    epoch = 1 if before is None else before.supervisor.enroll()
    driver = SimDriver(ShardState(shard="s", epoch=epoch, nodes=NODES, policy=POLICY), before=before)
    driver.start()
    return driver


def stale_reads() -> int:
    """Reads through a former incarnation that began after the next one had acknowledged a write, and gave what was
    there before. A client asks it every millisecond, so that it is as sure of its lead as can be."""
    former = incarnation(None)
    former.finish(former.put("k", 1000, "old"))
    former.finish(former.get("k"))
    former.clock.run(former.clock.now_s + 0.03)  # nodes are asleep, and woken at once
    assert former.finish(former.get("k")).value == "old"
    assert former.state.counters.near_hits == 2

    later = incarnation(former)
    clock, n_stale, put = former.clock, 0, None
    end_s = clock.now_s + 1.0
    while clock.now_s < end_s:
        if put is None and not later.state.is_recovering:
            put = later.put("k", 1000, "new")
        is_written = put in later.endings
        if not former.is_dead:
            read = former.get("k")
            ending = former.endings.get(read)  # at once, or not from memory
            n_stale += is_written and ending is not None and ending.value == "old"
        clock.run(clock.now_s + 0.001)
    assert put is not None
    assert later.endings[put].error is None
    return n_stale


def test_no_write_is_acknowledged_while_a_former_incarnation_still_answers_with_what_it_replaces() -> None:
    assert stale_reads() == 0


def test_that_would_be_noticed_if_the_later_one_did_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "LEAD_S", 0.0)
    assert stale_reads() > 0


def test_that_would_be_noticed_if_the_former_one_were_sure_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    asks = Lead.renew
    monkeypatch.setattr(Lead, "is_sure", property(lambda self: self._until_s > 0))
    monkeypatch.setattr(Lead, "renew", lambda self: asks(self) if self._until_s < 0 else None)
    assert stale_reads() > 0
