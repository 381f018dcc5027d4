"""Which keys are being written by whom: a mark for each, among the cache's records.

A mark does two things. It lets one writer at a time change a key in cache and store, so that the two end with the same
value, whatever processes write at once. And a *dirty* mark says that the store does not have what was acknowledged:
it is there from before the acknowledgement until the store has the value, and outlives the writer if that dies.

A writer that holds dirty marks renews a record of its own. If it has not for EXPIRY_S it counts as dead, and others may
take its marks over. A clean mark says itself when it expires. Both go by the machines' clocks, which must agree to
within a few seconds.
"""

from __future__ import annotations

import contextlib
import json
import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from infiniray.backing.records import Records
from infiniray.backing.store import Unreachable
from infiniray.cluster.deadline import Deadline
from infiniray.errors import InfiniRayError

__all__ = ["BEAT_S", "EXPIRY_S", "Hold", "Mark", "Marks"]

BEAT_S = 5.0
EXPIRY_S = 30.0
#: Writers that have been silent for so long are forgotten: no record says of one what an old one says.
_FORGOTTEN_S = 20 * EXPIRY_S
_MOST_FORGOTTEN = 16  # by one process
_FIRST_PAUSE_S = 0.005
_LONGEST_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """``until_s``, Unix time, is when a clean mark expires."""

    writer: str
    is_dirty: bool
    until_s: float

    @property
    def text(self) -> str:
        return json.dumps([self.writer, self.is_dirty, self.until_s])

    @classmethod
    def parse(cls, text: str) -> Mark:
        writer, is_dirty, until_s = json.loads(text)
        return cls(writer=writer, is_dirty=is_dirty, until_s=until_s)


class Hold:
    """One writer's right to a key, until all that share it have let go."""

    def __init__(self, key: str, on_end: Callable[[str], None]) -> None:
        self.key = key
        self._on_end = on_end
        self._n = 1
        self._lock = threading.Lock()

    def share(self) -> Callable[[], None]:
        """One more has it, until it calls what it gets."""
        with self._lock:
            self._n += 1
        return self.release

    def release(self) -> None:
        with self._lock:
            self._n -= 1
            is_over = self._n == 0
        if is_over:
            self._on_end(self.key)


