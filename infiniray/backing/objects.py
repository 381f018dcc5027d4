"""A cache's objects in its store: packed, checked, within a deadline, counted; with errors that are InfiniRay's."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from infiniray.backing.bounded import Bounded
from infiniray.backing.format import Damaged, is_pickle, pack, unpack
from infiniray.backing.naming import name_of
from infiniray.backing.store import Octets, Refused, Replaced, Store, Unreachable, label_of
from infiniray.cluster.deadline import Deadline
from infiniray.config import BackingConfig
from infiniray.errors import BackingDamaged, BackingError, BackingRefused, BackingUnavailable
from infiniray.values import Serialized, deserialize, serialize, view

__all__ = ["StoredObjects"]

T = TypeVar("T")

#: An object that is replaced while it is read is read again so often.
_READ_ATTEMPTS = 4
#: After the store was unavailable, degraded reads do without it for so long.
_REST_S = 1.0


class StoredObjects:
    """I am the way of one process to the store.

    Whatever speaks to the store raises BackingUnavailable if it does not answer, and BackingRefused if it will not.

    Args:
        store: not yet spoken to.
    """

    def __init__(self, config: BackingConfig, store: Store) -> None:
        assert config.url is not None
        self.label = label_of(config.url)
        self._config = config
        self._store = store
        self._calls = Bounded(config.concurrency)
        self._rests_until_s = float("-inf")
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter(
            reads=0, misses=0, writes=0, deletes=0, read_bytes=0, written_bytes=0, unavailable=0, refused=0, damaged=0,
            degraded_reads=0, degraded_writes=0, not_cached=0,
        )  # fmt: skip

    # ------------------------------------------------------------ in the store

    def check(self, deadline: Deadline) -> None:
        """Find out whether the store is there."""
        self._call("CHECK", "", self._store.check, deadline)

    def is_there(self, key: str, deadline: Deadline) -> bool:
        """Whether the store has an object that the cache has not."""
        is_there = self._call("STAT", key, lambda: self._store.stat(name_of(key)), deadline, may_rest=True) is not None
        self.count(misses=not is_there)
        return is_there

    def load(self, key: str, deadline: Deadline) -> Serialized | None:
        """The object, if the store has it. Raises: BackingDamaged."""

        def load() -> Octets | None:
            name = name_of(key)
            for _ in range(_READ_ATTEMPTS):
                stat = self._store.stat(name)
                if stat is None:
                    return None
                try:
                    return self._store.read(name, stat)
                except Replaced:
                    continue
            raise Unreachable("the object was replaced whenever it was read")

        data = self._call("READ", key, load, deadline, may_rest=True)
        if data is None:
            return None
        self.count(reads=1, read_bytes=data.nbytes)
        return self.unpacked(key, data)

    def write(self, key: str, parts: Sequence[memoryview], deadline: Deadline, at_end: Callable[[], None]) -> None:
        """Write now.

        Args:
            at_end: called when the store has ended with it, which may be after it was given up on.
        """
        self._call("WRITE", key, lambda: self._store.write(name_of(key), parts), deadline, at_end=at_end)
        self._count_written(parts)

    def write_patiently(self, key: str, parts: Sequence[memoryview]) -> None:
        """Write, and do not give it up: so that no later write of the key overtakes it."""
        with self.explained("FLUSH", key):
            self._store.write(name_of(key), parts)
        self._rests_until_s = float("-inf")
        self._count_written(parts)

    def delete(self, key: str, deadline: Deadline, at_end: Callable[[], None]) -> None:
        self._call("DELETE", key, lambda: self._store.delete(name_of(key)), deadline, at_end=at_end)
        self.count(deletes=1)

    def has(self, key: str, deadline: Deadline) -> bool:
        """As :meth:`is_there`; it is no miss, and the store is asked in any case."""
        return self._call("STAT", key, lambda: self._store.stat(name_of(key)), deadline) is not None

    def _call(
        self, operation: str, key: str, act: Callable[[], T], deadline: Deadline, *,
        at_end: Callable[[], None] = lambda: None, may_rest: bool = False,
    ) -> T:  # fmt: skip
        """Have the store do something, within the verb's deadline and the store's own."""
        patience = Deadline.after(min(self._config.timeout_s, deadline.left_s()))
        with self.explained(operation, key):
            if may_rest and self._config.on_error == "degrade" and time.monotonic() < self._rests_until_s:
                at_end()
                raise Unreachable("it was unavailable a moment ago")
            try:
                answer = self._calls.run(act, patience, at_end=at_end)
            except Unreachable:
                self._rests_until_s = time.monotonic() + _REST_S
                raise
        self._rests_until_s = float("-inf")
        return answer

    # ------------------------------------------------------------ packed

    def packed(self, key: str, value: Any) -> list[memoryview]:
        """The value's bytes, which nobody changes: not even who changes its array while they are being written.

        Raises:
            BackingRefused: nobody could read it.
        """
        serialized = serialize(value)
        if is_pickle(serialized.head) and not self._config.may_unpickle:
            self.count(refused=1)
            detail = "the value would be pickled, and backing.allow_pickle is off: nobody could read it"
            raise self.error(BackingRefused, "WRITE", key, detail)
        is_ours = type(value) is bytes or is_pickle(serialized.head)
        return pack(serialized if is_ours else Serialized(serialized.head, serialized.data.copy()))

    def unpacked(self, key: str, data: Octets) -> Serialized:
        """Raises: BackingDamaged."""
        try:
            return unpack(data)
        except Damaged as error:
            self.count(damaged=1)
            raise self.error(BackingDamaged, "READ", key, str(error)) from None

    def value(self, key: str, found: Serialized, *, raw: bool) -> Any:
        """Raises: BackingRefused: rebuilding it is not allowed."""
        if raw:
            return view(*found)
        if is_pickle(found.head) and not self._config.may_unpickle:
            self.count(refused=1)
            detail = (
                "it is a pickle, and rebuilding it runs what it says: set backing.allow_pickle if you trust the store"
            )
            raise self.error(BackingRefused, "READ", key, detail)
        return deserialize(*found)

    # ------------------------------------------------------------ what went wrong, and how often

    @contextmanager
    def explained(self, operation: str, key: str) -> Iterator[None]:
        """A store's errors as those of InfiniRay, counted."""
        try:
            yield
        except Unreachable as error:
            self.count(unavailable=1)
            raise self.error(BackingUnavailable, operation, key, str(error)) from error
        except Refused as error:
            self.count(refused=1)
            raise self.error(BackingRefused, operation, key, str(error)) from error

    def error(self, kind: type[BackingError], operation: str, key: str, detail: str) -> BackingError:
        return kind(store=self.label, operation=operation, key=key, detail=detail)

    def count(self, **more: int) -> None:
        with self._lock:
            self._counts.update(more)

    def counts(self) -> dict[str, int]:
        with self._lock:
            return dict(self._counts)

    def _count_written(self, parts: Sequence[memoryview]) -> None:
        self.count(writes=1, written_bytes=sum(part.nbytes for part in parts))
