"""The short way to a configuration: what :func:`infiniray.start` and ``infiniray up`` take beside a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infiniray.config import Config, PoolConfig

__all__ = ["settings_of"]

#: Nodes that a pool has beyond what its shards' widest scheme needs, for each shard.
_SPARE_NODES = 2
_MOST_NODES = 10_000


def settings_of(config: Config | str | Path | None, sections: Mapping[str, Any], **short: Any) -> Config:
    """The configuration that the arguments of :func:`start` describe."""
    if isinstance(config, Config):
        base, file = config.model_dump(exclude_unset=True), None
    else:
        base, file = {}, config
    overrides: dict[str, Any] = {**base}
    for section, values in sections.items():
        overrides[section] = {**base.get(section, {}), **values} if isinstance(values, Mapping) else values
    for setting, section in (("nodes", "pool"), ("memory_mb", "pool"), ("shards", "ring")):
        if short[setting] is not None:
            overrides[section] = {**overrides.get(section, {}), setting: short[setting]}
    if short["scheme"] is not None:
        overrides["redundancy"] = [{"scheme": short["scheme"]}]
    if short["name"] is not None:
        overrides["name"] = short["name"]
    return Config.load(file, _with_enough_nodes(file, overrides))


def _with_enough_nodes(file: str | Path | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """Where nobody says how many nodes there are: as many as shards and schemes need, and a few to spare."""
    pool = overrides.get("pool", {})
    narrow = {**overrides, "ring": {"shards": 1}, "redundancy": [{"scheme": "mirror:1"}]}
    if "nodes" in Config.load(file, narrow).pool.model_fields_set:
        return overrides
    probe = Config.load(file, {**overrides, "pool": {**pool, "nodes": _MOST_NODES}})
    default = int(PoolConfig.model_fields["nodes"].default)
    needed = max(default, probe.ring.shards * (probe.widest_scheme + _SPARE_NODES))
    return {**overrides, "pool": {**pool, "nodes": needed}}
