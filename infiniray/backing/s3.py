"""S3, and what speaks like it, as a store: boto3, since s3fs wants an older botocore than boto3 does.

Large objects are read by several ranged GETs straight into place, and written by multipart uploads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
from botocore import UNSIGNED
from botocore.config import Config as BotoConfig
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as BotoConnectionError
from urllib3.exceptions import HTTPError

from infiniray.backing.store import Octets, Refused, Replaced, Stat, Unreachable, blocks
from infiniray.errors import ConfigError
from infiniray.faas.deploy.explain import clock_skew_s

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["S3Store"]

#: One stream from S3 carries some 85 MB/s: what is larger than a part travels in parts, side by side.
#: https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance-guidelines.html
_PART_BYTES = 16 << 20
_STREAMS = 8
_MOST_PARTS = 10_000
_CONNECTIONS = 64
_ATTEMPTS = 3
_ABSENT = ("404", "NoSuchKey", "NotFound")
_REPLACED = ("412", "PreconditionFailed", *_ABSENT)
#: What the same request may succeed after, beside all that has a status of 500 or more.
_PASSING = ("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "RequestTimeout", "429")
_BAD_CREDENTIALS = (
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
)
#: S3 takes what is signed up to a quarter of an hour off.
_SKEW_S = 600.0
_BROKEN = (HTTPClientError, BotoConnectionError, IncompleteReadError, HTTPError, OSError)
_SESSION_OPTIONS = {"profile_name", "region_name", "aws_access_key_id", "aws_secret_access_key", "aws_session_token"}
_CLIENT_OPTIONS = {"endpoint_url", "verify"}
_OPTIONS = _SESSION_OPTIONS | _CLIENT_OPTIONS | {"anonymous"}


class S3Store:
    """I keep each object of the store in one object of ``bucket``, below ``prefix``."""

    def __init__(self, client: S3Client, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    @classmethod
    def of(cls, path: str, options: dict[str, Any], *, timeout_s: float) -> S3Store:
        """Of ``BUCKET/PREFIX``; credentials come as boto3 finds them, or are among the options.

        Raises:
            ConfigError: an option is not known, or none can be used as it is.
        """
        bucket, _, prefix = path.partition("/")
        unknown = sorted(set(options) - _OPTIONS)
        if unknown or not bucket:
            detail = f"backing.options: s3 takes {', '.join(sorted(_OPTIONS))}; not {', '.join(unknown)}"
            raise ConfigError(detail=detail if unknown else "backing.url: s3://BUCKET/PREFIX names a bucket")
        settings = BotoConfig(
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            connect_timeout=min(5.0, timeout_s),
            read_timeout=timeout_s,
            max_pool_connections=_CONNECTIONS,
            signature_version=UNSIGNED if options.get("anonymous") else None,
        )
        try:
            session = boto3.Session(**{k: v for k, v in options.items() if k in _SESSION_OPTIONS})
            chosen = {k: v for k, v in options.items() if k in _CLIENT_OPTIONS}
            client: S3Client = session.client("s3", config=settings, **chosen)
        except (BotoCoreError, ValueError) as error:
            raise ConfigError(detail=f"backing: {error}") from None
        return cls(client, bucket, prefix.strip("/"))

    def check(self) -> None:
        with _explained():
            try:
                self._client.head_bucket(Bucket=self._bucket)
            except ClientError as error:
                if _code(error) in (*_ABSENT, "NoSuchBucket"):
                    raise Refused(f"there is no bucket {self._bucket!r}") from None
                if _code(error) != "403" or _is_skewed(error):  # who may not list a bucket may be allowed to read it
                    raise

    def stat(self, name: str) -> Stat | None:
        with _explained():
            try:
                found = self._client.head_object(Bucket=self._bucket, Key=self._prefix + name)
            except ClientError as error:
                if _code(error) in _ABSENT:
                    return None
                raise
            return Stat(n_bytes=found["ContentLength"], version=found["ETag"])

    def read(self, name: str, stat: Stat) -> Octets:
        data = np.empty(stat.n_bytes, np.uint8)
        whole = memoryview(data)  # type: ignore[arg-type]

        def fetch(start: int) -> None:
            self._fetch(name, stat.version, start, whole[start : start + _PART_BYTES])

        with _explained():
            _side_by_side(fetch, range(0, stat.n_bytes, _PART_BYTES))
        return data

    def _fetch(self, name: str, version: str, start: int, into: memoryview) -> None:
        try:
            answer = self._client.get_object(
                Bucket=self._bucket,
                Key=self._prefix + name,
                IfMatch=version,
                Range=f"bytes={start}-{start + into.nbytes - 1}",
            )
        except ClientError as error:
            if _code(error) in _REPLACED:
                raise Replaced from None
            raise
        with contextlib.closing(answer["Body"]) as body:
            at = 0
            while at < into.nbytes:
                n = body.readinto(into[at:])  # type: ignore[arg-type]
                if not n:
                    raise Unreachable(f"the answer ended after {start + at:,} bytes")
                at += n

    def write(self, name: str, parts: Sequence[memoryview]) -> None:
        n_bytes = sum(part.nbytes for part in parts)
        with _explained():
            if n_bytes > _PART_BYTES:
                self._upload(name, parts, n_bytes)
            else:
                [body] = blocks(parts, _PART_BYTES)
                self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=body)

    def _upload(self, name: str, parts: Sequence[memoryview], n_bytes: int) -> None:
        where: Any = {"Bucket": self._bucket, "Key": self._prefix + name}
        upload: Any = {**where, "UploadId": self._client.create_multipart_upload(**where)["UploadId"]}

        def send(numbered: tuple[int, bytes]) -> dict[str, Any]:
            number, body = numbered
            answer = self._client.upload_part(**upload, PartNumber=number, Body=body)
            return {"PartNumber": number, "ETag": answer["ETag"]}

        part_bytes = max(_PART_BYTES, -(-n_bytes // _MOST_PARTS))
        try:
            sent = _in_turns(send, enumerate(blocks(parts, part_bytes), start=1))
            self._client.complete_multipart_upload(**upload, MultipartUpload={"Parts": sent})
        except BaseException:
            with contextlib.suppress(BotoCoreError, ClientError):  # what stays costs money, until a lifecycle rule
                self._client.abort_multipart_upload(**upload)
            raise

    def delete(self, name: str) -> None:
        with _explained():
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    def close(self) -> None:
        self._client.close()


def _side_by_side(act: Callable[[int], None], items: Sequence[int]) -> None:
    if len(items) <= 1:
        for item in items:
            act(item)
        return
    with ThreadPoolExecutor(min(_STREAMS, len(items)), thread_name_prefix="infiniray-s3") as threads:
        list(threads.map(act, items))


def _in_turns(send: Callable[[tuple[int, bytes]], dict[str, Any]], bodies: Iterator[tuple[int, bytes]]) -> list[Any]:
    """Send bodies side by side, with no more of them in memory than streams."""
    sent: list[Any] = []
    with ThreadPoolExecutor(_STREAMS, thread_name_prefix="infiniray-s3") as threads:
        under_way: list[Any] = []
        for numbered in bodies:
            if len(under_way) == _STREAMS:
                sent.append(under_way.pop(0).result())
            under_way.append(threads.submit(send, numbered))
        return [*sent, *(future.result() for future in under_way)]


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _is_skewed(error: ClientError) -> bool:
    """Whether this machine's clock is so far off that S3 refuses what it signs. To HEAD there is no word of it."""
    skew_s = clock_skew_s(error.response)
    return _code(error) == "RequestTimeTooSkewed" or (skew_s is not None and abs(skew_s) > _SKEW_S)


