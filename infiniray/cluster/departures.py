"""Writes that a shard has under way: before it says what it has of keys that are not its own any more, they end."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator

from infiniray.errors import ShardRecovering

__all__ = ["Departures"]

_RETRY_AFTER_S = 0.1


class Departures:
    """I know which keys are being written. All on one event loop."""

    def __init__(self, shard: str) -> None:
        self._shard = shard
        self._writing: Counter[str] = Counter()
        self._ended: asyncio.Future[None] | None = None

    @contextlib.contextmanager
    def writing(self, key: str) -> Iterator[None]:
        """To be entered in the same step in which it is seen that ``key`` is this shard's."""
        self._writing[key] += 1
        try:
            yield
        finally:
            self._writing[key] -= 1
            if not self._writing[key]:
                del self._writing[key]
            if self._ended is not None:
                self._ended.set_result(None)
                self._ended = None

    async def quiet(self, has_moved: Callable[[str], bool], timeout_s: float) -> None:
        """Until no key that has moved is being written. None is begun, if it is refused from now on.

        Raises:
            ShardRecovering: writes are still under way after ``timeout_s``.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        while any(map(has_moved, self._writing)):
            if self._ended is None:
                self._ended = loop.create_future()
            await asyncio.wait({self._ended}, timeout=max(0.0, until_s - loop.time()))
            if loop.time() >= until_s:
                raise ShardRecovering(shard=self._shard, retry_after_s=_RETRY_AFTER_S)
