"""What is deployed, as values: each resource as it should be (``...Spec``) and as it was found (``...State``).

A ``...State`` exists for what exists. ``is_ours`` says whether it bears the cache's tags.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Actual",
    "CodeSpec",
    "CodeState",
    "Desired",
    "FunctionSpec",
    "FunctionState",
    "LogGroupSpec",
    "LogGroupState",
    "RoleSpec",
    "RoleState",
]

_RUNTIME = "python3.12"
SECRET = "INFINIRAY_SECRET"
RESERVE_MB = "INFINIRAY_RESERVE_MB"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleSpec:
    """``trust``: who may assume it; ``permissions``: what its bearer may do. Both are policy documents."""

    name: str
    trust: Mapping[str, Any]
    permissions: Mapping[str, Any]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleState:
    name: str
    is_ours: bool
    trust: Mapping[str, Any]
    #: None: it has no inline policy of our name
    permissions: Mapping[str, Any] | None
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogGroupSpec:
    name: str
    arn: str
    retention_days: int
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogGroupState:
    name: str
    arn: str
    is_ours: bool
    #: None: forever
    retention_days: int | None
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeSpec:
    """The agent's zip: in ``bucket`` under ``key``, or, without a bucket, sent with every function."""

    data: bytes = field(repr=False)
    sha256: str  # base64, as the function API says it
    bucket: str | None = None
    key: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeState:
    """A zip that is in the bucket."""

    bucket: str
    key: str
    is_ours: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionSpec:
    """One node's function. ``environment`` holds the secret: it is not in the ``repr``."""

    name: str
    role_arn: str
    handler: str
    memory_mb: int
    timeout_s: int
    architecture: str
    environment: Mapping[str, str] = field(repr=False)
    tags: Mapping[str, str]
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    #: None: the platform's own choice
    log_group: str | None = None
    reserved_concurrency: int | None = None
    runtime: str = _RUNTIME

    @property
    def settings(self) -> dict[str, Any]:
        """As CreateFunction and UpdateFunctionConfiguration take them, without the name."""
        settings: dict[str, Any] = {
            "Role": self.role_arn,
            "Handler": self.handler,
            "Runtime": self.runtime,
            "MemorySize": self.memory_mb,
            "Timeout": self.timeout_s,
            "Environment": {"Variables": dict(self.environment)},
            "VpcConfig": {"SubnetIds": list(self.subnets), "SecurityGroupIds": list(self.security_groups)},
        }
        if self.log_group is not None:
            # WARN leaves out the three lines that every invocation else writes: warm-ups alone are millions a month
            settings["LoggingConfig"] = {
                "LogFormat": "JSON",
                "ApplicationLogLevel": "INFO",
                "SystemLogLevel": "WARN",
                "LogGroup": self.log_group,
            }
        return settings


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionState:
    """A function as GetFunction describes it. ``configuration`` may hold a secret: it is not in the ``repr``."""

    name: str
    arn: str
    is_ours: bool
    configuration: Mapping[str, Any] = field(repr=False)
    tags: Mapping[str, str]
    reserved_concurrency: int | None = None

    @property
    def code_sha256(self) -> str:
        return str(self.configuration.get("CodeSha256", ""))

    @property
    def architecture(self) -> str:
        return str((self.configuration.get("Architectures") or ["x86_64"])[0])

    @property
    def environment(self) -> Mapping[str, str]:
        variables: Mapping[str, str] = (self.configuration.get("Environment") or {}).get("Variables") or {}
        return variables

    @property
    def has_failed(self) -> bool:
        """It was never made whole: its creation has ended in failure."""
        return self.configuration.get("State") == "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """All that a configuration asks for. ``role`` and ``log_group`` are None where the platform has no such thing, or
    the user brings a role."""

    code: CodeSpec
    functions: tuple[FunctionSpec, ...]
    role: RoleSpec | None = None
    log_group: LogGroupSpec | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Actual:
    """All that was found under this cache's names and tags, others' included."""

    #: {name: state}
    functions: Mapping[str, FunctionState] = field(default_factory=dict)
    role: RoleState | None = None
    log_group: LogGroupState | None = None
    codes: tuple[CodeState, ...] = ()
