"""The object table: CLOCK against a model of it, expiry, pins."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from infiniray.codec.schemes import Scheme
from infiniray.core.commands import ObjectFacts
from infiniray.core.ids import NodeId
from infiniray.core.table import ChunkPlace, ObjectRecord, ObjectTable

MIRROR = Scheme.parse("mirror:2")


def record(key: str, version: int = 1, *, size_bytes: int = 100, expires_s: float | None = None) -> ObjectRecord:
    facts = ObjectFacts(
        key=key, version=version, scheme=MIRROR, size_bytes=size_bytes, head="", expires_s=expires_s or 0.0
    )
    places = [ChunkPlace(node=NodeId(f"n{i}"), seq=version, crc=0) for i in range(2)]
    return ObjectRecord(facts=facts, places=places, expires_s=expires_s)


class ClockModel:
    """CLOCK as textbooks draw it: a circle of pages with a bit each, and a hand between two of them."""

    def __init__(self) -> None:
        self.circle: list[str] = []
        self.bits: dict[str, bool] = {}
        self.pinned: set[str] = set()
        self.hand = 0

    def insert(self, key: str) -> None:
        self.remove(key)
        self.circle.insert(self.hand, key)  # just behind the hand: the last to be looked at
        self.hand += 1
        self.bits[key] = False  # to be earned

    def remove(self, key: str) -> None:
        if key in self.bits:
            at = self.circle.index(key)
            self.hand -= at < self.hand
            del self.circle[at], self.bits[key]
            self.pinned.discard(key)

    def victim(self) -> str | None:
        for _ in range(2 * len(self.circle)):
            self.hand %= len(self.circle)
            key = self.circle[self.hand]
            if key not in self.pinned and not self.bits[key]:
                self.remove(key)
                return key
            self.bits[key] = False
            self.hand += 1
        return None


STEPS = st.lists(
    st.tuples(st.sampled_from(["insert", "use", "remove", "evict", "evict", "pin", "unpin"]), st.sampled_from("abcde")),
    max_size=60,
)


@given(STEPS)
def test_eviction_is_clock(steps: list[tuple[str, str]]) -> None:
    table, model = ObjectTable(), ClockModel()
    for version, (verb, key) in enumerate(steps):
        found = table.find(key)
        if verb == "insert":
            table.insert(record(key, version))
            model.insert(key)
        elif verb == "remove":
            table.remove(key)
            model.remove(key)
        elif verb == "evict":
            victim = table.pop_victim(0.0)
            assert (victim.facts.key if victim else None) == model.victim()
        elif found is not None:
            found.is_referenced |= verb == "use"
            model.bits[key] |= verb == "use"
            if verb == "pin":
                found.n_pins = 1
                model.pinned.add(key)
            elif verb == "unpin":
                found.n_pins = 0
                model.pinned.discard(key)
    assert {r.facts.key for r in table} == set(model.circle)
    assert table.object_bytes == 100 * len(table)


def test_the_least_used_goes_first() -> None:
    table = ObjectTable()
    for key in "abc":
        table.insert(record(key))
    used = table.find("a")
    assert used is not None
    used.is_referenced = True
    table.insert(record("d"))
    victims = [table.pop_victim(0.0) for _ in range(4)]
    assert [victim.facts.key for victim in victims if victim] == ["b", "c", "d", "a"]


def test_pinned_records_are_never_evicted_and_the_search_ends() -> None:
    table = ObjectTable()
    for key in "abc":
        kept = record(key)
        kept.n_pins = 1
        table.insert(kept)
    assert table.pop_victim(0.0) is None
    assert len(table) == 3
    assert ObjectTable().pop_victim(0.0) is None


def test_expired_records_are_evicted_before_their_bit_is_cleared() -> None:
    table = ObjectTable()
    for each in (record("a"), record("b", expires_s=5.0)):
        each.is_referenced = True
        table.insert(each)
    victim = table.pop_victim(5.0)
    assert victim is not None
    assert victim.facts.key == "b"


def test_a_new_version_retires_the_old_one() -> None:
    table = ObjectTable()
    old, new = record("a", 1, size_bytes=100), record("a", 2, size_bytes=300)
    assert table.insert(old) is None
    assert table.insert(new) is old
    assert (old.is_retired, new.is_retired) == (True, False)
    assert (len(table), table.object_bytes) == (1, 300)


def test_expired_records_are_not_live_but_still_here_until_swept() -> None:
    table = ObjectTable()
    table.insert(record("a", expires_s=10.0))
    assert table.lookup("a", 9.9) is not None
    assert table.lookup("a", 10.0) is None
    assert table.find("a") is not None
    assert [r.facts.key for r in table.pop_over(10.0, 9)] == ["a"]
    assert table.next_end_s() is None


def test_a_sweep_is_bounded_and_takes_the_earliest_first() -> None:
    table = ObjectTable()
    for i in range(5):
        table.insert(record(f"k{i}", expires_s=10.0 - i))
    assert [r.facts.key for r in table.pop_over(20.0, 2)] == ["k4", "k3"]
    assert [r.facts.key for r in table.pop_over(20.0, 9)] == ["k2", "k1", "k0"]


def test_a_later_expiry_overrides_an_earlier_one_and_the_reverse() -> None:
    table = ObjectTable()
    longer, shorter, never = (record(key, expires_s=10.0) for key in "lsn")
    for each in (longer, shorter, never):
        table.insert(each)
    table.set_expiry(longer, 30.0)
    table.set_expiry(shorter, 5.0)
    table.set_expiry(never, None)
    assert table.pop_over(6.0, 9) == [shorter]
    assert table.pop_over(29.0, 9) == []
    assert table.pop_over(30.0, 9) == [longer]
    assert table.find("n") is never
    assert table.next_end_s() is None


def test_a_replaced_versions_expiry_does_not_take_its_successor() -> None:
    table = ObjectTable()
    table.insert(record("a", 1, expires_s=10.0))
    table.insert(record("a", 2))
    assert table.pop_over(99.0, 9) == []
    assert table.lookup("a", 99.0) is not None


def test_touching_for_ever_does_not_grow_the_table() -> None:
    table = ObjectTable()
    kept = record("a", expires_s=1.0)
    table.insert(kept)
    for i in range(10_000):
        table.set_expiry(kept, 2.0 + i)
    assert len(table._ends) < 2_000
    assert table.pop_over(10_000.0, 9) == []
    assert table.pop_over(10_001.0, 9) == [kept]


def test_an_object_is_given_up_when_its_memory_since_its_last_use_is_worth_more_than_a_hit() -> None:
    table = ObjectTable(idle_byte_s=80_000_000.0)
    small, large = record("s", size_bytes=4096), record("l", size_bytes=40 * 4096)
    for each in (small, large):
        each.used_s = 100.0
        table.insert(each)
    assert (small.stored_bytes, large.stored_bytes) == (16_384, 335_872)
    assert table.next_end_s() == 100.0 + 80_000_000 / 335_872
    assert table.pop_over(338.0, 9) == []
    assert table.pop_over(339.0, 9) == [large]
    assert table.pop_over(4_982.0, 9) == []
    assert table.pop_over(4_983.0, 9) == [small]


def test_a_use_begins_the_count_again_and_an_expiry_may_come_first() -> None:
    table = ObjectTable(idle_byte_s=16_384 * 100.0)
    used, expiring = record("u", size_bytes=4096), record("e", size_bytes=4096, expires_s=50.0)
    for each in (used, expiring):
        table.insert(each)
    used.used_s = 60.0
    assert table.pop_over(50.0, 9) == [expiring]
    assert table.pop_over(159.0, 9) == []
    assert table.next_end_s() == 160.0
    assert table.pop_over(160.0, 9) == [used]


def test_what_was_used_before_a_crash_is_not_known_and_so_not_held_against_it() -> None:
    table = ObjectTable(idle_byte_s=16_384 * 100.0)
    table.uses_known_since_s = 1000.0
    table.insert(record("a", size_bytes=4096))
    assert table.next_end_s() == 1100.0
