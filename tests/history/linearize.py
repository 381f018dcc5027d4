"""Is a history one that a cache may have? Per key: linearizability of a register that may lose its value.

**The model.** A key holds one value or none. Every operation that was answered took effect at one moment between its
call and its answer:

- a PUT made its value the one that is held;
- a DELETE left none (whether it says that there was something is not judged);
- a GET that returned a value found exactly that one;
- a miss (``KeyNotFound``, ``ObjectLost``) found none.

Besides, the cache may lose what it holds at any moment: a miss is allowed always, even right after a PUT. What is not
allowed is that something comes back. Once a GET missed, a DELETE was answered or a newer value was read, an older
value is gone until it is written again. A PUT that failed may take effect at any moment after its call, or never; so
may a DELETE. A GET that failed says nothing. :func:`unexcused_misses` is for histories in which nothing may be lost.

**The argument** (after Gibbons and Korach, "Testing shared memories", SIAM J. Comput. 26, 1997, section 4.2). Every
PUT writes another value, so each GET names its PUT. A value's *cluster* is its PUT and the GETs that returned it. Let
``first_answer`` be the earliest answer in a cluster, ``last_call`` the latest call.

- If ``first_answer < last_call``, the value was held from the one to the other, whatever the order: the PUT precedes
  all GETs, so it took effect by ``first_answer``; the last GET did not before ``last_call``. That is the cluster's
  *reign*. No other reign may overlap it, and nothing else may take effect within.
- Else all of the cluster can take effect at one and the same moment, any from ``last_call`` to ``first_answer``. So
  can a DELETE or a miss, which are clusters by themselves: afterwards nothing is held. Such a *brief* cluster needs
  one moment that is outside of all reigns.

Conversely, if reigns do not overlap, each brief cluster has a moment outside of them, and no GET was answered before
its PUT was called, then putting everything there is a linearization: losses explain the misses. A failed PUT that
nobody read, and a failed DELETE, can be left out: whatever they explain, a loss explains. So the check is exact, and
takes no search. ``test_linearize.py`` compares it with a search through all orders.

Equal times count as overlapping.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from history import Operation, Outcome, Verb

__all__ = ["Flaw", "Span", "Violation", "check", "unexcused_misses"]


class Flaw(enum.Enum):
    DAMAGED = "what was read was never a value"
    NEVER_WRITTEN = "a value was read that nobody wrote"
    TOO_EARLY = "a value was read before anybody began to write it"
    STALE = "an older value was read after a newer one was there"
    UNDELETED = "a value was read after it was deleted"
    RETURNED = "a value was read after it was missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """Operations that cannot all have happened as they say, the fewest that show it, by time of call."""

    flaw: Flaw
    key: str
    operations: tuple[Operation, ...]

    def __str__(self) -> str:
        return "\n  ".join([f"{self.key!r}: {self.flaw.value}", *map(str, self.operations)])


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of the clock, both ends included."""

    begin_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cluster:
    """A PUT and the GETs of its value; or a DELETE or a miss alone."""

    first: Operation  # the PUT, if there is one
    earliest_answered: Operation
    latest_called: Operation
    first_answer_ns: int
    last_call_ns: int

    @classmethod
    def of(cls, *operations: Operation) -> _Cluster:
        answered = (o for o in operations if o.outcome is not Outcome.INDETERMINATE)
        earliest = min(answered, key=lambda o: o.returned_ns)
        latest = max(operations, key=lambda o: o.invoked_ns)
        return cls(
            first=operations[0],
            earliest_answered=earliest,
            latest_called=latest,
            first_answer_ns=earliest.returned_ns,
            last_call_ns=latest.invoked_ns,
        )

    @property
    def reigns(self) -> bool:
        return self.first_answer_ns < self.last_call_ns

    @property
    def witnesses(self) -> set[Operation]:
        """Which show when it was held."""
        return {self.first, self.earliest_answered, self.latest_called}


def check(history: Iterable[Operation]) -> list[Violation]:
    """Everything in the history that no order explains; nothing if it is linearizable in the sense above.

    Raises:
        ValueError: two PUTs wrote the same value to the same key: such a history cannot be judged.
    """
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        by_key[operation.key].append(operation)
    return [violation for key in sorted(by_key) for violation in _check_key(by_key[key])]


