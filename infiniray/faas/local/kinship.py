"""Who owns which process, by means of the kernel: nothing that an instance starts outlives its owners.

- The direct child of a process that ends is killed at once (``PR_SET_PDEATHSIG``, :manpage:`prctl(2)`).
- The group of that child goes with the same event: the :class:`Lifeline` is a pipe that only the owner can write to,
  and the kernel signals its end to whole groups (``F_SETOWN``, ``F_SETSIG``, :manpage:`fcntl(2)`). No process has to
  be alive to do that.
- What left its group, a daemon for instance, falls to the nearest ancestor that adopts orphans
  (``PR_SET_CHILD_SUBREAPER``): the instance while that lives, then the zygote, then the platform, and they end it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import time

__all__ = ["Lifeline", "adopt_orphans", "children", "die_with_parent", "end_children", "wake_with_parent"]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_END_TIMEOUT_S = 5.0
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that happens. A fork does not inherit it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def wake_with_parent() -> None:
    """Should this process be stopped when its parent ends, let it go on, and see what it has to do then."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def adopt_orphans() -> None:
    """Become the parent of every descendant that loses its own."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)


def children() -> list[int]:
    """The pids of this process's children, zombies and adopted ones included."""
    pids: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        with (
            contextlib.suppress(FileNotFoundError, ProcessLookupError),
            open(f"/proc/self/task/{thread}/children") as file,
        ):
            pids += [int(pid) for pid in file.read().split()]
    return pids


def end_children() -> list[int]:
    """Kill and reap every child, and theirs, which fall to us if we :func:`adopt_orphans`; those that would not go."""
    deadline_s = time.monotonic() + _END_TIMEOUT_S
    while (left := children()) and time.monotonic() < deadline_s:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.001)
    return left


class Lifeline:
    """I am the owner's end of a pipe: groups that hold on to the other one are killed when I am gone."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def hold(self, descriptor: int) -> None:
        """To be called after a fork, in the leader of a new group: from now on the group dies with the owner.

        Args:
            descriptor: which number the leader's end gets; it works as long as that is open in the leader. All others
                have to be closed by the caller, or the leader would be its own owner.
        """
        group = os.getpid()
        # A file of our own: who is signalled is a property of the open file, which forks share.
        end = os.open(f"/proc/self/fd/{self._read}", os.O_RDONLY | os.O_NONBLOCK)
        fcntl.fcntl(end, fcntl.F_SETOWN, -group)
        fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(end, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
        os.dup2(end, descriptor, inheritable=False)
        if end != descriptor:
            os.close(end)