class Marks:
    """I hold this process's marks.

    Args:
        scope: part of the records' names: marks of different stores have nothing to do with each other.
        is_pending: whether the store does not have yet what this process acknowledged for a key.
    """

    def __init__(self, records: Records, scope: str, is_pending: Callable[[str], bool]) -> None:
        self._records = records
        self._scope = scope
        self._is_pending = is_pending
        self.writer = uuid.uuid4().hex
        self._change = threading.Condition()
        self._held: set[str] = set()
        #: {key: whether its mark is dirty}, of the marks that are mine on record
        self._mine: dict[str, bool] = {}
        #: those that could not be deleted when they should have been
        self._leftover: set[str] = set()
        self._beaten_s = float("-inf")

    # ------------------------------------------------------------ taking and leaving

    def claim(self, key: str, deadline: Deadline, *, is_dirty: bool, lasts_s: float) -> Hold:
        """Be the one writer of ``key``, here and elsewhere.

        Args:
            lasts_s: a clean mark expires after so long, if this process dies meanwhile.

        Raises:
            Unreachable: another still writes it.
        """
        with self._change:
            if not self._change.wait_for(lambda: key not in self._held, timeout=deadline.left_s()):
                raise Unreachable("an earlier write of the key by this process is still under way")
            self._held.add(key)
        try:
            if is_dirty:
                self._beat_if_due()
            if not self._mine.get(key):
                mark = Mark(writer=self.writer, is_dirty=is_dirty, until_s=time.time() + lasts_s)
                self._acquire(key, mark, deadline)
                self._mine[key] = is_dirty
            self._leftover.discard(key)
        except BaseException:
            self._let_go(key)
            raise
        return Hold(key, self._release)

    def claim_orphan(self, key: str, orphan: Mark) -> Hold | None:
        """Be the one writer of a key whose writer died; None if it is not so any more, or another is about to."""
        with self._change:
            if key in self._held:
                return None
            self._held.add(key)
        mark = Mark(writer=self.writer, is_dirty=True, until_s=0.0)
        is_taken = False
        try:
            self._beat_if_due()
            is_taken = not self.is_alive(orphan) and self._take_over(key, orphan, mark)
        finally:
            if not is_taken:
                self._let_go(key)
        if not is_taken:
            return None
        self._mine[key] = True
        return Hold(key, self._release)

    def restore(self, hold: Hold, orphan: Mark) -> None:
        """Leave the mark of a dead writer as it was."""
        self._records.put(self._name(hold.key), orphan.text)
        del self._mine[hold.key]

    def set_dirty(self, hold: Hold) -> None:
        """The store will not have soon what is about to be acknowledged."""
        if not self._mine.get(hold.key):
            self._beat_if_due()
            self._records.put(self._name(hold.key), Mark(writer=self.writer, is_dirty=True, until_s=0.0).text)
            self._mine[hold.key] = True

    def settle(self, key: str) -> None:
        """The store has what was pending for ``key``. If it is being written again, that write's end settles it."""
        with self._change:
            if key in self._held:
                return
            self._held.add(key)
        self._release(key)

    def _release(self, key: str) -> None:
        try:
            if key in self._mine and not self._is_pending(key):
                del self._mine[key]
                self._erase(key)
        finally:
            self._let_go(key)
        self._erase_leftover()

    def _erase(self, key: str) -> None:
        try:
            self._records.delete(self._name(key))
        except InfiniRayError:
            self._leftover.add(key)
        else:
            self._leftover.discard(key)

    def _erase_leftover(self) -> None:
        for key in list(self._leftover):
            with self._change:
                if key in self._held or key not in self._leftover:
                    continue
                self._held.add(key)
            try:
                self._erase(key)
            finally:
                self._let_go(key)

    def _let_go(self, key: str) -> None:
        with self._change:
            self._held.discard(key)
            self._change.notify_all()

    def _acquire(self, key: str, mark: Mark, deadline: Deadline) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._records.create(self._name(key), mark.text):
            other = self.look(key)
            if other is None:
                continue
            if other.writer == self.writer:  # of a claim that failed half-way, or could not be erased
                self._records.put(self._name(key), mark.text)
                return
            if not self.is_alive(other) and self._take_over(key, other, mark):
                return
            if deadline.left_s() <= pause_s:
                raise Unreachable("another process has acknowledged or begun a write of the key, and not ended it")
            time.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _take_over(self, key: str, dead: Mark, mark: Mark) -> bool:
        """Replace a dead writer's mark, of all that try as the only one: who creates the record of it."""
        claim = f"{self._scope}/takeover/{dead.writer}/{key}"
        if not self._records.create(claim, str(time.time())):
            begun = self._records.get(claim)
            if begun is not None and time.time() - float(begun) > EXPIRY_S:
                self._records.delete(claim)  # who began it died as well
            return False
        try:
            if self.look(key) != dead:
                return False
            self._records.put(self._name(key), mark.text)
            return True
        finally:
            self._records.delete(claim)

    # ------------------------------------------------------------ looking

    def look(self, key: str) -> Mark | None:
        """The mark on ``key``, whosever it is."""
        text = self._records.get(self._name(key))
        return None if text is None else Mark.parse(text)

    def is_alive(self, mark: Mark) -> bool:
        """Whether its writer may still do what the mark stands for."""
        if not mark.is_dirty:
            return time.time() < mark.until_s
        beaten = self._records.get(self._beat_name(mark.writer))
        return beaten is not None and time.time() - float(beaten) < EXPIRY_S

    def dirty(self) -> dict[str, bool]:
        """The keys that the store does not have as acknowledged, of all processes: {key: whether its writer lives}."""
        found: dict[str, bool] = {}
        prefix = f"{self._scope}/mark/"
        for name in self._records.names(prefix):
            mark = self.look(key := name.removeprefix(prefix))
            if mark is not None and mark.is_dirty:
                found[key] = self.is_alive(mark)
        return found

    # ------------------------------------------------------------ being alive

    def beat(self) -> None:
        """Say that this process lives."""
        self._records.put(self._beat_name(self.writer), str(time.time()))
        self._beaten_s = time.monotonic()
        self._erase_leftover()

    def _beat_if_due(self) -> None:
        if time.monotonic() - self._beaten_s > BEAT_S:
            is_first = self._beaten_s == float("-inf")
            self.beat()
            if is_first:
                self._forget_some()

    def _forget_some(self) -> None:
        """Each process that writes leaves a record of itself. Who comes next takes some of the old ones away, so that
        they do not become more and more."""
        with contextlib.suppress(InfiniRayError):
            found = self._records.names(self._beat_name(""))
            for name in random.sample(found, min(_MOST_FORGOTTEN, len(found))):
                beaten = self._records.get(name)
                if beaten is not None and time.time() - float(beaten) > _FORGOTTEN_S:
                    self._records.delete(name)

    def _name(self, key: str) -> str:
        return f"{self._scope}/mark/{key}"

    def _beat_name(self, writer: str) -> str:
        return f"{self._scope}/writer/{writer}"
