"""Invoke, as boto3 sees it: answers, errors, limits (PLATFORM: the data plane)."""

from __future__ import annotations

import base64
import json
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError
from platform_harness import Gate, Lambda

MB = 1 << 20


def test_the_answer_is_what_the_handler_returns(functions: Lambda) -> None:
    name = functions.deploy("echo")
    answer = functions.boto.invoke(FunctionName=name, Payload=b'{"a": [1, "\\u00e9"]}')
    assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST")
    assert "FunctionError" not in answer
    assert json.loads(answer["Payload"].read()) == {"a": [1, "é"]}


def test_without_a_payload_the_event_is_an_empty_object(functions: Lambda) -> None:
    answer = functions.boto.invoke(FunctionName=functions.deploy("echo"))
    assert json.loads(answer["Payload"].read()) == {}


def test_a_function_sees_its_own_environment_and_nothing_of_ours(functions: Lambda) -> None:
    name = functions.deploy("describe", MemorySize=192, Environment={"Variables": {"COLOUR": "blue"}})
    seen = functions.call(name)
    environ = seen["environ"]
    foreign = [n for n in environ if not n.startswith(("AWS_", "LAMBDA_", "_HANDLER", "_X_AMZN_TRACE_ID"))]
    assert sorted(foreign) == ["COLOUR", "LANG", "PATH", "TZ"]
    assert environ["COLOUR"] == "blue"
    assert environ["AWS_LAMBDA_FUNCTION_NAME"] == seen["name"] == name
    assert environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == str(seen["memory"]) == "192"
    assert environ["AWS_REGION"] == "us-east-1"
    assert environ["LAMBDA_TASK_ROOT"] == seen["cwd"]
    assert seen["arn"].endswith(f":function:{name}")
    assert 0 < seen["left_ms"] <= 10_000
    assert seen["group"]
    assert not seen["infiniray"]
    # the one connection to the Runtime API, what its client keeps for itself, and what ends it with the platform
    assert [n for n, link in seen["descriptors"].items() if link.startswith(("pipe:", "/"))] == ["3"]


def test_log_tail_has_what_this_invocation_printed(functions: Lambda) -> None:
    name = functions.deploy("say")
    for text in ("first", "second"):
        answer = functions.boto.invoke(FunctionName=name, Payload=json.dumps({"text": text}), LogType="Tail")
        log = base64.b64decode(answer["LogResult"]).decode()
        assert log.splitlines() == [text, text.upper()]


def test_log_tail_is_at_most_4_kb(functions: Lambda) -> None:
    event = {"text": "x" * 50_000 + "end"}
    answer = functions.boto.invoke(FunctionName=functions.deploy("say"), Payload=json.dumps(event), LogType="Tail")
    log = base64.b64decode(answer["LogResult"])
    assert len(log) == 4096
    assert log.endswith(b"END\n")


def test_without_tail_there_is_no_log(functions: Lambda) -> None:
    answer = functions.boto.invoke(FunctionName=functions.deploy("say"), Payload=b'{"text": "quiet"}')
    assert "LogResult" not in answer


def test_dry_run_runs_nothing(functions: Lambda) -> None:
    name = functions.deploy("echo")
    assert functions.boto.invoke(FunctionName=name, InvocationType="DryRun")["StatusCode"] == 204
    assert functions.admin.instances(name) == []


def test_an_event_is_accepted_at_once_and_run(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("held")
    answer = functions.boto.invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(gate.event))
    assert (answer["StatusCode"], answer["Payload"].read()) == (202, b"")
    gate.wait().sendall(b"x")


def test_a_throttled_event_is_run_later(functions: Lambda, gate: Gate) -> None:
    name = functions.deploy("held")
    functions.admin.throttle(1)
    functions.boto.invoke(FunctionName=name, InvocationType="Event", Payload=json.dumps(gate.event))
    gate.wait().sendall(b"x")


def test_an_exception_is_an_unhandled_error(functions: Lambda) -> None:
    error = functions.error(functions.deploy("fail"))
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "no good")
    assert any("no good" in line for line in error["stackTrace"])


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        ({"Handler": "nowhere.handle"}, "Runtime.ImportModuleError"),
        ({"Handler": "app.nothing"}, "Runtime.HandlerNotFound"),
        ({"source": "raise KeyError('at import')"}, "KeyError"),
        ({"source": "def echo(:"}, "Runtime.UserCodeSyntaxError"),
        ({"source": "import os; os._exit(4)"}, "Runtime.ExitError"),
    ],
)
def test_what_goes_wrong_in_init_is_a_function_error(functions: Lambda, settings: dict[str, Any], kind: str) -> None:
    name = functions.deploy("echo", **settings)
    assert [functions.error(name)["errorType"] for _ in range(2)] == [kind, kind]


def test_a_function_that_takes_too_long_is_killed(functions: Lambda) -> None:
    name = functions.deploy("too_long", Timeout=1)
    error = functions.error(name)
    assert error["errorType"] == "Sandbox.Timedout"
    assert re.search(r"Task timed out after 1\.00 seconds$", error["errorMessage"])
    assert not [i for i in functions.admin.instances(name) if i["state"] == "idle"]


