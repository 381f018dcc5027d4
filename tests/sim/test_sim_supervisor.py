"""The modelled supervisor: what it forgets when it crashes, and what not; and a shard while it is away."""

from __future__ import annotations

import pytest

from infiniray.codec.schemes import SchemePolicy
from infiniray.core import events as ev
from infiniray.core.ids import NodeId
from infiniray.core.policy import Policy, Warm
from infiniray.core.shard import ShardState
from infiniray.sim.driver import SLOT_TIMEOUT_S, SimDriver
from infiniray.sim.supervisor import SimSupervisor

A, B = NodeId("n0"), NodeId("n1")


def start() -> SimDriver:
    policy = Policy(schemes=SchemePolicy.of([(None, "mirror:2")]), warm=Warm.NONE, backup_interval_s=1e6)
    driver = SimDriver(ShardState(shard="s", epoch=1, nodes={A: 1 << 24, B: 1 << 24}, policy=policy))
    driver.start()
    return driver


def test_an_epoch_is_given_once_whatever_crashes() -> None:
    supervisor = SimSupervisor(1)
    epochs = [supervisor.enroll()]
    supervisor.crash()
    supervisor.restart()
    epochs.append(supervisor.enroll())
    assert epochs == [2, 3]


def test_so_many_slots_at_a_time() -> None:
    supervisor = SimSupervisor(1, n_slots=1)
    assert supervisor.acquire_slot(A)
    assert supervisor.acquire_slot(A)  # asked again
    assert not supervisor.acquire_slot(B)
    supervisor.release_slot(A)
    assert supervisor.acquire_slot(B)


@pytest.mark.parametrize("event", ["its crash", "the shard's crash"])
def test_slots_are_free_after(event: str) -> None:
    supervisor = SimSupervisor(1, n_slots=1)
    supervisor.acquire_slot(A)
    if event == "its crash":
        supervisor.crash()
        assert not supervisor.acquire_slot(B)
        supervisor.restart()
    else:
        supervisor.enroll()
    assert supervisor.acquire_slot(B)


def test_clients_are_served_while_the_supervisor_is_away() -> None:
    driver = start()
    driver.supervisor.crash()
    assert driver.finish(driver.put("k", 1000, "bytes")).error is None
    assert driver.finish(driver.get("k")).value == "bytes"


def test_backups_wait_for_the_supervisor() -> None:
    driver = start()
    driver.finish(driver.put("k", 1000, "bytes"))
    driver.supervisor.crash()
    driver.feed(ev.BackupRequested())
    driver.clock.run(driver.clock.now_s + SLOT_TIMEOUT_S + 1.0)
    assert driver.state.backups.counters.backups == 0
    assert driver.slots == set()
    driver.supervisor.restart()
    driver.clock.run(driver.clock.now_s + 30.0)  # they ask again by themselves
    assert driver.state.backups.counters.backups == 2


def test_a_write_is_not_acknowledged_while_nothing_can_be_written_down() -> None:
    driver = start()
    driver.registry.is_away = True
    op = driver.put("k", 1000, "bytes", timeout_s=30.0)
    driver.clock.run(driver.clock.now_s + 10.0)
    assert op not in driver.endings
    driver.registry.is_away = False
    assert driver.finish(op).error is None
    assert set(driver.registry.copies) == {A, B}
