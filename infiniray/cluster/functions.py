"""The pool's functions on the platform: created, updated, deleted through boto3."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from infiniray.errors import PlatformError, PlatformThrottled
from infiniray.faas.package import AGENT_HANDLER, agent_zip

__all__ = ["FunctionPool"]

_RUNTIME = "python3.12"
#: The embedded platform does not look at roles; the API wants one.
LOCAL_ROLE = "arn:aws:iam::000000000000:role/infiniray"
_PARALLEL = 8
_RETRY_AFTER_S = 1.0


class FunctionPool:
    """I make the functions of a pool exist, all alike, and go away again.

    Args:
        client: a boto3 Lambda client; it is used from several threads, as boto3 allows.
        secret: what shards and nodes prove each other's right with.
    """

    def __init__(
        self,
        client: Any,
        names: Iterable[str],
        *,
        role: str,
        memory_mb: int,
        reserve_mb: int,
        timeout_s: float,
        secret: str,
    ) -> None:
        self._client = client
        self.names = tuple(names)
        self._role = role
        self._settings = {
            "Handler": AGENT_HANDLER,
            "Runtime": _RUNTIME,
            "MemorySize": memory_mb,
            "Timeout": max(1, round(timeout_s)),
            "Environment": {"Variables": {"INFINIRAY_SECRET": secret, "INFINIRAY_RESERVE_MB": str(reserve_mb)}},
        }

    def ensure(self) -> None:
        """Create those that are missing and bring the others up to date. Doing it again changes nothing.

        Raises:
            PlatformError: the platform refused.
        """
        code = agent_zip()
        self._each(lambda name: self._ensure(name, code))

    def delete(self) -> None:
        """Delete all that exist.

        Raises:
            PlatformError: the platform refused.
        """
        self._each(self._delete)

    def _each(self, act: Callable[[str], None]) -> None:
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="functions") as executor:
            list(executor.map(act, self.names))

    def _ensure(self, name: str, code: bytes) -> None:
        try:
            self._client.create_function(
                FunctionName=name, Role=self._role, Code={"ZipFile": code}, Publish=False, **self._settings
            )
            self._client.get_waiter("function_active_v2").wait(FunctionName=name)
        except self._client.exceptions.ResourceConflictException:  # it is there
            self._update(name, code)
        except (ClientError, BotoCoreError) as error:
            raise _platform_error("creation", name, error) from error

    def _update(self, name: str, code: bytes) -> None:
        """Only what differs: an update costs a function its instances, and so their chunks."""
        settled = self._client.get_waiter("function_updated_v2")
        try:
            current = self._client.get_function_configuration(FunctionName=name)
            if current["CodeSha256"] != base64.b64encode(hashlib.sha256(code).digest()).decode():
                self._client.update_function_code(FunctionName=name, ZipFile=code)
                settled.wait(FunctionName=name)
            if any(current.get(setting) != value for setting, value in self._settings.items()):
                self._client.update_function_configuration(FunctionName=name, **self._settings)
                settled.wait(FunctionName=name)
        except (ClientError, BotoCoreError) as error:
            raise _platform_error("update", name, error) from error

    def _delete(self, name: str) -> None:
        try:
            self._client.delete_function(FunctionName=name)
        except self._client.exceptions.ResourceNotFoundException:
            pass
        except (ClientError, BotoCoreError) as error:
            raise _platform_error("deletion", name, error) from error


def _platform_error(operation: str, function: str, error: ClientError | BotoCoreError) -> PlatformError:
    if isinstance(error, ClientError) and error.response["Error"].get("Code") == "TooManyRequestsException":
        return PlatformThrottled(
            operation=operation, function=function, detail=f"{error}", retry_after_s=_RETRY_AFTER_S
        )
    return PlatformError(operation=operation, function=function, detail=f"{error}")
