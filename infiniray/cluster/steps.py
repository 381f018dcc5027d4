"""Verbs without waiting: a generator yields what has to be waited for, and gets the answer sent back.

Two executors, :func:`run` for threads and :func:`run_async` for event loops, drive the same generators, so that
the blocking cache and the asynchronous one cannot differ in anything but how they wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from infiniray.channel.waiting import Exchange, TimedOut, drive, drive_all, drive_all_async, drive_async
from infiniray.cluster import rayapi
from infiniray.cluster.deadline import Deadline

__all__ = ["Block", "Pause", "Step", "Steps", "Talk", "TalkAll", "Wait", "run", "run_async"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """For the value of an object reference. ``operation`` and ``key`` explain an error."""

    ref: rayapi.Ref
    deadline: Deadline
    operation: str
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """For time to pass."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Block:
    """For a function that blocks: a copy into shared memory, a look-up at Ray's control service."""

    function: Callable[[], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """For an exchange with a shard over the direct channel."""

    exchange: Exchange[Any]
    deadline: Deadline
    operation: str
    key: str = ""

    def left_s(self) -> float:
        return self.deadline.left_s() + rayapi.GRACE_S


@dataclass(frozen=True, slots=True, kw_only=True)
class TalkAll:
    """For several at once: a list of what they end in, errors among it."""

    exchanges: Sequence[Exchange[Any]]
    deadline: Deadline

    def left_s(self) -> float:
        return self.deadline.left_s() + rayapi.GRACE_S


Step = Wait | Pause | Block | Talk | TalkAll
Steps = Generator[Step, Any, T]


def run(steps: Steps[T]) -> T:
    """Drive a verb from a thread that may block."""
    advance: Callable[[], Step] = partial(next, steps)
    try:
        while True:
            step = advance()
            try:
                answer = _wait(step)
            except Exception as error:
                advance = partial(steps.throw, error)
            else:
                advance = partial(steps.send, answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()


async def run_async(steps: Steps[T]) -> T:
    """Drive a verb from an event loop."""
    advance: Callable[[], Step] = partial(next, steps)
    try:
        while True:
            step = advance()
            try:
                answer = await _wait_async(step)
            except Exception as error:
                advance = partial(steps.throw, error)
            else:
                advance = partial(steps.send, answer)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()


def _wait(step: Step) -> Any:
    if isinstance(step, Talk):
        try:
            return drive(step.exchange, step.left_s)
        except TimedOut:
            raise step.deadline.exceeded(step.operation, step.key, "no answer from the shard") from None
    if isinstance(step, TalkAll):
        return drive_all(step.exchanges, step.left_s)
    if isinstance(step, Wait):
        return rayapi.wait(step.ref, step.deadline, step.operation, step.key)
    if isinstance(step, Pause):
        return time.sleep(step.seconds)
    return step.function()


async def _wait_async(step: Step) -> Any:
    if isinstance(step, Talk):
        try:
            return await drive_async(step.exchange, step.left_s)
        except TimedOut:
            raise step.deadline.exceeded(step.operation, step.key, "no answer from the shard") from None
    if isinstance(step, TalkAll):
        return await drive_all_async(step.exchanges, step.left_s)
    if isinstance(step, Wait):
        return await rayapi.wait_async(step.ref, step.deadline, step.operation, step.key)
    if isinstance(step, Pause):
        return await asyncio.sleep(step.seconds)
    return await asyncio.to_thread(step.function)
