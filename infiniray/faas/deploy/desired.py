"""What a configuration asks for."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Iterable

from infiniray.config import Config
from infiniray.faas.deploy.code import code_spec
from infiniray.faas.deploy.resources import RESERVE_MB, SECRET, Actual, Desired, FunctionSpec, LogGroupSpec
from infiniray.faas.deploy.role import role_spec
from infiniray.faas.deploy.scope import TAG_BUCKETS, Scope, node_names
from infiniray.faas.package import AGENT_HANDLER

__all__ = ["LOCAL_ROLE", "desired_of", "function_specs", "kept_secret"]

#: The embedded platform does not look at roles; the API wants one.
LOCAL_ROLE = "arn:aws:iam::000000000000:role/infiniray"


def kept_secret(actual: Actual) -> str:
    """The pool's secret, as hex: the one that most of its functions have, so that the fewest lose what they hold; or a
    new one for a new pool."""
    ours = [actual.functions[name] for name in sorted(actual.functions) if actual.functions[name].is_ours]
    found = Counter(state.environment.get(SECRET, "") for state in ours)
    usable = (secret for secret, _ in found.most_common() if re.fullmatch(r"(?:[0-9a-f]{2}){16,}", secret))
    return next(usable, None) or secrets.token_hex(32)


def desired_of(config: Config, scope: Scope, actual: Actual) -> Desired:
    """All that ``infiniray deploy`` makes of ``config``; on the embedded platform, functions alone.

    What was chosen once and must stay comes from ``actual``: the secret, where code may still lie.
    """
    deploy, is_aws = config.deploy, config.platform.kind == "aws"
    makes_role = is_aws and deploy.role is None
    buckets = {code.bucket for code in actual.codes if code.is_ours} | {deploy.code_bucket or ""} - {""}
    log_group = LogGroupSpec(
        name=scope.log_group,
        arn=scope.log_group_arn,
        retention_days=deploy.log_retention_days,
        tags=scope.tags | ({TAG_BUCKETS: " ".join(sorted(buckets))} if buckets else {}),
    )
    return Desired(
        code=code_spec(scope, deploy.code_bucket if is_aws else None),
        functions=function_specs(config, scope, node_names(config), kept_secret(actual)),
        role=role_spec(scope, in_vpc=bool(deploy.subnets)) if makes_role else None,
        log_group=log_group if is_aws else None,
    )


def function_specs(config: Config, scope: Scope, names: Iterable[str], secret: str) -> tuple[FunctionSpec, ...]:
    """One function for each name, all alike."""
    pool, deploy, is_aws = config.pool, config.deploy, config.platform.kind == "aws"
    role_arn = (deploy.role or scope.role_arn) if is_aws else LOCAL_ROLE
    return tuple(
        FunctionSpec(
            name=name,
            role_arn=role_arn,
            handler=AGENT_HANDLER,
            memory_mb=pool.memory_mb,
            timeout_s=max(1, round(pool.timeout_s)),
            architecture=deploy.architecture,
            environment={SECRET: secret, RESERVE_MB: str(pool.reserve_mb)},
            tags=scope.tags,
            subnets=deploy.subnets if is_aws else (),
            security_groups=deploy.security_groups if is_aws else (),
            log_group=scope.log_group if is_aws else None,
            reserved_concurrency=deploy.reserved_concurrency,
        )
        for name in names
    )
