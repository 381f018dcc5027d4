"""What clients have written and are reading: which values a read may return (linearizability, key by key)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from infiniray.core.ids import NodeId, OpId

__all__ = ["Key", "Read", "Write"]


@dataclass(slots=True)
class Write:
    """A PUT, or a DELETE (value None). ``ended_s`` is None while it is under way, and for ever if it failed."""

    value: object
    began_s: float
    ended_s: float | None = None
    #: how often its key had been given up, or the shard replaced, when it began
    n_given_up: int = 0
    #: when it expires, as it was written; what touches have made of that is not known after a crash, nor when they met
    #: several writes: then it is between two times
    expires_s: float = math.inf
    expires_from_s: float = math.inf
    expires_by_s: float = math.inf

    def expires(self, at_s: float) -> None:
        self.expires_from_s, self.expires_by_s = min(self.expires_from_s, at_s), max(self.expires_by_s, at_s)


@dataclass(slots=True)
class Read:
    key: str
    began_s: float
    version: int  # that was current then; 0 if none
    places: tuple[NodeId, ...] = ()  # of its chunks, when it was last in the table


@dataclass(slots=True)
class Key:
    """What was written under a key."""

    writes: list[Write] = field(default_factory=lambda: [Write(None, 0.0, 0.0)])
    writing: dict[OpId, Write] = field(default_factory=dict)

    def current(self, began_s: float) -> list[Write]:
        """Writes whose value a read which began then, and ends now, may return: per-key linearizability.

        A write is out when another was acknowledged before the read began, and had begun after the first one ended.
        """
        acknowledged = [w for w in self.writes if w.ended_s is not None and w.ended_s < began_s]
        latest_s = max((w.began_s for w in acknowledged), default=0.0)
        return [w for w in self.writes if w.ended_s is None or w.ended_s >= latest_s]

    def allowed(self, began_s: float) -> set[object]:
        return {write.value for write in self.current(began_s)}

    def forget_old(self, before_s: float) -> None:
        """Keep the list short: what no read that is under way can see."""
        seen = self.allowed(before_s)
        self.writes = [w for w in self.writes if w.value in seen or w.ended_s is None or w.ended_s >= before_s]
