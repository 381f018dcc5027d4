"""The one log group of a cache's functions."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from infiniray.faas.deploy.explain import explained
from infiniray.faas.deploy.plan import Action, Change, Part
from infiniray.faas.deploy.resources import LogGroupSpec, LogGroupState
from infiniray.faas.deploy.scope import Scope

if TYPE_CHECKING:
    from mypy_boto3_logs import CloudWatchLogsClient

__all__ = ["apply_log_group", "read_log_group"]


def read_log_group(logs: CloudWatchLogsClient, scope: Scope) -> LogGroupState | None:
    """The log group of this cache's name as it is; None if there is none.

    Raises:
        DeployError: AWS refused, with what to do.
    """
    name, arn = scope.log_group, scope.log_group_arn
    with explained("read", f"log group {name}"):
        pages = logs.get_paginator("describe_log_groups").paginate(logGroupNamePrefix=name)
        found = next((group for page in pages for group in page["logGroups"] if group["logGroupName"] == name), None)
        if found is None:
            return None
        tags = logs.list_tags_for_resource(resourceArn=arn)["tags"]
    return LogGroupState(
        name=name, arn=arn, is_ours=scope.owns(tags), retention_days=found.get("retentionInDays"), tags=tags
    )


def apply_log_group(logs: CloudWatchLogsClient, scope: Scope, change: Change) -> None:
    """Make one change of the log group.

    Raises:
        DeployError: AWS refused, with what to do.
    """
    with explained(change.action.value, f"log group {change.name}"):
        if change.action is Action.DELETE:
            found = read_log_group(logs, scope)  # again: a person may have thought about it since
            if found is not None and found.is_ours:
                with contextlib.suppress(logs.exceptions.ResourceNotFoundException):
                    logs.delete_log_group(logGroupName=found.name)
            return
        spec = change.spec
        assert isinstance(spec, LogGroupSpec)
        if change.action is Action.CREATE:
            logs.create_log_group(logGroupName=spec.name, tags=dict(spec.tags))
        if Part.TAGS in change.parts:
            logs.tag_resource(resourceArn=spec.arn, tags=dict(spec.tags))
        if change.action is Action.CREATE or Part.RETENTION in change.parts:
            logs.put_retention_policy(logGroupName=spec.name, retentionInDays=spec.retention_days)
