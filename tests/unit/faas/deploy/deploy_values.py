"""Specs and states for the tests of deploying."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from infiniray.faas.deploy.resources import (
    Actual,
    CodeSpec,
    CodeState,
    Desired,
    FunctionSpec,
    FunctionState,
    LogGroupSpec,
    LogGroupState,
    RoleSpec,
    RoleState,
)
from infiniray.faas.deploy.scope import Scope

SCOPE = Scope(cache="c", region="us-east-1", account="123456789012", user_tags={"team": "t"})
SECRET = "5e" * 32
CODE = CodeSpec(data=b"zip", sha256="sha", bucket="b", key=SCOPE.code_prefix + "sha.zip", tags=SCOPE.tags)
ROLE = RoleSpec(name=SCOPE.role_name, trust={"t": 1}, permissions={"p": 1}, tags=SCOPE.tags)
LOGS = LogGroupSpec(name=SCOPE.log_group, arn=SCOPE.log_group_arn, retention_days=7, tags=SCOPE.tags)


def function(index: int = 0, **changes: Any) -> FunctionSpec:
    spec = FunctionSpec(
        name=f"c-node-{index:04}", role_arn=SCOPE.role_arn, handler="h.f", memory_mb=1024, timeout_s=60,
        architecture="x86_64", environment={"INFINIRAY_SECRET": SECRET, "INFINIRAY_RESERVE_MB": "128"},
        tags=SCOPE.tags, log_group=SCOPE.log_group,
    )  # fmt: skip
    return replace(spec, **changes)


def desired(n_functions: int = 3, **changes: Any) -> Desired:
    functions = tuple(function(i) for i in range(n_functions))
    return replace(Desired(code=CODE, functions=functions, role=ROLE, log_group=LOGS), **changes)


def state_of(spec: FunctionSpec, **configuration: Any) -> FunctionState:
    """The function as it is once ``spec`` is fulfilled, or but for ``configuration``."""
    settled = {"State": "Active", "LastUpdateStatus": "Successful", "CodeSha256": CODE.sha256}
    settled |= {"Architectures": [spec.architecture], **spec.settings, **configuration}
    return FunctionState(
        name=spec.name, arn=f"arn:{spec.name}", is_ours=True, configuration=settled, tags=spec.tags,
        reserved_concurrency=spec.reserved_concurrency,
    )  # fmt: skip


def actual_of(wanted: Desired) -> Actual:
    """All as it is wanted."""
    return Actual(
        functions={spec.name: state_of(spec) for spec in wanted.functions},
        role=RoleState(
            name=ROLE.name, is_ours=True, trust=ROLE.trust, permissions=ROLE.permissions, tags={**ROLE.tags, "x": "y"}
        ),
        log_group=LogGroupState(
            name=LOGS.name, arn=LOGS.arn, is_ours=True, retention_days=LOGS.retention_days, tags=LOGS.tags
        ),
        codes=(CodeState(bucket="b", key=CODE.key, is_ours=True),),
    )
