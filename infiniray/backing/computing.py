"""``get_or_compute`` in front of a store: what the store has is not computed, and what is computed is written there."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from infiniray.backing.modes import Backing
from infiniray.cluster.steps import Block, Steps, run
from infiniray.computing import Computation
from infiniray.errors import InfiniRayError, ValueTooLarge

__all__ = ["BackedComputation", "loading", "loading_async"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackedComputation(Computation):
    """A turn to compute what neither cache nor store may have."""

    backing: Backing
    #: not empty once the store turned out to have the value
    loaded: list[bool] = field(default_factory=list)

    def load(self) -> tuple[bool, Any]:
        """Whether the store has a value, and that. Blocks."""
        is_found, value = self.backing.find(self.key, self.timeout_s)
        if is_found:
            self.loaded.append(True)
        return is_found, value

    def store(self, value: Any) -> Steps[None]:
        """Write what was computed to the store, then put it into the cache; what was loaded, into the cache alone.

        Raises:
            BackingUnavailable: unless ``on_error`` is "degrade".
        """
        if self.backing.is_written and not self.loaded:
            yield Block(partial(self.backing.put_computed, self.key, value, partial(self._fill, value), self._forget))
            return
        try:
            yield Block(partial(self._fill, value))
        except InfiniRayError as error:
            if not error.retryable and not (self.loaded and isinstance(error, ValueTooLarge)):
                raise

    def _fill(self, value: Any) -> None:
        ttl_s = self.backing.cached_ttl_s(self.ttl_s)
        run(self.client.put_computed(self.key, self.holder, value, ttl_s, self.stale_s, self.timeout_s))

    def _forget(self) -> None:
        run(self.client.delete(self.key, self.timeout_s))


def loading(turn: Computation, fn: Callable[[], Any]) -> Callable[[], Any]:
    """``fn``, to be called if the store has no value."""
    if not isinstance(turn, BackedComputation):
        return fn

    def load_or_compute() -> Any:
        is_found, value = turn.load()
        return value if is_found else fn()

    return load_or_compute


def loading_async(turn: Computation, fn: Callable[[], Any]) -> Callable[[], Any]:
    """As :func:`loading`; ``fn`` may return an awaitable."""
    if not isinstance(turn, BackedComputation):
        return fn

    async def load_or_compute() -> Any:
        is_found, value = await asyncio.to_thread(turn.load)
        if not is_found:
            value = fn()
            if inspect.isawaitable(value):
                value = await value
        return value

    return load_or_compute
