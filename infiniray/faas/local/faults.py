"""Faults on command: which invocations are throttled, fail, or are kept waiting."""

from __future__ import annotations

import asyncio
import enum
import random
from dataclasses import dataclass, replace
from typing import Any

from infiniray.faas.local.refusals import invalid

__all__ = ["FaultKind", "FaultRule", "Faults", "check_share"]

_MAX_DELAY_MS = 900_000  # a function's longest timeout


class FaultKind(enum.Enum):
    THROTTLE = "throttle"  # 429
    FAIL = "fail"  # 500
    DELAY = "delay"  # then whatever else there is to meet


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRule:
    """The next ``n`` invocations meet the fault, or each with probability ``share``."""

    n: int = 0
    share: float = 0.0
    delay_s: float = 0.0

    @classmethod
    def parse(cls, order: dict[str, Any]) -> tuple[FaultKind, FaultRule]:
        """From ``{"kind", "n" or "share", "delay_ms"}``.

        Raises:
            Refusal: it makes no sense.
        """
        try:
            kind = FaultKind(order.get("kind"))
        except ValueError:
            raise invalid(f"kind must be one of {[kind.value for kind in FaultKind]}") from None
        n, share, delay_ms = order.get("n", 0), check_share(order.get("share", 0.0)), order.get("delay_ms", 0)
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise invalid(f"n must be a number of invocations, not {n!r}")
        if n and share:
            raise invalid("it must be either the next n or a share")
        if not isinstance(delay_ms, (int, float)) or not 0 <= delay_ms <= _MAX_DELAY_MS:
            raise invalid(f"delay_ms must be a number from 0 to {_MAX_DELAY_MS}, not {delay_ms!r}")
        if kind is FaultKind.DELAY and (n or share) and not delay_ms:
            raise invalid("delay_ms must be given for a delay")
        return kind, cls(n=n, share=share, delay_s=delay_ms / 1000)


class Faults:
    """I decide which invocations meet which fault. What is ordered for one function adds to what is for all."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng
        self._rules: dict[tuple[FaultKind, str | None], FaultRule] = {}  # function None: all
        self._stalled: dict[asyncio.Future[None], str] = {}

    def order(self, kind: FaultKind, rule: FaultRule, function: str | None = None) -> None:
        """In place of what was ordered before for this kind and function."""
        self._rules[kind, function] = rule

    def clear(self, function: str | None = None) -> None:
        """No more faults for one function, or for anybody; those who are kept waiting go on."""
        for kind, of in list(self._rules):
            if function in (None, of):
                del self._rules[kind, of]
        for stalled, of in self._stalled.items():
            if function in (None, of) and not stalled.done():
                stalled.set_result(None)

    def meets(self, kind: FaultKind, function: str) -> FaultRule | None:
        """The rule that an invocation falls under now, if any; this spends one of its count."""
        for of in (function, None):
            rule = self._rules.get((kind, of))
            if rule is None:
                continue
            if rule.n:
                self._rules[kind, of] = replace(rule, n=rule.n - 1)
                return rule
            if rule.share and self._random.random() < rule.share:
                return rule
        return None

    async def stall(self, rule: FaultRule, function: str) -> None:
        """Wait for as long as the rule says, or until the function's faults are cleared."""
        cleared: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._stalled[cleared] = function
        try:
            await asyncio.wait([cleared], timeout=rule.delay_s)
        finally:
            del self._stalled[cleared]


def check_share(share: Any) -> float:
    """A number from 0 to 1.

    Raises:
        Refusal: it is not.
    """
    if not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise invalid(f"share must be a number from 0 to 1, not {share!r}")
    return float(share)
