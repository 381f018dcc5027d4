"""What goes wrong between boto3 and AWS, and what users are told to do."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
from botocore import exceptions as boto
from botocore.exceptions import ClientError

from infiniray import errors
from infiniray.config import Config
from infiniray.errors import ClockSkewed, CredentialsMissing, PermissionMissing, WrongAccount, WrongRegion
from infiniray.faas.deploy.clients import connect_platform
from infiniray.faas.deploy.explain import explain


def test_a_refusal_that_quotes_settings_does_not_tell_the_secret() -> None:
    """As Lambda does when a function's environment is too large."""
    measured = 'exceeded the 4KB limit. String measured: {"INFINIRAY_SECRET":"0123456789abcdef","OTHER":"x"}'
    error = explain("change", "function f", answer("InvalidParameterValueException", measured))
    assert "4KB limit" in str(error)
    assert "0123" not in f"{error} {error!r} {error.__dict__}"


def answer(code: str, message: str = "no", operation: str = "CreateFunction", date_s: float = 0.0) -> ClientError:
    metadata = {"HTTPHeaders": {"date": formatdate(date_s, usegmt=True)}}
    return ClientError({"Error": {"Code": code, "Message": message}, "ResponseMetadata": metadata}, operation)  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (boto.NoCredentialsError(), errors.CredentialsMissing, "aws sso login"),
        (boto.ProfileNotFound(profile="p"), errors.CredentialsMissing, "AWS_PROFILE"),
        (answer("ExpiredToken"), errors.CredentialsMissing, "Sign in"),
        (answer("UnrecognizedClientException"), errors.CredentialsMissing, "region may have to be enabled"),
        (answer("AccessDenied", "User x is not authorized to perform: iam:CreateRole on resource: r"),
         errors.PermissionMissing, "Have iam:CreateRole allowed"),
        (answer("AccessDeniedException"), errors.PermissionMissing, "Have CreateFunction allowed"),
        (answer("TooManyRequestsException"), errors.PlatformThrottled, "do it again"),
        (answer("LimitExceeded", "Cannot exceed quota for RolesPerAccount: 1000"), errors.QuotaExceeded, "Quotas"),
        (answer("CodeStorageExceededException"), errors.QuotaExceeded, "Quotas"),
        (answer("InvalidParameterValueException", "decreases account's UnreservedConcurrentExecution below [100]"),
         errors.QuotaExceeded, "deploy.reserved_concurrency"),
        (answer("InvalidParameterValueException", "The role defined for the function cannot be assumed by Lambda."),
         errors.RoleUnusable, "trust policy"),
        (answer("PermanentRedirect"), errors.WrongRegion, "bucket"),
        (answer("NoSuchBucket"), errors.DeployError, "Make the bucket"),
        (answer("DeleteConflict"), errors.DeployError, "Detach"),
        (answer("EntityAlreadyExists"), errors.NameTaken, "deploy again"),
        (answer("ServiceException"), errors.DeployError, "completes it"),
        (boto.EndpointConnectionError(endpoint_url="https://x"), errors.DeployError, "platform.region"),
        (boto.WaiterError("w", "failed", {"Configuration": {"StateReason": "The subnet has no free address"}}),
         errors.DeployError, "The subnet has no free address. Mend that; what was done stays done"),
    ],
)  # fmt: skip
def test_each_error_says_what_to_do(error: Any, kind: type[Exception], says: str) -> None:
    explained = explain("create", "function c-node-0001", error)
    assert type(explained) is kind
    assert says in str(explained)
    assert "function c-node-0001" in str(explained) or "'function c-node-0001'" in str(explained)
    assert str(pickle.loads(pickle.dumps(explained))) == str(explained)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("InvalidSignatureException", "Signature expired: 20260101T000000Z is now earlier than 20260101T001500Z"),
        ("SignatureDoesNotMatch", "Signature not yet current: 20260101T003000Z is still later than ..."),
        ("RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
    ],
)
def test_a_clock_that_is_off_is_not_taken_for_bad_credentials(
    code: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infiniray.faas.deploy.explain.time.time", lambda: 1_000_900.0)
    explained = explain("connect", "AWS", answer(code, message, date_s=1_000_000.0))
    assert type(explained) is ClockSkewed
    assert "off by +900 s" in str(explained)
    wrong_key = explain("connect", "AWS", answer("SignatureDoesNotMatch", "Check your AWS Secret Access Key"))
    assert type(wrong_key) is CredentialsMissing


def test_the_missing_action_is_on_the_error() -> None:
    denied = answer("AccessDeniedException", "User: u is not authorized to perform: iam:PassRole on resource: r")
    explained = explain("create", "function f", denied)
    assert isinstance(explained, PermissionMissing)
    assert explained.action == "iam:PassRole"


MakeConfig = Callable[..., Config]


@pytest.mark.parametrize(
    ("region", "near"), [("us-est-1", "us-west-1"), ("eu_central-1", "eu-central-1"), ("moon", "us-east-1")]
)
def test_a_region_that_does_not_exist(aws: Any, make_config: MakeConfig, region: str, near: str) -> None:
    with pytest.raises(WrongRegion, match=near):
        connect_platform(make_config(platform={"region": region}))


def test_another_account_than_configured(aws: Any, make_config: MakeConfig) -> None:
    with pytest.raises(WrongAccount, match="are of account 123456789012"):
        connect_platform(make_config(deploy={"account": "999999999999"}))
    with pytest.raises(WrongAccount, match=r"deploy\.role"):
        connect_platform(make_config(deploy={"role": "arn:aws:iam::999999999999:role/r"}))
    connect_platform(make_config(deploy={"account": "123456789012"}))


def test_no_credentials_at_all(aws: Any, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsMissing, match="Sign in"):
        connect_platform(make_config())


def test_a_profile_that_does_not_exist(aws: Any, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(CredentialsMissing, match="nobody"):
        connect_platform(make_config())