def _advice(error: ClientError, status: int) -> str:
    """What can be done about a refusal, as far as it is known."""
    if status not in (400, 401, 403):
        return ""
    if _is_skewed(error):
        skew_s = clock_skew_s(error.response)
        told = f" (it is off by {skew_s:+.0f} s)" if skew_s is not None else ""
        return f"; set this machine's clock, with NTP{told}"
    if _code(error) in _BAD_CREDENTIALS:
        return "; the credentials are not, or no longer, accepted: they are as boto3 finds them, or in backing.options"
    if status == 403:
        return "; it takes s3:GetObject, s3:ListBucket, and s3:PutObject and s3:DeleteObject to write"
    return ""


@contextmanager
def _explained() -> Iterator[None]:
    """boto3's errors as Unreachable or Refused."""
    try:
        yield
    except ClientError as error:
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        code = _code(error)
        detail = f"{error.response.get('Error', {}).get('Message', code)} ({code})"
        if status >= 500 or code in _PASSING:
            raise Unreachable(detail) from error
        raise Refused(f"{detail}{_advice(error, status)}") from error
    except _BROKEN as error:
        raise Unreachable(f"{type(error).__name__}: {error}") from error
    except BotoCoreError as error:
        raise Refused(f"{type(error).__name__}: {error}") from error
