"""A scaling that cannot be ends where it began; and nothing that has left is left behind, whoever crashes meanwhile."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from infiniray.cluster import undertaking
from infiniray.cluster.membership import Membership, plan
from infiniray.cluster.scaler import Scaler
from infiniray.cluster.scaling import Departed, ScalePlan
from infiniray.config import Config
from infiniray.core.ids import NodeId
from infiniray.errors import InfiniRayError, PlatformError, ShardUnreachable

UNREACHABLE = ShardUnreachable(shard="shard-2", address="10.0.0.7:40000", function="f", detail="why", advice="Do that")
REFUSED = PlatformError(operation="create", function="f", detail="no more")


class Crash(BaseException):
    """The supervisor's process ends here."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(undertaking, "_FIRST_PAUSE_S", 0.0)


class Crew:
    """A supervisor without a cluster; ``troubles``: {what it is asked to do: how that fails}."""

    def __init__(self, troubles: dict[str, InfiniRayError]) -> None:
        tree = {"pool": {"nodes": 8}, "ring": {"shards": 2}, "redundancy": [{"scheme": "rs:2+1"}]}
        self.members: Membership = plan(Config.load(None, tree, environ={}))
        self.plan: ScalePlan | None = None
        self.departed = Departed()
        self.functions = set(self.members.all_nodes)
        self.actors = set(self.members.shards)
        self.rings: list[tuple[str, ...]] = []  # of the memberships that were published
        self._troubles = troubles
        self.refusals: list[InfiniRayError] = []  # of the platform, to delete
        self.crash_at: int | None = None
        self.n_acts = 0

    def act(self) -> None:
        """The moment before something is done."""
        self.n_acts += 1
        if self.n_acts - 1 == self.crash_at:
            raise Crash

    async def publish(self, membership: Membership, plan: ScalePlan | None, departed: Departed) -> None:
        self.act()
        self.members, self.plan = membership.raised(self.members.epoch + 1), plan
        self.departed = departed
        self.rings.append(tuple(self.members.ring.shards))

    async def ensure_functions(self, nodes: tuple[NodeId, ...]) -> None:
        self.act()
        self.functions.update(nodes)
        self._fail("functions")

    async def delete_functions(self, nodes: tuple[NodeId, ...]) -> None:
        self.act()
        if self.refusals:
            raise self.refusals.pop()
        self.functions.difference_update(nodes)

    async def ensure_shards(self) -> None:
        self.act()
        self.actors.update(self.members.shards)

    async def require_reachable(self) -> None:
        self._fail("reach")

    async def ask_all(self, method: str, *args: Any) -> dict[str, Any]:
        row = {"epoch": self.members.epoch, "is_settled": True, "leaving": {}, "keys_left": 0, "bytes_left": 0,
               "trouble": "", "stored_bytes": 0}  # fmt: skip
        return dict.fromkeys(self.members.shards, row)

    async def dismiss(self, shard: str) -> None:
        self.act()
        self.actors.discard(shard)

    def _fail(self, what: str) -> None:
        if what in self._troubles:
            raise self._troubles[what]


async def scaled(crew: Crew, *, shards: int | None = 3, nodes: int | None = None) -> Scaler:
    scaler = Scaler(crew, minimum_nodes=3, node_bytes=1 << 30)
    await scaler.begin(shards=shards, nodes=nodes, may_evict=False)
    await asyncio.wait_for(scaler._work.wait(), 10)
    return scaler


async def resumed(crew: Crew) -> Scaler:
    """What a former process had begun, if it had, is ended."""
    scaler = Scaler(crew, minimum_nodes=3, node_bytes=1 << 30)
    scaler.resume()
    await asyncio.wait_for(scaler._work.wait(), 10)
    return scaler


def assert_tidy(crew: Crew) -> None:
    """There is what the membership says, and nothing else."""
    assert crew.actors == set(crew.members.shards) == set(crew.members.ring.shards)
    assert crew.functions == set(crew.members.all_nodes)
    assert crew.members.leaving == frozenset()
    assert (crew.plan, crew.members.former, crew.departed) == (None, None, Departed())


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


SCALINGS = [{"shards": 1}, {"shards": None, "nodes": 6}, {"shards": 3}, {"shards": 1, "nodes": 12}]


@pytest.mark.parametrize("change", SCALINGS, ids=str)
async def test_what_the_platform_would_not_delete_at_first_is_deleted_later(change: dict[str, int | None]) -> None:
    crew = Crew({})
    crew.refusals = [REFUSED, REFUSED]
    assert (await scaled(crew, **change)).report() is None
    assert_tidy(crew)


async def test_nor_is_anything_left_of_what_could_not_work() -> None:
    crew = Crew({"reach": UNREACHABLE})
    crew.refusals = [REFUSED, REFUSED]
    scaler = await scaled(crew)
    assert scaler.report() == {"is_running": False, "trouble": str(UNREACHABLE)}
    assert not crew.refusals
    assert_tidy(crew)


@pytest.mark.parametrize("troubles", [{}, {"functions": REFUSED}, {"reach": UNREACHABLE}], ids=list)
@pytest.mark.parametrize("change", SCALINGS, ids=str)
async def test_wherever_the_supervisor_ends_its_next_process_leaves_nothing_behind(
    change: dict[str, int | None], troubles: dict[str, InfiniRayError]
) -> None:
    for crash_at in itertools.count():
        crew = Crew(troubles)
        crew.crash_at = crash_at
        try:
            await scaled(crew, **change)
        except Crash:
            next_one = Scaler(crew, minimum_nodes=3, node_bytes=1 << 30)
            is_begun = next_one.report()
            assert (is_begun is None) == (crash_at == 0)  # nobody is told that it is over, who asks before it goes on
            await resumed(crew)
            assert_tidy(crew)
        else:
            assert crash_at > 3
            return
