"""The role that functions run under: it may write its pool's logs, and nothing else."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any, cast

from infiniray.faas.deploy.explain import explained
from infiniray.faas.deploy.plan import Action, Change, Part
from infiniray.faas.deploy.resources import RoleSpec, RoleState
from infiniray.faas.deploy.scope import Scope

if TYPE_CHECKING:
    from mypy_boto3_iam import IAMClient

__all__ = ["apply_role", "read_role", "role_spec"]

_POLICY = "infiniray"
#: What the platform needs to attach a function to a VPC; of these, IAM lets few be bound to a resource.
#: https://docs.aws.amazon.com/lambda/latest/dg/configuration-vpc.html#configuration-vpc-permissions
_VPC_ACTIONS = [
    "ec2:AssignPrivateIpAddresses",
    "ec2:CreateNetworkInterface",
    "ec2:DeleteNetworkInterface",
    "ec2:DescribeNetworkInterfaces",
    "ec2:DescribeSubnets",
    "ec2:UnassignPrivateIpAddresses",
]


def role_spec(scope: Scope, *, in_vpc: bool) -> RoleSpec:
    """The execution role of a cache's functions."""
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    statements: list[dict[str, Any]] = [
        {  # not logs:CreateLogGroup: the group is made here, with its retention, and must not come back by itself
            "Sid": "WriteLogs",
            "Effect": "Allow",
            "Action": ["logs:CreateLogStream", "logs:PutLogEvents"],
            "Resource": f"{scope.log_group_arn}:*",
        }
    ]
    if in_vpc:
        statements += _vpc_statements(scope)
    return RoleSpec(
        name=scope.role_name,
        trust={"Version": "2012-10-17", "Statement": [trust]},
        permissions={"Version": "2012-10-17", "Statement": statements},
        tags=scope.tags,
    )


def _vpc_statements(scope: Scope) -> list[dict[str, Any]]:
    """For the platform, and not for the code that runs in the functions: AWS's own recipe (the page above)."""
    return [
        {"Sid": "AttachToVpc", "Effect": "Allow", "Action": _VPC_ACTIONS, "Resource": "*"},
        {
            "Sid": "NotFromWithin",
            "Effect": "Deny",
            "Action": _VPC_ACTIONS,
            "Resource": "*",
            "Condition": {"ArnLike": {"lambda:SourceFunctionArn": scope.functions_arn}},
        },
    ]


def read_role(iam: IAMClient, scope: Scope) -> RoleState | None:
    """The role of this cache's name as it is; None if there is none.

    Raises:
        DeployError: AWS refused, with what to do.
    """
    name = scope.role_name
    with explained("read", f"role {name}"):
        try:
            role = iam.get_role(RoleName=name)["Role"]
        except iam.exceptions.NoSuchEntityException:
            return None
        tags = {tag["Key"]: tag["Value"] for tag in role.get("Tags", ())}
        try:
            permissions = _document(iam.get_role_policy(RoleName=name, PolicyName=_POLICY)["PolicyDocument"])
        except iam.exceptions.NoSuchEntityException:
            permissions = None
    return RoleState(
        name=name,
        is_ours=scope.owns(tags),
        trust=_document(role["AssumeRolePolicyDocument"]),
        permissions=permissions,
        tags=tags,
    )


def _document(document: object) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(document) if isinstance(document, str) else document)


def apply_role(iam: IAMClient, scope: Scope, change: Change) -> None:
    """Make one change of the role.

    Raises:
        DeployError: AWS refused, with what to do.
    """
    with explained(change.action.value, f"role {change.name}"):
        if change.action is Action.DELETE:
            found = read_role(iam, scope)  # again: a person may have thought about it since
            if found is not None and found.is_ours:
                _delete(iam, found.name)
            return
        spec = change.spec
        assert isinstance(spec, RoleSpec)
        tags: Any = [{"Key": key, "Value": value} for key, value in spec.tags.items()]
        trust = json.dumps(spec.trust)
        if change.action is Action.CREATE:
            description = "InfiniRay: execution role of a cache's functions"
            iam.create_role(RoleName=spec.name, AssumeRolePolicyDocument=trust, Description=description, Tags=tags)
        if Part.TRUST in change.parts:
            iam.update_assume_role_policy(RoleName=spec.name, PolicyDocument=trust)
        if Part.TAGS in change.parts:
            iam.tag_role(RoleName=spec.name, Tags=tags)
        if change.action is Action.CREATE or Part.PERMISSIONS in change.parts:
            iam.put_role_policy(RoleName=spec.name, PolicyName=_POLICY, PolicyDocument=json.dumps(spec.permissions))


def _delete(iam: IAMClient, name: str) -> None:
    """With the one policy that is ours: what others have added, only they may take away."""
    with contextlib.suppress(iam.exceptions.NoSuchEntityException):
        iam.delete_role_policy(RoleName=name, PolicyName=_POLICY)
    with contextlib.suppress(iam.exceptions.NoSuchEntityException):
        iam.delete_role(RoleName=name)
