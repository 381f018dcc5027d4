"""Which address nodes are told to dial."""

from __future__ import annotations

import pytest

from infiniray.cluster import rayapi
from infiniray.cluster.assembly import address_to_dial, host_to_listen_on
from infiniray.config import Config, PlatformConfig


@pytest.fixture(autouse=True)
def _machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rayapi, "local_node_ip", lambda: "10.0.1.17")


@pytest.mark.parametrize(
    ("settings", "dialled"),
    [
        ({}, "127.0.0.1"),
        ({"listen_host": "10.0.9.9"}, "10.0.9.9"),
        ({"listen_host": "shards.internal"}, "shards.internal"),
        ({"listen_host": "0.0.0.0"}, "10.0.1.17"),
        ({"listen_host": "::"}, "10.0.1.17"),
        ({"listen_host": "auto"}, "10.0.1.17"),
        ({"listen_host": "auto", "advertise_host": "shards.internal"}, "shards.internal"),
        ({"listen_host": "0.0.0.0", "advertise_host": "10.0.5.5"}, "10.0.5.5"),
    ],
)
def test_it_is_never_all_interfaces(settings: dict[str, str], dialled: str) -> None:
    assert address_to_dial(PlatformConfig(**settings)) == dialled


def test_as_configured_for_aws_each_machine_has_its_own() -> None:
    assert address_to_dial(Config.load("configs/aws.yaml").platform) == "10.0.1.17"


@pytest.mark.parametrize(("given", "listens"), [("auto", "10.0.1.17"), ("0.0.0.0", "0.0.0.0"), ("::1", "::1")])
def test_auto_listens_where_ray_finds_the_machine(given: str, listens: str) -> None:
    assert host_to_listen_on(PlatformConfig(listen_host=given)) == listens
