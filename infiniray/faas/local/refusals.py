"""The errors that the function API answers with, by their AWS names.

https://docs.aws.amazon.com/lambda/latest/api/CommonErrors.html and the pages of each operation.
"""

from __future__ import annotations

import json

__all__ = ["Refusal", "conflict", "invalid", "not_found", "service_error", "too_large", "too_many"]


class Refusal(Exception):
    """An API error: HTTP status, error type, message, and further members of the body."""

    def __init__(self, status: int, kind: str, message: str, **members: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.members = members

    def body(self) -> bytes:
        # AWS spells the member with a capital letter for these two only
        name = "Message" if self.kind in ("ResourceNotFoundException", "ServiceException") else "message"
        return json.dumps({"Type": "User", name: self.message, **self.members}).encode()

    def headers(self) -> dict[str, str]:
        headers = {"x-amzn-ErrorType": self.kind}
        if self.status == 429:
            headers["Retry-After"] = self.members.get("retryAfterSeconds", "0")
        return headers


def invalid(message: str) -> Refusal:
    return Refusal(400, "InvalidParameterValueException", message)


def not_found(message: str) -> Refusal:
    return Refusal(404, "ResourceNotFoundException", message)


def conflict(message: str) -> Refusal:
    return Refusal(409, "ResourceConflictException", message)


def too_large(message: str) -> Refusal:
    return Refusal(413, "RequestTooLargeException", message)


def too_many(reason: str, retry_after_s: float = 0.0) -> Refusal:
    return Refusal(
        429, "TooManyRequestsException", "Rate Exceeded.", Reason=reason, retryAfterSeconds=f"{retry_after_s:g}"
    )


def service_error() -> Refusal:
    return Refusal(500, "ServiceException", "The AWS Lambda service encountered an internal error.")
