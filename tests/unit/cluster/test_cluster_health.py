"""Looking after shards: all are asked, whoever of them does not answer. No Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from infiniray.cluster import rayapi
from infiniray.cluster.deadline import Deadline
from infiniray.cluster.health import HealthWatch
from infiniray.errors import CacheUnavailable


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, float | None]]:
    """What was done with which actor, and until when it was waited for. "gone" is not there, "dead" does not answer."""
    log: list[tuple[str, str, float | None]] = []

    def find_actor(name: str) -> Any:
        if name == "gone":
            raise CacheUnavailable(detail="no Ray actor")

        def remote() -> str:
            log.append(("asked", name, None))
            return f"ref of {name}"

        return SimpleNamespace(health=SimpleNamespace(remote=remote))

    def wait(ref: str, deadline: Deadline, operation: str, key: str = "") -> None:
        assert ref == f"ref of {key}"
        log.append(("waited", key, deadline.at_s))
        if key == "dead":
            raise deadline.exceeded(operation, key, "no answer")

    monkeypatch.setattr(rayapi, "find_actor", find_actor)
    monkeypatch.setattr(rayapi, "wait", wait)
    return log


def test_all_are_asked_before_any_is_waited_for_and_share_one_deadline(
    log: list[tuple[str, str, float | None]],
) -> None:
    watch = HealthWatch(lambda: ())
    watch.stop()
    watch._actors = lambda: ("dead", "gone", "well")
    watch._ask_all()
    assert [entry[:2] for entry in log] == [
        ("asked", "dead"),
        ("asked", "well"),
        ("waited", "dead"),
        ("waited", "well"),
    ]
    assert log[2][2] == log[3][2]
