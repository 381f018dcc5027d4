"""The modelled platform keeps the contract that the real one, and the node agent on it, are tested for."""

from __future__ import annotations

import pytest

from infiniray.codec.schemes import SchemePolicy
from infiniray.core import events as ev
from infiniray.core.ids import NodeId, SessionId
from infiniray.core.policy import Policy
from infiniray.core.shard import ShardState
from infiniray.errors import DeadlineExceeded
from infiniray.sim.clock import VirtualClock
from infiniray.sim.driver import SimDriver
from infiniray.sim.platform import Instance, PlatformModel, SimPlatform
from infiniray.sim.violation import Violation
from infiniray.wire.describe import ChunkId, ChunkInfo

NODE = NodeId("n")
MODEL = PlatformModel(invoke_s=0.01, cold_start_s=0.1, network_s=0.001, linger_s=0.02, return_s=0.002)


class Heard:
    """A platform with one function, and what its shard would hear, with the time. I am the shard's port."""

    epoch = 1

    def __init__(self, model: PlatformModel = MODEL) -> None:
        self.clock = VirtualClock()
        self.events: list[tuple[float, ev.Event]] = []
        self.platform = SimPlatform(self.clock, model, {NODE: 64 << 10})

    def report(self, event: ev.Event) -> None:
        self.events.append((round(self.clock.now_s, 6), event))

    def invoke(self, session: str, reason: str = "serve") -> None:
        self.platform.invoke(NODE, SessionId(session), reason, self)

    def kinds(self) -> list[str]:
        return [type(event).__name__ for _, event in self.events]

    @property
    def fleet(self) -> list[Instance]:
        return self.platform.instances.get(NODE, [])


def test_a_session_begins_with_hello_and_ends_with_bye_and_the_return() -> None:
    heard = Heard()
    heard.invoke("s1")
    heard.clock.run()
    instance = heard.fleet[0].id
    assert [(at_s, type(event).__name__) for at_s, event in heard.events] == [
        (0.101, "LinkOpened"), (0.121, "ByeReceived"), (0.123, "InvokeReturned"),
    ]  # fmt: skip
    opened = heard.events[0][1]
    assert isinstance(opened, ev.LinkOpened)
    assert (opened.node, opened.instance, opened.session) == (NODE, instance, "s1")


def test_the_next_session_speaks_on_the_kept_connection() -> None:
    heard = Heard()
    heard.invoke("s1")
    heard.clock.run()
    heard.events.clear()
    heard.invoke("s2")
    heard.clock.run()
    assert heard.kinds() == ["PongReceived", "ByeReceived", "InvokeReturned"]
    assert len(heard.fleet) == 1


def test_a_busy_function_gets_a_second_instance_and_the_most_recently_used_one_serves_next() -> None:
    heard = Heard()
    heard.invoke("s1")
    heard.invoke("s2")
    heard.clock.run()
    first, second = heard.fleet
    assert first.id != second.id
    second.used_s = 9.0
    heard.events.clear()
    heard.invoke("s3")
    heard.clock.run(heard.clock.now_s + 0.02)
    spoke = heard.events[0][1]
    assert isinstance(spoke, ev.PongReceived)
    assert spoke.link == second.link


def test_what_is_sent_to_a_frozen_instance_is_served_in_its_next_session() -> None:
    heard = Heard()
    heard.invoke("s1")
    heard.clock.run()
    served: list[float] = []
    link = heard.fleet[0].link
    assert link is not None
    heard.platform.send(link, 0, lambda instance: served.append(heard.clock.now_s))
    heard.clock.run(10.0)
    assert served == []
    heard.invoke("s2")
    heard.clock.run()
    assert len(served) == 1


def test_work_keeps_a_session_alive() -> None:
    heard = Heard()
    heard.invoke("s1")
    heard.clock.run(0.11)
    link = heard.fleet[0].link
    assert link is not None
    heard.platform.send(link, int(MODEL.bytes_per_s), lambda instance: None)  # a second of work
    heard.clock.run()
    bye = next(at_s for at_s, event in heard.events if isinstance(event, ev.ByeReceived))
    assert bye > 1.1


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_reclaimed_instance_takes_its_chunks_along(is_silent: bool) -> None:
    heard = Heard()
    heard.invoke("s1")
    heard.clock.run()
    reclaimed_s = heard.clock.now_s
    heard.platform.reclaim(heard.fleet[0], is_silent=is_silent)
    assert heard.fleet == []
    heard.clock.run()
    [closed_s] = [at_s for at_s, event in heard.events if isinstance(event, ev.LinkClosed)]
    notice_s = MODEL.keepalive_s if is_silent else 0.0
    assert closed_s == pytest.approx(reclaimed_s + notice_s + MODEL.network_s)


def test_a_reclaim_in_a_session_fails_the_invocation() -> None:
    heard = Heard()
    heard.invoke("s1")
    heard.clock.run(0.11)
    heard.platform.reclaim(heard.fleet[0])
    heard.clock.run()
    returned = heard.events[-1][1]
    assert isinstance(returned, ev.InvokeReturned)
    assert returned.outcome is ev.InvokeOutcome.FUNCTION_ERROR


def test_a_hung_function_is_killed_at_its_timeout() -> None:
    heard = Heard()
    heard.invoke("s1")
    heard.clock.run()
    heard.platform.hang(heard.fleet[0])
    heard.events.clear()
    heard.invoke("s2")
    heard.clock.run(100.0)
    assert heard.events == []
    heard.clock.run()
    assert sorted(heard.kinds()) == ["InvokeReturned", "LinkClosed"]


