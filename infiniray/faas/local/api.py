"""What boto3 sees: Invoke and the function API.

https://docs.aws.amazon.com/lambda/latest/api/API_Operations.html. Requests must be signed, as everywhere on AWS;
what the signature says is not checked.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from infiniray.faas.local.functions import name_of
from infiniray.faas.local.platform import Platform
from infiniray.faas.local.refusals import Refusal, invalid, service_error, too_large, too_many

__all__ = ["PLATFORM", "SYNC_BYTES", "add_function_api", "answer_invoke", "refusals"]

_log = logging.getLogger(__name__)
PLATFORM = web.AppKey("platform", Platform)
_EVENTS = web.AppKey("events", set[asyncio.Task[None]])
SYNC_BYTES = 6 << 20
_EVENT_BYTES = 1 << 20
_MAX_QUEUED_EVENTS = 1000
#: AWS keeps an event for up to six hours; here something is wrong much sooner.
_EVENT_AGE_S = 60.0
_V1 = "/2015-03-31/functions"


def add_function_api(app: web.Application, platform: Platform) -> None:
    """Add the routes to ``app``."""
    app[PLATFORM] = platform
    app[_EVENTS] = set()
    app.on_cleanup.append(_drop_events)
    app.router.add_post(_V1 + "/{name}/invocations", invoke)
    app.router.add_post(_V1, create_function)
    app.router.add_post(_V1 + "/", create_function)
    app.router.add_get(_V1, list_functions)
    app.router.add_get(_V1 + "/", list_functions)
    app.router.add_get(_V1 + "/{name}", get_function)
    app.router.add_delete(_V1 + "/{name}", delete_function)
    app.router.add_get(_V1 + "/{name}/configuration", get_configuration)
    app.router.add_put(_V1 + "/{name}/configuration", update_configuration)
    app.router.add_put(_V1 + "/{name}/code", update_code)
    app.router.add_put("/2017-10-31/functions/{name}/concurrency", put_concurrency)
    app.router.add_delete("/2017-10-31/functions/{name}/concurrency", delete_concurrency)
    app.router.add_get("/2019-09-30/functions/{name}/concurrency", get_concurrency)
    app.router.add_get("/2017-03-31/tags/{name}", list_tags)
    app.router.add_post("/2017-03-31/tags/{name}", tag)
    app.router.add_delete("/2017-03-31/tags/{name}", untag)
    app.router.add_get("/2016-08-19/account-settings", account_settings)
    app.router.add_get("/2016-08-19/account-settings/", account_settings)


@web.middleware
async def refusals(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turn refusals into AWS's error answers, and refuse requests that nobody signed."""
    try:
        if not request.path.startswith("/_infiniray/") and "Authorization" not in request.headers:
            raise Refusal(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
        return await handler(request)
    except Refusal as refusal:
        return _refuse(refusal)
    except web.HTTPNotFound:
        return _refuse(Refusal(404, "UnknownOperationException", "There is no such operation here"))
    except web.HTTPRequestEntityTooLarge:
        return _refuse(too_large("Request is too large"))
    except web.HTTPException:
        raise
    except Exception:
        _log.exception("%s %s", request.method, request.path)
        return _refuse(service_error())


def _refuse(refusal: Refusal) -> web.Response:
    return web.Response(
        status=refusal.status, body=refusal.body(), headers=refusal.headers(), content_type="application/json"
    )


# ---------------------------------------------------------------- data plane


async def invoke(request: web.Request) -> web.Response:
    platform = request.app[PLATFORM]
    name = _name(request)
    kind = request.headers.get("X-Amz-Invocation-Type", "RequestResponse")
    payload = await request.read()
    if kind in ("DryRun", "Event"):
        name = platform.registry.get(name).name
        _check_payload(payload or b"{}", _EVENT_BYTES if kind == "Event" else SYNC_BYTES)
        if kind == "Event":
            _queue_event(request, name, payload or b"{}")
        return web.Response(status=204 if kind == "DryRun" else 202)
    if kind != "RequestResponse":
        raise invalid(f"Value '{kind}' at 'invocationType' failed to satisfy constraint")
    lower = {header.lower(): value for header, value in request.headers.items()}
    status, headers, body = await answer_invoke(platform, name, lower, payload)
    return web.Response(status=status, body=body, headers=headers, content_type="application/json")


async def answer_invoke(
    platform: Platform, name: str, headers: Mapping[str, str], payload: bytes
) -> tuple[int, dict[str, str], bytes]:
    """A synchronous invocation: status, headers and body of the answer. ``headers`` by names in lower case.

    Raises:
        Refusal: it is not run.
    """
    function = platform.registry.get(name_of(name))
    payload = payload or b"{}"
    _check_payload(payload, SYNC_BYTES)
    outcome = await platform.invoke(function, payload)
    answer = {"X-Amz-Executed-Version": "$LATEST"}
    if outcome.error_type is not None:
        answer["X-Amz-Function-Error"] = "Unhandled"
    if headers.get("x-amz-log-type") == "Tail":
        answer["X-Amz-Log-Result"] = base64.b64encode(outcome.log_tail).decode()
    return 200, answer, outcome.payload


def _check_payload(payload: bytes, limit_bytes: int) -> None:
    if len(payload) > limit_bytes:
        raise too_large(f"Request must be smaller than {limit_bytes} bytes for the InvokeFunction operation")
    try:
        json.loads(payload)
    except (ValueError, RecursionError) as error:
        message = f"Could not parse request body into json: {error}"
        raise Refusal(400, "InvalidRequestContentException", message) from None


def _queue_event(request: web.Request, name: str, payload: bytes) -> None:
    events = request.app[_EVENTS]
    if len(events) >= _MAX_QUEUED_EVENTS:
        raise too_many("ConcurrentInvocationLimitExceeded", 1)
    task = asyncio.get_running_loop().create_task(_run_event(request.app[PLATFORM], name, payload))
    events.add(task)
    task.add_done_callback(events.discard)


async def _run_event(platform: Platform, name: str, payload: bytes) -> None:
    """Nobody waits for how it ends. Tried again while the platform refuses, as on AWS; not when the function fails."""
    deadline_s = time.monotonic() + _EVENT_AGE_S
    pause_s = 0.05
    while time.monotonic() < deadline_s:
        try:
            await platform.invoke(platform.registry.get(name), payload)
            return
        except Refusal as refusal:
            if refusal.status not in (429, 500):
                return
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 5.0)


