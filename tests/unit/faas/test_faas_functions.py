"""Names of functions, their code, and refusals."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from pathlib import Path

import pytest

from infiniray.faas.local.functions import FunctionRegistry, name_of
from infiniray.faas.local.refusals import Refusal, conflict, not_found, service_error, too_many

ARN = "arn:aws:lambda:eu-west-1:123456789012:function:node-1"


@pytest.mark.parametrize("text", ["node-1", "node-1:$LATEST", ARN, f"{ARN}:$LATEST", "123456789012:function:node-1"])
def test_forms_of_a_name(text: str) -> None:
    assert name_of(text) == name_of(text, "$LATEST") == "node-1"


@pytest.mark.parametrize(
    ("text", "qualifier", "status"),
    [("a b", None, 400), ("x" * 141, None, 400), ("", None, 400), ("f:1", None, 404), ("f", "blue", 404)],
)
def test_what_is_no_name_here(text: str, qualifier: str | None, status: int) -> None:
    with pytest.raises(Refusal) as caught:
        name_of(text, qualifier)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("refusal", "member"),
    [(not_found("x"), "Message"), (service_error(), "Message"), (conflict("x"), "message"), (too_many("R"), "message")],
)
def test_how_the_message_is_spelt(refusal: Refusal, member: str) -> None:
    assert json.loads(refusal.body())[member] == refusal.message
    assert refusal.headers()["x-amzn-ErrorType"] == refusal.kind


def test_throttling_says_why_and_when_to_come_back() -> None:
    refusal = too_many("ConcurrentInvocationLimitExceeded", 1.5)
    assert refusal.headers()["Retry-After"] == "1.5"
    assert json.loads(refusal.body())["Reason"] == "ConcurrentInvocationLimitExceeded"


def zipped(text: str) -> str:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("app.py", text)
    return base64.b64encode(archive.getvalue()).decode()


def test_the_architecture_changes_with_the_code_and_not_by_itself(tmp_path: Path) -> None:
    """As UpdateFunctionCode has it; UpdateFunctionConfiguration does not know it."""
    registry = FunctionRegistry(tmp_path)
    request = {
        "FunctionName": "f",
        "Role": "arn:aws:iam::000000000000:role/r",
        "Handler": "app.f",
        "Runtime": "python3.12",
    }
    first = registry.create({**request, "Code": {"ZipFile": zipped("1")}}, "us-east-1")
    assert first.architectures == ("x86_64",)
    arm = registry.update_code("f", {"ZipFile": zipped("2"), "Architectures": ["arm64"]})
    assert (arm.architectures, arm.revision != first.revision) == (("arm64",), True)
    assert registry.update_code("f", {"ZipFile": zipped("3")}).architectures == ("arm64",)
    before = registry.get("f")
    with pytest.raises(Refusal, match="architectures"):
        registry.update_code("f", {"ZipFile": zipped("4"), "Architectures": ["mips"]})
    assert registry.get("f") == before
