"""One cache's deployment: what the commands ``deploy``, ``undeploy`` and ``doctor`` work with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

from infiniray.config import Config
from infiniray.errors import QuotaExceeded
from infiniray.faas.deploy.adopt import MIXED_SECRETS
from infiniray.faas.deploy.apply import OnDone, apply
from infiniray.faas.deploy.clients import Clients, connect_platform
from infiniray.faas.deploy.code import code_spec, read_codes
from infiniray.faas.deploy.desired import desired_of
from infiniray.faas.deploy.functions import find_functions
from infiniray.faas.deploy.host_policy import host_policy
from infiniray.faas.deploy.logs import read_log_group
from infiniray.faas.deploy.plan import Plan, plan_deploy, plan_undeploy
from infiniray.faas.deploy.resources import SECRET, Actual, CodeState, Desired, LogGroupState
from infiniray.faas.deploy.role import read_role
from infiniray.faas.deploy.scope import TAG_BUCKETS, Scope, node_names

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["DeployPlan", "Deployment"]

#: AWS leaves that much of an account's concurrency unreserved:
#: https://docs.aws.amazon.com/lambda/latest/dg/configuration-concurrency.html
_UNRESERVED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployPlan:
    """What ``deploy`` would do, and for what. ``warnings`` hinder nothing."""

    plan: Plan
    desired: Desired
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """I know a configuration and the platform that it names; what is there, I look up whenever I am asked.

    Raises (from every method):
        DeployError: the platform refused or cannot be reached; each says what to do.
    """

    config: Config
    clients: Clients
    scope: Scope

    @classmethod
    def connect(cls, config: Config) -> Deployment:
        """Raises: as :func:`~infiniray.faas.deploy.clients.connect_platform`."""
        clients, scope = connect_platform(config)
        return cls(config=config, clients=clients, scope=scope)

    def read(self) -> Actual:
        """What is there."""
        functions = find_functions(self.clients.functions, self.scope, node_names(self.config))
        aws = self.clients.aws
        if aws is None:
            return Actual(functions=functions)
        log_group = read_log_group(aws.logs, self.scope)
        return Actual(
            functions=functions,
            role=read_role(aws.iam, self.scope),
            log_group=log_group,
            codes=tuple(self._codes(aws.s3, log_group)),
        )

    def _codes(self, s3: S3Client, log_group: LogGroupState | None) -> Iterator[CodeState]:
        """The zips in the bucket that is configured, and in those that were."""
        chosen = self.config.deploy.code_bucket
        if chosen is not None:
            yield from read_codes(s3, self.scope, chosen)
        if log_group is not None and log_group.is_ours:
            former = set(log_group.tags.get(TAG_BUCKETS, "").split()) - {chosen}
            for bucket in sorted(former):
                yield from read_codes(s3, self.scope, bucket, may_be_gone=True)

    def plan(self) -> DeployPlan:
        """What ``deploy`` would do.

        Raises:
            NameTaken: something that is not this cache's has a name that is needed.
            QuotaExceeded: the account's quota does not allow the reserved concurrency.
        """
        actual = self.read()
        desired = desired_of(self.config, self.scope, actual)
        plan = plan_deploy(desired, actual)
        return DeployPlan(plan=plan, desired=desired, warnings=(*_warn_of_secrets(actual), *self._warnings(actual)))

    def plan_removal(self) -> Plan:
        """What ``undeploy`` would do."""
        return plan_undeploy(self.read())

    def deploy(self, planned: DeployPlan, on_done: OnDone = lambda _: None) -> None:
        """Do what was planned; ``on_done`` is told of each change."""
        apply(planned.plan, self.clients, self.scope, planned.desired.code, on_done)

    def undeploy(self, plan: Plan, on_done: OnDone = lambda _: None) -> None:
        """Do what was planned; ``on_done`` is told of each change."""
        apply(plan, self.clients, self.scope, code_spec(self.scope, bucket=None), on_done)

    def host_policy(self, *, rotates: bool = False) -> dict[str, Any]:
        """The policy that the shards' hosts need, as a document; ``rotates``: for changing the secret, too."""
        return host_policy(self.scope, rotates=rotates)

    # ------------------------------------------------------------ quotas

    def _warnings(self, actual: Actual) -> tuple[str, ...]:
        if self.clients.aws is None:
            return ()
        try:
            limits = self.clients.functions.get_account_settings()["AccountLimit"]
        except (ClientError, BotoCoreError) as error:
            return (f"the account's concurrency quota is not known, and so not checked: {error}",)
        unreserved = limits["UnreservedConcurrentExecutions"]
        return tuple(_check_concurrency(self.config, actual, limits["ConcurrentExecutions"], unreserved))


def _warn_of_secrets(actual: Actual) -> Iterator[str]:
    """A deploy gives all functions one secret at once. In the middle of a rotation that would empty many of them."""
    n_secrets = len({state.environment.get(SECRET) for state in actual.functions.values() if state.is_ours})
    if n_secrets > 1:
        yield f"functions have {n_secrets} secrets. {MIXED_SECRETS}"


def _check_concurrency(config: Config, actual: Actual, limit: int, unreserved: int) -> list[str]:
    """Refuse what the quota cannot hold; warn of what it will throttle."""
    n_nodes, each = config.pool.nodes, config.deploy.reserved_concurrency
    if each is None:
        if n_nodes > unreserved:
            return [
                f"{n_nodes} nodes and room for {unreserved} concurrent executions (of {limit}): a large read or a "
                "warm-up may be throttled; ask for more under Service Quotas, AWS Lambda, concurrent executions"
            ]
        return []
    ours = sum(state.reserved_concurrency or 0 for state in actual.functions.values() if state.is_ours)
    needed, free = n_nodes * each, unreserved + ours - _UNRESERVED
    if needed > free:
        raise QuotaExceeded(
            operation="deploy",
            function="the account's concurrency",
            detail=f"{n_nodes} nodes with {each} reserved each need {needed}, and {max(0, free)} of {limit} are free",
            advice="Ask for more under Service Quotas (AWS Lambda, concurrent executions), or lower pool.nodes or "
            "deploy.reserved_concurrency",
        )
    return []
