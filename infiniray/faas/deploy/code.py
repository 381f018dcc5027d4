"""The agent's zip: what functions should run, and where it lies in a bucket if it goes through one."""

from __future__ import annotations

import base64
import hashlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from infiniray.faas.deploy.explain import code_of, explained
from infiniray.faas.deploy.plan import Action, Change
from infiniray.faas.deploy.resources import CodeSpec, CodeState
from infiniray.faas.deploy.scope import Scope
from infiniray.faas.package import agent_zip

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["apply_code", "code_request", "code_spec", "read_codes"]


def code_spec(scope: Scope, bucket: str | None) -> CodeSpec:
    """This installation's agent. In a bucket its key has its hash: other code never replaces what is in use."""
    data = agent_zip()
    digest = hashlib.sha256(data)
    return CodeSpec(
        data=data,
        sha256=base64.b64encode(digest.digest()).decode(),
        bucket=bucket,
        key="" if bucket is None else f"{scope.code_prefix}agent-{digest.hexdigest()[:16]}.zip",
        tags=scope.tags,
    )


def code_request(code: CodeSpec) -> dict[str, Any]:
    """As CreateFunction's ``Code`` and UpdateFunctionCode take it."""
    if code.bucket is None:
        return {"ZipFile": code.data}
    return {"S3Bucket": code.bucket, "S3Key": code.key}


def read_codes(s3: S3Client, scope: Scope, bucket: str, *, may_be_gone: bool = False) -> tuple[CodeState, ...]:
    """The zips that are in the bucket where this cache's go.

    Args:
        may_be_gone: no such bucket means no zips.

    Raises:
        DeployError: AWS refused, with what to do.
    """
    with explained("read", f"bucket {bucket}"):
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=scope.code_prefix)
        try:
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        except s3.exceptions.NoSuchBucket:
            if may_be_gone:
                return ()
            raise
        return tuple(CodeState(bucket=bucket, key=key, is_ours=scope.owns(_tags(s3, bucket, key))) for key in keys)


def _tags(s3: S3Client, bucket: str, key: str) -> dict[str, str]:
    """None at all, if somebody has deleted it meanwhile."""
    try:
        answer = s3.get_object_tagging(Bucket=bucket, Key=key)
    except s3.exceptions.ClientError as error:
        if code_of(error) != "NoSuchKey":
            raise
        return {}
    return {tag["Key"]: tag["Value"] for tag in answer["TagSet"]}


def apply_code(s3: S3Client, scope: Scope, change: Change) -> None:
    """Upload or delete one zip.

    Raises:
        DeployError: AWS refused, with what to do.
    """
    with explained(change.action.value, f"code {change.name}"):
        if change.action is Action.DELETE:
            assert isinstance(change.state, CodeState)
            bucket, key = change.state.bucket, change.state.key
            if scope.owns(_tags(s3, bucket, key)):  # again: a person may have thought about it since
                s3.delete_object(Bucket=bucket, Key=key)
            return
        spec = change.spec
        assert isinstance(spec, CodeSpec)
        assert spec.bucket is not None
        s3.put_object(Bucket=spec.bucket, Key=spec.key, Body=spec.data, Tagging=urlencode(spec.tags))
