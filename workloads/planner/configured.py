"""Between the planner's choices and the cache's configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from infiniray.codec.schemes import Scheme
from infiniray.config import Config
from workloads.planner.space import Settings, Space

__all__ = ["configured", "settings_in", "space_around"]


def settings_in(config: Config) -> Settings:
    """What a configuration chooses. Its scheme is that of the largest objects."""
    availability = config.availability
    return Settings(
        n_nodes=config.pool.nodes,
        memory_mb=config.pool.memory_mb,
        scheme=config.redundancy[-1].scheme,
        warm_every_s=0.0 if availability.warm == "none" else availability.warm_interval_s,
        backup_every_s=availability.backup_interval_s,
        linger_s=config.session.linger_s,
    )


def space_around(config: Config, chosen: Mapping[str, tuple[Any, ...]]) -> Space:
    """The choices that go together with a configuration. An axis that is not ``chosen`` has the usual choices, and the
    configuration's own.

    Raises:
        ConfigError: nothing is left.
    """
    usual, own = Space(), settings_in(config)
    axes = {
        name: chosen.get(name) or _with(choices, getattr(own, name), zero_is_never=name.endswith("_every_s"))
        for name, choices in usual.axes().items()
    }
    widest = max(Scheme.parse(text).n for text in (*axes["scheme"], *(rule.scheme for rule in config.redundancy[:-1])))
    axes["n_nodes"] = tuple(n for n in axes["n_nodes"] if n >= config.ring.shards * widest)
    axes["memory_mb"] = tuple(mb for mb in axes["memory_mb"] if mb > config.pool.reserve_mb)
    return Space(**axes)


def _with(choices: tuple[Any, ...], own: Any, *, zero_is_never: bool) -> tuple[Any, ...]:
    """In their order, the configuration's own put where it belongs; schemes go by name."""
    if own in choices:
        return choices

    def place(choice: Any) -> Any:
        return math.inf if zero_is_never and not choice else choice

    return tuple(sorted((*choices, own), key=place, reverse=place(choices[0]) > place(choices[-1])))


def configured(base: Config, settings: Settings) -> Config:
    """``base`` with ``settings`` chosen. Smaller objects keep their schemes, and which nodes are warmed stays, unless
    none are.

    Raises:
        ConfigError: they do not go together.
    """
    tree: dict[str, Any] = base.model_dump(exclude_unset=True)
    rules = [rule.model_dump() for rule in base.redundancy]
    changes: dict[str, dict[str, Any]] = {
        "pool": {"nodes": settings.n_nodes, "memory_mb": settings.memory_mb},
        "availability": {"backup_interval_s": settings.backup_every_s, **_warming(base, settings)},
        "session": {"linger_s": settings.linger_s},
    }
    for section, values in changes.items():
        tree[section] = {**tree.get(section, {}), **values}
    tree["redundancy"] = [*rules[:-1], {**rules[-1], "scheme": settings.scheme}]
    return Config.load(None, tree, environ={})


def _warming(base: Config, settings: Settings) -> dict[str, Any]:
    if not settings.warm_every_s:
        return {"warm": "none"}
    warm = "all" if base.availability.warm == "none" else base.availability.warm
    return {"warm": warm, "warm_interval_s": settings.warm_every_s}
