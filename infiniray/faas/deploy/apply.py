"""Carrying out a plan: stage by stage, the changes of a stage side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from infiniray.faas.deploy.clients import Clients
from infiniray.faas.deploy.code import apply_code
from infiniray.faas.deploy.functions import FunctionChanger
from infiniray.faas.deploy.logs import apply_log_group
from infiniray.faas.deploy.plan import Change, Kind, Plan
from infiniray.faas.deploy.resources import CodeSpec
from infiniray.faas.deploy.role import apply_role
from infiniray.faas.deploy.scope import Scope

__all__ = ["OnDone", "apply"]

#: Told of each change that has been made; called from several threads.
OnDone = Callable[[Change], None]

_WORKERS = 8


def apply(plan: Plan, clients: Clients, scope: Scope, code: CodeSpec, on_done: OnDone = lambda _: None) -> None:
    """Make all changes of ``plan``. After an error no further change is begun; those under way are finished.

    Raises:
        DeployError: the first change that failed, with what to do. What was done stays: a new plan has the rest.
    """
    changer = FunctionChanger(clients.functions, scope, code)

    def act(change: Change) -> None:
        _change(change, clients, scope, changer)
        on_done(change)

    for stage in plan.stages:
        _side_by_side(act, stage)


def _change(change: Change, clients: Clients, scope: Scope, changer: FunctionChanger) -> None:
    if change.kind is Kind.FUNCTION:
        changer.apply(change)
        return
    assert clients.aws is not None, "only AWS has more than functions"
    if change.kind is Kind.ROLE:
        apply_role(clients.aws.iam, scope, change)
    elif change.kind is Kind.LOG_GROUP:
        apply_log_group(clients.aws.logs, scope, change)
    else:
        apply_code(clients.aws.s3, scope, change)


def _side_by_side(act: Callable[[Change], None], stage: tuple[Change, ...]) -> None:
    has_failed = threading.Event()

    def begin(change: Change) -> None:
        if has_failed.is_set():  # a worker is quicker with its next change than cancelling is
            return
        try:
            act(change)
        except BaseException:
            has_failed.set()
            raise

    executor = ThreadPoolExecutor(_WORKERS, thread_name_prefix="deploy")
    try:
        futures = [executor.submit(begin, change) for change in stage]
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    for future in futures:
        if not future.cancelled():
            future.result()
