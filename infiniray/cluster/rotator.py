"""Changing the secret of a running cache, step by step; each step is written down before anybody acts on it.

1. Shards accept two secrets, the new one and the former.
2. Batch by batch: nodes are emptied onto the others (:mod:`infiniray.core.draining`), their functions get the new
   secret, which replaces their instances, and they are taken back.
3. When all have had their turn, the former secret is retired: shards accept it no longer.

What is to be done next follows from what is written down alone, so a supervisor that was restarted goes on with it.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import Any, Protocol

from infiniray.cluster.crew import ShardCrew
from infiniray.cluster.membership import Membership
from infiniray.cluster.rotation import Rotation, check_room, check_spare
from infiniray.cluster.undertaking import Undertaking
from infiniray.core.ids import NodeId
from infiniray.errors import ConfigError, RotationUnderWay
from infiniray.runtime.keys import KeyRing

__all__ = ["RotationCrew", "Rotator"]

_SECRET_BYTES = 32
_POLL_S = 0.2


class RotationCrew(ShardCrew, Protocol):
    """What a supervisor can do for its rotator."""

    @property
    def keys(self) -> KeyRing: ...

    @property
    def rotation(self) -> Rotation | None:
        """None: the secret is not being changed."""

    async def publish_keys(self, membership: Membership, keys: KeyRing, rotation: Rotation | None) -> None:
        """Write these down under the next epoch, and have them be the current ones."""

    async def renew_functions(self, nodes: frozenset[NodeId], secret: bytes) -> None:
        """Have functions know ``secret``, and no other. Done again, it changes nothing. Raises: PlatformError."""


class Rotator:
    """I give a cache a new secret, once at a time, and lose nothing of what it holds.

    Args:
        minimum_nodes: that a shard needs for its widest scheme.
        node_bytes: that a node may hold.
    """

    def __init__(self, crew: RotationCrew, *, minimum_nodes: int, node_bytes: int) -> None:
        self._crew = crew
        self._minimum_nodes = minimum_nodes
        self._node_bytes = node_bytes
        self._work = Undertaking(self._step, self._is_unfinished)
        self._bytes_left = 0

    # ------------------------------------------------------------ what the supervisor calls

    async def begin(self, *, batch: int, may_evict: bool) -> dict[str, Any]:
        """Check, and write down that there is a new secret; the rest goes on by itself. What that is, as JSON-able
        values.

        Args:
            batch: nodes of a shard that are emptied at a time.
            may_evict: the least recently used may go if the others do not have room for them.

        Raises:
            ConfigError: a shard has no function to spare, or the batch is none.
            PoolFull: what is stored would not fit, and nothing may be evicted.
            RotationUnderWay: wait for the last one.
        """
        members = self._crew.members
        self.refuse_if_running()
        if batch < 1:
            raise ConfigError(detail=f"a batch has one function of each shard at least, not {batch}")
        check_spare(members, self._minimum_nodes)
        self._bytes_left = 0
        await self._work.begin(self._check_and_publish(batch, may_evict=may_evict))
        return {"nodes": len(members.all_nodes)}

    def resume(self) -> None:
        """Go on with what a former process of the supervisor had begun, if it had."""
        self._work.resume()

    def stop(self) -> None:
        self._work.stop()

    def refuse_if_running(self) -> None:
        """Raises: RotationUnderWay."""
        if self._work.is_running:
            raise RotationUnderWay(cache=self._crew.members.name, stage=self._work.stage)

    def report(self) -> dict[str, Any] | None:
        """How far it is; None if the secret is not being changed. One that stands still goes on with the next call of
        :meth:`resume`, as every new request to rotate or scale makes it."""
        rotation = self._crew.rotation
        if rotation is None and not self._work.is_running:
            return None
        return {
            "is_running": True,
            "stage": self._work.stage,
            "trouble": self._work.trouble,
            "nodes": len(self._crew.members.all_nodes),
            "nodes_done": 0 if rotation is None else len(rotation.done),
            "node_bytes_left": self._bytes_left,
        }

    # ------------------------------------------------------------ the work

    async def _check_and_publish(self, batch: int, *, may_evict: bool) -> None:
        crew = self._crew
        if not may_evict:
            room = {"batch": batch, "minimum": self._minimum_nodes, "node_bytes": self._node_bytes}
            check_room(crew.members, await crew.ask_all("stats"), **room)
        keys = crew.keys.rotated(secrets.token_bytes(_SECRET_BYTES))
        await crew.publish_keys(crew.members, keys, Rotation(batch=batch))

    def _is_unfinished(self) -> bool:
        return self._crew.rotation is not None

    async def _step(self) -> None:
        rotation = self._crew.rotation
        assert rotation is not None
        await self._take_step(rotation)
        self._work.trouble = ""

    async def _take_step(self, rotation: Rotation) -> None:
        crew = self._crew
        members, keys = crew.members, crew.keys
        await self._work.tell("telling shards", crew.ensure_shards())
        await crew.ask_all("change_keys", members.epoch, keys)  # before any function has the new one
        await crew.ask_all("adopt", members)
        if keys.former is None:  # and all shards have been told so
            await crew.publish_keys(members, keys, None)
        elif members.leaving and rotation.is_emptied:
            await self._renew(members, rotation)
        elif members.leaving:
            await self._empty(members, rotation)
        elif rotation.left(members):
            batch = rotation.next_batch(members, self._minimum_nodes)
            await crew.publish_keys(replace(members, leaving=batch), keys, rotation)
        else:
            await self._retire(members, rotation)

    async def _empty(self, members: Membership, rotation: Rotation) -> None:
        answers = await self._work.tell("emptying functions", self._crew.ask_all("progress"))
        if any(answer["epoch"] < members.epoch for answer in answers.values()):
            return  # one was restarted just now
        left = {node: n_bytes for answer in answers.values() for node, n_bytes in answer["leaving"].items()}
        self._bytes_left = sum(left.values())
        if left.keys() & members.leaving:
            await asyncio.sleep(_POLL_S)
        else:
            await self._crew.publish_keys(members, self._crew.keys, rotation.emptied(members.leaving))

    async def _renew(self, members: Membership, rotation: Rotation) -> None:
        batch, keys = members.leaving, self._crew.keys
        await self._work.tell("changing functions", self._crew.renew_functions(batch, keys.current))
        await self._crew.publish_keys(replace(members, leaving=frozenset()), keys, rotation.taken_back(batch))

    async def _retire(self, members: Membership, rotation: Rotation) -> None:
        """Unless a node is behind: one that an instance from before the change still speaks for, with what it holds.
        It is emptied once more, and no invocation reaches that instance again."""
        answers = await self._work.tell("retiring the former secret", self._crew.ask_all("keys"))
        behind = frozenset(NodeId(node) for answer in answers.values() for node in answer["behind"])
        if behind:
            await self._crew.publish_keys(members, self._crew.keys, rotation.again(behind))
        else:
            await self._crew.publish_keys(members, self._crew.keys.retired(), rotation)
