"""The judge's judge: searches all orders in which the operations of one key can have taken effect (Wing and Gong's
search, "Testing and verifying concurrent objects", J. Parallel Distrib. Comput. 17, 1993). Exact and slow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from history import Operation, Outcome, Verb

__all__ = ["has_order"]


def has_order(operations: Sequence[Operation]) -> bool:
    """Whether a register that can lose its value at any moment has this history; all operations are of one key."""
    told = [o for o in operations if o.outcome is not Outcome.ERROR]
    must = frozenset(i for i, o in enumerate(told) if o.outcome is not Outcome.INDETERMINATE)
    seen: set[tuple[frozenset[int], int | None]] = set()
    stack: list[tuple[frozenset[int], int | None]] = [(frozenset(range(len(told))), None)]
    while stack:
        left, held = stack.pop()
        if not left & must:
            return True
        if (left, held) not in seen:
            seen.add((left, held))
            stack += ((left - {i}, after) for i in _next(told, left & must, left) for after in _after(told[i], held))
            stack.append((left, None))  # what was held is lost
    return False


def _next(told: Sequence[Operation], must: frozenset[int], left: frozenset[int]) -> Iterator[int]:
    """Which may come next: those called before any that is left was answered."""
    first_answer_ns = min(told[i].returned_ns for i in must)
    return (i for i in left if told[i].invoked_ns <= first_answer_ns)


def _after(operation: Operation, held: int | None) -> list[int | None]:
    """What is held once it took effect now; nothing in the list if it cannot have."""
    if operation.verb is Verb.PUT:
        return [operation.value]
    if operation.verb is Verb.DELETE:
        return [None]
    if operation.outcome is Outcome.MISS:
        return [None] if held is None else []
    return [held] if held is not None and held == operation.value else []
