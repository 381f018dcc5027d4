"""Connections to what is deployed to: AWS's services, or the embedded platform's one."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError

from infiniray.config import Config
from infiniray.errors import WrongAccount, WrongRegion
from infiniray.faas.deploy.explain import clock_skew_s, explain, explained
from infiniray.faas.deploy.hushing import hush
from infiniray.faas.deploy.scope import Scope
from infiniray.faas.local.functions import ACCOUNT

if TYPE_CHECKING:
    from mypy_boto3_iam import IAMClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_logs import CloudWatchLogsClient
    from mypy_boto3_s3 import S3Client

__all__ = ["AwsClients", "Clients", "connect_platform", "control_client", "scope_of"]

_CONNECTIONS = 32
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsClients:
    """What AWS has beside functions."""

    iam: IAMClient
    logs: CloudWatchLogsClient
    s3: S3Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """``aws`` is None on the embedded platform: there are functions, and nothing else.

    ``clock_skew_s``: how far this machine's clock is ahead of AWS's; None: not known.
    """

    functions: LambdaClient
    aws: AwsClients | None = None
    clock_skew_s: float | None = None


def control_client(endpoint_url: str | None, region: str) -> LambdaClient:
    """A client for the function API but Invoke: unlike an invocation, what it asks for may be tried again."""
    hush()
    arguments: dict[str, Any] = {"region_name": region, "config": _settings()}
    if endpoint_url is not None:
        arguments["endpoint_url"] = endpoint_url
        if urlsplit(endpoint_url).hostname in _LOOPBACK:
            arguments |= {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
    with explained("connect", "the function API"):
        client: LambdaClient = boto3.client("lambda", **arguments)
    return client


def _settings() -> BotoConfig:
    # the function API takes 15 changes a second: throttling is met by waiting
    return BotoConfig(
        retries={"mode": "standard", "total_max_attempts": 8},
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=_CONNECTIONS,
    )


def scope_of(config: Config, account: str = ACCOUNT) -> Scope:
    """Where ``config`` is deployed; on the embedded platform the account is always the same."""
    region = config.platform.region
    with explained("connect", f"region {region}"):
        partition = boto3.Session().get_partition_for_region(region) if config.platform.kind == "aws" else "aws"
    return Scope(
        cache=config.name,
        region=region,
        account=account,
        partition=partition,
        user_tags=config.deploy.tags,
    )


def connect_platform(config: Config) -> tuple[Clients, Scope]:
    """Connect to what ``config`` names, and find out whose it is.

    Raises:
        WrongRegion: there is no such region.
        CredentialsMissing: there are none, or AWS does not accept them.
        WrongAccount: they are another account's than ``deploy.account`` or ``deploy.role`` says.
        DeployError: AWS cannot be reached, or refuses; with what to do.
    """
    platform = config.platform
    if platform.kind == "local":
        return Clients(functions=control_client(platform.endpoint_url, platform.region)), scope_of(config)
    _check_region(platform.region)
    with explained("connect", "AWS"):
        session = boto3.Session(region_name=platform.region)
        identity = session.client("sts", config=_settings()).get_caller_identity()
        _check_account(config, identity["Account"], identity["Arn"])
        aws = AwsClients(
            iam=session.client("iam", config=_settings()),
            logs=session.client("logs", config=_settings()),
            s3=session.client("s3", config=_settings()),
        )
        functions = control_client(platform.endpoint_url, platform.region)
    clients = Clients(functions=functions, aws=aws, clock_skew_s=clock_skew_s(identity))
    return clients, scope_of(config, identity["Account"])


def _check_region(region: str) -> None:
    try:
        session = boto3.Session()
    except BotoCoreError as error:  # a profile that is named and not there
        raise explain("connect", "AWS", error) from error
    known = [
        name for partition in session.get_available_partitions()
        for name in session.get_available_regions("lambda", partition_name=partition)
    ]  # fmt: skip
    if region not in known:
        near = difflib.get_close_matches(region, known, n=1)
        advice = f"Set platform.region, perhaps to {near[0]}" if near else "Set platform.region, as us-east-1"
        detail = "the function API is in no such region"
        raise WrongRegion(operation="connect", function=f"region {region}", detail=detail, advice=advice)


def _check_account(config: Config, account: str, caller: str) -> None:
    wanted = config.deploy.account
    if wanted is not None and wanted != account:
        raise WrongAccount(
            operation="connect",
            function=f"account {wanted}",
            detail=f"the credentials are of account {account} ({caller}), deploy.account says {wanted}",
            advice="Choose the credentials of that account (AWS_PROFILE), or mend deploy.account",
        )
    role = config.deploy.role
    if role is not None and role.split(":")[4] != account:
        raise WrongAccount(
            operation="connect",
            function=f"role {role}",
            detail=f"functions of account {account} cannot run under a role of another",
            advice="Name a role of this account in deploy.role, or leave it out: one is made",
        )
