"""What boto3 says went wrong, as errors that say what to do."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from infiniray.errors import (
    ClockSkewed,
    CredentialsMissing,
    DeployError,
    NameTaken,
    PermissionMissing,
    PlatformError,
    PlatformThrottled,
    QuotaExceeded,
    RoleUnusable,
    WrongRegion,
)
from infiniray.faas.deploy.hushing import without_secret

__all__ = ["AGAIN", "clock_skew_s", "code_of", "explain", "explained", "is_role_not_ready"]

AGAIN = "What was done stays done: `infiniray deploy` completes it, `infiniray undeploy` takes it away"
_SIGN_IN = "Sign in (aws sso login), or say which credentials to use: AWS_PROFILE, AWS_ACCESS_KEY_ID, an instance role"
_RETRY_AFTER_S = 1.0

_NO_CREDENTIALS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.ProfileNotFound,
)
_BAD_CREDENTIALS = {
    "AuthFailure", "ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId", "InvalidClientTokenId",
    "InvalidSignatureException", "InvalidToken", "SignatureDoesNotMatch", "UnrecognizedClientException",
}  # fmt: skip
_DENIED = {"403", "AccessDenied", "AccessDeniedException", "AuthorizationError", "Forbidden", "UnauthorizedOperation"}
_THROTTLED = {"RequestLimitExceeded", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequestsException"}
_QUOTA = {
    "CodeStorageExceededException", "LimitExceeded", "LimitExceededException", "ServiceQuotaExceededException",
}  # fmt: skip
_ELSEWHERE = {"301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
_SKEWED = {"RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed"}
_SKEWED_TEXT = re.compile(r"signature (expired|not yet current)", re.IGNORECASE)
_ACTION = re.compile(r"not authorized to perform:? ([a-zA-Z0-9-]+:\w+)")
#: What CreateFunction answers for the seconds in which a new role is not known everywhere yet.
_ROLE_TEXT = re.compile(r"cannot be assumed by Lambda|execution role does not have permissions", re.IGNORECASE)


@contextlib.contextmanager
def explained(operation: str, subject: str) -> Iterator[None]:
    """Within it, what boto3 raises becomes one of this project's errors. ``subject``: what it is done to."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise explain(operation, subject, error) from error


def code_of(error: Exception) -> str:
    """AWS's name of an error; empty if it has none."""
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, ClientError) else ""


def is_role_not_ready(error: ClientError) -> bool:
    """Whether a function was refused for its role: for ever, or for the moment if the role is new."""
    return code_of(error) == "InvalidParameterValueException" and bool(_ROLE_TEXT.search(str(error)))


def clock_skew_s(response: Any) -> float | None:
    """How far this machine's clock is ahead of the one that sent a response of boto3's; None if it does not say."""
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    try:
        return time.time() - parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return None


def explain(operation: str, subject: str, error: ClientError | BotoCoreError) -> PlatformError:
    """The error to raise in the place of ``error``."""
    where = {"operation": operation, "function": subject}
    if isinstance(error, ClientError):
        return _explain_answer(where, error)
    if isinstance(error, _NO_CREDENTIALS):
        return CredentialsMissing(**where, detail=_plain(error), advice=_SIGN_IN)
    if isinstance(error, (boto.NoRegionError, boto.InvalidRegionError, boto.UnknownRegionError)):
        return WrongRegion(**where, detail=_plain(error), advice="Set platform.region")
    if isinstance(error, boto.WaiterError):
        return _explain_waiting(where, error)
    if isinstance(error, (boto.HTTPClientError, boto.ConnectionError)):
        advice = "Check platform.region, platform.endpoint_url and this machine's network (proxy, VPC endpoints)"
        return DeployError(**where, detail=_plain(error), advice=f"{advice}. {AGAIN}")
    return DeployError(**where, detail=_plain(error), advice=AGAIN)


def _explain_answer(where: dict[str, str], error: ClientError) -> PlatformError:
    code, detail = code_of(error), _plain(error)
    if code in _SKEWED or (code in _BAD_CREDENTIALS and _SKEWED_TEXT.search(detail)):
        skew_s = clock_skew_s(error.response)
        told = f" (it is off by {skew_s:+.0f} s)" if skew_s is not None else ""
        return ClockSkewed(**where, detail=detail, advice=f"Set this machine's clock, with NTP{told}")
    if code in _BAD_CREDENTIALS:
        advice = f"{_SIGN_IN}. If they work elsewhere, the region may have to be enabled for the account first"
        return CredentialsMissing(**where, detail=detail, advice=advice)
    if code in _DENIED:
        found = _ACTION.search(detail)
        action = found[1] if found else error.operation_name
        advice = f"Have {action} allowed for these credentials, or use others. {AGAIN}"
        return PermissionMissing(**where, detail=detail, action=action, advice=advice)
    if code in _THROTTLED:
        detail = f"{detail}; the platform was asked too often, which passes: do it again in a moment"
        return PlatformThrottled(**where, detail=detail, retry_after_s=_RETRY_AFTER_S)
    if code in _QUOTA or "UnreservedConcurrentExecution below" in detail:
        advice = f"Ask for more under Service Quotas, or deploy less (pool.nodes, deploy.reserved_concurrency). {AGAIN}"
        return QuotaExceeded(**where, detail=detail, advice=advice)
    if code in _ELSEWHERE:
        return WrongRegion(**where, detail=detail, advice="The bucket must be in platform.region: choose one that is")
    if is_role_not_ready(error):
        advice = (
            "Its trust policy must name lambda.amazonaws.com, and with a VPC it must allow what `infiniray deploy` "
        )
        return RoleUnusable(**where, detail=detail, advice=f"{advice}gives the role that it makes itself")
    if code in ("EntityAlreadyExists", "ResourceAlreadyExistsException"):
        return NameTaken(**where, detail=detail, advice="Somebody else may be deploying this cache now: deploy again")
    if code == "NoSuchBucket":
        advice = "Make the bucket, or leave deploy.code_bucket out: the code is small enough to go with each function"
        return DeployError(**where, detail=detail, advice=advice)
    if code == "DeleteConflict":
        return DeployError(**where, detail=detail, advice="Detach what others have attached to it, and undeploy again")
    return DeployError(**where, detail=detail, advice=AGAIN)


def _explain_waiting(where: dict[str, str], error: boto.WaiterError) -> PlatformError:
    answer: Any = error.last_response if isinstance(error.last_response, dict) else {}
    found: dict[str, Any] = answer.get("Configuration", answer)
    reason = found.get("StateReason") or found.get("LastUpdateStatusReason") or _plain(error)
    return DeployError(**where, detail=f"{reason}".rstrip("."), advice=f"Mend that; {AGAIN[0].lower()}{AGAIN[1:]}")


def _plain(error: Exception) -> str:
    return without_secret(str(error)).strip().rstrip(".")
