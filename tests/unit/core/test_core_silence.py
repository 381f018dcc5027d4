"""Nodes that do not answer in time are noticed, with one timer for all of them."""

from __future__ import annotations

import math

from infiniray.codec.schemes import SchemePolicy
from infiniray.core.commands import SetTimer
from infiniray.core.context import Context
from infiniray.core.policy import Policy


class Waited:
    """What a node is to :class:`~infiniray.core.silence.Silence`."""

    def __init__(self, context: Context) -> None:
        self.silent_until_s = math.inf
        self.silences_s: list[float] = []
        self._context = context

    def on_silence(self) -> None:
        self.silences_s.append(self._context.now_s)


class Watch:
    """Virtual time: the timer fires when it is due."""

    def __init__(self) -> None:
        self.context = Context(Policy(schemes=SchemePolicy.of([(None, "mirror:1")])), 1)
        self.n_fired = 0
        self.timer_s = math.inf

    def node(self) -> Waited:
        return Waited(self.context)

    def expect(self, node: Waited, within_s: float) -> None:
        self.context.silence.expect(node, within_s)  # type: ignore[arg-type]
        self._note_timer()

    def advance(self, seconds: float) -> None:
        until_s = self.context.now_s + seconds
        while self.timer_s <= until_s:
            self.context.now_s, self.timer_s = self.timer_s, math.inf
            self.n_fired += 1
            self.context.silence.on_timer()
            self._note_timer()
        self.context.now_s = until_s

    def _note_timer(self) -> None:
        for command in self.context.out:
            assert isinstance(command, SetTimer)
            self.timer_s = command.at_s
        self.context.out.clear()


def test_each_is_told_when_its_own_time_is_up() -> None:
    watch = Watch()
    slow, quick, later = watch.node(), watch.node(), watch.node()
    watch.expect(slow, 5.0)
    watch.expect(quick, 1.0)
    watch.advance(0.5)
    watch.expect(later, 1.0)
    watch.advance(10.0)
    assert (quick.silences_s, later.silences_s, slow.silences_s) == ([1.0], [1.5], [5.0])


def test_who_was_heard_of_is_left_alone() -> None:
    watch = Watch()
    node = watch.node()
    watch.expect(node, 1.0)
    node.silent_until_s = math.inf
    watch.advance(10.0)
    assert node.silences_s == []


def test_who_is_waited_for_again_has_all_the_time_again() -> None:
    watch = Watch()
    node = watch.node()
    watch.expect(node, 1.0)
    watch.advance(0.75)
    watch.expect(node, 1.0)
    watch.advance(10.0)
    assert node.silences_s == [1.75]


def test_a_node_may_be_waited_for_again_when_its_time_is_up() -> None:
    watch = Watch()

    class Stubborn(Waited):
        def on_silence(self) -> None:
            super().on_silence()
            if len(self.silences_s) < 3:
                watch.context.silence.expect(self, 1.0)  # type: ignore[arg-type]

    node = Stubborn(watch.context)
    watch.expect(node, 1.0)
    watch.advance(10.0)
    assert node.silences_s == [1.0, 2.0, 3.0]


def test_answers_in_time_cost_one_timer_and_leave_nothing_behind() -> None:
    watch = Watch()
    nodes = [watch.node() for _ in range(50)]
    for _ in range(200):
        for node in nodes:
            watch.expect(node, 5.0)
        watch.advance(0.01)
        for node in nodes:
            node.silent_until_s = math.inf
        watch.advance(0.09)
    watch.advance(20.0)
    assert watch.n_fired <= 20.0 / 5.0 + 2
    assert all(not node.silences_s for node in nodes)
    assert all(not line for line in watch.context.silence._lines.values())
