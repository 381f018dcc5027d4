"""Every error: its message, its numbers, and the way through pickle that Ray takes."""

from __future__ import annotations

import pickle

import pytest

from infiniray import errors
from infiniray.errors import InfiniRayError

FIELDS = {
    "detail": "why",
    "key": "layers/1",
    "have": 9,
    "need": 10,
    "size_bytes": 1000,
    "limit_bytes": 999,
    "need_bytes": 5000,
    "free_bytes": 4999,
    "operation": "GET",
    "deadline_s": 2.5,
    "stored": 3,
    "in_flight": 7,
    "limit": 7,
    "retry_after_s": 0.1,
    "seen": 1,
    "current": 2,
    "function": "node-1",
    "entry": "lambda.request",
    "file": "prices.yaml",
    "line": 3,
    "advice": "do that",
    "action": "iam:CreateRole",
    "store": "s3://bucket/prefix",
    "shard": "shard-0",
    "n_writes": 2,
    "n_bytes": 5000,
    "cache": "default",
    "stage": "moving keys",
    "address": "10.0.0.7:40001",
}
CLASSES = [getattr(errors, name) for name in errors.__all__]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_survives_pickling_with_message_and_fields(kind: type[InfiniRayError]) -> None:
    error = kind(**FIELDS)
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is kind
    assert str(twin) == str(error) != ""
    assert twin.fields == error.fields
    assert twin.retryable == error.retryable


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.KeyNotFound, KeyError),
        (errors.ObjectLost, KeyError),
        (errors.InvalidKey, ValueError),
        (errors.InvalidTTL, ValueError),
        (errors.ConfigError, ValueError),
        (errors.ValueTooLarge, ValueError),
        (errors.ValueNotStorable, TypeError),
        (errors.PoolFull, MemoryError),
        (errors.DeadlineExceeded, TimeoutError),
        (errors.CacheUnavailable, ConnectionError),
        (errors.PlatformError, OSError),
        (errors.AuthenticationError, PermissionError),
    ],
)
def test_is_the_builtin_that_users_catch(kind: type[InfiniRayError], builtin: type[Exception]) -> None:
    assert issubclass(kind, builtin)
    assert issubclass(kind, InfiniRayError)


def test_numbers_are_in_the_message_and_on_the_error() -> None:
    lost = errors.ObjectLost(key="a", have=9, need=10)
    assert (lost.have, lost.need) == (9, 10)
    assert str(lost) == "object 'a' is lost: 9 chunks left, 10 needed; store it again"


def test_message_of_a_miss_is_text_not_the_repr_that_keyerror_gives() -> None:
    assert str(errors.KeyNotFound(key="a")) == "no object under key 'a'"