async def _drop_events(app: web.Application) -> None:
    for task in app[_EVENTS]:
        task.cancel()


# ---------------------------------------------------------------- control plane


def _name(request: web.Request) -> str:
    return name_of(request.match_info["name"], request.query.get("Qualifier"))


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.read() or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refusal(400, "InvalidRequestContentException", "Could not parse request body into json")
    return body


def _region(request: web.Request) -> str:
    """The region that the request was signed for."""
    scope = request.headers.get("Authorization", "").partition("Credential=")[2].split(",")[0].split("/")
    return scope[2] if len(scope) > 3 else "us-east-1"


async def create_function(request: web.Request) -> web.Response:
    function = request.app[PLATFORM].registry.create(await _body(request), _region(request))
    return web.json_response(function.describe(), status=201)


async def get_function(request: web.Request) -> web.Response:
    function = request.app[PLATFORM].registry.get(_name(request))
    answer: dict[str, Any] = {
        "Configuration": function.describe(),
        "Code": {"RepositoryType": "S3"},
        "Tags": function.tags,
    }
    if function.reserved_concurrency is not None:
        answer["Concurrency"] = {"ReservedConcurrentExecutions": function.reserved_concurrency}
    return web.json_response(answer)


async def get_configuration(request: web.Request) -> web.Response:
    return web.json_response(request.app[PLATFORM].registry.get(_name(request)).describe())


async def update_configuration(request: web.Request) -> web.Response:
    platform = request.app[PLATFORM]
    function = platform.registry.update_configuration(_name(request), await _body(request))
    platform.retire(function.name)
    return web.json_response(function.describe())


async def update_code(request: web.Request) -> web.Response:
    platform = request.app[PLATFORM]
    function = platform.registry.update_code(_name(request), await _body(request))
    platform.retire(function.name)
    return web.json_response(function.describe())


async def delete_function(request: web.Request) -> web.Response:
    platform = request.app[PLATFORM]
    name = _name(request)
    platform.registry.delete(name)
    platform.retire(name)
    return web.Response(status=204)


async def list_functions(request: web.Request) -> web.Response:
    """In order of names; ``Marker`` is the last name of the page before."""
    registry = request.app[PLATFORM].registry
    try:
        limit = int(request.query.get("MaxItems", 50))
    except ValueError:
        raise invalid("MaxItems is not a number") from None
    after = request.query.get("Marker", "")
    names = [name for name in registry.names() if name > after]
    page = names[: max(1, min(limit, 50))]
    answer: dict[str, Any] = {"Functions": [registry.get(name).describe() for name in page]}
    if len(page) < len(names):
        answer["NextMarker"] = page[-1]
    return web.json_response(answer)


async def put_concurrency(request: web.Request) -> web.Response:
    limit = (await _body(request)).get("ReservedConcurrentExecutions")
    if not isinstance(limit, int) or limit < 0:
        raise invalid(f"ReservedConcurrentExecutions must be a number from 0 on, not {limit!r}")
    request.app[PLATFORM].registry.reserve_concurrency(_name(request), limit)
    return web.json_response({"ReservedConcurrentExecutions": limit})


async def get_concurrency(request: web.Request) -> web.Response:
    limit = request.app[PLATFORM].registry.get(_name(request)).reserved_concurrency
    return web.json_response({} if limit is None else {"ReservedConcurrentExecutions": limit})


async def delete_concurrency(request: web.Request) -> web.Response:
    request.app[PLATFORM].registry.reserve_concurrency(_name(request), None)
    return web.Response(status=204)


async def list_tags(request: web.Request) -> web.Response:
    return web.json_response({"Tags": request.app[PLATFORM].registry.get(_name(request)).tags})


async def tag(request: web.Request) -> web.Response:
    tags = (await _body(request)).get("Tags")
    if not isinstance(tags, dict) or not all(isinstance(value, str) for value in tags.values()):
        raise invalid("Tags must be a mapping of text to text")
    request.app[PLATFORM].registry.tag(_name(request), tags)
    return web.Response(status=204)


async def untag(request: web.Request) -> web.Response:
    request.app[PLATFORM].registry.untag(_name(request), request.query.getall("tagKeys", []))
    return web.Response(status=204)


async def account_settings(request: web.Request) -> web.Response:
    platform = request.app[PLATFORM]
    functions = [platform.registry.get(name) for name in platform.registry.names()]
    limit = platform.settings.concurrency_limit
    reserved = sum(function.reserved_concurrency or 0 for function in functions)
    return web.json_response(
        {
            "AccountLimit": {
                "TotalCodeSize": 80_530_636_800,
                "CodeSizeUnzipped": 262_144_000,
                "CodeSizeZipped": 52_428_800,
                "ConcurrentExecutions": limit,
                "UnreservedConcurrentExecutions": limit - reserved,
            },
            "AccountUsage": {"TotalCodeSize": sum(f.code_bytes for f in functions), "FunctionCount": len(functions)},
        }
    )
