"""Several Ray nodes. They come before all tests of one Ray: a process is connected to one Ray at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from leaks import nothing_is_left


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Around the nodes and all that runs on them."""
    tmp_path_factory.getbasetemp()  # pytest's own files stay for whoever looks into them
    with pytest.MonkeyPatch.context() as patch, nothing_is_left():
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if "/tests/cluster/" in str(item.path)]
    for item in mine:
        item.add_marker(pytest.mark.cluster)
        item.add_marker(pytest.mark.timeout(300))  # with several Ray nodes starting
    items.sort(key=lambda item: item not in mine)
