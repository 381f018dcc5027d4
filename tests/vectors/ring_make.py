"""Writes ring.json: which shard owns which key and node. Run it only if placement is meant to change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from infiniray.core.ids import NodeId
from infiniray.core.ring import Ring

RINGS: list[tuple[str, dict[str, float], int]] = [
    ("one shard", {"shard-0": 1}, 128),
    ("three shards", {"shard-0": 1, "shard-1": 1, "shard-2": 1}, 128),
    ("weights", {"shard-0": 1, "shard-1": 2.5}, 64),
]
KEYS = ["", "a", "key", "images/0001.png", "Grüße", "鍵", *(f"k{i}" for i in range(18))]


def vector(name: str, shards: dict[str, float], virtual_nodes: int) -> dict[str, Any]:
    ring = Ring(epoch=1, shards=shards, virtual_nodes=virtual_nodes)
    dealt = ring.assign([NodeId(f"infiniray-node-{i}") for i in range(20)])
    return {
        "name": name,
        "shards": shards,
        "virtual_nodes": virtual_nodes,
        "owners": {key: ring.owner(key) for key in KEYS},
        "nodes": {shard: list(nodes) for shard, nodes in dealt.items()},
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("ring.json")
    path.write_text(json.dumps([vector(*ring) for ring in RINGS], indent=1, ensure_ascii=False) + "\n")
