"""Which shards this process can reach directly."""

from __future__ import annotations

import time
from collections.abc import Callable

from infiniray.channel.client import Channel
from infiniray.channel.server import Endpoint

__all__ = ["Channels"]

#: A shard that cannot be reached, or has no channel, is looked at again after so long.
_LOOK_AGAIN_S = 10.0


class Channels:
    """I keep one channel for each shard actor, and remember for a while where there is none.

    Args:
        now_s: the time, monotonic.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        self._now_s = now_s
        self._open: dict[str, Channel] = {}
        #: {actor: when to look again}
        self._without: dict[str, float] = {}

    def find(self, actor: str) -> Channel | None:
        return self._open.get(actor)

    def is_worth_asking(self, actor: str) -> bool:
        """Whether the actor may have a channel that I do not know."""
        return self._without.get(actor, 0.0) <= self._now_s()

    def open(self, actor: str, endpoint: Endpoint | None) -> Channel | None:
        """What the actor said of where it is reached."""
        if endpoint is None:
            self.avoid(actor)
            return None
        known = self._open.get(actor)
        if known is not None and known.endpoint == endpoint:  # another thread was faster
            return known
        channel = self._open[actor] = Channel(endpoint)
        return channel

    def unreachable(self, actor: str, channel: Channel) -> None:
        """It could not be connected to. Where that was possible before, the actor has another by now, or soon."""
        if channel.was_reached:
            self.forget(actor)
        else:
            self.avoid(actor)

    def avoid(self, actor: str) -> None:
        """There is none for now."""
        self.forget(actor)
        self._without[actor] = self._now_s() + _LOOK_AGAIN_S

    def forget(self, actor: str) -> None:
        """It has ended: the actor may have a new one."""
        channel = self._open.pop(actor, None)
        if channel is not None:
            channel.close()

    def close(self) -> None:
        for actor in list(self._open):
            self.forget(actor)
