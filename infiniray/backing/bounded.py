"""Calls that block, a few at a time, and given up on at a deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from infiniray.backing.store import Unreachable
from infiniray.cluster.deadline import Deadline

__all__ = ["Bounded"]

T = TypeVar("T")


def _nothing() -> None: ...


class Bounded:
    """I let at most ``n`` calls run at once, each in a thread of its own.

    Python cannot end a call that hangs. Its caller is let go at the deadline; its thread, and its place among the
    ``n``, are taken until it ends. Threads are daemons: what hangs does not keep a process from ending.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._places = threading.BoundedSemaphore(n)

    def run(self, act: Callable[[], T], deadline: Deadline, *, at_end: Callable[[], None] = _nothing) -> T:
        """What ``act`` returns or raises. ``at_end`` is called once it has ended, or was not even begun.

        Raises:
            Unreachable: it has not ended in time.
        """
        if not self._places.acquire(timeout=deadline.left_s()):
            at_end()
            raise Unreachable(f"{self._n} calls are under way, and none has ended within {deadline.timeout_s:g} s")
        answer: Future[T] = Future()

        def work() -> None:
            try:
                result = act()
            except BaseException as error:
                self._places.release()
                at_end()
                answer.set_exception(error)
            else:
                self._places.release()
                at_end()
                answer.set_result(result)

        try:
            threading.Thread(target=work, name="infiniray-store", daemon=True).start()
        except RuntimeError as error:  # the machine's limit
            self._places.release()
            at_end()
            raise Unreachable(f"no thread for the call: {error}") from error
        wait([answer], timeout=deadline.left_s())
        if not answer.done():
            raise Unreachable(f"no answer within {deadline.timeout_s:g} s")
        return answer.result()
