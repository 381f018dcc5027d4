"""Scaling a running cache, step by step; each membership is written down before anybody acts on it.

1. *Prepare*: new functions and shards are there, find each other, and own nothing. If they cannot, or the platform
   refuses, all is as before.
2. *Switch*: the ring is the new one. Shards that lose keys refuse them, those that gain them fetch what is left
   (:mod:`~infiniray.cluster.arrivals`); nodes that leave are drained (:mod:`infiniray.core.draining`).
3. *Settle*: when all keys have moved, shards without keys leave, and nodes that are empty.
4. *End*: whoever has left is written down with the membership without them, and then ended: actors, functions.

What is to be done next follows from what is written down alone, so a supervisor that was restarted goes on with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from infiniray.cluster.crew import ShardCrew
from infiniray.cluster.membership import FILL_SHARE, Membership
from infiniray.cluster.scaling import Departed, ScalePlan, plan_scale
from infiniray.cluster.undertaking import Undertaking
from infiniray.core.ids import NodeId
from infiniray.errors import PlatformError, PoolFull, ScalingUnderWay, ShardUnreachable

__all__ = ["Crew", "Scaler"]

_POLL_S = 0.2


class Crew(ShardCrew, Protocol):
    """What a supervisor can do for its scaler."""

    @property
    def plan(self) -> ScalePlan | None:
        """What is being prepared; None once it is switched to."""

    @property
    def departed(self) -> Departed:
        """Who has left, and is to be ended."""

    async def publish(self, membership: Membership, plan: ScalePlan | None, departed: Departed) -> None:
        """Write these down under the next epoch, and have them be the current ones."""

    async def ensure_functions(self, nodes: tuple[NodeId, ...]) -> None:
        """Raises: PlatformError."""

    async def delete_functions(self, nodes: tuple[NodeId, ...]) -> None: ...

    async def require_reachable(self) -> None:
        """Raises: ShardUnreachable: functions cannot dial a shard."""

    async def dismiss(self, shard: str) -> None:
        """End an actor, and forget what it had on record."""


class Scaler:
    """I bring the cache to the membership that was asked for, one scaling at a time."""

    def __init__(self, crew: Crew, *, minimum_nodes: int, node_bytes: int) -> None:
        self._crew = crew
        self._minimum_nodes = minimum_nodes
        self._node_bytes = node_bytes
        self._work = Undertaking(self._step, self._is_unfinished)
        self._progress: dict[str, Any] = {}

    # ------------------------------------------------------------ what the supervisor calls

    async def begin(self, *, shards: int | None, nodes: int | None, may_evict: bool) -> dict[str, Any]:
        """Check and write down what is to be; the rest goes on by itself. What changes, as JSON-able values.

        Raises:
            ConfigError: there is no such cache.
            PoolFull: what is stored would not fit, and nothing may be evicted.
            ScalingUnderWay: wait for the last one.
        """
        before = self._crew.members
        self.refuse_if_running()
        plan = plan_scale(before, shards=shards, nodes=nodes, minimum=self._minimum_nodes)
        after = plan.switched(plan.prepared(before))
        summary = {
            "shards": [len(before.ring.shards), len(after.ring.shards)],
            "nodes": [len(before.all_nodes), sum(map(len, plan.prepared(before).nodes.values())) - sum(
                map(len, plan.leaving.values()))],
        }  # fmt: skip
        if plan.is_nothing:
            return summary
        self._progress = {}
        await self._work.begin(self._check_and_publish(plan, may_evict=may_evict))
        return summary

    def resume(self) -> None:
        """Go on with what a former process of the supervisor had begun, if it had."""
        self._work.resume()

    def stop(self) -> None:
        self._work.stop()

    def refuse_if_running(self) -> None:
        """Raises: ScalingUnderWay."""
        if self._work.is_running:
            raise ScalingUnderWay(cache=self._crew.members.name, stage=self._work.stage)

    def report(self) -> dict[str, Any] | None:
        """How far a scaling is; None if there is none, but for the trouble that ended the last one. One that stands
        still goes on with the next call of :meth:`resume`, as every new request to rotate or scale makes it."""
        trouble = self._work.trouble
        if not self._work.is_running and not self._is_unfinished():
            return {"is_running": False, "trouble": trouble} if trouble else None
        return {"is_running": True, "stage": self._work.stage, "trouble": trouble, **self._progress}

    # ------------------------------------------------------------ before

    async def _check_and_publish(self, plan: ScalePlan, *, may_evict: bool) -> None:
        if not may_evict:
            self._check_room(plan, await self._crew.ask_all("stats"))
        await self._crew.publish(plan.prepared(self._crew.members), plan, Departed())

    def _check_room(self, plan: ScalePlan, stats: Mapping[str, Mapping[str, Any]]) -> None:
        """Whether what the pool stores fits into what is left of it, shard by shard."""
        members = self._crew.members
        handed_on = sum(row["stored_bytes"] for shard, row in stats.items() if shard not in plan.shards)
        for shard in set(plan.shards) & set(stats):
            n_nodes = len(members.nodes[shard]) + len(plan.joining.get(shard, ())) - len(plan.leaving.get(shard, ()))
            need_bytes = stats[shard]["stored_bytes"] + handed_on // len(plan.shards)
            room_bytes = round(FILL_SHARE * n_nodes * self._node_bytes)
            if need_bytes > room_bytes and (plan.leaving or handed_on):
                raise PoolFull(need_bytes=need_bytes, free_bytes=room_bytes)

    # ------------------------------------------------------------ the work

    def _is_unfinished(self) -> bool:
        members = self._crew.members
        is_settled = members.former is None and not members.leaving and set(members.nodes) == set(members.ring.shards)
        return self._crew.plan is not None or self._crew.departed != Departed() or not is_settled

    async def _step(self) -> None:
        plan, crew = self._crew.plan, self._crew
        if crew.departed != Departed():
            await self._end(crew.departed)
            return
        if plan is not None:
            await self._prepare(plan)
            return
        await self._work.tell("telling shards", crew.ensure_shards())
        await self._work.tell("telling shards", crew.ask_all("adopt", crew.members))
        answers = await crew.ask_all("progress")
        self._note(answers)
        if any(answer["epoch"] < crew.members.epoch for answer in answers.values()):
            return  # one was restarted just now
        if crew.members.former is not None:
            self._work.stage = "moving keys"
            if all(answer["is_settled"] for answer in answers.values()):
                await crew.publish(replace(crew.members, former=None), None, Departed())
                return
        elif gone := set(crew.members.nodes) - set(crew.members.ring.shards):
            await self._dismiss(sorted(gone))
            return
        else:
            self._work.stage = "emptying functions"
        left = {NodeId(node) for answer in answers.values() for node in answer["leaving"]}
        empty = tuple(sorted(crew.members.leaving - left))
        if empty:
            await self._let_go(empty)
        else:
            await asyncio.sleep(_POLL_S)

    async def _prepare(self, plan: ScalePlan) -> None:
        crew = self._crew
        new = tuple(node for nodes in plan.joining.values() for node in nodes)
        try:
            await self._work.tell("making functions", crew.ensure_functions(new))
            await self._work.tell("starting shards", crew.ensure_shards())
            await self._work.tell("starting shards", crew.ask_all("adopt", crew.members))
            await self._work.tell("having functions dial shards", crew.require_reachable())
        except (PlatformError, ShardUnreachable) as error:
            await self._undo(plan, new, str(error))
            return
        await crew.publish(plan.switched(crew.members), None, Departed())

    async def _undo(self, plan: ScalePlan, new: tuple[NodeId, ...], why: str) -> None:
        """It cannot be: all is as before."""
        self._work.trouble = why
        prepared = self._crew.members
        undone = plan.undone(prepared)
        shards = tuple(sorted(set(prepared.nodes) - set(undone.nodes)))
        await self._crew.publish(undone, None, Departed(shards=shards, nodes=new, why=why))

    async def _dismiss(self, shards: list[str]) -> None:
        """Shards that own nothing any more."""
        before = self._crew.members
        nodes = {shard: nodes for shard, nodes in before.nodes.items() if shard not in shards}
        departed = Departed(shards=tuple(shards), nodes=tuple(n for shard in shards for n in before.nodes[shard]))
        await self._crew.publish(replace(before, nodes=nodes), None, departed)

    async def _let_go(self, empty: tuple[NodeId, ...]) -> None:
        """Nodes that hold nothing any more."""
        before = self._crew.members
        nodes = {shard: tuple(n for n in nodes if n not in empty) for shard, nodes in before.nodes.items()}
        after = replace(before, nodes=nodes, leaving=before.leaving.difference(empty))
        await self._crew.publish(after, None, Departed(nodes=empty))

    async def _end(self, departed: Departed) -> None:
        for shard in departed.shards:
            await self._work.tell("ending shards", self._crew.dismiss(shard))
        await self._work.tell("deleting functions", self._crew.delete_functions(departed.nodes))
        await self._crew.publish(self._crew.members, None, Departed())
        self._work.trouble = departed.why

    def _note(self, answers: Mapping[str, Mapping[str, Any]]) -> None:
        self._progress = {
            "keys_left": sum(answer["keys_left"] for answer in answers.values()),
            "bytes_left": sum(answer["bytes_left"] for answer in answers.values()),
            "nodes_left": sum(len(answer["leaving"]) for answer in answers.values()),
            "node_bytes_left": sum(sum(answer["leaving"].values()) for answer in answers.values()),
        }
        self._work.trouble = next((answer["trouble"] for answer in answers.values() if answer["trouble"]), "")
