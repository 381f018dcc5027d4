"""The supervisor as a Ray actor: who is in a cache."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import cloudpickle

from infiniray.cluster import rayapi
from infiniray.cluster.checkpoint import Checkpoint
from infiniray.cluster.functions import FunctionPool
from infiniray.cluster.health import HealthWatch
from infiniray.cluster.machines import spread
from infiniray.cluster.membership import Membership, plan, shard_actor_name, supervisor_name
from infiniray.cluster.registry import forget_shard
from infiniray.cluster.rotation import Rotation
from infiniray.cluster.rotator import Rotator
from infiniray.cluster.scaler import Scaler
from infiniray.cluster.scaling import Departed, ScalePlan
from infiniray.cluster.shard import Shard
from infiniray.cluster.slots import Slots
from infiniray.cluster.state import ProcessMark
from infiniray.config import Config
from infiniray.core.ids import NodeId
from infiniray.errors import CacheUnavailable, InfiniRayError, PlatformError
from infiniray.faas.deploy.adopt import is_deployed_apart, require_nodes
from infiniray.faas.deploy.renew import renew_secret
from infiniray.faas.local.admin import PlatformAdmin
from infiniray.runtime.keys import KeyRing

__all__ = ["Supervisor", "totals"]

_OWNER_POLL_S = 1.0
_CLOSE_TIMEOUT_S = 5.0
_STATS_TIMEOUT_S = 10.0
#: For a shard to say that it runs, its process and its first incarnation included.
_START_TIMEOUT_S = 90.0
#: For functions to show that they can dial a shard: some cold starts, and dials that nobody answers.
_REACH_TIMEOUT_S = 20.0
#: A slot that nobody gives back comes free: above what a backup may take.
_SLOT_EXPIRY_S = 120.0


class Supervisor:
    """I am responsible for a cache's membership: its functions, its shards, and the epoch that numbers them.

    What I cannot afford to lose is in my constructor's arguments, which Ray keeps for my restart, and in Ray's control
    store (:class:`~infiniray.cluster.checkpoint.Checkpoint`); shards I find again by their names. The data path does
    not need me: clients and shards work on while I am away; only a shard that restarts waits for me.

    Args:
        secret: what shards and nodes prove each other's right with at first, as hex.
        endpoint_url: the function platform; None for AWS's own.
        is_local: my shards must run on my own machine.
        owner: the cache ends with this process; None: it stays until it is taken down.
        owner_machine: the Ray node that it is on, and at first I, too.
    """

    def __init__(
        self,
        *,
        config: Config,
        secret: str,
        endpoint_url: str | None,
        is_local: bool,
        owner: ProcessMark | None,
        owner_machine: str | None = None,
    ) -> None:
        self._config = config
        self._endpoint_url = endpoint_url
        self._is_local = is_local
        self._created_s = time.time()
        self._slots = Slots(config.availability.backup_slots, _SLOT_EXPIRY_S)
        self._saved_key = f"{config.name}/membership"
        self._enrolling = asyncio.Lock()
        self._known = Checkpoint(membership=plan(config), keys=KeyRing(current=bytes.fromhex(secret)))
        if rayapi.was_restarted():
            self._known = self._saved() or self._known
        else:
            rayapi.store_delete_all(f"{config.name}/")  # of a former cache of this name
        self._health = HealthWatch(lambda: self.members.actors)
        self._scaler = Scaler(self, minimum_nodes=config.widest_scheme, node_bytes=config.pool.node_bytes)
        self._rotator = Rotator(self, minimum_nodes=config.widest_scheme, node_bytes=config.pool.node_bytes)
        if owner is not None:
            whom = (owner, owner_machine, config.name, self._actors)
            threading.Thread(target=_end_with, args=whom, name="owner-watch", daemon=True).start()
        if rayapi.was_restarted():
            threading.Thread(target=_resume, args=(config.name,), name="resume", daemon=True).start()

    async def bring_up(self) -> Membership:
        """Make functions and shards exist, and be sure that they find each other. Doing it again changes nothing.

        Raises:
            PlatformError: the platform refused a function.
            ShardUnreachable: functions cannot dial a shard.
        """
        await asyncio.gather(self.ensure_functions(self.members.all_nodes), self.ensure_shards())
        await self.require_reachable()
        return self.members

    async def membership(self) -> Membership:
        return self.members

    async def enroll(self, shard: str, incarnation: str) -> tuple[Membership, int, KeyRing]:
        """Take note of a shard's new process: the membership, the epoch that this incarnation has, and the secrets.

        It is above all before, so that nodes tell it from the one that it follows. Asked again, the answer is the same.
        It is given to nobody before it is written down: my next process must not give it again.

        Raises:
            CacheUnavailable: it cannot be written down.
        """
        async with self._enrolling:
            admitted = self._known.incarnations.get(shard)
            if admitted is None or admitted[0] != incarnation:
                epoch = self.members.epoch + 1
                admitted = (incarnation, epoch)
                incarnations = {**self._known.incarnations, shard: admitted}
                await self._save(membership=self.members.raised(epoch), incarnations=incarnations)
                self._slots.release_all(shard)
            return self.members, admitted[1], self._known.keys

    async def acquire_slot(self, shard: str, node: str) -> bool:
        """Whether a node may be backed up now."""
        return self._slots.acquire(shard, node)

    async def release_slot(self, shard: str, node: str) -> None:
        self._slots.release(shard, node)

    async def _save(self, **changes: Any) -> None:
        """Write down what is to be, then have it be so. One at a time: whoever calls holds the lock.

        Raises:
            CacheUnavailable: it cannot be written down; all is as before.
        """
        later = replace(self._known, **changes)
        await asyncio.to_thread(rayapi.store_put, self._saved_key, cloudpickle.dumps(later))
        self._known = later

    def _saved(self) -> Checkpoint | None:
        """What my former process knew, if it had written anything down."""
        saved = rayapi.store_get(self._saved_key)
        if saved is None:
            return None
        known: Checkpoint = cloudpickle.loads(saved)
        return known

    # ------------------------------------------------------------ scaling: what I do for my scaler

    async def scale(self, *, shards: int | None, nodes: int | None, may_evict: bool) -> dict[str, Any]:
        """Begin to change how many shards and nodes there are; :meth:`status` says how far that is.

        Raises:
            ConfigError: there is no such cache.
            PoolFull: what is stored would not fit, and nothing may be evicted for it.
            ScalingUnderWay, RotationUnderWay: wait for the last one.
        """
        await self.resume()
        self._rotator.refuse_if_running()
        return await self._scaler.begin(shards=shards, nodes=nodes, may_evict=may_evict)

    async def resume(self) -> None:
        """Go on with what my former process had begun, if it had. Nodes that leave come back in a rotation, so whose
        they are matters."""
        if self._known.rotation is not None:
            self._rotator.resume()
        else:
            self._scaler.resume()

    @property
    def members(self) -> Membership:
        return self._known.membership

    @property
    def plan(self) -> ScalePlan | None:
        return self._known.plan

    @property
    def departed(self) -> Departed:
        return self._known.departed

    async def publish(self, membership: Membership, plan: ScalePlan | None, departed: Departed) -> None:
        async with self._enrolling:
            await self._save(membership=membership.raised(self.members.epoch + 1), plan=plan, departed=departed)

    async def ensure_functions(self, nodes: tuple[NodeId, ...]) -> None:
        """Where they are deployed apart, they only have to be there."""
        if not nodes:
            return
        if is_deployed_apart(self._config):
            by_secret = self._known.by_secret(nodes)
            secrets = {str(node): secret.hex() for secret, names in by_secret.items() for node in names}
            await asyncio.to_thread(require_nodes, self._config, secrets, self._endpoint_url)
        else:
            for pool in self._functions(nodes):
                await asyncio.to_thread(pool.ensure)

    async def delete_functions(self, nodes: tuple[NodeId, ...]) -> None:
        if nodes and not is_deployed_apart(self._config):
            for pool in self._functions(nodes):
                await asyncio.to_thread(pool.delete)

    async def ensure_shards(self) -> None:
        there = [actor for actor in map(self._find_shard, self.members.shards) if actor is not None]
        taken = [answer["machine"] for answer in await _healths(there)]
        missing = [shard for shard in self.members.shards if self._find_shard(shard) is None]
        if self._is_local:
            placed = dict.fromkeys(missing, rayapi.local_node_id())
        else:
            placed = spread(missing, await asyncio.to_thread(rayapi.machines), taken)
        await _healths([self._make_shard(*place) for place in placed.items()])

    async def require_reachable(self) -> None:
        """Raises: ShardUnreachable: functions cannot dial one of the shards."""
        await self._ask_all_within(_REACH_TIMEOUT_S + _STATS_TIMEOUT_S, "require_reachable", timeout_s=_REACH_TIMEOUT_S)

    async def ask_all(self, method: str, *args: Any) -> dict[str, Any]:
        return await self._ask_all_within(_STATS_TIMEOUT_S, method, *args)

    async def _ask_all_within(self, patience_s: float, method: str, *args: Any, **details: Any) -> dict[str, Any]:
        async def ask(shard: str) -> Any:
            actor = rayapi.find_actor(shard_actor_name(self._config.name, shard))
            try:
                return await _within(patience_s, getattr(actor, method).remote(*args, **details))
            except asyncio.TimeoutError:
                raise CacheUnavailable(detail=f"{shard} does not answer") from None

        shards = self.members.shards
        return dict(zip(shards, await asyncio.gather(*map(ask, shards)), strict=True))

    async def dismiss(self, shard: str) -> None:
        actor = self._find_shard(shard)
        if actor is not None:
            with contextlib.suppress(InfiniRayError, asyncio.TimeoutError):
                await _within(_CLOSE_TIMEOUT_S, actor.close.remote())
            rayapi.kill(actor)
        async with self._enrolling:
            left = {name: known for name, known in self._known.incarnations.items() if name != shard}
            self._known = replace(self._known, incarnations=left)
        await asyncio.to_thread(forget_shard, self._config.name, shard)

    # ------------------------------------------------------------ the secret: what I do for my rotator

    async def rotate_secret(self, *, batch: int, may_evict: bool) -> dict[str, Any]:
        """Begin to give the cache a new secret; :meth:`status` says how far that is.

        Raises:
            ConfigError: a shard has no function to spare.
            PoolFull: what is stored would not fit, and nothing may be evicted for it.
            ScalingUnderWay, RotationUnderWay: wait for the last one.
        """
        await self.resume()
        self._scaler.refuse_if_running()
        return await self._rotator.begin(batch=batch, may_evict=may_evict)

    @property
    def keys(self) -> KeyRing:
        return self._known.keys

    @property
    def rotation(self) -> Rotation | None:
        return self._known.rotation

    async def publish_keys(self, membership: Membership, keys: KeyRing, rotation: Rotation | None) -> None:
        async with self._enrolling:
            await self._save(membership=membership.raised(self.members.epoch + 1), keys=keys, rotation=rotation)

    async def renew_functions(self, nodes: frozenset[NodeId], secret: bytes) -> None:
        """The same for functions that are deployed apart: nobody else knows when each of them is empty."""
        await asyncio.to_thread(
            renew_secret, self._config, sorted(nodes), secret=secret.hex(), endpoint_url=self._endpoint_url
        )

    # ------------------------------------------------------------ how it is

    async def health(self) -> dict[str, Any]:
        """{"shards": {name: what it says of itself, or why it cannot}}; "ok" if all do. A shard's "state" is up,
        recovering or down."""
        answers = await self._ask_shards("health")
        is_ok = all("error" not in answer for answer in answers.values())
        return {"ok": is_ok, "shards": {shard: {"state": "down", **answer} for shard, answer in answers.items()}}

    async def status(self) -> dict[str, Any]:
        """What the cache is made of, as JSON-able values."""
        members = self.members
        return {
            "name": members.name,
            "epoch": members.epoch,
            "created_s": self._created_s,
            "endpoint_url": self._endpoint_url,
            "nodes": {shard: list(nodes) for shard, nodes in members.nodes.items()},
            "schemes": [rule.model_dump() for rule in self._config.redundancy],
            "memory_mb": self._config.pool.memory_mb,
            "backup_slots": {"taken": self._slots.n_taken, "of": self._config.availability.backup_slots},
            "scaling": None if self.rotation is not None else self._scaler.report(),  # whose nodes leave, then?
            "rotation": self._rotator.report(),
            **await self.health(),
        }

    async def stats(self) -> dict[str, Any]:
        """Counters and sizes: summed over shards, and by shard under "per_shard"."""
        answers = await self._ask_shards("stats")
        per_shard = [{"shard": shard, **answer} for shard, answer in answers.items()]
        summed = {
            **totals(answer for answer in per_shard if "error" not in answer),
            "nodes": len(self.members.all_nodes),
            "shards": len(self.members.shards),
            "epoch": self.members.epoch,
        }
        platform = await asyncio.to_thread(self._platform_stats)
        return {**summed, **({"platform": platform} if platform else {}), "per_shard": per_shard}

    async def shutdown(self, *, delete_functions: bool = True) -> None:
        """End shards and delete functions; only I stay, to be killed by who called."""
        self._health.stop()
        self._scaler.stop()
        self._rotator.stop()
        actors = [self._find_shard(shard) for shard in (*self.members.shards, *self.departed.shards)]
        closings = (_within(_CLOSE_TIMEOUT_S, actor.close.remote()) for actor in actors if actor is not None)
        await asyncio.gather(*closings, return_exceptions=True)
        for actor in actors:
            if actor is not None:
                rayapi.kill(actor)
        if delete_functions:
            await self.delete_functions((*self.members.all_nodes, *self.departed.nodes))

    # ------------------------------------------------------------ shards

    def _make_shard(self, shard: str, machine: str) -> rayapi.Actor:
        """The shard's actor, created if it is not there. If the machine is lost it moves, unless I must not."""
        return rayapi.create_actor(
            Shard,
            name=shard_actor_name(self._config.name, shard),
            max_concurrency=4 * self._config.limits.max_in_flight,  # what is too much, the shard itself refuses
            on_node=machine,
            may_move=not self._is_local,
            membership=self.members,
            shard=shard,
            config=self._config,
            endpoint_url=self._endpoint_url,
        )

    def _actors(self) -> tuple[str, ...]:
        """The names of all that are, or may still be, there."""
        departed = (shard_actor_name(self._config.name, shard) for shard in self.departed.shards)
        return (*self.members.actors, *departed)

    def _find_shard(self, shard: str) -> rayapi.Actor | None:
        try:
            return rayapi.find_actor(shard_actor_name(self._config.name, shard))
        except InfiniRayError:
            return None

    async def _ask_shards(self, method: str) -> dict[str, dict[str, Any]]:
        """{shard: answer, or {"error": why there is none}}."""

        async def ask(shard: str) -> dict[str, Any]:
            actor = self._find_shard(shard)
            if actor is None:
                return {"error": "no such actor"}
            try:
                return dict(await _within(_STATS_TIMEOUT_S, getattr(actor, method).remote()))
            except (InfiniRayError, asyncio.TimeoutError) as error:
                return {"error": f"{type(error).__name__}: {error}"}

        shards = self.members.shards
        return dict(zip(shards, await asyncio.gather(*map(ask, shards)), strict=True))

    # ------------------------------------------------------------ functions

    def _functions(self, nodes: tuple[NodeId, ...]) -> list[FunctionPool]:
        """By secret: while it is changed there are two."""
        return [
            FunctionPool(self._config, names, secret=secret.hex(), endpoint_url=self._endpoint_url)
            for secret, names in self._known.by_secret(nodes).items()
        ]

    def _platform_stats(self) -> dict[str, Any] | None:
        """Of the embedded platform: its instances and its bill."""
        if self._config.platform.kind != "local" or self._endpoint_url is None:
            return None
        admin = PlatformAdmin(self._endpoint_url)
        try:
            return {**admin.stats(), "bill": admin.bill()}
        except PlatformError as error:
            return {"error": str(error)}


