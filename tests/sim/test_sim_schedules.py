"""Seeded schedules find nothing, and planted bugs do not get past them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import pytest

from infiniray.core import node as node_module
from infiniray.core import storing
from infiniray.core.connection import TRANSITIONS, Action, Activity, Stimulus, Validity
from infiniray.core.ids import LinkId
from infiniray.core.operation import Operation
from infiniray.core.policy import footprint_bytes
from infiniray.core.reading import ChunkState, Read
from infiniray.core.requests import RequestKind, Settled
from infiniray.core.shard import ShardState
from infiniray.core.storing import Repair, Storing, Write
from infiniray.core.table import ChunkPlace, ObjectRecord, ObjectTable
from infiniray.sim.driver import Violation
from infiniray.sim.schedules import run_schedule

BUDGET = 60


@pytest.mark.parametrize("first", range(0, 200, 20))
def test_promises_are_kept(first: int) -> None:
    results = [run_schedule(seed) for seed in range(first, first + 20)]
    assert sum(result.hits for result in results) > 100
    assert sum(result.resets for result in results) > 0  # the luck is bad enough to matter


def test_everything_that_can_happen_happens() -> None:
    results = [run_schedule(seed) for seed in range(40)]
    happened = Counter[str]()
    for result in results:
        happened.update(asdict(result.counters))
    assert {name for name, n in happened.items() if not n} == set()
    assert {result.is_lucky for result in results} == {True, False}


def test_same_seed_same_story() -> None:
    first, second = (run_schedule(7, keeps_story=True).story for _ in range(2))
    assert first == second
    assert len(first) > 1000
    assert run_schedule(8, keeps_story=True).story != first


# ---------------------------------------------------------------- bugs, planted one at a time


def commits_early(patch: pytest.MonkeyPatch) -> None:
    """The table flips before the last chunk is stored."""

    def commit_if_stored(self: Storing) -> None:
        if isinstance(self, Write) and len(self.stored) == len(self.indices) - 1 and not self.is_over:
            last = next(i for i in self.indices if i not in self.stored)
            home = self._homes[last]
            self.stored[last] = ChunkPlace(node=home.id, seq=1, crc=0)
        if len(self.stored) == len(self.indices):
            self.commit()

    patch.setattr(Storing, "_commit_if_stored", commit_if_stored)


def repairs_onto_siblings(patch: pytest.MonkeyPatch) -> None:
    """A rebuilt chunk may join another chunk of its object."""
    patch.setattr(Repair, "siblings", lambda self: ())


def forgets_pins(patch: pytest.MonkeyPatch) -> None:
    """Chunks of a replaced version are deleted under its readers."""
    patch.setattr(ShardState, "pin", lambda self, record: None)
    patch.setattr(ShardState, "unpin", lambda self, record: self._drop_if_free(record))


def counts_damaged_chunks(patch: pytest.MonkeyPatch) -> None:
    """A chunk that is not what was stored is taken all the same."""
    original = Read.on_settled

    def on_settled(self: Read, settled: Settled) -> None:
        if settled.outcome.value == "missing":
            self.states[settled.request.index] = ChunkState.COMPLETE
            self._finish_if_enough()
        else:
            original(self, settled)

    patch.setattr(Read, "on_settled", on_settled)


def leaves_requests_open(patch: pytest.MonkeyPatch) -> None:
    """A read that has enough does not cancel the rest."""
    patch.setattr(Operation, "withdraw", lambda self, index: self.open.pop(index, None))


def leaks_memory(patch: pytest.MonkeyPatch) -> None:
    """A failed write keeps what it had reserved."""
    patch.setattr(Storing, "on_end", lambda self, error: None)


def keeps_the_older_write(patch: pytest.MonkeyPatch) -> None:
    """A key that is there is not replaced."""

    def insert(self: ObjectTable, record: ObjectRecord) -> ObjectRecord | None:
        if record.facts.key in self._records:
            record.is_retired = True
            return record
        self._records[record.facts.key] = record
        return None

    patch.setattr(ObjectTable, "insert", insert)


def ignores_memory_limits(patch: pytest.MonkeyPatch) -> None:
    """Memory limits are not looked at when nodes are chosen."""

    def choose(nodes: Any, footprints: list[int], exclude: Any, context: Any, *salt: object) -> Any:
        able = [node for node in nodes.values() if node.id not in exclude]
        return able[: len(footprints)] if len(able) >= len(footprints) else None

    patch.setattr(storing, "choose_nodes", choose)


def forgets_lost_connections(patch: pytest.MonkeyPatch) -> None:
    """What was sent over a lost connection is not sent again."""

    def requeue(self: Any, link_id: Any) -> None:
        for request in [r for r in self._sent.values() if r.link == link_id and r.kind is not RequestKind.DELETE]:
            self.cancel(request)

    patch.setattr(node_module.Node, "_requeue", requeue)


def sends_parity_uncomputed(patch: pytest.MonkeyPatch) -> None:
    """Parity chunks are sent with the data chunks."""
    patch.setattr(Storing, "_needs_coding", lambda self: False)


def keeps_moved_chunks(patch: pytest.MonkeyPatch) -> None:
    """A rebuilt chunk stays at its former home, too."""

    def move_chunk(self: ShardState, record: ObjectRecord, index: int, place: ChunkPlace) -> None:
        former, record.places[index] = record.places[index], place
        self.nodes[former.node].used_bytes -= footprint_bytes(record.chunk_bytes(index))

    patch.setattr(ShardState, "move_chunk", move_chunk)


def stores_before_it_deletes(patch: pytest.MonkeyPatch) -> None:
    """New chunks come before the memory for them is free."""

    def flush(self: node_module.Node) -> None:
        assert self.link is not None
        queued, self._queued = self._queued, {}
        for request in queued.values():
            send = self._send_fetch if request.kind is RequestKind.FETCH else self._send_store
            send(self.link, request)
        self._send_deletes(self.link)

    patch.setattr(node_module.Node, "_flush", flush)


def invokes_the_leaving(patch: pytest.MonkeyPatch) -> None:
    """A function that said BYE is invoked before it has returned."""
    pair = ((Activity.LEAVING, Validity.UNVALIDATED), Stimulus.REQUEST)
    patch.setitem(TRANSITIONS, pair, ((Activity.SLEEPING, Validity.VALIDATING), (Action.INVOKE,)))


def sends_over_dead_connections(patch: pytest.MonkeyPatch) -> None:
    """A connection that closed is used on."""

    def on_closed(self: node_module.Node, link_id: LinkId) -> None:
        if self._links.pop(link_id, None) is not None:
            self._requeue(link_id)

    patch.setattr(node_module.Node, "on_closed", on_closed)


def never_asks_again(patch: pytest.MonkeyPatch) -> None:
    """What failed for reasons that pass is given up."""
    patch.setattr(Operation, "retry_later", lambda self: None)


MUTANTS = [
    sends_parity_uncomputed,
    keeps_moved_chunks,
    stores_before_it_deletes,
    invokes_the_leaving,
    sends_over_dead_connections,
    never_asks_again,
    forgets_lost_connections,
    commits_early,
    repairs_onto_siblings,
    forgets_pins,
    counts_damaged_chunks,
    leaves_requests_open,
    leaks_memory,
    keeps_the_older_write,
    ignores_memory_limits,
]


@pytest.mark.parametrize("plant", MUTANTS, ids=lambda plant: plant.__name__)
def test_a_planted_bug_is_found(plant: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert any(breaks(seed) for seed in range(BUDGET)), f"{plant.__name__} was not found in {BUDGET} schedules"


def breaks(seed: int) -> bool:
    """A broken promise, or a broken assumption of the code itself."""
    try:
        run_schedule(seed)
    except Violation as violation:
        return f"replay: python -m infiniray.sim --seed {seed}" in str(violation)
    except (AssertionError, KeyError, IndexError):
        return True
    return False
