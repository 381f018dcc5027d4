"""Writes that are acknowledged, and that the store does not have yet."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from infiniray.backing.marks import BEAT_S
from infiniray.backing.store import Unreachable
from infiniray.cluster.deadline import Deadline
from infiniray.errors import BackingError

__all__ = ["Left", "WriteQueue"]

_logger = logging.getLogger(__name__)

Parts = Sequence[memoryview]
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


@dataclass(slots=True, kw_only=True)
class _Entry:
    key: str
    parts: Parts
    n_bytes: int
    #: when the oldest of its writes was acknowledged, and when to try next; both on the monotonic clock
    since_s: float
    due_s: float
    #: numbers of the latest of its writes, and of the oldest that the store does not have
    number: int
    oldest: int
    n_failures: int = 0
    is_in_flight: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What has not reached the store: how much, one key of it, and why."""

    n_writes: int
    n_bytes: int
    key: str
    detail: str


@dataclass(slots=True)
class _Counts:
    flushed: int = 0
    replaced: int = 0
    retries: int = 0
    waits: int = 0
    last_error: str = field(default="")


class WriteQueue:
    """I keep acknowledged writes until the store has them, in bounded memory: who wants to add to a full queue waits.

    I never drop one: what fails is tried again, less and less often, until it succeeds or is cancelled. Writes of one
    key reach the store in their order, the latest only if it comes before the one before has begun. My threads live
    while there is something to write.

    Args:
        write: writes an object into the store. Raises: BackingError.
        on_written: called with a key when nothing is pending for it any more.
        beat: called every few seconds while anything is.
    """

    def __init__(
        self,
        *,
        write: Callable[[str, Parts], None],
        on_written: Callable[[str], None],
        beat: Callable[[], None],
        max_bytes: int,
        max_writes: int,
        delay_s: float,
        n_threads: int,
    ) -> None:
        self._write = write
        self._on_written = on_written
        self._beat = beat
        self._max_bytes = max_bytes
        self._max_writes = max_writes
        self._delay_s = delay_s
        self._n_threads = n_threads
        self._change = threading.Condition()
        self._entries: dict[str, _Entry] = {}
        self._n_bytes = 0
        #: places taken by :meth:`reserve` and not yet used
        self._n_reserved = 0
        self._n_working = 0
        self._is_beating = False
        self._is_hurried = 0
        self._n_added = 0
        self._counts = _Counts()

    # ------------------------------------------------------------ adding

    def reserve(self, n_bytes: int, deadline: Deadline) -> None:
        """Wait for room for one write. One that is larger than the whole queue has it for itself.

        Raises:
            Unreachable: there is none in time, or no thread that would write it.
        """
        with self._change:
            if not self._has_room(n_bytes):
                self._counts.waits += 1
                if not self._change.wait_for(lambda: self._has_room(n_bytes), timeout=deadline.left_s()):
                    detail = f"{len(self._entries)} writes ({self._n_bytes:,} bytes) wait for the store, no more fit"
                    raise Unreachable(f"{detail}; {self._counts.last_error}" if self._counts.last_error else detail)
            self._n_bytes += n_bytes
            self._n_reserved += 1
            try:
                self._start_threads()
            except BaseException:
                self.give_back(n_bytes)
                raise

    def _has_room(self, n_bytes: int) -> bool:
        n_writes = self._n_wanted()
        return n_writes == 0 or (n_writes < self._max_writes and self._n_bytes + n_bytes <= self._max_bytes)

    def give_back(self, n_bytes: int) -> None:
        """A place that was reserved is not used."""
        with self._change:
            self._n_bytes -= n_bytes
            self._n_reserved -= 1
            self._change.notify_all()

    def add(self, key: str, parts: Parts, n_bytes: int) -> None:
        """Take a write into the place that was reserved for it. It replaces one of the same key that has not begun."""
        now_s = time.monotonic()
        with self._change:
            self._n_reserved -= 1
            self._n_added += 1
            entry = self._entries.get(key)
            if entry is None:
                self._entries[key] = _Entry(
                    key=key, parts=parts, n_bytes=n_bytes, since_s=now_s, due_s=now_s + self._delay_s,
                    number=self._n_added, oldest=self._n_added,
                )  # fmt: skip
            else:
                self._counts.replaced += not entry.is_in_flight
                self._n_bytes -= entry.n_bytes
                entry.parts, entry.n_bytes, entry.number = parts, n_bytes, self._n_added
            self._change.notify_all()

    def _start_threads(self) -> None:
        """Have one that writes, one more if there is more to write, and one that beats. They wait for what is reserved,
        so that it is known before a write is acknowledged that somebody will see to it.

        Raises:
            Unreachable: the machine has no thread for it.
        """
        try:
            if self._n_working < min(self._n_threads, self._n_wanted()):
                threading.Thread(target=self._work, name="infiniray-flush", daemon=True).start()
                self._n_working += 1
            if not self._is_beating:
                threading.Thread(target=self._keep_beating, name="infiniray-beat", daemon=True).start()
                self._is_beating = True
        except RuntimeError as error:
            if not self._n_working or not self._is_beating:
                raise Unreachable(f"no thread to write with: {error}") from error

    def _n_wanted(self) -> int:
        return len(self._entries) + self._n_reserved

    # ------------------------------------------------------------ looking, and ending

    def find(self, key: str) -> Parts | None:
        """What is pending for ``key``."""
        with self._change:
            entry = self._entries.get(key)
            return None if entry is None else entry.parts

    @contextmanager
    def superseded(self, key: str, deadline: Deadline) -> Iterator[None]:
        """Around a write or deletion in the store of what ``key`` has now: what is pending for it is not on its way
        meanwhile, and forgotten after; if that raises, it stays.

        Raises:
            Unreachable: it is on its way, and does not end in time.
        """
        with self._change:
            if not self._change.wait_for(lambda: not self._is_in_flight(key), timeout=deadline.left_s()):
                raise Unreachable("an earlier write of the key is on its way to the store")
            entry = self._entries.get(key)
            if entry is not None:
                entry.is_in_flight = True
        try:
            yield
        except BaseException:
            if entry is not None:
                with self._change:
                    entry.is_in_flight = False
                    self._change.notify_all()
            raise
        if entry is not None:
            with self._change:
                del self._entries[key]
                self._n_bytes -= entry.n_bytes
                self._change.notify_all()

    def _is_in_flight(self, key: str) -> bool:
        entry = self._entries.get(key)
        return entry is not None and entry.is_in_flight

    def flush(self, deadline: Deadline) -> Left | None:
        """Write all that is pending now, without delay. What has not reached the store in time, if anything."""
        with self._change:
            last = self._n_added
            for entry in self._entries.values():
                entry.due_s = 0.0
            self._is_hurried += 1
            self._change.notify_all()
            try:
                self._change.wait_for(lambda: not self._left(last), timeout=deadline.left_s())
            finally:
                self._is_hurried -= 1
            left = self._left(last)
            if not left:
                return None
            return Left(
                n_writes=len(left),
                n_bytes=sum(entry.n_bytes for entry in left),
                key=left[0].key,
                detail=self._counts.last_error or f"no answer within {deadline.timeout_s:g} s",
            )

    def _left(self, last: int) -> list[_Entry]:
        return [entry for entry in self._entries.values() if entry.oldest <= last]

    def stats(self) -> dict[str, int | float | str]:
        """``lag_s`` is how long ago the oldest of the writes that the store does not have was acknowledged."""
        with self._change:
            oldest_s = min((entry.since_s for entry in self._entries.values()), default=None)
            return {
                "unflushed": len(self._entries),
                "unflushed_bytes": self._n_bytes,
                "lag_s": 0.0 if oldest_s is None else time.monotonic() - oldest_s,
                "flushed": self._counts.flushed,
                "replaced": self._counts.replaced,
                "flush_retries": self._counts.retries,
                "queue_waits": self._counts.waits,
                "last_flush_error": self._counts.last_error,
            }

    # ------------------------------------------------------------ threads

    def _work(self) -> None:
        while (entry := self._next()) is not None:
            number, error = entry.number, ""
            try:
                self._write(entry.key, entry.parts)
            except BackingError as trouble:
                error = str(trouble)
            except Exception as trouble:  # a bug must not end acknowledged writes
                error = f"{type(trouble).__name__}: {trouble}"
            if self._has_ended(entry, number, error):
                _logged(self._on_written, entry.key)

    def _next(self) -> _Entry | None:
        """The next write that is due, marked as in flight; None if there is nothing to write any more."""
        with self._change:
            while True:
                waiting = [entry for entry in self._entries.values() if not entry.is_in_flight]
                if not waiting and not self._n_reserved and (not self._entries or self._n_working > 1):
                    self._n_working -= 1  # whoever reserves a place starts a thread
                    return None
                if not waiting:
                    self._change.wait()
                    continue
                entry = min(waiting, key=lambda entry: entry.due_s)
                left_s = entry.due_s - time.monotonic()
                if left_s <= 0:
                    entry.is_in_flight = True
                    return entry
                self._change.wait(left_s)

    def _has_ended(self, entry: _Entry, number: int, error: str) -> bool:
        """Note how a write ended. Whether nothing is pending for its key any more."""
        now_s = time.monotonic()
        with self._change:
            entry.is_in_flight = False
            self._change.notify_all()
            self._counts.last_error = error
            if error:
                entry.n_failures += 1
                self._counts.retries += 1
                pause_s = min(_FIRST_PAUSE_S * 2 ** min(entry.n_failures - 1, 10), _LONGEST_PAUSE_S)
                entry.due_s = now_s + (_FIRST_PAUSE_S if self._is_hurried else pause_s)
                return False
            self._counts.flushed += 1
            if entry.number != number:
                entry.oldest, entry.since_s, entry.due_s, entry.n_failures = number + 1, now_s, now_s, 0
                return False
            del self._entries[entry.key]
            self._n_bytes -= entry.n_bytes
            return True

    def _keep_beating(self) -> None:
        while True:
            with self._change:
                if self._change.wait_for(lambda: self._n_wanted() == 0, timeout=BEAT_S):
                    self._is_beating = False
                    return
            _logged(self._beat)


def _logged(act: Callable[..., None], *args: str) -> None:
    """Do what may fail without ending a thread that others rely on."""
    try:
        act(*args)
    except Exception as error:
        _logger.warning("after a write of the backing store: %s: %s", type(error).__name__, error)
