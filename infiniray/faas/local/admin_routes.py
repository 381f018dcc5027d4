"""The routes of the admin interface (:mod:`~infiniray.faas.local.admin`), in the platform's process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web

from infiniray.faas.local.admin import ADMIN_ROOT
from infiniray.faas.local.api import PLATFORM
from infiniray.faas.local.faults import FaultRule, check_share
from infiniray.faas.local.instances import Instance, InstanceState
from infiniray.faas.local.policies import resident_bytes
from infiniray.faas.local.refusals import invalid

__all__ = ["STOP", "add_admin"]

STOP = web.AppKey("stop", asyncio.Event)


def add_admin(app: web.Application, stop: asyncio.Event) -> None:
    """Add the routes to ``app``; ``stop`` is set when somebody asks for a shutdown."""
    app[STOP] = stop
    app.router.add_get(ADMIN_ROOT + "/instances", _instances)
    app.router.add_get(ADMIN_ROOT + "/stats", _stats)
    app.router.add_get(ADMIN_ROOT + "/bill", _bill)
    app.router.add_post(ADMIN_ROOT + "/reclaim", _reclaim)
    app.router.add_post(ADMIN_ROOT + "/faults", _faults)
    app.router.add_post(ADMIN_ROOT + "/faults/clear", _clear_faults)
    app.router.add_post(ADMIN_ROOT + "/network", _network)
    app.router.add_post(ADMIN_ROOT + "/hang", _hang)
    app.router.add_post(ADMIN_ROOT + "/shutdown", _shutdown)


async def _instances(request: web.Request) -> web.Response:
    now_s = time.monotonic()
    function = request.query.get("function")
    rows = [
        {
            "function": i.function.name,
            "id": i.id,
            "pid": i.pid,
            "state": i.state.value,
            "busy": i.is_taken,
            "resident_bytes": resident_bytes(i.pid),
            "invocations": i.n_invocations,
            "age_s": round(now_s - i.started_s, 3),
            "idle_s": 0.0 if i.is_taken else round(now_s - i.used_s, 3),
            "init_s": round(i.init_s, 6),
        }
        for i in request.app[PLATFORM].instances
        if function in (None, i.function.name) and not i.kill_reason  # its process may not have been seen to end yet
    ]
    return web.json_response(rows)


async def _stats(request: web.Request) -> web.Response:
    return web.json_response(request.app[PLATFORM].stats())


async def _bill(request: web.Request) -> web.Response:
    return web.json_response(request.app[PLATFORM].meter.bill.to_json_dict())


async def _reclaim(request: web.Request) -> web.Response:
    platform, order = request.app[PLATFORM], await request.json()

    def accept(instance: Instance) -> bool:
        return (
            order.get("function") in (None, instance.function.name)
            and order.get("instance") in (None, instance.id)
            and (not order.get("idle_only") or instance.is_free)
        )

    chosen = platform.some_instances(_how_many(order, len(platform.living(accept))), accept)
    n_silent = platform.reclaim(chosen, is_silent=bool(order.get("silent")))
    answer = {"reclaimed": [i.id for i in chosen], "functions": [i.function.name for i in chosen], "silent": n_silent}
    return web.json_response(answer)


def _how_many(order: dict[str, Any], n_all: int) -> int:
    """Of ``n_all`` that can be taken."""
    if order.get("share") is not None:
        return round(check_share(order["share"]) * n_all)
    takes_all = order.get("all") or order.get("function") or order.get("instance")
    return n_all if takes_all else int(order.get("n", 1))


async def _faults(request: web.Request) -> web.Response:
    platform, order = request.app[PLATFORM], await request.json()
    function = order.get("function")
    if function is not None:
        platform.registry.get(str(function))
    kind, rule = FaultRule.parse(order)
    platform.faults.order(kind, rule, function)
    return web.json_response({})


async def _clear_faults(request: web.Request) -> web.Response:
    request.app[PLATFORM].faults.clear((await request.json()).get("function"))
    return web.json_response({})


async def _network(request: web.Request) -> web.Response:
    platform, order = request.app[PLATFORM], await request.json()
    function = order.get("function")
    platform.registry.get(str(function))
    _trouble(platform.network, order)
    touched = _of_function(request, lambda i: i.function.name == function)
    n_sockets = sum(platform.network.apply(i) for i in touched)
    for instance in touched:
        if instance.state is InstanceState.BUSY:
            platform.network.watch(instance)
    return web.json_response({"sockets": n_sockets})


def _trouble(network: Any, order: dict[str, Any]) -> None:
    function = str(order["function"])
    if order.get("heal"):
        network.heal(function)
    elif order.get("cut"):
        network.cut(function)
    elif isinstance(order.get("slow"), (int, float)):
        network.slow(function, float(order["slow"]))
    else:
        raise invalid("say cut, slow or heal")


async def _hang(request: web.Request) -> web.Response:
    function = (await request.json()).get("function")
    busy = _of_function(request, lambda i: i.function.name == function and i.state is InstanceState.BUSY)
    for instance in busy:
        instance.hang()
    return web.json_response({"hung": len(busy)})


async def _shutdown(request: web.Request) -> web.Response:
    request.app[STOP].set()
    return web.json_response({})


def _of_function(request: web.Request, accept: Callable[[Instance], bool]) -> list[Instance]:
    return [i for i in request.app[PLATFORM].instances if accept(i) and i.state is not InstanceState.GONE]
