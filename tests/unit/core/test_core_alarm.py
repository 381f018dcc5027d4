"""Many things that are due, and one timer."""

from __future__ import annotations

from infiniray.codec.schemes import SchemePolicy
from infiniray.core.alarm import Alarm
from infiniray.core.commands import SetTimer
from infiniray.core.context import Context
from infiniray.core.policy import Policy


class Desk:
    """An alarm whose timer fires when it should; ``rung`` is who was called when."""

    def __init__(self, early_share: float = 0.0) -> None:
        self.context = Context(Policy(schemes=SchemePolicy.of([(None, "mirror:1")])), 1)
        self.rung: list[tuple[str, float]] = []
        self.alarm: Alarm[str] = Alarm(self.context, "bell", self.act, early_share=early_share)
        self.timer_s: float | None = None
        self.n_fired = 0

    def act(self, what: str) -> None:
        self.rung.append((what, self.context.now_s))

    def advance(self, until_s: float) -> None:
        self.take_timer()
        while self.timer_s is not None and self.timer_s <= until_s:
            self.context.now_s, self.timer_s = self.timer_s, None
            self.n_fired += 1
            self.alarm.ring()
            self.take_timer()
        self.context.now_s = until_s

    def take_timer(self) -> None:
        for command in self.context.out:
            assert isinstance(command, SetTimer)
            assert command.timer == ("bell", 0)
            self.timer_s = command.at_s
        self.context.out.clear()


def test_each_is_called_once_when_it_is_due() -> None:
    desk = Desk()
    desk.alarm.set("late", 3.0)
    desk.alarm.set("soon", 1.0)
    desk.advance(10.0)
    assert desk.rung == [("soon", 1.0), ("late", 3.0)]
    assert "soon" not in desk.alarm


def test_what_is_called_off_or_put_off_is_not_called_before() -> None:
    desk = Desk()
    desk.alarm.set("a", 1.0)
    desk.alarm.set("b", 1.0)
    desk.alarm.call_off("a")
    desk.alarm.set("b", 2.0)
    desk.alarm.call_off("nobody")
    assert desk.alarm.due_s("a") is None
    assert desk.alarm.due_s("b") == 2.0
    desk.advance(10.0)
    assert desk.rung == [("b", 2.0)]


def test_what_comes_in_time_costs_no_timer() -> None:
    """A hundred answers, each in half of its time, and the timer fires once in a time."""
    desk = Desk()
    for n in range(100):
        desk.alarm.set(f"answer {n}", 1.0)
        desk.advance((n + 1) * 0.1)
        desk.alarm.call_off(f"answer {n}")
    desk.advance(30.0)
    assert desk.rung == []
    assert desk.n_fired <= 13
    assert desk.timer_s is None


def test_those_that_are_nearly_due_are_called_with_the_first() -> None:
    desk = Desk(early_share=0.1)
    desk.alarm.set("a", 10.0)
    desk.advance(0.5)
    desk.alarm.set("b", 10.0)
    desk.alarm.set("c", 20.0)
    desk.advance(30.0)
    assert desk.rung == [("a", 10.0), ("b", 10.0), ("c", 20.5)]


def test_one_that_is_called_may_call_off_another_and_set_itself() -> None:
    desk = Desk()

    def act(what: str) -> None:
        desk.rung.append((what, desk.context.now_s))
        desk.alarm.call_off("b")
        if len(desk.rung) < 3:
            desk.alarm.set("a", 1.0)

    desk.alarm = Alarm(desk.context, "bell", act)
    desk.alarm.set("a", 1.0)
    desk.alarm.set("b", 1.0)
    desk.advance(10.0)
    assert desk.rung == [("a", 1.0), ("a", 2.0), ("a", 3.0)]


def test_a_timer_that_fires_too_early_is_set_again() -> None:
    desk = Desk()
    desk.alarm.set("a", 1.0)
    desk.context.now_s = 0.9
    desk.alarm.ring()
    assert desk.rung == []
    desk.advance(2.0)
    assert desk.rung == [("a", 1.0)]
