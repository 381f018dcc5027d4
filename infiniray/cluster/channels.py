"""Which shards this process can reach directly."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

from infiniray.channel.client import Channel
from infiniray.channel.server import Endpoint

__all__ = ["Channels", "channels_of", "let_go"]

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
        self.forget(actor, channel)
        if not channel.was_reached:
            self.avoid(actor)

    def avoid(self, actor: str) -> None:
        """There is none for now."""
        self._without[actor] = self._now_s() + _LOOK_AGAIN_S

    def forget(self, actor: str, channel: Channel) -> None:
        """It has ended: the actor may have a new one, which another thread may know already."""
        if self._open.get(actor) is channel:
            del self._open[actor]
        channel.close()


#: Of this process: handles come and go with every task, connections stay.
_known: OrderedDict[tuple[str, str], Channels] = OrderedDict()
_MAX_KNOWN = 8


def channels_of(address: str, cache: str) -> Channels:
    """This process's connections to the shards of a cache on the Ray at ``address``, shared by all handles.

    Those of the caches that were used last are kept; others are closed when the last handle of theirs, and the last
    view of what came over them, is gone.
    """
    channels = _known.setdefault((address, cache), Channels())
    with suppress(KeyError):  # no lock, which a fork might find taken: another thread may have been faster
        _known.move_to_end((address, cache))
        while len(_known) > _MAX_KNOWN:
            _known.popitem(last=False)
    return channels


def let_go(address: str, cache: str) -> None:
    """Keep them no longer than somebody uses them."""
    _known.pop((address, cache), None)
