"""The cache, as the store behind it needs it: verbs that block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from infiniray.cluster.client import Client
from infiniray.cluster.steps import run
from infiniray.computing import LEASE_S, Computation, compute

__all__ = ["CacheFront", "Front"]


class Front(Protocol):
    """What a store needs of the cache in front of it. Raises what the verbs of :class:`infiniray.Cache` do."""

    def deadline_s(self) -> float:
        """The cache's default deadline."""

    def put(self, key: str, value: Any, ttl_s: float | None, timeout_s: float) -> None: ...

    def get(self, key: str, timeout_s: float) -> Any: ...

    def delete(self, key: str, timeout_s: float) -> bool: ...

    def get_or_load(self, key: str, load: Callable[[], Any], ttl_s: float | None, timeout_s: float) -> Any:
        """The value in the cache, or else what ``load`` returns, put there if nothing else was meanwhile. Of all
        callers everywhere, one loads."""


class CacheFront:
    """A running cache."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def deadline_s(self) -> float:
        return run(self._client.connect()).deadline_s

    def put(self, key: str, value: Any, ttl_s: float | None, timeout_s: float) -> None:
        run(self._client.put(key, value, ttl_s, timeout_s))

    def get(self, key: str, timeout_s: float) -> Any:
        return run(self._client.get(key, timeout_s))

    def delete(self, key: str, timeout_s: float) -> bool:
        return run(self._client.delete(key, timeout_s))

    def get_or_load(self, key: str, load: Callable[[], Any], ttl_s: float | None, timeout_s: float) -> Any:
        turn = Computation(client=self._client, key=key, ttl_s=ttl_s, stale_s=0.0, lease_s=LEASE_S, timeout_s=timeout_s)
        answer = run(self._client.take_turn(key, turn.holder, LEASE_S, timeout_s))
        return compute(turn, load) if answer.is_granted else answer.value
