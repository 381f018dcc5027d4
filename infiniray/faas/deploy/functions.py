"""A cache's functions on a platform: found, created, brought up to date, deleted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ClientError

from infiniray.errors import DeployError, NameTaken, PermissionMissing
from infiniray.faas.deploy.code import code_request
from infiniray.faas.deploy.explain import AGAIN, explained, is_role_not_ready
from infiniray.faas.deploy.plan import Action, Change, Part, function_change
from infiniray.faas.deploy.resources import CodeSpec, FunctionSpec, FunctionState
from infiniray.faas.deploy.scope import Scope

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient

__all__ = ["FunctionChanger", "find_functions", "read_function", "read_functions"]

_READERS = 16
_PAUSE_S = 2.0
#: IAM tells all its readers of a new role within seconds, mostly.
_ROLE_PATIENCE_S = 60.0


def find_functions(client: LambdaClient, scope: Scope, names: Iterable[str]) -> dict[str, FunctionState]:
    """Those of ``names`` that exist, and all that are called like this cache's nodes, whose ever they are.

    Raises:
        DeployError: the platform refused, with what to do.
    """
    wanted = set(names)
    with explained("list", "functions"):
        pages = client.get_paginator("list_functions").paginate()
        listed = [function["FunctionName"] for page in pages for function in page["Functions"]]
    return read_functions(client, scope, [name for name in listed if name in wanted or scope.is_node(name)])


def read_functions(client: LambdaClient, scope: Scope, names: Iterable[str]) -> dict[str, FunctionState]:
    """Those of ``names`` that exist.

    Raises:
        DeployError: the platform refused, with what to do.
    """
    with ThreadPoolExecutor(_READERS, thread_name_prefix="read-functions") as executor:
        found = executor.map(lambda name: read_function(client, scope, name), names)
        return {state.name: state for state in found if state is not None}


def read_function(client: LambdaClient, scope: Scope, name: str) -> FunctionState | None:
    """One function as it is; None if there is none.

    Raises:
        DeployError: the platform refused, with what to do.
    """
    with explained("read", f"function {name}"):
        try:
            answer: Any = client.get_function(FunctionName=name)
        except client.exceptions.ResourceNotFoundException:
            return None
    if "TagsError" in answer:  # without lambda:ListTags the call succeeds, and says nothing about tags
        detail = answer["TagsError"].get("Message", "its tags cannot be seen")
        advice = "Have lambda:ListTags allowed for these credentials: by its tags a function is known to be the cache's"
        raise PermissionMissing(
            operation="read", function=f"function {name}", detail=detail, action="lambda:ListTags", advice=advice
        )
    tags = dict(answer.get("Tags") or {})
    return FunctionState(
        name=name,
        arn=answer["Configuration"]["FunctionArn"],
        is_ours=scope.owns(tags),
        configuration=answer["Configuration"],
        tags=tags,
        reserved_concurrency=answer.get("Concurrency", {}).get("ReservedConcurrentExecutions"),
    )


class FunctionChanger:
    """I make changes of functions, and wait until each has taken effect. Several threads may use me at once.

    Args:
        pause, now_s: how time passes; tests replace them.
    """

    def __init__(
        self,
        client: LambdaClient,
        scope: Scope,
        code: CodeSpec,
        *,
        pause: Callable[[float], None] = time.sleep,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client: Any = client
        self._scope = scope
        self._code = code
        self._pause = pause
        self._now_s = now_s

    def apply(self, change: Change) -> None:
        """Make one change.

        Raises:
            DeployError: the platform refused, with what to do.
        """
        with explained(change.action.value, f"function {change.name}"):
            if change.action in (Action.DELETE, Action.REPLACE):
                self._delete(change.name)
            if change.action is Action.DELETE:
                return
            assert isinstance(change.spec, FunctionSpec)
            if change.action is Action.UPDATE:
                self._update(change.spec, change)
            else:
                self._create(change.spec)

    def _create(self, spec: FunctionSpec) -> None:
        request = {**_without_empty_vpc(spec.settings), "Architectures": [spec.architecture], "Tags": dict(spec.tags)}
        try:
            answer = self._patiently(
                spec,
                lambda: self._client.create_function(
                    FunctionName=spec.name, Code=code_request(self._code), Publish=False, **request
                ),
            )
        except self._client.exceptions.ResourceConflictException:
            self._adopt(spec)
            return
        if answer.get("State") != "Active":
            self._settle(spec.name)
        if spec.reserved_concurrency is not None:
            self._reserve(spec)

    def _adopt(self, spec: FunctionSpec) -> None:
        """It exists after all: made by another deploy, or by a request whose answer was lost."""
        state = read_function(self._client, self._scope, spec.name)
        if state is None or not state.is_ours:
            detail = "a function of this name that does not bear this cache's tags appeared meanwhile"
            raise NameTaken(
                operation="create", function=f"function {spec.name}", detail=detail,
                advice="Deploy under another name (--name), or remove that yourself",
            )  # fmt: skip
        if state.configuration.get("State") == "Pending":
            self._settle(spec.name)
        change = function_change(spec, state, self._code)
        if change is not None and change.action is Action.REPLACE:
            raise DeployError(
                operation="create", function=f"function {spec.name}", detail="; ".join(change.why), advice=AGAIN
            )
        if change is not None:
            self._update(spec, change)

    def _update(self, spec: FunctionSpec, change: Change) -> None:
        """Only what differs: an update costs a function its instances, and so their chunks."""
        assert isinstance(change.state, FunctionState)
        found = change.state.configuration
        if found.get("State") == "Pending" or found.get("LastUpdateStatus") == "InProgress":
            self._settle(spec.name)
        if Part.CODE in change.parts:
            self._settled(
                self._client.update_function_code(
                    FunctionName=spec.name, Architectures=[spec.architecture], **code_request(self._code)
                )
            )
        if Part.SETTINGS in change.parts:
            had_vpc = bool((found.get("VpcConfig") or {}).get("SubnetIds"))
            settings = spec.settings if had_vpc else _without_empty_vpc(spec.settings)
            self._settled(
                self._patiently(
                    spec, lambda: self._client.update_function_configuration(FunctionName=spec.name, **settings)
                )
            )
        if Part.TAGS in change.parts:
            self._client.tag_resource(Resource=change.state.arn, Tags=dict(spec.tags))
        if Part.CONCURRENCY in change.parts:
            self._reserve(spec)

    def _reserve(self, spec: FunctionSpec) -> None:
        if spec.reserved_concurrency is None:
            self._client.delete_function_concurrency(FunctionName=spec.name)
        else:
            self._client.put_function_concurrency(
                FunctionName=spec.name, ReservedConcurrentExecutions=spec.reserved_concurrency
            )

    def _delete(self, name: str) -> None:
        """If it is still the cache's: between the look and the deletion a person may have thought about it."""
        state = read_function(self._client, self._scope, name)
        if state is None or not state.is_ours:
            return
        with contextlib.suppress(self._client.exceptions.ResourceNotFoundException):
            self._client.delete_function(FunctionName=name)

    # ------------------------------------------------------------ waiting

    def _patiently(self, spec: FunctionSpec, call: Callable[[], Any]) -> Any:
        """A role that is made here may be refused for the moment only; one that was there before, for good."""
        is_made_here = spec.role_arn == self._scope.role_arn
        give_up_s = self._now_s() + (_ROLE_PATIENCE_S if is_made_here else 0.0)
        while True:
            try:
                return call()
            except ClientError as error:
                if not is_role_not_ready(error) or self._now_s() >= give_up_s:
                    raise
            self._pause(_PAUSE_S)

    def _settled(self, answer: Any) -> None:
        if answer.get("LastUpdateStatus") != "Successful":
            self._settle(answer["FunctionName"])

    def _settle(self, name: str) -> None:
        self._client.get_waiter("function_active_v2").wait(FunctionName=name)
        self._client.get_waiter("function_updated_v2").wait(FunctionName=name)


def _without_empty_vpc(settings: dict[str, Any]) -> dict[str, Any]:
    """An empty attachment is said only to take one away: some platforms have none."""
    return settings if settings["VpcConfig"]["SubnetIds"] else {k: v for k, v in settings.items() if k != "VpcConfig"}
