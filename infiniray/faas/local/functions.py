"""The functions that the platform knows: what the control plane creates, changes and describes."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import os
import re
import shutil
import tempfile
import time
import uuid
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from infiniray.faas.local.refusals import conflict, invalid, not_found

__all__ = ["ACCOUNT", "Function", "FunctionRegistry", "name_of"]

#: The account that everything here belongs to: AWS's own example number.
ACCOUNT = "123456789012"
#: A name, or the end of an ARN ("partial ARN"), or all of it; then perhaps a qualifier.
_NAME = re.compile(r"(?:(?:arn:aws:lambda:[a-z0-9-]+:)?\d{12}:function:)?([a-zA-Z0-9_-]{1,140})(?::([$a-zA-Z0-9_-]+))?")
_RUNTIME = re.compile(r"python3\.\d+")
_ROLE = re.compile(r"arn:aws[a-zA-Z-]*:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+")
_ARCHITECTURES = (["x86_64"], ["arm64"])
_ENVIRONMENT_BYTES = 4096
_UNZIPPED_BYTES = 262_144_000
#: Set by the platform: a function may not set them.
#: https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html#configuration-envvars-runtime
_RESERVED = {
    "_HANDLER", "_X_AMZN_TRACE_ID", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE", "AWS_LAMBDA_LOG_GROUP_NAME", "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN",
    "AWS_LAMBDA_RUNTIME_API", "LAMBDA_TASK_ROOT", "LAMBDA_RUNTIME_DIR",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One state of a function's configuration and code; a change makes a new one with another ``revision``."""

    name: str
    region: str
    role: str
    runtime: str
    handler: str
    memory_mb: int
    timeout_s: int
    code_root: Path
    code_sha256: str
    code_bytes: int
    environment: dict[str, str] = field(default_factory=dict)
    architectures: tuple[str, ...] = ("x86_64",)
    description: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    reserved_concurrency: int | None = None
    modified_s: float = 0.0
    revision: str = ""

    @property
    def arn(self) -> str:
        return f"arn:aws:lambda:{self.region}:{ACCOUNT}:function:{self.name}"

    def describe(self) -> dict[str, Any]:
        """FunctionConfiguration, as the API gives it."""
        modified = time.strftime("%Y-%m-%dT%H:%M:%S.000+0000", time.gmtime(self.modified_s))
        return {
            "FunctionName": self.name,
            "FunctionArn": self.arn,
            "Runtime": self.runtime,
            "Role": self.role,
            "Handler": self.handler,
            "CodeSize": self.code_bytes,
            "CodeSha256": self.code_sha256,
            "Description": self.description,
            "Timeout": self.timeout_s,
            "MemorySize": self.memory_mb,
            "LastModified": modified,
            "Version": "$LATEST",
            "Environment": {"Variables": self.environment},
            "TracingConfig": {"Mode": "PassThrough"},
            "RevisionId": self.revision,
            "State": "Active",
            "LastUpdateStatus": "Successful",
            "PackageType": "Zip",
            "Architectures": list(self.architectures),
            "EphemeralStorage": {"Size": 512},
        }


def name_of(text: str, qualifier: str | None = None) -> str:
    """The function's name in a name, a name with a qualifier, or an ARN.

    Raises:
        Refusal: none of these, or a qualifier other than ``$LATEST``.
    """
    match = _NAME.fullmatch(text)
    if match is None:
        raise invalid(f"1 validation error detected: Value '{text}' at 'functionName' is not a function name or ARN")
    if match[2] not in (None, "$LATEST") or qualifier not in (None, "$LATEST"):
        raise not_found(f"Function not found: {text}")
    return match[1]


