"""Copies put on record one call at a time, and slots that are granted or not, whatever becomes of the call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest
from node_peer import SECRET, soon, until
from script import GatedCoder, Script, ScriptedInvoker, Stage

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import InstanceId, NodeId
from infiniray.errors import CacheUnavailable, StaleEpoch
from infiniray.runtime import coordination
from infiniray.runtime.coordination import LoneCoordinator
from infiniray.runtime.driver import ShardDriver

MakeStage = Callable[..., Awaitable[Stage]]
STALE = StaleEpoch(seen=7, current=8)


class SlowCoordinator(LoneCoordinator):
    """One that can be held up, and fail. ``calls`` are what register() was called with."""

    def __init__(self) -> None:
        super().__init__(n_slots=1)
        self.calls: list[dict[str, str]] = []
        self.errors: list[Exception] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.n_out = 0
        self.released: list[str] = []

    async def register(self, copies: Mapping[NodeId, InstanceId]) -> None:
        assert self.n_out == 0
        self.calls.append(dict(copies))
        await self._pass()
        await super().register(copies)

    async def acquire_slot(self, node: NodeId) -> bool:
        await self._pass()
        return await super().acquire_slot(node)

    async def release_slot(self, node: NodeId) -> None:
        self.released.append(node)
        if self.errors:
            raise self.errors.pop(0)
        await super().release_slot(node)

    async def _pass(self) -> None:
        self.n_out += 1
        try:
            await self.gate.wait()
        finally:
            self.n_out -= 1
        if self.errors:
            raise self.errors.pop(0)


@pytest.fixture
async def make_stage(leaks: None) -> AsyncIterator[MakeStage]:
    drivers: list[ShardDriver] = []

    async def make(coordinator: SlowCoordinator, **registered: str) -> Stage:
        script, invoker, coder = Script(), ScriptedInvoker(), GatedCoder()
        copies = {NodeId(node): InstanceId(instance) for node, instance in registered.items()}
        driver = ShardDriver(
            script,  # type: ignore[arg-type]
            invoker,
            coder,
            SECRET,
            coordinator=coordinator,
            registered=copies or None,
        )
        await driver.start()
        drivers.append(driver)
        return Stage(script, invoker, coder, driver)

    yield make
    for driver in drivers:
        await soon(driver.close())


def register(node: str, instance: str) -> cmd.RegisterCopy:
    return cmd.RegisterCopy(node=NodeId(node), instance=InstanceId(instance))


async def registered(stage: Stage) -> tuple[str, str]:
    event = await stage.script.next(ev.CopyRegistered)
    return event.node, event.instance


async def started(make_stage: MakeStage, coordinator: SlowCoordinator, **registered: str) -> Stage:
    stage = await make_stage(coordinator, **registered)
    await stage.script.next(ev.Started)
    return stage


# ---------------------------------------------------------------- the beginning


@pytest.mark.parametrize("copies", [{}, {"n1": "i1", "n0": "i0"}])
async def test_what_was_left_on_record_is_the_first_event(make_stage: MakeStage, copies: dict[str, str]) -> None:
    stage = await make_stage(SlowCoordinator(), **copies)
    assert await stage.script.next(ev.Started) == ev.Started(registered=tuple(sorted(copies.items())))  # type: ignore[arg-type]
    assert len(stage.script.seen) == 1


async def test_nodes_can_be_invoked_from_the_first_event_on(leaks: None) -> None:
    script, invoker = Script(), ScriptedInvoker()
    script.react = lambda event: (
        [cmd.Invoke(node=NodeId("n0"), session="s", reason="serve")] if isinstance(event, ev.Started) else []  # type: ignore[arg-type]
    )
    driver = ShardDriver(script, invoker, GatedCoder(), SECRET)  # type: ignore[arg-type]
    await driver.start()
    await until(lambda: bool(invoker.payloads))
    assert driver.address.encode() in invoker.payloads[0]
    await soon(driver.close())


# ---------------------------------------------------------------- putting copies on record


async def test_a_copy_is_put_on_record_with_all_that_are_known(make_stage: MakeStage) -> None:
    coordinator = SlowCoordinator()
    stage = await started(make_stage, coordinator, n0="old", n1="i1")
    stage.do(register("n0", "new"))
    assert await registered(stage) == ("n0", "new")
    assert coordinator.copies == {"n0": "new", "n1": "i1"}
    assert coordinator.calls == [coordinator.copies]


async def test_what_comes_meanwhile_goes_together(make_stage: MakeStage) -> None:
    coordinator = SlowCoordinator()
    stage = await started(make_stage, coordinator)
    coordinator.gate.clear()
    stage.do(register("n0", "a"))
    await until(lambda: coordinator.n_out == 1)
    stage.do(register("n1", "b"), register("n0", "c"), register("n2", "d"), register("n2", "e"))
    coordinator.gate.set()
    assert await registered(stage) == ("n0", "a")
    assert [await registered(stage) for _ in range(3)] == [("n1", "b"), ("n0", "c"), ("n2", "e")]
    assert coordinator.calls == [{"n0": "a"}, {"n0": "c", "n1": "b", "n2": "e"}]
    assert stage.script.events.empty()


async def test_one_asked_for_by_the_answer_to_another(make_stage: MakeStage) -> None:
    coordinator = SlowCoordinator()
    stage = await started(make_stage, coordinator)
    more = [register("n1", "b"), register("n2", "c")]
    stage.script.react = lambda event: [more.pop(0)] if more and isinstance(event, ev.CopyRegistered) else []
    stage.do(register("n0", "a"))
    assert [await registered(stage) for _ in range(3)] == [("n0", "a"), ("n1", "b"), ("n2", "c")]


async def test_one_asked_for_just_when_the_last_is_done(make_stage: MakeStage) -> None:
    coordinator = SlowCoordinator()
    stage = await started(make_stage, coordinator)
    loop = asyncio.get_running_loop()
    later = [register("n1", "b")]
    stage.script.react = lambda event: loop.call_soon(lambda: stage.do(*[later.pop()] if later else [])) and []
    stage.do(register("n0", "a"))
    assert [await registered(stage) for _ in range(2)] == [("n0", "a"), ("n1", "b")]


async def test_a_failure_is_tried_again_until_it_works(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordination, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(coordination, "LONGEST_PAUSE_S", 0.002)
    coordinator = SlowCoordinator()
    coordinator.errors = [CacheUnavailable(detail="no supervisor") for _ in range(8)]
    stage = await started(make_stage, coordinator)
    stage.do(register("n0", "a"))
    await until(lambda: len(coordinator.calls) >= 3)
    stage.do(register("n0", "b"), register("n1", "c"))
    assert sorted([await registered(stage), await registered(stage)]) == [("n0", "b"), ("n1", "c")]
    assert len(coordinator.calls) == 9
    assert coordinator.copies == {"n0": "b", "n1": "c"}


async def test_no_answer_is_a_failure(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coordination, "REGISTER_TIMEOUT_S", 0.01)
    monkeypatch.setattr(coordination, "FIRST_PAUSE_S", 0.001)
    coordinator = SlowCoordinator()
    stage = await started(make_stage, coordinator)
    coordinator.gate.clear()
    stage.do(register("n0", "a"))
    await until(lambda: len(coordinator.calls) >= 2)
    coordinator.gate.set()
    assert await registered(stage) == ("n0", "a")


async def test_a_later_incarnation_deposes_this_one(make_stage: MakeStage) -> None:
    coordinator = SlowCoordinator()
    coordinator.errors = [STALE, STALE]
    stage = await started(make_stage, coordinator)
    stage.do(register("n0", "a"))
    await stage.script.next(ev.Deposed)
    stage.do(register("n0", "a"))
    await until(lambda: not coordinator.errors and coordinator.n_out == 0)
    stage.do(register("n0", "b"))
    assert await registered(stage) == ("n0", "b")  # and no second Deposed before it


# ---------------------------------------------------------------- slots

ACQUIRE = cmd.AcquireSlot(node=NodeId("n0"))
RELEASE = cmd.ReleaseSlot(node=NodeId("n0"))


async def test_slots_are_granted_while_there_are_some(make_stage: MakeStage) -> None:
    coordinator = SlowCoordinator()
    stage = await started(make_stage, coordinator)
    answers = []
    for commands in ([ACQUIRE], [cmd.AcquireSlot(node=NodeId("n1"))], [RELEASE, cmd.AcquireSlot(node=NodeId("n1"))]):
        stage.do(*commands)
        answers.append(await stage.script.next(ev.SlotAnswered))
    assert [(answer.node, answer.granted) for answer in answers] == [("n0", True), ("n1", False), ("n1", True)]


async def test_a_call_that_fails_grants_nothing(make_stage: MakeStage) -> None:
    coordinator = SlowCoordinator()
    stage = await started(make_stage, coordinator)
    coordinator.errors = [CacheUnavailable(detail="no supervisor")]
    stage.do(ACQUIRE)
    assert await stage.script.next(ev.SlotAnswered) == ev.SlotAnswered(node=NodeId("n0"), granted=False)
    await until(lambda: coordinator.released == ["n0"])  # it may have been granted, for all we know


async def test_a_call_without_an_answer_grants_nothing(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert coordination.SLOT_TIMEOUT_S == 2
    monkeypatch.setattr(coordination, "SLOT_TIMEOUT_S", 0.01)
    coordinator = SlowCoordinator()
    stage = await started(make_stage, coordinator)
    coordinator.gate.clear()
    stage.do(ACQUIRE)
    assert not (await stage.script.next(ev.SlotAnswered)).granted
    assert coordinator.n_out == 0


async def test_a_release_that_fails_harms_nobody(make_stage: MakeStage) -> None:
    coordinator = SlowCoordinator()
    stage = await started(make_stage, coordinator)
    coordinator.errors = [CacheUnavailable(detail="no supervisor")]
    stage.do(RELEASE)
    await until(lambda: not coordinator.errors)
    stage.do(ACQUIRE)
    assert (await stage.script.next(ev.SlotAnswered)).granted


# ---------------------------------------------------------------- the end


async def test_closing_gives_up_on_calls_that_are_out(make_stage: MakeStage) -> None:
    coordinator = SlowCoordinator()
    stage = await started(make_stage, coordinator)
    coordinator.gate.clear()
    stage.do(register("n0", "a"), ACQUIRE)
    await until(lambda: coordinator.n_out == 2)
    await soon(stage.driver.close())
    assert coordinator.n_out == 0
    assert stage.script.events.empty()
    assert not coordinator.copies