def test_an_init_that_takes_too_long_is_killed(own_lambda: Callable[..., Lambda]) -> None:
    functions = own_lambda(init_timeout_s=0.3)
    name = functions.deploy("echo", source="import time; time.sleep(60)")
    assert functions.error(name)["errorType"] == "Sandbox.Timedout"


@pytest.mark.parametrize(("status", "how"), [(3, "with error: exit status 3"), (0, "without providing a reason")])
def test_a_crash_is_an_exit_error_and_the_next_call_gets_a_new_instance(
    functions: Lambda, status: int, how: str
) -> None:
    name = functions.deploy("leave")
    error = functions.error(name, {"status": status})
    assert error["errorType"] == "Runtime.ExitError"
    assert re.fullmatch(rf"RequestId: [0-9a-f-]{{36}} Error: Runtime exited {how}", error["errorMessage"])
    assert functions.error(name, {"status": status})["errorType"] == "Runtime.ExitError"


def test_a_fatal_signal_is_named(functions: Lambda) -> None:
    error = functions.error(functions.deploy("end_by_signal"), {"signal": signal.SIGSEGV})
    assert error["errorMessage"].endswith("signal: segmentation fault")


def test_outgrowing_the_memory_size_is_death(functions: Lambda) -> None:
    before = functions.admin.stats()["out_of_memory"]
    error = functions.error(functions.deploy("grow", MemorySize=128))
    assert error["errorType"] == "Runtime.ExitError"
    assert error["errorMessage"].endswith("signal: killed")
    assert functions.admin.stats()["out_of_memory"] == before + 1


def test_answers_up_to_6_mb_pass(functions: Lambda) -> None:
    name = functions.deploy("big", MemorySize=256)
    assert len(functions.call(name, {"bytes": 6 * MB - 2})) == 6 * MB - 2


def test_a_larger_answer_is_an_error(functions: Lambda) -> None:
    name = functions.deploy("big", MemorySize=256)
    assert functions.error(name, {"bytes": 6 * MB})["errorType"] == "Function.ResponseSizeTooLarge"
    assert functions.call(name, {"bytes": 1}) == "x"  # the instance goes on
    assert functions.instance(name)["invocations"] == 2


def test_payloads_up_to_6_mb_pass(functions: Lambda) -> None:
    name = functions.deploy("echo", MemorySize=256)
    text = "x" * (6 * MB - 2)
    assert functions.call(name, text) == text


@pytest.mark.parametrize(("kind", "limit"), [("RequestResponse", 6 * MB), ("Event", 1 * MB)])
def test_larger_payloads_are_refused(functions: Lambda, kind: str, limit: int) -> None:
    name = functions.deploy("echo")
    with pytest.raises(functions.boto.exceptions.RequestTooLargeException) as caught:
        functions.boto.invoke(FunctionName=name, InvocationType=kind, Payload=b'"' + b"x" * limit + b'"')
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 413


@pytest.mark.parametrize("payload", [b"{", b"\xff", b"[" * 100_000], ids=["open", "not-utf8", "deep"])
def test_a_payload_must_be_json(functions: Lambda, payload: bytes) -> None:
    name = functions.deploy("echo")
    with pytest.raises(functions.boto.exceptions.InvalidRequestContentException):
        functions.boto.invoke(FunctionName=name, Payload=payload)


@pytest.mark.parametrize("form", ["{}", "{}:$LATEST", "123456789012:function:{}", "{arn}", "{arn}:$LATEST"])
def test_a_function_has_several_names(functions: Lambda, form: str) -> None:
    name = functions.deploy("echo")
    arn = functions.boto.get_function(FunctionName=name)["Configuration"]["FunctionArn"]
    assert functions.call(form.format(name, arn=arn), 7) == 7


@pytest.mark.parametrize(("form", "qualifier"), [("nobody", {}), ("{}:3", {}), ("{}", {"Qualifier": "blue"})])
def test_an_unknown_function_or_version_is_not_found(functions: Lambda, form: str, qualifier: dict[str, str]) -> None:
    name = functions.deploy("echo")
    with pytest.raises(functions.boto.exceptions.ResourceNotFoundException) as caught:
        functions.boto.invoke(FunctionName=form.format(name), **qualifier)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 404
    assert "not found" in caught.value.response["Error"]["Message"]


def test_an_impossible_name_is_invalid(functions: Lambda) -> None:
    with pytest.raises(functions.boto.exceptions.InvalidParameterValueException):
        functions.boto.invoke(FunctionName="no spaces")


def test_requests_that_nobody_signed_are_refused(functions: Lambda) -> None:
    url = f"{functions.platform.endpoint}/2015-03-31/functions"
    with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(url, timeout=10):
        pass
    with caught.value as answer:
        assert (answer.code, answer.headers["x-amzn-ErrorType"]) == (403, "MissingAuthenticationTokenException")


def test_an_operation_that_it_does_not_have(functions: Lambda) -> None:
    with pytest.raises(ClientError) as caught:
        functions.boto.list_layers()
    assert caught.value.response["Error"]["Code"] == "UnknownOperationException"


def test_a_failing_service_is_a_service_exception(functions: Lambda) -> None:
    name = functions.deploy("echo")
    functions.admin.fail(1)
    with pytest.raises(functions.boto.exceptions.ServiceException):
        functions.call(name)
    assert functions.call(name, 1) == 1
