"""Changing functions where the platform takes its time: roles that are not known yet, answers that were lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from deploy_values import CODE, SCOPE, function, state_of

from infiniray.errors import DeployError, NameTaken, PermissionMissing, RoleUnusable
from infiniray.faas.deploy.functions import FunctionChanger, read_function
from infiniray.faas.deploy.plan import Action, Change, Kind, Part

NOT_YET = ("InvalidParameterValueException", "The role defined for the function cannot be assumed by Lambda.")
OTHER = ("InvalidParameterValueException", "Layers are not welcome")
THERE = ("ResourceConflictException", "Function already exist: c-node-0000")


class ScriptedLambda:
    """Answers what it was told to, in order, and keeps what it was asked."""

    exceptions = boto3.client("lambda", region_name="us-east-1").exceptions

    def __init__(self, **answers: list[Any]) -> None:
        self._answers = answers
        self.asked: list[str] = []
        self.waits: list[str] = []

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**_: Any) -> Any:
            self.asked.append(operation)
            answer = self._answers[operation].pop(0) if self._answers.get(operation) else {}
            if isinstance(answer, tuple):
                kind = self.exceptions.from_code(answer[0])
                raise kind({"Error": {"Code": answer[0], "Message": answer[1]}}, operation)
            return answer

        return call

    def get_waiter(self, name: str) -> Any:
        lambda_ = self

        class Waiter:
            def wait(self, **_: Any) -> None:
                lambda_.waits.append(name)

        return Waiter()


class Time:
    def __init__(self) -> None:
        self.now_s = 0.0

    def pause(self, seconds: float) -> None:
        self.now_s += seconds


def changer(client: ScriptedLambda, time: Time) -> FunctionChanger:
    return FunctionChanger(client, SCOPE, CODE, pause=time.pause, now_s=lambda: time.now_s)  # type: ignore[arg-type]


CREATE = Change(action=Action.CREATE, kind=Kind.FUNCTION, name="c-node-0000", spec=function())


def described(owned: bool = True, **configuration: Any) -> dict[str, Any]:
    """As GetFunction answers."""
    state = state_of(function(), FunctionArn="arn", **configuration)
    return {"Configuration": dict(state.configuration), "Tags": dict(state.tags) if owned else {}}


def test_a_new_role_is_waited_for_and_then_the_function() -> None:
    client, time = ScriptedLambda(create_function=[NOT_YET, NOT_YET, {"State": "Pending"}]), Time()
    changer(client, time).apply(CREATE)
    assert client.asked == ["create_function"] * 3
    assert client.waits == ["function_active_v2", "function_updated_v2"]


def test_a_role_that_never_works_is_given_up() -> None:
    client, time = ScriptedLambda(create_function=[NOT_YET] * 1000), Time()
    with pytest.raises(RoleUnusable):
        changer(client, time).apply(CREATE)
    assert time.now_s == 60.0


@pytest.mark.parametrize(
    ("refusal", "role_arn", "kind"),
    [(NOT_YET, "arn:aws:iam::123456789012:role/mine", RoleUnusable), (OTHER, SCOPE.role_arn, DeployError)],
)
def test_a_role_of_the_users_is_not_waited_for_nor_any_other_refusal(
    refusal: tuple[str, str], role_arn: str, kind: type[Exception]
) -> None:
    client = ScriptedLambda(create_function=[refusal, {"State": "Active"}])
    spec = function(0, role_arn=role_arn)
    with pytest.raises(kind):
        changer(client, Time()).apply(replace(CREATE, spec=spec))
    assert client.asked == ["create_function"]


def test_a_function_whose_creation_was_answered_too_late_and_failed_is_not_taken_for_made() -> None:
    failed = described(State="Failed", StateReason="no addresses left in the subnet")
    client = ScriptedLambda(create_function=[THERE], get_function=[failed])
    with pytest.raises(DeployError, match=r"no addresses left in the subnet.*infiniray deploy"):
        changer(client, Time()).apply(CREATE)


def test_a_function_whose_creation_was_answered_too_late_is_taken_over_and_mended() -> None:
    client = ScriptedLambda(
        create_function=[THERE], get_function=[described(MemorySize=128)],
        update_function_configuration=[{"LastUpdateStatus": "Successful"}],
    )  # fmt: skip
    changer(client, Time()).apply(CREATE)
    assert client.asked == ["create_function", "get_function", "update_function_configuration"]


def test_a_strangers_function_that_appears_meanwhile_is_not_touched() -> None:
    client = ScriptedLambda(create_function=[THERE], get_function=[described(owned=False, MemorySize=128)])
    with pytest.raises(NameTaken):
        changer(client, Time()).apply(CREATE)
    assert client.asked == ["create_function", "get_function"]


def test_an_update_under_way_is_waited_for_before_the_next_begins() -> None:
    state = state_of(function(), LastUpdateStatus="InProgress", CodeSha256="old")
    change = Change(
        action=Action.UPDATE, kind=Kind.FUNCTION, name=state.name, spec=function(), state=state,
        parts=frozenset({Part.CODE, Part.SETTINGS}),
    )  # fmt: skip
    busy = {"LastUpdateStatus": "InProgress", "FunctionName": state.name}
    client = ScriptedLambda(update_function_code=[busy], update_function_configuration=[busy])
    changer(client, Time()).apply(change)
    assert client.asked == ["update_function_code", "update_function_configuration"]
    assert client.waits == ["function_active_v2", "function_updated_v2"] * 3


def test_tags_that_may_not_be_seen_are_an_error_not_a_stranger() -> None:
    hidden = {**described(), "TagsError": {"ErrorCode": "AccessDeniedException", "Message": "no lambda:ListTags"}}
    client: Any = ScriptedLambda(get_function=[hidden])
    with pytest.raises(PermissionMissing) as caught:
        read_function(client, SCOPE, "c-node-0000")
    assert caught.value.action == "lambda:ListTags"


def test_a_function_that_vanishes_during_its_deletion_is_deleted() -> None:
    client = ScriptedLambda(get_function=[described()], delete_function=[("ResourceNotFoundException", "gone")])
    changer(client, Time()).apply(Change(action=Action.DELETE, kind=Kind.FUNCTION, name="c-node-0000"))
    assert client.asked == ["get_function", "delete_function"]
    assert issubclass(client.exceptions.ResourceNotFoundException, ClientError)
