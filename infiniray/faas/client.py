"""boto3 clients for the function API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config as BotoConfig

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient

__all__ = ["lambda_client"]

#: A call that is retried behind our backs after a read timeout runs the function a second time.
_NO_RETRIES = {"max_attempts": 0}


def lambda_client(endpoint_url: str | None, region: str, *, max_connections: int = 64) -> LambdaClient:
    """A client for AWS (``endpoint_url`` None) or for the embedded platform, which takes any credentials.

    Settings as the invoke path needs them: no retries, a read timeout above the longest function timeout, kept
    connections.
    """
    settings = BotoConfig(
        retries=_NO_RETRIES,  # type: ignore[arg-type]
        connect_timeout=5,
        read_timeout=910,
        max_pool_connections=max_connections,
        tcp_keepalive=True,
    )
    arguments: dict[str, Any] = {"region_name": region, "config": settings}
    if endpoint_url is not None:
        arguments["endpoint_url"] = endpoint_url
        if urlsplit(endpoint_url).hostname in ("127.0.0.1", "localhost", "::1"):
            arguments |= {"aws_access_key_id": "local", "aws_secret_access_key": "local"}
    client: LambdaClient = boto3.client("lambda", **arguments)
    return client
