"""What a supervisor does for whoever changes its cache step by step."""

from __future__ import annotations

from typing import Any, Protocol

from infiniray.cluster.membership import Membership

__all__ = ["ShardCrew"]


class ShardCrew(Protocol):
    """The membership, and its shards' actors."""

    @property
    def members(self) -> Membership: ...

    async def ensure_shards(self) -> None:
        """Every shard of the membership has an actor, which answers."""

    async def ask_all(self, method: str, *args: Any) -> dict[str, Any]:
        """{shard: its answer}. Raises: InfiniRayError: one did not answer."""
