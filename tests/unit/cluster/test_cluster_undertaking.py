"""Work that takes several steps: one after the other, again after trouble, until nothing is left."""

from __future__ import annotations

import asyncio

import pytest

from infiniray.cluster import undertaking
from infiniray.cluster.undertaking import Undertaking
from infiniray.errors import CacheUnavailable, PoolFull

TROUBLE = CacheUnavailable(cache="c", detail="just now")


class Work:
    """Steps as a script says: errors are raised, of other things only the number counts."""

    def __init__(self, *script: BaseException | None) -> None:
        self.script = list(script)
        self.seen: list[str] = []
        self.undertaking = Undertaking(self.step, lambda: bool(self.script))

    async def step(self) -> None:
        self.seen.append(self.undertaking.trouble)
        outcome = self.script.pop(0)
        if outcome is not None:
            raise outcome


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undertaking, "_FIRST_PAUSE_S", 0.0)


async def nothing() -> None:
    pass


async def test_it_goes_on_by_itself_until_nothing_is_left() -> None:
    work = Work(None, None, None)
    await work.undertaking.begin(nothing())
    assert work.undertaking.is_running
    await asyncio.wait_for(work.undertaking.wait(), 5)
    assert len(work.seen) == 3
    assert not work.undertaking.is_running


async def test_a_step_that_met_trouble_is_taken_again() -> None:
    work = Work(TROUBLE, TROUBLE, None)
    await work.undertaking.begin(nothing())
    await asyncio.wait_for(work.undertaking.wait(), 5)
    assert work.seen == ["", str(TROUBLE), str(TROUBLE)]


async def test_pauses_grow_and_begin_anew_after_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(undertaking, "_FIRST_PAUSE_S", 1.0)
    monkeypatch.setattr(undertaking.asyncio, "sleep", sleep)
    work = Work(*[TROUBLE] * 5, None, TROUBLE)
    await work.undertaking.begin(nothing())
    await work.undertaking.wait()
    assert pauses == [1.0, 2.0, 4.0, 5.0, 5.0, 1.0]


async def test_what_the_check_raises_is_raised_and_nothing_has_begun() -> None:
    async def refuse() -> None:
        raise PoolFull(need_bytes=2, free_bytes=1)

    work = Work(None)
    with pytest.raises(PoolFull):
        await work.undertaking.begin(refuse())
    assert not work.undertaking.is_running
    assert work.seen == []


async def test_what_is_nobodys_business_to_try_again_makes_it_stand_still_until_resumed() -> None:
    work = Work(ZeroDivisionError("a mistake"), None)
    await work.undertaking.begin(nothing())
    with pytest.raises(ZeroDivisionError):
        await asyncio.wait_for(work.undertaking.wait(), 5)
    assert not work.undertaking.is_running
    assert work.undertaking.trouble == "ZeroDivisionError: a mistake"
    work.undertaking.resume()
    await asyncio.wait_for(work.undertaking.wait(), 5)
    assert len(work.seen) == 2


async def test_nothing_is_resumed_where_nothing_is_left() -> None:
    work = Work()
    work.undertaking.resume()
    assert not work.undertaking.is_running


async def test_it_can_be_stopped() -> None:
    work = Work(TROUBLE, *[None] * 3)
    await work.undertaking.begin(nothing())
    work.undertaking.stop()
    with pytest.raises(asyncio.CancelledError):
        await work.undertaking.wait()
    assert not work.undertaking.is_running
