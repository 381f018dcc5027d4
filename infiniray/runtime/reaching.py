"""Whether nodes can dial their shard: found out by having one dial, before anything depends on it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

from infiniray.core.events import InvokeOutcome, InvokeReturned
from infiniray.core.ids import NodeId
from infiniray.errors import ShardUnreachable

__all__ = ["Reaching"]

#: Failures that are believed: a function that has just been made may stumble once.
_FAILURES = 2
#: From asking for a node to hearing from it, a cold start included; then another one is asked as well.
_PATIENCE_S = 8.0
#: Between two attempts.
_PAUSE_S = 0.5

_NETWORK = (
    "Functions must get to that address and port: attach them to the shards' network (on AWS: deploy.subnets), let "
    "them in there (the security group's ports), or have platform.advertise_host be an address that they can dial"
)
_SECRET = "The functions have another secret than this cache: deploy them again, or take the other cache down first"
#: {what a function raises: what to do}; the first names are lambda_agent's.
_ADVICE = {
    "DialRefused": "Something answers there, but no shard: platform.advertise_host must lead to the shard's own "
    "machine, and to an address on which it listens (platform.listen_host)",
    "DialTimedOut": _NETWORK,
    "DialFailed": _NETWORK,
    "NameUnknown": "Functions cannot resolve that name: have platform.advertise_host be an address, or a name that is "
    "known where functions run",
    "HandshakeFailed": "Something else than the shard answers there: platform.advertise_host must lead to the shard's "
    "own machine",
    "InvalidInvocation": _SECRET,
}
_OTHER_ADVICE = "The function's log says more"
_INVOKE_ADVICE = (
    "The shard's own machine must be able to invoke functions: credentials, permissions (`infiniray deploy "
    "--host-policy`), a way to the platform's API"
)


class Reaching:
    """I know whether a node has dialled in, and why the last one that was asked could not.

    Args:
        wake: has a node invoked, if it is not awake.
    """

    def __init__(self, wake: Callable[[NodeId], None]) -> None:
        self._wake = wake
        self._news: asyncio.Event | None = None  # while somebody wants to know
        self._has_dialled = False
        self._failures: list[InvokeReturned] = []

    def on_dialled(self) -> None:
        """A node has dialled in, and proved who it is."""
        if self._news is not None:
            self._has_dialled = True
            self._news.set()

    def on_returned(self, returned: InvokeReturned) -> None:
        """An invocation is over."""
        if self._news is not None and returned.outcome is not InvokeOutcome.OK:
            self._failures.append(returned)
            self._news.set()

    async def require(self, shard: str, address: str, nodes: Sequence[NodeId], timeout_s: float) -> None:
        """Have nodes dial ``address``, one after the other, until one has.

        A platform that refuses because it is busy is asked again; two other failures are enough.

        Raises:
            ShardUnreachable: none could, or none did within ``timeout_s``.
        """
        if self._news is not None:
            raise RuntimeError("one at a time")
        until_s = asyncio.get_running_loop().time() + timeout_s
        self._news, self._has_dialled, self._failures = asyncio.Event(), False, []
        try:
            for attempt, node in enumerate(itertools.cycle(nodes)):
                if attempt:
                    await asyncio.sleep(_PAUSE_S)
                await self._ask(node, until_s)
                if self._has_dialled:
                    return
                is_over = asyncio.get_running_loop().time() + _PAUSE_S >= until_s
                if is_over or len(self._believed()) >= min(_FAILURES, len(nodes)):
                    raise self._unreachable(shard, address, node, timeout_s)
        finally:
            self._news = None

    async def _ask(self, node: NodeId, until_s: float) -> None:
        """Until there is news of it, or not soon."""
        assert self._news is not None
        self._news.clear()
        if self._has_dialled:
            return
        self._wake(node)
        left_s = until_s - asyncio.get_running_loop().time()
        try:
            await asyncio.wait_for(self._news.wait(), min(_PATIENCE_S, left_s))
        except asyncio.TimeoutError:
            return

    def _believed(self) -> list[InvokeReturned]:
        return [failure for failure in self._failures if failure.outcome is not InvokeOutcome.THROTTLED]

    def _unreachable(self, shard: str, address: str, asked: NodeId, timeout_s: float) -> ShardUnreachable:
        if not self._failures:
            detail = f"no word of it within {timeout_s:g} s"
            return ShardUnreachable(shard=shard, address=address, function=asked, detail=detail, advice=_NETWORK)
        last = (self._believed() or self._failures)[-1]
        advice = _INVOKE_ADVICE
        if last.outcome is InvokeOutcome.FUNCTION_ERROR:
            advice = _ADVICE.get(last.detail.partition(":")[0], _OTHER_ADVICE)
        detail = last.detail.rstrip(". ")
        return ShardUnreachable(shard=shard, address=address, function=last.node, detail=detail, advice=advice)