class FunctionRegistry:
    """I keep the functions and their unpacked code, below ``directory``."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._functions: dict[str, Function] = {}

    def get(self, name: str) -> Function:
        try:
            return self._functions[name]
        except KeyError:
            arn = f"arn:aws:lambda:us-east-1:{ACCOUNT}:function:{name}"
            raise not_found(f"Function not found: {arn}") from None

    def revision_of(self, name: str) -> str | None:
        """None if there is no such function, or no longer."""
        function = self._functions.get(name)
        return function.revision if function else None

    def names(self) -> list[str]:
        return sorted(self._functions)

    def create(self, request: dict[str, Any], region: str) -> Function:
        """CreateFunction. Raises: Refusal: it exists, or the request is not valid."""
        for needed in ("FunctionName", "Role", "Code", "Handler", "Runtime"):
            if not request.get(needed):
                raise invalid(f"1 validation error detected: Value null at '{needed}' must not be null")
        name = name_of(str(request["FunctionName"]))
        if name in self._functions:
            raise conflict(f"Function already exist: {name}")
        settings = _settings(request)  # before any code is unpacked
        root, sha256, n_bytes = self._unpack(name, request["Code"])
        function = Function(
            name=name, region=region, role=str(request["Role"]), runtime=str(request["Runtime"]),
            handler=str(request["Handler"]), tags=dict(request.get("Tags") or {}),
            **{"memory_mb": 128, "timeout_s": 3, **settings},
            code_root=root, code_sha256=sha256, code_bytes=n_bytes,
        )  # fmt: skip
        return self._keep(function)

    def update_configuration(self, name: str, request: dict[str, Any]) -> Function:
        function = self.get(name)
        changes = _settings(request)
        for member, attribute in (("Role", "role"), ("Handler", "handler"), ("Runtime", "runtime")):
            if request.get(member):
                changes[attribute] = str(request[member])
        return self._keep(replace(function, **changes))

    def update_code(self, name: str, request: dict[str, Any]) -> Function:
        function = self.get(name)
        changes = _architectures(request)
        root, sha256, n_bytes = self._unpack(name, request)
        return self._keep(replace(function, code_root=root, code_sha256=sha256, code_bytes=n_bytes, **changes))

    def reserve_concurrency(self, name: str, limit: int | None) -> Function:
        function = replace(self.get(name), reserved_concurrency=limit)
        self._functions[name] = function
        return function

    def tag(self, name: str, tags: dict[str, str]) -> None:
        """Add tags, or give them other values; instances stay."""
        function = self.get(name)
        self._functions[name] = replace(function, tags={**function.tags, **tags})

    def untag(self, name: str, keys: list[str]) -> None:
        function = self.get(name)
        self._functions[name] = replace(function, tags={k: v for k, v in function.tags.items() if k not in keys})

    def delete(self, name: str) -> None:
        self.get(name)
        del self._functions[name]
        shutil.rmtree(self._directory / name, ignore_errors=True)

    def _keep(self, function: Function) -> Function:
        function = replace(function, modified_s=time.time(), revision=str(uuid.uuid4()))
        self._functions[function.name] = function
        return function

    def _unpack(self, name: str, code: dict[str, Any]) -> tuple[Path, str, int]:
        """Where the zip's files are, its SHA-256 (base64) and its size."""
        if not code.get("ZipFile"):
            raise invalid("Please provide a ZipFile: this platform has no S3 to fetch code from")
        try:
            data = base64.b64decode(code["ZipFile"], validate=True)
            archive = zipfile.ZipFile(io.BytesIO(data))
        except (binascii.Error, zipfile.BadZipFile, ValueError):
            raise invalid("Could not unzip uploaded file. Please check your file, then try to upload again.") from None
        digest = hashlib.sha256(data).digest()
        if sum(entry.file_size for entry in archive.infolist()) > _UNZIPPED_BYTES:
            raise invalid(f"Unzipped size must be smaller than {_UNZIPPED_BYTES} bytes")
        root = self._directory / name / digest.hex()[:16]
        if not root.exists():
            _extract(archive, root)
        return root, base64.b64encode(digest).decode(), len(data)


def _extract(archive: zipfile.ZipFile, root: Path) -> None:
    """All of it, or nothing."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent) as half:
        try:
            archive.extractall(half)
        except (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, NotImplementedError) as error:
            raise invalid(f"Could not unzip uploaded file: {error}") from None
        os.chmod(half, 0o755)
        os.rename(half, root)
        os.mkdir(half)  # the one that is removed


def _settings(request: dict[str, Any]) -> dict[str, Any]:
    """What create and update have in common, checked: botocore leaves ranges to the service."""
    settings: dict[str, Any] = {}
    for member, attribute, low, high in (("MemorySize", "memory_mb", 128, 10_240), ("Timeout", "timeout_s", 1, 900)):
        if request.get(member) is not None:
            value = request[member]
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise invalid(f"'{member}' value failed to satisfy constraint: {value} is not in {low} to {high}")
            settings[attribute] = value
    if request.get("Role") and not _ROLE.fullmatch(str(request["Role"])):
        raise invalid(f"Value {request['Role']} at 'role' failed to satisfy constraint: it must be the ARN of a role")
    if request.get("Runtime") and not _RUNTIME.fullmatch(str(request["Runtime"])):
        raise invalid(f"Value {request['Runtime']} at 'runtime' failed to satisfy constraint: Python runtimes only")
    if request.get("Handler") and "." not in str(request["Handler"]):
        raise invalid(f"Value {request['Handler']} at 'handler' is not of the form module.function")
    if request.get("Environment") is not None:
        variables = request["Environment"].get("Variables") or {}
        taken = sorted(_RESERVED & set(variables))
        if taken:
            raise invalid(
                f"Lambda was unable to configure your environment variables because reserved keys are used: {taken}"
            )
        settings["environment"] = {str(name): str(value) for name, value in variables.items()}
        if sum(len(name.encode()) + len(value.encode()) for name, value in settings["environment"].items()) > (
            _ENVIRONMENT_BYTES
        ):
            raise invalid(
                "Lambda was unable to configure your environment variables because the environment variables you have "
                f"provided exceeded the {_ENVIRONMENT_BYTES} byte limit"
            )
    if request.get("Description") is not None:
        settings["description"] = str(request["Description"])
    return settings | _architectures(request)


def _architectures(request: dict[str, Any]) -> dict[str, Any]:
    """Of creations, and of updates of the code: it is what is made for one. Here it runs on the machine's own."""
    if not request.get("Architectures"):
        return {}
    if request["Architectures"] not in _ARCHITECTURES:
        raise invalid(f"Value {request['Architectures']} at 'architectures' failed to satisfy constraint")
    return {"architectures": tuple(request["Architectures"])}
