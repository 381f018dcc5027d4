"""Directed schedules about a shard's crash: what luck alone seldom brings together."""

from __future__ import annotations

import pytest

from infiniray.codec.schemes import SchemePolicy
from infiniray.core import events as ev
from infiniray.core.ids import NodeId
from infiniray.core.policy import Policy, RepairMode, Warm
from infiniray.core.recovery import Recovery
from infiniray.core.shard import ShardState
from infiniray.errors import KeyNotFound
from infiniray.sim.driver import Ending, SimDriver
from infiniray.sim.platform import Instance

MiB = 1 << 20
NODES = {NodeId(f"n{i}"): 64 * MiB for i in range(7)}


def start(scheme: str) -> SimDriver:
    """A shard that backs up when it is told to, and otherwise does nothing unasked."""
    policy = Policy(
        schemes=SchemePolicy.of([(None, scheme)]), warm=Warm.NONE, repair=RepairMode.NONE, backup_interval_s=1e6
    )
    driver = SimDriver(ShardState(shard="s", epoch=1, nodes=NODES, policy=policy))
    driver.start()
    return driver


def back_up(driver: SimDriver) -> None:
    """Every node that holds anything has two instances with the same from here on."""
    driver.feed(ev.BackupRequested())
    driver.clock.run(driver.clock.now_s + 30.0)
    assert driver.state.backups.counters.backups == sum(bool(n.custody.holdings) for n in driver.state.nodes.values())


def current(driver: SimDriver) -> list[Instance]:
    """Of each node, the instance that is on record."""
    return [i for i in driver.platform.alive() if i.id == driver.registry.copies.get(i.node)]


def reclaim_current(driver: SimDriver) -> None:
    for instance in current(driver):
        driver.platform.reclaim(instance)


def crash(driver: SimDriver, *, is_throttled: bool) -> SimDriver:
    """The shard's next incarnation, when it has its table back.

    Throttled, the platform runs one instance of each function meanwhile, so that the shard hears of no other.
    """
    start_s = driver.clock.now_s
    driver.crash()
    policy, epoch = driver.state.context.policy, driver.supervisor.enroll()
    after = SimDriver(ShardState(shard="s", epoch=epoch, nodes=NODES, policy=policy), before=driver)
    after.start()
    after.platform.throttle_next = 1000 if is_throttled else 0  # all but the first invocation of each node
    while after.state.is_recovering:
        after.clock.run(after.clock.now_s + 0.1)
        assert after.clock.now_s < start_s + 60.0, "the shard does not recover"
    after.platform.throttle_next = 0
    return after


def after_a_delete_stale_copies_and_a_crash(scheme: str) -> Ending:
    """What a GET brings of an object that was deleted, when only instances are left that never heard of that.

    Each node has two instances with its chunk. The delete is acknowledged when those on record have dropped theirs.
    These are reclaimed then, the shard crashes, and its next incarnation hears of the others alone.
    """
    driver = start(scheme)
    driver.finish(driver.put("k", MiB, "deleted"))
    back_up(driver)
    assert driver.finish(driver.delete("k")).found
    reclaim_current(driver)
    assert any(chunk.key == "k" for instance in driver.platform.alive() for chunk in instance.chunks)
    driver = crash(driver, is_throttled=True)
    return driver.finish(driver.get("k"))


def after_a_write_stale_copies_and_a_crash(scheme: str) -> Ending:
    """The same with a second write in the place of the delete."""
    driver = start(scheme)
    driver.finish(driver.put("k", MiB, "former"))
    back_up(driver)
    assert driver.finish(driver.put("k", MiB, "latter")).error is None
    reclaim_current(driver)
    driver = crash(driver, is_throttled=True)
    return driver.finish(driver.get("k"))


def counts_copies_that_are_not_on_record(patch: pytest.MonkeyPatch) -> None:
    """Recovery takes the chunks of whatever instance answers."""
    patch.setattr(Recovery, "_is_on_record", staticmethod(lambda node, inventory: inventory.is_whole))


SCHEMES = ["mirror:3", "rs:4+2"]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_was_deleted_does_not_come_back_with_stale_copies(scheme: str) -> None:
    assert isinstance(after_a_delete_stale_copies_and_a_crash(scheme).error, KeyNotFound)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_former_version_does_not_come_back_with_stale_copies(scheme: str) -> None:
    ending = after_a_write_stale_copies_and_a_crash(scheme)
    assert isinstance(ending.error, KeyNotFound) or ending.value == "latter"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_recovery_that_counts_copies_that_are_not_on_record_is_found(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts_copies_that_are_not_on_record(monkeypatch)
    assert after_a_delete_stale_copies_and_a_crash(scheme).value == "deleted"
    assert after_a_write_stale_copies_and_a_crash(scheme).value == "former"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_crash_alone_loses_nothing(scheme: str) -> None:
    driver = start(scheme)
    driver.finish(driver.put("k", MiB, "kept"))
    back_up(driver)
    driver = crash(driver, is_throttled=False)
    assert driver.finish(driver.get("k")).value == "kept"