async def _healths(actors: Iterable[rayapi.Actor]) -> list[dict[str, Any]]:
    """What each says of itself. Raises: CacheUnavailable: one says nothing."""
    try:
        return list(await asyncio.gather(*(_within(_START_TIMEOUT_S, actor.health.remote()) for actor in actors)))
    except asyncio.TimeoutError:
        raise CacheUnavailable(detail=f"a shard does not run: no answer within {_START_TIMEOUT_S:g} s") from None


async def _within(timeout_s: float, ref: rayapi.Ref) -> Any:
    return await asyncio.wait_for(rayapi.awaited(ref), timeout_s)


def totals(answers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of what shards count; nested counts are summed by name."""
    summed: dict[str, Any] = {}
    for answer in answers:
        for name, value in answer.items():
            if isinstance(value, Mapping):
                summed[name] = totals([summed.get(name, {}), value])
            elif isinstance(value, (int, float)) and not isinstance(value, bool):
                summed[name] = summed.get(name, 0) + value
    return summed


def _resume(cache: str) -> None:
    """Ray tells an actor in no other way than by a call that it runs again."""
    with contextlib.suppress(InfiniRayError):
        rayapi.find_actor(supervisor_name(cache)).resume.remote()


def _end_with(owner: ProcessMark, machine: str | None, cache: str, shards: Callable[[], tuple[str, ...]]) -> None:
    """Wait for a cache's owner to end, and end its actors, this one last."""
    while _is_there(owner, machine):
        time.sleep(_OWNER_POLL_S)
    for name in shards():
        _kill(name)
    with contextlib.suppress(InfiniRayError):
        rayapi.store_delete_all(f"{cache}/")  # nobody writes any more
    _kill(supervisor_name(cache))


def _is_there(owner: ProcessMark, machine: str | None) -> bool:
    """From another machine a process cannot be seen, but whether its machine is lost."""
    if machine in (None, rayapi.local_node_id()):
        return owner.is_alive()
    try:
        return machine in {alive.id for alive in rayapi.machines()}
    except InfiniRayError:
        return True  # nobody knows


def _kill(actor: str) -> None:
    with contextlib.suppress(InfiniRayError):
        rayapi.kill(rayapi.find_actor(actor))
