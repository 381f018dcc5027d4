"""The configuration tree: precedence, text forms, and errors that say which setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from infiniray.config import Config
from infiniray.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


def load(overrides: dict[str, Any] | None = None, file: Path | None = None, **environ: str) -> Config:
    return Config.load(file, overrides, environ=environ)


def test_keyword_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("pool: {nodes: 30, memory_mb: 512}\nring: {shards: 1}\n")
    config = load({"pool": {"nodes": 50}}, file, INFINIRAY_POOL__NODES="40", INFINIRAY_POOL__RESERVE_MB="64")
    assert (config.pool.nodes, config.pool.reserve_mb, config.pool.memory_mb) == (50, 64, 512)
    assert config.ring.shards == 1
    assert config.session.linger_s == Config().session.linger_s


def test_sizes_and_durations_may_be_text() -> None:
    config = load({"session": {"linger_s": "100ms"}, "limits": {"max_in_flight_bytes": "2GiB"}})
    assert config.session.linger_s == 0.1
    assert config.limits.max_in_flight_bytes == 2 << 30


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"pool": {"nods": 3}}, r"unknown setting 'pool.nods'; did you mean 'pool.nodes'\?"),
        ({"poool": {}}, r"did you mean 'pool'\?"),
        ({"pool": {"nodes": 3}}, "at least 24 are needed"),
        ({"pool": {"nodes": "many"}}, "pool.nodes"),
        ({"pool": {"memory_mb": 100}}, "pool.memory_mb"),
        ({"pool": {"memory_mb": 256, "reserve_mb": 256}}, "leaves nothing"),
        ({"redundancy": [{"scheme": "rs:ten+2"}]}, "not a scheme"),
        ({"redundancy": []}, "at least one rule"),
        ({"redundancy": [{"up_to": 5, "scheme": "mirror:2"}]}, "last rule must have no up_to"),
        (
            {
                "redundancy": [
                    {"up_to": 9, "scheme": "mirror:2"},
                    {"up_to": 5, "scheme": "mirror:3"},
                    {"scheme": "rs:4+2"},
                ]
            },
            "must rise",
        ),
        ({"session": {"linger_s": "soon"}}, "session.linger_s"),
        ({"read": {"hedge": "sometimes"}}, "read.hedge"),
        ({"name": "No Spaces"}, "name"),
    ],
)
def test_errors_name_the_setting(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(overrides)


@pytest.mark.parametrize("text", ["- a list", "just text", "a: [unclosed"])
def test_files_that_are_no_configuration(tmp_path: Path, text: str) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        load(file=file)


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load(file=Path("nowhere.yaml"))


def test_is_frozen() -> None:
    with pytest.raises(ValidationError):
        load().pool.nodes = 7  # type: ignore[misc]


def test_the_system_s_own_environment_is_not_a_setting() -> None:
    assert load(INFINIRAY_SECRET="ab", INFINIRAY_STATE_DIR="/nowhere") == Config()


@pytest.mark.parametrize(
    "file", sorted({*CONFIGS.glob("*.yaml")} - {*CONFIGS.glob("prices-*.yaml")}), ids=lambda path: path.stem
)
def test_shipped_files_are_valid(file: Path) -> None:
    config = load(file=file)
    assert config.pool.nodes >= config.ring.shards * config.widest_scheme


def test_the_papers_settings_differ_in_backups_only() -> None:
    with_backup, without = load(file=CONFIGS / "fast20.yaml"), load(file=CONFIGS / "fast20-nobackup.yaml")
    assert with_backup.availability.backup_interval_s == 300
    assert without.availability.backup_interval_s == 0
    overrides = {"availability": {"backup_interval_s": 300}}
    assert Config.load(CONFIGS / "fast20-nobackup.yaml", overrides, environ={}) == with_backup


def test_local_yaml_writes_out_the_defaults() -> None:
    assert load(file=CONFIGS / "local.yaml") == Config()


@pytest.mark.parametrize(
    ("deploy", "says"),
    [
        ({"subnets": ["subnet-1"]}, "security_groups go together"),
        ({"subnets": ["sg-1"], "security_groups": ["sg-1"]}, "does not begin with subnet-"),
        ({"subnets": ["subnet-1"], "security_groups": ["sg-1", "sg-1"]}, "given twice"),
        ({"tags": {"infiniray:cache": "x"}}, "not yours to set"),
        ({"account": "12345"}, "deploy.account"),
        ({"role": "my-role"}, "deploy.role"),
        ({"log_retention_days": 8}, "deploy.log_retention_days"),
        ({"architecture": "x86"}, "deploy.architecture"),
        ({"reserved_concurrency": 1}, "deploy.reserved_concurrency"),
    ],
)
def test_deploy_settings_that_aws_would_refuse_are_refused_here(deploy: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Config.load(None, {"deploy": deploy}, environ={})
