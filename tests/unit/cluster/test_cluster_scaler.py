"""A scaling that cannot be ends where it began."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from infiniray.cluster.membership import Membership, plan
from infiniray.cluster.scaler import Scaler
from infiniray.cluster.scaling import ScalePlan
from infiniray.config import Config
from infiniray.core.ids import NodeId
from infiniray.errors import InfiniRayError, PlatformError, ShardUnreachable

UNREACHABLE = ShardUnreachable(shard="shard-2", address="10.0.0.7:40000", function="f", detail="why", advice="Do that")
REFUSED = PlatformError(operation="create", function="f", detail="no more")


class Crew:
    """A supervisor without a cluster; ``troubles``: {what it is asked to do: how that fails}."""

    def __init__(self, troubles: dict[str, InfiniRayError]) -> None:
        tree = {"pool": {"nodes": 8}, "ring": {"shards": 2}, "redundancy": [{"scheme": "rs:2+1"}]}
        self.members: Membership = plan(Config.load(None, tree, environ={}))
        self.plan: ScalePlan | None = None
        self.functions = set(self.members.all_nodes)
        self.actors = set(self.members.shards)
        self.rings: list[tuple[str, ...]] = []  # of the memberships that were published
        self._troubles = troubles

    async def publish(self, membership: Membership, plan: ScalePlan | None) -> None:
        self.members, self.plan = membership.raised(self.members.epoch + 1), plan
        self.rings.append(tuple(self.members.ring.shards))

    async def ensure_functions(self, nodes: tuple[NodeId, ...]) -> None:
        self.functions.update(nodes)
        self._fail("functions")

    async def delete_functions(self, nodes: tuple[NodeId, ...]) -> None:
        self.functions.difference_update(nodes)

    async def ensure_shards(self) -> None:
        self.actors.update(self.members.shards)

    async def require_reachable(self) -> None:
        self._fail("reach")

    async def ask_all(self, method: str, *args: Any) -> dict[str, Any]:
        row = {"epoch": self.members.epoch, "is_settled": True, "leaving": {}, "keys_left": 0, "bytes_left": 0,
               "trouble": "", "stored_bytes": 0}  # fmt: skip
        return dict.fromkeys(self.members.shards, row)

    async def dismiss(self, shard: str) -> None:
        self.actors.discard(shard)

    def _fail(self, what: str) -> None:
        if what in self._troubles:
            raise self._troubles[what]


async def scaled(crew: Crew) -> Scaler:
    scaler = Scaler(crew, minimum_nodes=3, node_bytes=1 << 30)
    await scaler.begin(shards=3, nodes=None, may_evict=False)
    await asyncio.wait_for(scaler._work.wait(), 10)
    return scaler


async def test_a_shard_that_joins_gets_keys() -> None:
    crew = Crew({})
    assert (await scaled(crew)).report() is None
    assert set(crew.members.ring.shards) == crew.actors == {"shard-0", "shard-1", "shard-2"}
    assert crew.functions == set(crew.members.all_nodes)


@pytest.mark.parametrize(("what", "trouble"), [("functions", REFUSED), ("reach", UNREACHABLE)])
async def test_one_that_cannot_work_never_has_any(what: str, trouble: InfiniRayError) -> None:
    crew = Crew({what: trouble})
    before = crew.members
    report = (await scaled(crew)).report()
    assert report == {"is_running": False, "trouble": str(trouble)}
    assert crew.members.nodes == before.nodes
    assert set(crew.rings) == {("shard-0", "shard-1")}
    assert crew.actors == {"shard-0", "shard-1"}
    assert crew.functions == set(before.all_nodes)
    assert crew.plan is None