def _check_key(operations: Sequence[Operation]) -> list[Violation]:
    puts = _puts(operations)
    misreads = [v for o in operations if _found(o) for v in _misread(o, puts)]
    if misreads:
        return misreads
    clusters = _clusters(operations, puts)
    reigns = [cluster for cluster in clusters if cluster.reigns]
    briefs = [cluster for cluster in clusters if not cluster.reigns]
    overlaps = [_violation(Flaw.STALE, a, b) for a, b in combinations(reigns, 2) if _collide(a, b)]
    intrusions = [_violation(_flaw_of_intrusion(b), reign, b) for b in briefs for reign in reigns if _collide(reign, b)]
    return overlaps + intrusions


def _puts(operations: Iterable[Operation]) -> dict[int | None, Operation]:
    """PUTs by value."""
    puts: dict[int | None, Operation] = {}
    for operation in operations:
        if operation.verb is Verb.PUT:
            if operation.value in puts:
                raise ValueError(f"value {operation.value} was written to {operation.key!r} twice")
            puts[operation.value] = operation
    return puts


def _found(operation: Operation) -> bool:
    return operation.verb is Verb.GET and operation.outcome is Outcome.OK


def _misread(get: Operation, puts: dict[int | None, Operation]) -> Iterable[Violation]:
    """What is wrong with a GET that found something, whatever else happened."""
    if get.value is None:
        yield Violation(flaw=Flaw.DAMAGED, key=get.key, operations=(get,))
    elif get.value not in puts:
        yield Violation(flaw=Flaw.NEVER_WRITTEN, key=get.key, operations=(get,))
    elif puts[get.value].invoked_ns > get.returned_ns:
        yield Violation(flaw=Flaw.TOO_EARLY, key=get.key, operations=(get, puts[get.value]))


def _clusters(operations: Iterable[Operation], puts: dict[int | None, Operation]) -> list[_Cluster]:
    """Of everything that must have taken effect."""
    gets: dict[int | None, list[Operation]] = defaultdict(list)
    alone: list[_Cluster] = []
    for operation in operations:
        if _found(operation):
            gets[operation.value].append(operation)
        elif operation.outcome is Outcome.MISS or (operation.verb is Verb.DELETE and operation.outcome is Outcome.OK):
            alone.append(_Cluster.of(operation))
    held = [_Cluster.of(put, *gets[value]) for value, put in puts.items() if put.outcome is Outcome.OK or value in gets]
    return held + alone


def _collide(reign: _Cluster, other: _Cluster) -> bool:
    """Of another reign: they overlap. Of a brief cluster: there is no moment for it outside of this reign."""
    return reign.first_answer_ns < other.last_call_ns and other.first_answer_ns < reign.last_call_ns


def _flaw_of_intrusion(brief: _Cluster) -> Flaw:
    first = brief.first
    if first.verb is Verb.PUT:
        return Flaw.STALE
    return Flaw.UNDELETED if first.verb is Verb.DELETE else Flaw.RETURNED


def _violation(flaw: Flaw, one: _Cluster, other: _Cluster) -> Violation:
    witnesses = sorted(one.witnesses | other.witnesses, key=lambda o: (o.invoked_ns, o.returned_ns))
    return Violation(flaw=flaw, key=witnesses[0].key, operations=tuple(witnesses))


def unexcused_misses(history: Iterable[Operation], losses: Iterable[Span] = ()) -> list[Operation]:
    """Misses of what must have been there: after a PUT was answered, with no DELETE and no loss that can have come
    between the two.

    Args:
        losses: when objects, of any key, may have been lost.
    """
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        by_key[operation.key].append(operation)
    excuses = list(losses)
    return [miss for operations in by_key.values() for miss in _unexcused(operations, excuses)]


def _unexcused(operations: Sequence[Operation], losses: Sequence[Span]) -> Iterable[Operation]:
    puts = [o for o in operations if o.verb is Verb.PUT and o.outcome is Outcome.OK]
    excuses = [*losses, *(_effect(o) for o in operations if o.verb is Verb.DELETE)]
    for miss in operations:
        if miss.outcome is Outcome.MISS and any(
            put.returned_ns < miss.invoked_ns
            and all(excuse.end_ns < put.invoked_ns or excuse.begin_ns > miss.returned_ns for excuse in excuses)
            for put in puts
        ):
            yield miss


def _effect(delete: Operation) -> Span:
    """When a DELETE may have taken effect."""
    is_known = delete.outcome is Outcome.OK
    return Span(begin_ns=delete.invoked_ns, end_ns=delete.returned_ns if is_known else _FOREVER_NS)


_FOREVER_NS = 1 << 63