def test_throttling_answers_so_many_invocations() -> None:
    heard = Heard()
    heard.platform.throttle_next = 2
    for session in ("s1", "s2", "s3"):
        heard.invoke(session)
    heard.clock.run()
    outcomes = [event.outcome for _, event in heard.events if isinstance(event, ev.InvokeReturned)]
    assert outcomes == [ev.InvokeOutcome.THROTTLED] * 2 + [ev.InvokeOutcome.OK]


def test_an_instance_keeps_what_fits_into_its_memory_and_counts_as_the_agent_does() -> None:
    heard = Heard()
    heard.invoke("s1")
    heard.clock.run()
    instance = heard.fleet[0]  # 64 KiB: sixteen pages
    token = ("k", 1, 0, "value")

    def chunk(index: int, n_bytes: int) -> ChunkInfo:
        return ChunkInfo("k", 1, index, index + 1, "rs:2+1", 2 * n_bytes, n_bytes, 0, 0.0, "")

    assert instance.keep(chunk(0, 20_000), token)  # five pages and one
    assert instance.keep(chunk(1, 20_480), token)
    assert not instance.keep(chunk(2, 16_384), token)
    assert instance.keep(chunk(2, 12_288), token)
    assert instance.used_bytes == instance.limit_bytes
    for _ in range(2):
        instance.drop(ChunkId("k", 1, 0))
    assert instance.used_bytes == 10 * 4096


def test_a_warm_up_is_no_session_and_tells_what_the_instance_has() -> None:
    heard = Heard()
    heard.invoke("s1", "warm")
    heard.clock.run()
    assert heard.kinds() == ["InvokeReturned"]
    returned = heard.events[0][1]
    assert isinstance(returned, ev.InvokeReturned)
    assert returned.copy is not None
    assert returned.copy.instance == heard.fleet[0].id


def test_an_instance_obeys_the_highest_epoch() -> None:
    heard = Heard()
    heard.epoch = 2
    heard.invoke("s1")
    heard.clock.run()
    heard.epoch = 1
    heard.invoke("s2")
    heard.clock.run()
    assert heard.kinds()[-2:] in (["InvokeReturned", "Deposed"], ["Deposed", "InvokeReturned"])


# ---------------------------------------------------------------- the driver on it


def a_driver(**settings: object) -> SimDriver:
    policy = Policy(schemes=SchemePolicy.of([(None, "rs:2+1")]), **settings)  # type: ignore[arg-type]
    return SimDriver(ShardState(shard="s", epoch=1, nodes={NodeId(f"n{i}"): 1 << 20 for i in range(5)}, policy=policy))


def test_hours_pass_without_anything_piling_up() -> None:
    driver = a_driver()
    for i in range(2_000):
        driver.finish(driver.put(f"k{i % 20}", 200_000, i, ttl_s=60.0))
        driver.finish(driver.get(f"k{i % 20}"))
        driver.clock.run(driver.clock.now_s + 5.0)
    assert driver.clock.now_s - 1_600_000_000.0 > 2 * 3600
    assert (driver.endings, driver.open_operations, driver.open_requests) == ({}, [], [])
    assert len(driver.state.context.homes) <= len(driver.state.nodes)  # a DELETE each that a frozen node has not read
    assert all(len(node.garbage) < 100 for node in driver.state.nodes.values())
    assert driver.clock.n_planned < 500


def test_a_silent_reclaim_is_noticed_at_the_next_session() -> None:
    driver = a_driver()
    driver.finish(driver.put("k", 200_000, "bytes"))
    driver.clock.run(driver.clock.now_s + 5.0)
    record = driver.state.table.find("k")
    assert record is not None
    driver.platform.reclaim(driver.platform.instances[record.places[0].node][0], is_silent=True)
    assert driver.finish(driver.get("k")).value == "bytes"
    driver.finish(driver.get("k"))
    driver.clock.run(driver.clock.now_s + 5.0)
    driver.finish(driver.get("k"))
    driver.clock.run(driver.clock.now_s + 5.0)
    assert driver.state.counters.resets == 0
    assert driver.state.counters.repairs == 1


def test_a_cancelled_operation_tells_nobody_and_leaves_nothing() -> None:
    driver = a_driver()
    op = driver.put("k", 200_000, "bytes")
    driver.clock.run(driver.clock.now_s + 0.001)
    driver.cancel(op)
    driver.clock.run(driver.clock.now_s + 60.0)
    assert (driver.endings, driver.open_operations, driver.open_requests) == ({}, [], [])
    assert driver.state.stored_bytes == 0
    with pytest.raises(Violation, match="has not ended"):
        driver.finish(op, limit_s=0.1)


def test_a_full_instance_refuses_and_the_chunk_goes_elsewhere() -> None:
    driver = a_driver()
    driver.finish(driver.put("k", 200_000, "bytes"))
    record = driver.state.table.find("k")
    assert record is not None
    for place in record.places:
        for instance in driver.platform.instances[place.node]:
            instance.limit_bytes = instance.used_bytes  # less than the shard believes
    error = driver.finish(driver.put("other", 200_000, "more", timeout_s=5.0)).error
    assert isinstance(error, DeadlineExceeded)  # two of five nodes have room; three are needed
    assert "refused, full" in str(error)
    driver.clock.run(driver.clock.now_s + 60.0)
    assert driver.finish(driver.get("k")).value == "bytes"


def test_an_instance_that_finds_its_shard_dead_is_free_at_once() -> None:
    """Or it would be busy for long with a backup that nobody holds it for."""
    heard = Heard()
    heard.invoke("s1", reason="backup")
    heard.platform.drop_port(heard)
    heard.clock.run(0.1 + 2 * MODEL.return_s)
    [instance] = heard.fleet
    assert (instance.is_busy, instance.link, instance.session) == (False, None, None)
    assert heard.events == []
