"""The control plane, as boto3 sees it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
from platform_harness import ROLE, Lambda, stock_client, zipped


def request(**changes: Any) -> dict[str, Any]:
    return {
        "FunctionName": "made", "Role": ROLE, "Runtime": "python3.12", "Handler": "app.echo",
        "Code": {"ZipFile": zipped(app="def echo(e, c): return e")}, **changes,
    }  # fmt: skip


@pytest.fixture
def careless(functions: Lambda) -> Iterator[Any]:
    """A client that leaves all checks to the service: some botocore makes itself, in some of its versions."""
    with contextlib.closing(stock_client(functions.platform.endpoint, parameter_validation=False)) as client:
        yield client


def test_create_and_describe(functions: Lambda) -> None:
    code = zipped(app="def echo(e, c): return e")
    settings = {
        "MemorySize": 512, "Timeout": 30, "Description": "a node", "Tags": {"pool": "p"}, "Architectures": ["x86_64"],
        "Environment": {"Variables": {"A": "1"}},
    }  # fmt: skip
    made = functions.boto.create_function(**request(Code={"ZipFile": code}, **settings))
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 201
    functions.boto.get_waiter("function_active_v2").wait(FunctionName="made")
    answer = functions.boto.get_function(FunctionName="made")
    configuration = functions.boto.get_function_configuration(FunctionName="made")
    assert answer["Tags"] == {"pool": "p"}
    for described in (made, answer["Configuration"], configuration):
        expected = {
            "FunctionName": "made", "Runtime": "python3.12", "Role": ROLE, "Handler": "app.echo", "MemorySize": 512,
            "Timeout": 30, "Description": "a node", "Architectures": ["x86_64"], "State": "Active",
            "LastUpdateStatus": "Successful", "Version": "$LATEST", "PackageType": "Zip", "CodeSize": len(code),
            "CodeSha256": base64.b64encode(hashlib.sha256(code).digest()).decode(),
            "Environment": {"Variables": {"A": "1"}},
        }  # fmt: skip
        assert {name: described[name] for name in expected} == expected


def test_defaults_are_as_on_aws(functions: Lambda) -> None:
    made = functions.boto.create_function(**request())
    assert (made["MemorySize"], made["Timeout"], made["Architectures"]) == (128, 3, ["x86_64"])


def test_a_name_is_given_once(functions: Lambda) -> None:
    functions.boto.create_function(**request())
    with pytest.raises(functions.boto.exceptions.ResourceConflictException) as caught:
        functions.boto.create_function(**request())
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 409


@pytest.mark.parametrize(
    "changes",
    [
        {"MemorySize": 127},
        {"MemorySize": 10_241},
        {"Timeout": 0},
        {"Timeout": 901},
        {"Runtime": "nodejs22.x"},
        {"Role": "somebody"},
        {"Handler": "echo"},
        {"Architectures": ["mips"]},
        {"Code": {"ZipFile": b"not a zip"}},
        {"Code": {"S3Bucket": "bucket", "S3Key": "key"}},
        {"Environment": {"Variables": {"AWS_REGION": "eu-west-1"}}},
        {"Environment": {"Variables": {"LONG": "x" * 4096}}},
        {"FunctionName": "no spaces"},
    ],
    ids=lambda changes: "-".join(changes) + "-" + str(next(iter(changes.values())))[:12],
)
def test_what_is_not_valid_creates_nothing(functions: Lambda, careless: Any, changes: dict[str, Any]) -> None:
    with pytest.raises(careless.exceptions.InvalidParameterValueException):
        careless.create_function(**request(**changes))
    assert functions.boto.list_functions()["Functions"] == []


@pytest.mark.parametrize("changes", [{"MemorySize": 64}, {"Timeout": 1000}, {"Role": "x"}, {"Runtime": "java21"}])
def test_an_update_that_is_not_valid_changes_nothing(functions: Lambda, careless: Any, changes: dict[str, Any]) -> None:
    before = functions.boto.create_function(**request())
    with pytest.raises(careless.exceptions.InvalidParameterValueException):
        careless.update_function_configuration(FunctionName="made", **changes)
    after = functions.boto.get_function_configuration(FunctionName="made")
    assert after["RevisionId"] == before["RevisionId"]


def test_update_configuration(functions: Lambda) -> None:
    before = functions.boto.create_function(**request(Environment={"Variables": {"A": "1"}}))
    after = functions.boto.update_function_configuration(FunctionName="made", MemorySize=256, Timeout=9)
    functions.boto.get_waiter("function_updated").wait(FunctionName="made")
    assert (after["MemorySize"], after["Timeout"], after["Handler"]) == (256, 9, "app.echo")
    assert after["Environment"] == {"Variables": {"A": "1"}}
    assert after["RevisionId"] != before["RevisionId"]
    assert after["CodeSha256"] == before["CodeSha256"]


def test_update_code(functions: Lambda) -> None:
    before = functions.boto.create_function(**request())
    code = zipped(app="def echo(e, c): return 'new'")
    after = functions.boto.update_function_code(FunctionName="made", ZipFile=code)
    functions.boto.get_waiter("function_updated_v2").wait(FunctionName="made")
    assert after["CodeSha256"] != before["CodeSha256"]
    assert functions.call("made") == "new"


def test_a_zip_cannot_write_beside_its_folder(functions: Lambda) -> None:
    code = zipped(**{"app": "import os\ndef echo(e, c): return sorted(os.listdir('.'))", "../../outside": "x = 1"})
    functions.boto.create_function(**request(Code={"ZipFile": code}))
    assert functions.call("made") == ["app.py", "outside.py"]


def test_list_in_pages(functions: Lambda) -> None:
    names = [functions.deploy("echo", FunctionName=f"f{i}") for i in range(5)]
    page = functions.boto.list_functions(MaxItems=2)
    assert [f["FunctionName"] for f in page["Functions"]] == names[:2]
    pages = functions.boto.get_paginator("list_functions").paginate(PaginationConfig={"PageSize": 2})
    assert [[f["FunctionName"] for f in page["Functions"]] for page in pages] == [names[:2], names[2:4], names[4:]]


def test_delete(functions: Lambda) -> None:
    functions.boto.create_function(**request())
    assert functions.boto.delete_function(FunctionName="made")["ResponseMetadata"]["HTTPStatusCode"] == 204
    for act in (functions.boto.delete_function, functions.boto.get_function):
        with pytest.raises(functions.boto.exceptions.ResourceNotFoundException):
            act(FunctionName="made")
    functions.boto.create_function(**request())
    assert functions.call("made", 1) == 1


def test_reserved_concurrency_is_kept(functions: Lambda) -> None:
    functions.boto.create_function(**request())
    assert "ReservedConcurrentExecutions" not in functions.boto.get_function_concurrency(FunctionName="made")
    functions.boto.put_function_concurrency(FunctionName="made", ReservedConcurrentExecutions=7)
    assert functions.boto.get_function_concurrency(FunctionName="made")["ReservedConcurrentExecutions"] == 7
    answer = functions.boto.get_function(FunctionName="made")
    assert answer["Concurrency"] == {"ReservedConcurrentExecutions": 7}
    limits = functions.boto.get_account_settings()["AccountLimit"]
    assert limits["UnreservedConcurrentExecutions"] == limits["ConcurrentExecutions"] - 7
    functions.boto.delete_function_concurrency(FunctionName="made")
    assert "ReservedConcurrentExecutions" not in functions.boto.get_function_concurrency(FunctionName="made")


def test_account_settings(functions: Lambda) -> None:
    functions.boto.create_function(**request())
    account = functions.boto.get_account_settings()
    assert account["AccountLimit"]["ConcurrentExecutions"] == 1000
    assert account["AccountUsage"]["FunctionCount"] == 1
