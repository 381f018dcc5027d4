"""How the arguments of start() become a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from infiniray.cluster.assembly import policy_of
from infiniray.config import Config
from infiniray.core.policy import Hedge, RepairMode
from infiniray.errors import ConfigError
from infiniray.settings import settings_of


def settings(config: Config | str | Path | None = None, **arguments: Any) -> Config:
    short = {name: arguments.pop(name, None) for name in ("nodes", "shards", "memory_mb", "scheme", "name")}
    return settings_of(config, arguments, **short)


@pytest.mark.parametrize(
    ("arguments", "nodes"),
    [
        ({}, 28),
        ({"shards": 5}, 70),
        ({"scheme": "rs:20+4"}, 52),
        ({"shards": 1, "scheme": "rs:2+1"}, 28),
        ({"nodes": 3, "shards": 1, "scheme": "rs:2+1"}, 3),
        ({"pool": {"nodes": 3}, "shards": 1, "scheme": "rs:2+1"}, 3),
        ({"ring": {"shards": 4}}, 56),
        ({"redundancy": [{"up_to": "1MiB", "scheme": "mirror:3"}, {"scheme": "rs:20+4"}]}, 52),
    ],
)
def test_the_pool_is_as_large_as_shards_and_schemes_need(arguments: dict[str, Any], nodes: int) -> None:
    assert settings(**arguments).pool.nodes == nodes


def test_too_few_nodes_say_how_many_are_needed() -> None:
    with pytest.raises(ConfigError, match="at least 12"):
        settings(nodes=8, shards=2, scheme="rs:4+2")


def test_nodes_said_in_the_environment_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFINIRAY_POOL__NODES", "6")
    assert settings(scheme="rs:2+1").pool.nodes == 6
    assert settings(scheme="rs:2+1", nodes=8).pool.nodes == 8


def test_arguments_win_over_sections_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("{name: filed, pool: {nodes: 40, memory_mb: 512}, session: {linger_s: 1s}}")
    merged = settings(file, pool={"memory_mb": 768}, nodes=50)
    assert (merged.name, merged.pool.nodes, merged.pool.memory_mb, merged.session.linger_s) == ("filed", 50, 768, 1.0)
    assert settings(str(file)).pool.nodes == 40


def test_a_configuration_can_be_built_upon() -> None:
    base = Config.load(None, {"pool": {"nodes": 40}, "session": {"linger_s": "1s", "stall_s": 5}}, environ={})
    merged = settings(base, session={"linger_s": "2s"}, name="other")
    assert (merged.pool.nodes, merged.name) == (40, "other")
    assert (merged.session.linger_s, merged.session.stall_s) == (2.0, 5.0)
    assert settings(base) == base


def test_a_misspelt_section_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="did you mean 'session'"):
        settings(sesion={"linger_s": 1})


def test_a_shards_policy_follows_the_configuration() -> None:
    config = settings(
        read={"hedge": "all"}, availability={"repair": "none"}, limits={"max_in_flight": 7}, session={"stall_s": "3s"}
    )
    policy = policy_of(config)
    assert (policy.hedge, policy.repair) == (Hedge.ALL, RepairMode.NONE)
    assert (policy.max_in_flight, policy.stall_s) == (7, 3.0)
    assert str(policy.schemes.choose(10)) == "mirror:3"
    assert str(policy.schemes.choose(1 << 30)) == "rs:10+2"
