"""Which nodes get the chunks of an object: distinct ones, at random (FAST'20 section 3.1), among those with room."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from infiniray.core.context import Context
from infiniray.core.ids import NodeId
from infiniray.core.node import Node

__all__ = ["choose_nodes"]


def choose_nodes(
    nodes: Mapping[NodeId, Node], footprints: list[int], exclude: Collection[NodeId], context: Context, *salt: object
) -> list[Node] | None:
    """A distinct node for each chunk, ``footprints[i]`` bytes of memory for the ``i``-th; None if there are too few.

    Random by hashing ``salt`` with each name, so the same events give the same placement and a rotating parity
    needs no rule of its own. Nodes that just failed to answer come last.
    """
    need = max(footprints, default=0)
    candidates = [
        node for node in nodes.values() if node.id not in exclude and node.free_bytes >= need and not node.is_draining
    ]
    if len(candidates) < len(footprints):
        return None
    candidates.sort(key=lambda node: (node.is_suspect, context.fraction("place", *salt, node.id)))
    return candidates[: len(footprints)]
