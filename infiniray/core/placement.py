"""Which nodes get the chunks of an object: distinct ones, at random (FAST'20 section 3.1), among those with room."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Set

from infiniray.core.context import Context
from infiniray.core.ids import NodeId
from infiniray.core.node import Node

__all__ = ["choose_nodes"]

#: A linear congruential generator of 64 bits (Knuth, MMIX), of which the upper half is used.
_FACTOR = 6364136223846793005
_STEP = 1442695040888963407
_MASK = (1 << 64) - 1


def choose_nodes(
    nodes: Mapping[NodeId, Node],
    footprints: list[int],
    exclude: Collection[NodeId],
    context: Context,
    *salt: object,
    first: Set[NodeId] = frozenset(),
) -> list[Node] | None:
    """A distinct node for each chunk, ``footprints[i]`` bytes of memory for the ``i``-th; None if there are too few.

    Random by a number that ``salt`` is hashed to, so the same events give the same placement and a rotating parity
    needs no rule of its own. Of the nodes with room those in ``first`` come first, and those last that just failed to
    answer.
    """
    need = max(footprints, default=0)
    favoured: list[Node] = []
    willing: list[Node] = []
    suspects: list[Node] = []
    now_s = context.now_s
    for name, node in nodes.items():
        if node.capacity_bytes - node.used_bytes >= need and name not in exclude and not node.is_draining:
            kind = suspects if node.suspect_until_s > now_s else favoured if name in first else willing
            kind.append(node)
    if len(favoured) + len(willing) + len(suspects) < len(footprints):
        return None
    lot = context.number("place", *salt)
    chosen: list[Node] = []
    for kind in (favoured, willing, suspects):
        chosen += _draw(kind, len(footprints) - len(chosen), lot)
    return chosen


def _draw(nodes: list[Node], n: int, lot: int) -> list[Node]:
    """Up to ``n`` of them, without putting back; all that chance does is in ``lot``. Changes the list's order."""
    for i in range(min(n, len(nodes))):
        lot = (lot * _FACTOR + _STEP) & _MASK
        j = i + (lot >> 32) * (len(nodes) - i) // (1 << 32)
        nodes[i], nodes[j] = nodes[j], nodes[i]
    return nodes[:n]
