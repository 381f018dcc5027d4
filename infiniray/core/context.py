"""What the parts of one shard's decisions share while an event is handled."""

from __future__ import annotations

import hashlib
from collections import deque
from typing import TYPE_CHECKING

from infiniray.core.alarm import Alarm
from infiniray.core.commands import CancelTimer, Command, SetTimer
from infiniray.core.ids import RequestId, Timer
from infiniray.core.policy import Policy
from infiniray.core.requests import Settled

if TYPE_CHECKING:
    from infiniray.core.node import Node

__all__ = ["Context"]


class Context:
    """The time of the event, the commands that answer it, and the requests that it settled.

    Nothing here decides anything. ``homes`` finds the node that a numbered answer belongs to.
    """

    def __init__(self, policy: Policy, epoch: int) -> None:
        self.policy = policy
        self.epoch = epoch
        self.now_s = 0.0
        self.out: list[Command] = []
        #: more follows from the event: something has been put into one of the collections below, or a backup's state
        #: has changed that is to be looked at
        self.is_unsettled = False
        self.settled: deque[Settled] = deque()
        self.homes: dict[RequestId, Node] = {}
        #: of nodes from which something is expected: an answer, or the end of a departure
        self.silence: Alarm[Node] = Alarm(self, "silence", lambda node: node.on_silence())
        #: nodes whose current copy has become another one
        self.turned: deque[Node] = deque()
        #: nodes that know of their replica what can be known
        self.paired: deque[Node] = deque()
        #: nodes, and keys, to which something has happened that a deletion may wait for
        self.progressed: set[str] = set()
        self._n_requests = 0
        self._last_stamp = 0

    def note_settled(self, settled: Settled) -> None:
        self.settled.append(settled)
        self.is_unsettled = True

    def note_turned(self, node: Node) -> None:
        self.turned.append(node)
        self.is_unsettled = True

    def note_paired(self, node: Node) -> None:
        self.paired.append(node)
        self.is_unsettled = True

    def note_progress(self, node_or_key: str) -> None:
        self.progressed.add(node_or_key)
        self.is_unsettled = True

    def new_request_id(self) -> RequestId:
        # 32 bits on the wire; after 4 billion requests no early one is still open
        self._n_requests = self._n_requests % 0xFFFF_FFFF + 1
        return RequestId(self._n_requests)

    def new_stamp(self) -> int:
        """A number above all before it, and above those of an earlier incarnation of this shard: microseconds of
        Unix time, or the next one."""
        stamp = int(self.now_s * 1e6)
        if stamp <= self._last_stamp:
            stamp = self._last_stamp + 1
        self._last_stamp = stamp
        return stamp

    def set_timer(self, timer: Timer, after_s: float) -> None:
        self.out.append(SetTimer(timer=timer, at_s=self.now_s + after_s))

    def set_timer_at(self, timer: Timer, at_s: float) -> None:
        self.out.append(SetTimer(timer=timer, at_s=at_s))

    def cancel_timer(self, timer: Timer) -> None:
        self.out.append(CancelTimer(timer=timer))

    def fraction(self, *what: object) -> float:
        """A number in [0, 1) that looks random and is the same for the same seed and ``what``."""
        text = "/".join(map(str, (self.policy.seed, *what)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big") / (1 << 56)

    def number(self, *what: object) -> int:
        """64 bits that look random and are the same for the same seed and ``what``."""
        text = "/".join(map(str, (self.policy.seed, *what)))
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")

    def backoff_s(self, n_failures: int, *who: object) -> float:
        """Exponential, capped, with jitter of half to one and a half, so that retries do not march in step."""
        pause_s = min(self.policy.backoff_max_s, self.policy.backoff_s * 2.0 ** (n_failures - 1))
        return pause_s * (0.5 + self.fraction("backoff", n_failures, *who))
