"""Work of the supervisor that takes long: it goes on by itself, step by step, until nothing is left to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from infiniray.errors import InfiniRayError

__all__ = ["Undertaking"]

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0

T = TypeVar("T")


class Undertaking:
    """I take one step after the other, and a step that failed again, after a pause that grows.

    What is left to do is written down elsewhere, so that I can be taken up where a former process left me.

    Args:
        step: takes the next step. An :class:`InfiniRayError` of it is no end: what it met may pass.
        is_unfinished: whether there is one.
    """

    def __init__(self, step: Callable[[], Awaitable[None]], is_unfinished: Callable[[], bool]) -> None:
        #: what is being done just now, and what hindered it last, for people
        self.stage = "going on"
        self.trouble = ""
        self._step = step
        self._is_unfinished = is_unfinished
        self._task: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def begin(self, check: Awaitable[None]) -> None:
        """Do ``check``, which writes down what is to be done, and go on by myself. What it raises is raised here, and
        nothing has begun."""
        self.stage, self.trouble = "checking", ""
        self._task = asyncio.ensure_future(check)
        await self._task
        self._task = asyncio.ensure_future(self._go_on())

    def resume(self) -> None:
        """Go on with what a former process had begun, or what I stood still in, if there is such a thing."""
        if not self.is_running and self._is_unfinished():
            self._task = asyncio.ensure_future(self._go_on())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def wait(self) -> None:
        """Until it is over, or I stand still. Raises what I stand still for."""
        if self._task is not None:
            await self._task

    async def tell(self, stage: str, work: Awaitable[T]) -> T:
        """Do a part of a step, and say so meanwhile."""
        self.stage = stage
        return await work

    async def _go_on(self) -> None:
        pause_s = _FIRST_PAUSE_S
        try:
            while self._is_unfinished():
                try:
                    await self._step()
                    pause_s = _FIRST_PAUSE_S
                except InfiniRayError as error:
                    self.trouble = str(error)
                    await asyncio.sleep(pause_s)
                    pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        except Exception as error:  # it stands still then, which a report has to say
            self.trouble = f"{type(error).__name__}: {error}"
            raise
