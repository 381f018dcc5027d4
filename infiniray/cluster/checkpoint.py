"""What a supervisor must not forget, as one value: written down whole before anybody acts on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from infiniray.cluster.membership import Membership
from infiniray.cluster.rotation import Rotation
from infiniray.cluster.scaling import Departed, ScalePlan
from infiniray.core.ids import NodeId
from infiniray.runtime.keys import KeyRing

__all__ = ["Checkpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A cache's membership, who is enrolled in it, what is being changed, and the secrets.

    The secrets are not in the ``repr``; they are in the pickle, and so in Ray's control store.
    """

    membership: Membership
    keys: KeyRing
    #: {shard: its current incarnation, and the epoch that was given to that}
    incarnations: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    #: a scaling that is being prepared
    plan: ScalePlan | None = None
    #: shards and functions that a scaling has left over
    departed: Departed = field(default_factory=Departed)
    #: a change of the secret that is not over
    rotation: Rotation | None = None

    def by_secret(self, nodes: Iterable[NodeId]) -> dict[bytes, list[NodeId]]:
        """``nodes`` by the secret that their functions have, or are to get."""
        renewed = frozenset() if self.rotation is None else self.rotation.renewed
        by_secret: dict[bytes, list[NodeId]] = {}
        for node in nodes:
            former = None if node in renewed else self.keys.former
            by_secret.setdefault(self.keys.current if former is None else former, []).append(node)
        return by_secret
