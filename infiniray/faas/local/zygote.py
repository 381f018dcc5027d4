"""The parent of all instances: a process that has imported what they need, and forks one on request.

A fork costs a few milliseconds and shares its pages; an exec of AWS's runtime client takes ten times that. It runs
as a process of its own, without threads, because forking the asyncio process would copy its locks and sockets.
AWS's client is imported only after the fork: its native part starts threads.

Speaks JSON over a SOCK_SEQPACKET pair. In: ``{"token", "environ", "root", "data_limit_bytes"}`` with the descriptor
for the instance's output. Out: ``{"token", "pid"}`` and ``{"exited": pid, "status"}``.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import logging
import logging.handlers
import os
import resource
import select
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

from infiniray.faas.local.kinship import (
    Lifeline,
    adopt_orphans,
    children,
    die_with_parent,
    end_children,
    wake_with_parent,
)

__all__ = ["Zygote"]

_MESSAGE_BYTES = 1 << 16
_LIFELINE = 3  # its number in an instance


class Zygote:
    """I fork instances on request and own whatever comes of them. When the platform closes its end of the channel, or
    ends, they all end."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lifeline = Lifeline()
        # By pidfd, because a SIGCHLD would come with every freeze and thaw, too.
        self._instances: dict[int, int] = {}  # {pidfd: pid}
        self._strays: dict[int, int] = {}  # {pidfd: pid} of what instances left behind, being killed
        self._events = select.poll()
        self._events.register(channel.fileno(), select.POLLIN)

    def serve(self) -> None:
        """Until the other end closes."""
        adopt_orphans()
        wake_with_parent()
        _prepare()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            while self._serve_once():
                pass
        finally:
            for pid in self._instances.values():
                _kill_group(pid)
            end_children()

    def _serve_once(self) -> bool:
        """What there is to do now; False when the platform wants no more."""
        is_anybody_gone = False
        for number, _ in self._events.poll():
            if number == self._channel.fileno():
                message, descriptors, _, _ = socket.recv_fds(self._channel, _MESSAGE_BYTES, 1)
                if not message:
                    return False
                self._spawn(json.loads(message), descriptors[0])
            else:
                is_anybody_gone = True
                self._bury(number)
        if is_anybody_gone:
            self._end_strays()
        return True

    def _spawn(self, order: dict[str, Any], output: int) -> None:
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become_instance(order, output, zygote, self._lifeline)
        os.close(output)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        self._watch(pid, self._instances)
        self._tell({"token": order["token"], "pid": pid})

    def _watch(self, pid: int, group: dict[int, int]) -> None:
        pidfd = os.pidfd_open(pid)
        group[pidfd] = pid
        self._events.register(pidfd, select.POLLIN)

    def _bury(self, pidfd: int) -> None:
        self._events.unregister(pidfd)
        os.close(pidfd)
        if pidfd in self._strays:
            os.waitpid(self._strays.pop(pidfd), 0)
            return
        pid = self._instances.pop(pidfd)
        _kill_group(pid)  # what it had started itself; its id is ours until we reap it
        _, status = os.waitpid(pid, 0)
        self._tell({"exited": pid, "status": os.waitstatus_to_exitcode(status)})

    def _end_strays(self) -> None:
        """Those whose instance has ended are our children now; while it lives, they are its."""
        known = {*self._instances.values(), *self._strays.values()}
        for pid in children():
            if pid not in known:
                os.kill(pid, signal.SIGKILL)
                self._watch(pid, self._strays)

    def _tell(self, news: dict[str, Any]) -> None:
        self._channel.send(json.dumps(news).encode())


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _prepare() -> None:
    """Load what every instance will need, and let it be shared: the fork copies no page that nobody writes to."""
    for name in ("hmac", "mmap", "selectors"):  # hmac brings OpenSSL's library, 3 MB
        importlib.import_module(name)
    gc.disable()
    gc.collect()
    gc.freeze()


def _become_instance(order: dict[str, Any], output: int, zygote: int, lifeline: Lifeline) -> NoReturn:
    status = 1
    try:
        os.setpgid(0, 0)
        die_with_parent(zygote)
        adopt_orphans()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        lifeline.hold(_LIFELINE)
        os.closerange(_LIFELINE + 1, 1 + max(int(number) for number in os.listdir("/proc/self/fd")))
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
        limit = order["data_limit_bytes"]
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        os.environ.clear()
        os.environ.update(order["environ"])
        os.chdir(order["root"])
        gc.enable()
        _run_handler(order["root"])
        status = 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(status)


def _run_handler(root: str) -> None:
    """AWS's own runtime client, from here on."""
    # The function's code comes first; of this environment it sees the installed packages, not the checkout.
    sys.path[:] = [root, *(path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix)))]
    sys.meta_path[:] = [
        finder for finder in sys.meta_path if not getattr(finder, "__module__", "").startswith("__edit")
    ]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("infiniray", "lambda_agent")]:
        del sys.modules[name]
    logging.root.handlers.clear()
    from awslambdaric import bootstrap
    from awslambdaric.lambda_runtime_client import LambdaRuntimeClient

    bootstrap.run(os.environ["_HANDLER"], LambdaRuntimeClient(os.environ["AWS_LAMBDA_RUNTIME_API"]))


if __name__ == "__main__":
    Zygote(socket.socket(fileno=int(sys.argv[1]))).serve()
