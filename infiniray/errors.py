"""Every error that InfiniRay raises to its users.

One root, :class:`InfiniRayError`. Each error is also the builtin a Python user would expect to catch
(``KeyError`` for a miss, ``ValueError`` for bad input, ``TimeoutError`` for a deadline) and carries the
numbers that explain it as attributes. All survive pickling, because Ray moves exceptions between processes:
the constructor takes keyword fields, builds one message, and :meth:`InfiniRayError.__reduce__` replays the
fields.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "AuthenticationError",
    "BackingDamaged",
    "BackingError",
    "BackingRefused",
    "BackingUnavailable",
    "BillDamaged",
    "CacheUnavailable",
    "ClockSkewed",
    "ConfigError",
    "CredentialsMissing",
    "DeadlineExceeded",
    "DeployError",
    "FrameError",
    "InfiniRayError",
    "InvalidKey",
    "InvalidTTL",
    "KeyNotFound",
    "LeaseLost",
    "NameTaken",
    "NotDeployed",
    "ObjectLost",
    "ObjectReplaced",
    "Overloaded",
    "PermissionMissing",
    "PlatformError",
    "PlatformThrottled",
    "PoolFull",
    "PriceMissing",
    "QuotaExceeded",
    "ReclaimsError",
    "RoleUnusable",
    "RotationUnderWay",
    "ScalingUnderWay",
    "SchemeError",
    "ShardRecovering",
    "ShardUnreachable",
    "StaleEpoch",
    "ValueNotStorable",
    "ValueTooLarge",
    "WriteFailed",
    "WriteLost",
    "WriteUncertain",
    "WritesUnflushed",
    "WrongAccount",
    "WrongRegion",
]


class InfiniRayError(Exception):
    """Root of all errors of this package.

    Subclasses set ``template``, a format string over their keyword fields; the fields become attributes.
    """

    template: ClassVar[str] = "{detail}"
    #: whether the same call may succeed if it is made again
    retryable: ClassVar[bool] = False

    def __init__(self, **fields: Any) -> None:
        self.fields = fields
        super().__init__(self.template.format(**fields))
        self.__dict__.update(fields)

    def __str__(self) -> str:  # KeyError would print the repr of its argument
        return str(self.args[0]) if self.args else ""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.fields)


def _rebuild(kind: type[InfiniRayError], fields: dict[str, Any]) -> InfiniRayError:
    return kind(**fields)


# ---------------------------------------------------------------- misses


class KeyNotFound(InfiniRayError, KeyError):
    """The key was never stored, or was deleted, evicted, or has expired. Fields: ``key``."""

    template = "no object under key {key!r}"
    key: str


class ObjectLost(KeyNotFound):
    """More than ``r`` chunks of a stored object are gone: a reset (FAST'20 section 5.2).

    Fields: ``key``; ``have``, chunks still there; ``need``, chunks needed to decode (``k``).
    """

    template = "object {key!r} is lost: {have} chunks left, {need} needed; store it again"
    have: int
    need: int


# ---------------------------------------------------------------- bad input


class InvalidKey(InfiniRayError, ValueError, TypeError):
    """A key is not a non-empty ``str`` of at most 1024 UTF-8 bytes. Fields: ``detail``."""


class InvalidTTL(InfiniRayError, ValueError, TypeError):
    """A time to live is not a positive number of seconds, a timedelta or text like ``"2h"``. Fields: ``detail``."""


class ConfigError(InfiniRayError, ValueError):
    """A configuration is not valid. Fields: ``detail``, which names the setting."""


class PriceMissing(ConfigError, LookupError):
    """A price book lacks a price that is needed. Fields: ``entry``, its name; ``file``, the price book."""

    template = "price book {file} has no entry {entry!r}"
    entry: str
    file: str


class BillDamaged(InfiniRayError, ValueError):
    """A line of a platform's metering file is none. Fields: ``file``; ``line``, counted from 1; ``detail``."""

    template = "{file}, line {line}: {detail}"
    file: str
    line: int
    detail: str


class ReclaimsError(InfiniRayError, ValueError):
    """A line of a time line of reclaims is none. Fields: ``file``; ``line``, counted from 1; ``detail``."""

    template = "{file}, line {line}: {detail}"
    file: str
    line: int
    detail: str


class SchemeError(InfiniRayError, ValueError):
    """A redundancy scheme cannot be parsed or computed. Fields: ``detail``."""


class ValueNotStorable(InfiniRayError, TypeError):
    """A value can be neither viewed as bytes nor pickled. Fields: ``detail``."""


class ValueTooLarge(InfiniRayError, ValueError):
    """A value is larger than the pool, or one of its chunks larger than a node, can ever hold.

    Fields: ``size_bytes``, what storing it takes; ``limit_bytes``, what the pool could hold.
    """

    template = "storing this value takes {size_bytes:,} bytes; the pool can hold at most {limit_bytes:,}"
    size_bytes: int
    limit_bytes: int


# ---------------------------------------------------------------- the system's own troubles


class PoolFull(InfiniRayError, MemoryError):
    """No room could be made for a value, because everything evictable is in use. Fields: ``need_bytes``,
    ``free_bytes``."""

    template = "no room for {need_bytes:,} bytes: {free_bytes:,} bytes free and nothing more can be evicted now"
    retryable = True
    need_bytes: int
    free_bytes: int


class DeadlineExceeded(InfiniRayError, TimeoutError):
    """An operation did not finish in time. Fields: ``operation``, ``key``, ``deadline_s``, ``detail``."""

    template = "{operation} of {key!r} did not finish within {deadline_s:g} s: {detail}"
    retryable = True
    operation: str
    key: str
    deadline_s: float
    detail: str


class WriteFailed(InfiniRayError, OSError):
    """A PUT could not place all its chunks; nothing of it is kept. Fields: ``key``, ``stored``, ``need``,
    ``detail``."""

    template = "object {key!r} was not stored: {stored} of {need} chunks reached a node ({detail}); nothing was kept"
    retryable = True
    key: str
    stored: int
    need: int
    detail: str


class WriteUncertain(InfiniRayError, ConnectionError):
    """The shard that stored a value died before it answered, and the key does not hold that value now. Nothing was
    written again, since that could undo what somebody else has written in between. Field: ``key``."""

    template = (
        "the shard died while it stored {key!r}: whether the value was there for a while is unknown; put it again"
    )
    retryable = True
    key: str


class Overloaded(InfiniRayError):
    """A shard has as much work as it accepts. Fields: ``in_flight``, ``limit``, ``retry_after_s``."""

    template = "shard is busy: {in_flight} operations in flight, limit {limit}; retry after {retry_after_s:g} s"
    retryable = True
    in_flight: int
    limit: int
    retry_after_s: float


class ShardRecovering(InfiniRayError):
    """A shard that was restarted is finding out what its nodes hold. Fields: ``shard``, ``retry_after_s``."""

    template = "{shard} has restarted and is rebuilding its table; retry after {retry_after_s:g} s"
    retryable = True
    shard: str
    retry_after_s: float


class ObjectReplaced(InfiniRayError):
    """An object was replaced or deleted while it was read: reading again finds what is there now. Field: ``key``."""

    template = "{key!r} was replaced or deleted while it was read"
    retryable = True
    key: str


class LeaseLost(InfiniRayError):
    """A computed value was not stored: its computer's lease on the key had expired, or the key was written or deleted
    meanwhile, or its shard restarted. Field: ``key``."""

    template = "the lease on {key!r} is lost: what was computed under it is not stored"
    retryable = True
    key: str


class StaleEpoch(InfiniRayError):
    """The sender works from an outdated membership. Fields: ``seen``, ``current``."""

    template = "membership epoch {seen} is outdated; the current one is {current}"
    retryable = True
    seen: int
    current: int


class ScalingUnderWay(InfiniRayError):
    """A cache that is being scaled was asked for something else. Fields: ``cache``, ``stage``."""

    template = "{cache!r} is being scaled already ({stage}); `infiniray status` shows how far it is"
    retryable = True
    cache: str
    stage: str


class RotationUnderWay(InfiniRayError):
    """A cache whose secret is being changed was asked for something else. Fields: ``cache``, ``stage``."""

    template = "{cache!r} is being given a new secret ({stage}); `infiniray status` shows how far it is"
    retryable = True
    cache: str
    stage: str


class CacheUnavailable(InfiniRayError, ConnectionError):
    """No running cache, or a shard of it, could be reached. Fields: ``detail``."""

    retryable = True


class ShardUnreachable(InfiniRayError, ConnectionError):
    """A shard's functions cannot dial it, or it cannot invoke them: nothing could be stored or read.

    Fields: ``shard``; ``address``, what functions were told to dial; ``function``, the last one that was tried;
    ``detail``, what it reported, or why it could not be invoked; ``advice``, what to do.
    """

    template = "no function can work for {shard}, which is to be dialled at {address}: {function!r}: {detail}. {advice}"
    shard: str
    address: str
    function: str
    detail: str
    advice: str


class PlatformError(InfiniRayError, OSError):
    """The function platform refused or failed a request. Fields: ``operation``, ``function``, ``detail``."""

    template = "{operation} of function {function!r} failed: {detail}"
    operation: str
    function: str
    detail: str


class PlatformThrottled(PlatformError):
    """The function platform answered 429. Fields: as :class:`PlatformError`, and ``retry_after_s``."""

    retryable = True
    retry_after_s: float


# ---------------------------------------------------------------- the store behind the cache


class BackingError(InfiniRayError, OSError):
    """The store behind a cache could not do what was needed. Fields: ``store``, its URL without secrets;
    ``operation``; ``key``; ``detail``."""

    template = "{operation} of {key!r} in {store}: {detail}"
    store: str
    operation: str
    key: str
    detail: str


class BackingUnavailable(BackingError, ConnectionError):
    """The store does not answer, not in time, or not now. Of a write it may have all, or nothing."""

    retryable = True


class BackingRefused(BackingError):
    """The store answers, and says no: no such bucket, no permission, a name that it cannot have."""


class BackingDamaged(BackingError, ValueError):
    """An object of the store is not what its own header says."""


class WritesUnflushed(BackingUnavailable):
    """Acknowledged writes have not reached the store. Fields: as :class:`BackingError` (``key`` is one of them), and
    ``n_writes``, ``n_bytes``."""

    template = "{operation}: {n_writes} acknowledged writes ({n_bytes:,} bytes) have not reached {store}: {detail}"
    n_writes: int
    n_bytes: int


class WriteLost(BackingError):
    """An acknowledged write is in neither the cache nor the store: its writer died before it reached the store, and
    the cache has lost it since. No miss: what the store has, if anything, is older. Put it again, or delete it."""


# ---------------------------------------------------------------- deploying


class DeployError(PlatformError):
    """Deploying, or taking away what was deployed, was refused or failed.

    Fields: ``operation``; ``function``, what it was done to (a function, role, log group, ...); ``detail``;
    ``advice``, what to do.
    """

    template = "{operation} ({function}): {detail}. {advice}"
    advice: str


class CredentialsMissing(DeployError, PermissionError):
    """There are no credentials, or AWS does not accept them."""


class PermissionMissing(DeployError, PermissionError):
    """The credentials are good, and do not allow this. Fields: as :class:`DeployError`, and ``action``, in IAM's
    words."""

    action: str


class ClockSkewed(DeployError):
    """This machine's clock is too far off for AWS to accept what it signs."""


class WrongAccount(DeployError, ValueError):
    """The credentials, or a role, belong to another account than the configuration says."""


class WrongRegion(DeployError, ValueError):
    """There is no such region, it is not enabled, or something that is needed is in another one."""


class RoleUnusable(DeployError):
    """Functions cannot run under the role that they are given."""


class QuotaExceeded(DeployError):
    """The account's quotas do not allow it."""


class NameTaken(DeployError, FileExistsError):
    """Something that does not bear this cache's tags has the name that is needed. It was not touched."""


class NotDeployed(DeployError, LookupError):
    """The platform lacks functions of this cache, or they are not as configured."""


class FrameError(InfiniRayError, ValueError):
    """Bytes on a node connection do not form a frame that may stand there. Fields: ``detail``."""


class AuthenticationError(InfiniRayError, PermissionError):
    """A peer did not prove that it knows the pool's secret. Fields: ``detail``."""
