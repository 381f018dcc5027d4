"""The parent of all instances: a process that has imported what they need, and forks one on request.

A fork costs a few milliseconds and shares its pages; an exec of AWS's runtime client takes ten times that. It runs
as a process of its own, without threads, because forking the asyncio process would copy its locks and sockets.
AWS's client is imported only after the fork: its native part starts threads.

Speaks JSON over a SOCK_SEQPACKET pair. In: ``{"token", "environ", "root", "data_limit_bytes"}`` with the descriptor
for the instance's output. Out: ``{"token", "pid"}`` and ``{"exited": pid, "status"}``.
"""

from __future__ import annotations

import contextlib
import ctypes
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

__all__ = ["die_with_parent", "serve"]

_PR_SET_PDEATHSIG = 1
_MESSAGE_BYTES = 1 << 16


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that happens."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def serve(channel: socket.socket, parent: int) -> None:
    """Fork on request until the other end closes; then end every instance."""
    die_with_parent(parent)
    _prepare()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    children: dict[int, int] = {}  # {pidfd: pid}; a SIGCHLD would come with every freeze and thaw, too
    events = select.poll()
    events.register(channel.fileno(), select.POLLIN)
    try:
        while True:
            for number, _ in events.poll():
                if number in children:
                    events.unregister(number)
                    _report_exit(channel, children.pop(number), number)
                    continue
                message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, 1)
                if not message:
                    return
                pid = _spawn(channel, json.loads(message), descriptors[0])
                pidfd = os.pidfd_open(pid)
                children[pidfd] = pid
                events.register(pidfd, select.POLLIN)
    finally:
        for pid in children.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)


def _prepare() -> None:
    """Load what every instance will need, and let it be shared: the fork copies no page that nobody writes to."""
    for name in ("hmac", "mmap", "selectors"):  # hmac brings OpenSSL's library, 3 MB
        importlib.import_module(name)
    gc.disable()
    gc.collect()
    gc.freeze()


def _report_exit(channel: socket.socket, pid: int, pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # what it had started itself; its id is ours until we reap it
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(pidfd)
    channel.send(json.dumps({"exited": pid, "status": os.waitstatus_to_exitcode(status)}).encode())


def _spawn(channel: socket.socket, order: dict[str, Any], output: int) -> int:
    zygote = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_instance(order, output, zygote)
    os.close(output)
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)
    channel.send(json.dumps({"token": order["token"], "pid": pid}).encode())
    return pid


def _become_instance(order: dict[str, Any], output: int, zygote: int) -> NoReturn:
    status = 1
    try:
        os.setpgid(0, 0)
        die_with_parent(zygote)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.closerange(3, 1 + max(int(number) for number in os.listdir("/proc/self/fd")))
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
    serve(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]))
