"""S3, or what speaks its protocol, as a target and as a backing store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from workloads.errors import TargetFailed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["S3Spec", "S3Store", "S3Target"]

_MAX_CONNECTIONS = 256
_ABSENT = ("404", "NoSuchKey")


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Spec:
    """Keys of a bucket that begin with ``prefix``. Credentials and region are boto3's: of each worker's environment."""

    bucket: str
    prefix: str = ""
    endpoint_url: str | None = None
    system: str = "s3"

    def open(self) -> S3Target:
        return S3Target(self)


class S3Target:
    """GetObject, PutObject and DeleteObject, each one request."""

    def __init__(self, spec: S3Spec) -> None:
        """Raises TargetFailed if the bucket cannot be reached."""
        import boto3
        import botocore.exceptions
        from botocore.config import Config

        self._errors = (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)
        self._spec = spec
        retries: Any = {"mode": "standard", "max_attempts": 3}
        config = Config(max_pool_connections=_MAX_CONNECTIONS, retries=retries)
        try:
            self._client: S3Client = boto3.client("s3", endpoint_url=spec.endpoint_url, config=config)
            self._client.head_bucket(Bucket=spec.bucket)
        except self._errors as error:
            raise TargetFailed(system=spec.system, detail=f"bucket {spec.bucket!r}: {error}") from None

    def get(self, key: str) -> bytes:
        try:
            return self._client.get_object(Bucket=self._spec.bucket, Key=self._name(key))["Body"].read()
        except self._errors as error:
            self._raise(error, key)

    def put(self, key: str, value: Any) -> None:
        body = memoryview(value).tobytes()  # boto3 wants to read it twice: once for the checksum
        try:
            self._client.put_object(Bucket=self._spec.bucket, Key=self._name(key), Body=body)
        except self._errors as error:
            self._raise(error, key)

    def size_bytes(self, key: str) -> int:
        """Size of the object. Raises KeyError if it is not there, TargetFailed if S3 failed."""
        try:
            return self._client.head_object(Bucket=self._spec.bucket, Key=self._name(key))["ContentLength"]
        except self._errors as error:
            self._raise(error, key)

    def delete(self, key: str) -> None:
        try:
            self._client.delete_object(Bucket=self._spec.bucket, Key=self._name(key))
        except self._errors as error:
            self._raise(error, key)

    def close(self) -> None:
        self._client.close()

    def _name(self, key: str) -> str:
        return self._spec.prefix + key

    def _raise(self, error: Exception, key: str) -> NoReturn:
        if getattr(error, "response", {}).get("Error", {}).get("Code") in _ABSENT:
            raise KeyError(key) from None
        raise TargetFailed(system=self._spec.system, detail=str(error)) from None


class S3Store:
    """The same as an :class:`workloads.backing.ObjectStore`: an application's objects, behind a cache."""

    def __init__(self, spec: S3Spec) -> None:
        self._target = spec.open()

    def get(self, key: str) -> npt.NDArray[np.uint8] | None:
        try:
            return np.frombuffer(self._target.get(key), np.uint8)
        except KeyError:
            return None
        except TargetFailed as error:
            raise OSError(str(error)) from None

    def put(self, key: str, value: Any) -> None:
        try:
            self._target.put(key, value)
        except TargetFailed as error:
            raise OSError(str(error)) from None

    def size_bytes(self, key: str) -> int | None:
        try:
            return self._target.size_bytes(key)
        except KeyError:
            return None
        except TargetFailed as error:
            raise OSError(str(error)) from None

    def close(self) -> None:
        self._target.close()
