"""What scaling a cache changes: planned as a whole, before anything is touched.

Nodes never change their shard. A shard that joins gets functions of its own, since functions that nobody calls cost
nothing, and one that leaves hands its objects on and takes its functions with it. So what moves is what has to: the
keys whose owner is another one (Karger et al., STOC'97: about one of N when the N-th shard joins), and the chunks of
nodes that leave.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

from infiniray.cluster.membership import Membership
from infiniray.core.ids import NodeId
from infiniray.core.ring import Ring
from infiniray.errors import ConfigError

__all__ = ["Departed", "ScalePlan", "plan_scale"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Departed:
    """Who is in no membership any more, and is still to be ended."""

    shards: tuple[str, ...] = ()
    nodes: tuple[NodeId, ...] = ()
    #: what hindered the scaling that they were made for; empty: they have had their time
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePlan:
    """From one membership to another, by way of one in which everything that is new is there, and owns nothing yet."""

    #: the shards that there are to be, with their weights
    shards: Mapping[str, float]
    #: functions to be made, by shard
    joining: Mapping[str, tuple[NodeId, ...]]
    #: functions that go, by shard; those of shards that leave are among them
    leaving: Mapping[str, tuple[NodeId, ...]]

    @property
    def is_nothing(self) -> bool:
        return not self.joining and not self.leaving

    def prepared(self, before: Membership) -> Membership:
        """What is new is there; keys are where they were."""
        nodes = {shard: before.nodes.get(shard, ()) + self.joining.get(shard, ()) for shard in self._all(before)}
        return replace(before, nodes=nodes)

    def undone(self, prepared: Membership) -> Membership:
        """As before :meth:`prepared`."""
        new = {node for nodes in self.joining.values() for node in nodes}
        kept = {shard: tuple(n for n in nodes if n not in new) for shard, nodes in prepared.nodes.items()}
        return replace(prepared, nodes={shard: nodes for shard, nodes in kept.items() if nodes})

    def switched(self, prepared: Membership) -> Membership:
        """Keys belong to whom they are to belong, and move; nodes that leave are drained."""
        before = prepared.ring
        moves = before.shards != dict(self.shards)
        ring = Ring(epoch=before.epoch, shards=self.shards, virtual_nodes=before.virtual_nodes)
        leaving = frozenset(n for shard, nodes in self.leaving.items() if shard in self.shards for n in nodes)
        return replace(prepared, ring=ring if moves else before, former=before if moves else None, leaving=leaving)

    def _all(self, before: Membership) -> Iterator[str]:
        yield from before.nodes
        yield from (shard for shard in self.joining if shard not in before.nodes)


def plan_scale(before: Membership, *, shards: int | None, nodes: int | None, minimum: int) -> ScalePlan:
    """How ``before`` gets so many shards and nodes.

    Args:
        shards: None: as many as there are.
        nodes: of all shards together; None: shards keep theirs, and each new one gets as many as the others have.
        minimum: that a shard needs for its widest scheme.

    Raises:
        ConfigError: there is no such cache: too few nodes for the shards, or no shards.
    """
    present = sorted(before.ring.shards, key=_number)
    n_shards = len(present) if shards is None else shards
    if n_shards < 1:
        raise ConfigError(detail=f"a cache has one shard at least, not {n_shards}")
    staying = present[:n_shards]
    taken = {_number(shard) for shard in present}
    names = (f"shard-{i}" for i in count() if i not in taken)
    new = [next(names) for _ in range(n_shards - len(staying))]
    has = {shard: len(before.nodes[shard]) for shard in staying} | dict.fromkeys(new, 0)
    if nodes is None:
        share = round(sum(has.values()) / len(staying))
        gets = {shard: n or share for shard, n in has.items()}
    else:
        gets = _dealt(has, nodes)
    short = [shard for shard, n in gets.items() if n < minimum]
    if short:
        raise ConfigError(
            detail=f"{sum(gets.values())} nodes over {n_shards} shards leave {short[0]} with {gets[short[0]]}; "
            f"the widest scheme needs {minimum} in each"
        )
    fresh = _fresh_nodes(before)
    joining = {shard: tuple(next(fresh) for _ in range(n - has[shard])) for shard, n in gets.items() if n > has[shard]}
    leaving = {shard: before.nodes[shard][gets[shard] :] for shard in staying if gets[shard] < has[shard]}
    leaving |= {shard: before.nodes[shard] for shard in present[n_shards:]}
    weights = {shard: before.ring.shards.get(shard, 1.0) for shard in (*staying, *new)}
    return ScalePlan(shards=weights, joining=joining, leaving=leaving)


def _dealt(has: Mapping[str, int], n_nodes: int) -> dict[str, int]:
    """As equal as possible; the odd ones go where more are already."""
    each, odd = divmod(n_nodes, len(has))
    richest = sorted(has, key=lambda shard: (-has[shard], _number(shard)))[:odd]
    return {shard: each + (shard in richest) for shard in has}


def _fresh_nodes(before: Membership) -> Iterator[NodeId]:
    """Names like those that there are, the lowest numbers first that nobody has."""
    every: Sequence[NodeId] = before.all_nodes
    stem = re.sub(r"\d+$", "", every[0])
    taken = set(every)
    return (node for i in count() if (node := NodeId(f"{stem}{i:04}")) not in taken)


def _number(shard: str) -> int:
    return int(shard.rpartition("-")[2])
