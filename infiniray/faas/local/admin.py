"""The admin interface: what a provider does behind its customers' backs, on command, for tests and fault injection.

Routes below ``/_infiniray/`` on the platform's own port, and :class:`PlatformAdmin`, their client.
"""

from __future__ import annotations

import asyncio
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

from aiohttp import web

from infiniray.errors import PlatformError
from infiniray.faas.local.api import PLATFORM
from infiniray.faas.local.faults import FaultRule, check_share
from infiniray.faas.local.instances import Instance, InstanceState
from infiniray.faas.local.policies import resident_bytes
from infiniray.faas.local.refusals import invalid

__all__ = ["STOP", "PlatformAdmin", "add_admin"]

STOP = web.AppKey("stop", asyncio.Event)
_ROOT = "/_infiniray"
_TIMEOUT_S = 30.0


def add_admin(app: web.Application, stop: asyncio.Event) -> None:
    """Add the routes to ``app``; ``stop`` is set when somebody asks for a shutdown."""
    app[STOP] = stop
    app.router.add_get(_ROOT + "/instances", _instances)
    app.router.add_get(_ROOT + "/stats", _stats)
    app.router.add_get(_ROOT + "/bill", _bill)
    app.router.add_post(_ROOT + "/reclaim", _reclaim)
    app.router.add_post(_ROOT + "/faults", _faults)
    app.router.add_post(_ROOT + "/faults/clear", _clear_faults)
    app.router.add_post(_ROOT + "/network", _network)
    app.router.add_post(_ROOT + "/hang", _hang)
    app.router.add_post(_ROOT + "/shutdown", _shutdown)


class PlatformAdmin:
    """The admin interface of the platform at ``endpoint``. Blocking; safe to use from several threads.

    Every method raises :class:`~infiniray.errors.PlatformError` if the platform cannot be reached or refuses.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint.rstrip("/")

    def instances(self, function: str | None = None) -> list[dict[str, Any]]:
        """Each living instance, of one function or all.

        Returns:
            Rows of ``function``, ``id``, ``pid``, ``state`` (init, idle, busy), ``busy`` (an invocation has it, INIT
            included), ``resident_bytes``, ``invocations``, ``age_s``, ``idle_s`` (since its last invocation, 0 if
            busy), ``init_s``.
        """
        query = "" if function is None else "?" + urllib.parse.urlencode({"function": function})
        rows: list[dict[str, Any]] = self._call("GET", "instances" + query)
        return rows

    def reclaim(
        self, n: int = 1, *, function: str | None = None, instance: str | None = None, share: float | None = None,
        everything: bool = False, silent: bool = False, idle_only: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Take instances away without notice: one by its id, all, all of a function, or ``n`` at random.

        Args:
            share: of all, or of the function's, this part at random (0 to 1, rounded to whole instances).
            silent: their connections just fall silent: no FIN, no RST.
            idle_only: spare those that an invocation has.

        Returns:
            ``reclaimed`` (ids), ``functions``, and ``silent``: how many went without a FIN.
        """
        order = {
            "n": n,
            "function": function,
            "instance": instance,
            "share": share,
            "all": everything,
            "silent": silent,
            "idle_only": idle_only,
        }
        answer: dict[str, Any] = self._call("POST", "reclaim", order)
        return answer

    def throttle(self, n: int = 0, *, share: float = 0.0, function: str | None = None) -> None:
        """Answer the next ``n`` invocations, of one function or of all, with 429, or this share of them from now on.

        In place of what was said before for the same function, or for all; with neither, it ends.
        """
        self._order_fault("throttle", function, n=n, share=share)

    def fail(self, n: int = 0, *, share: float = 0.0, function: str | None = None) -> None:
        """The same with 500."""
        self._order_fault("fail", function, n=n, share=share)

    def delay(self, delay_ms: float, *, n: int = 0, share: float = 0.0, function: str | None = None) -> None:
        """Keep the next ``n`` invocations, this share, or with neither all of them, waiting before anything else
        happens to them, a refusal included."""
        self._order_fault("delay", function, n=n, share=share if n or share else 1.0, delay_ms=delay_ms)

    def clear_faults(self, function: str | None = None) -> None:
        """End :meth:`throttle`, :meth:`fail` and :meth:`delay` that were said for a function, or all there are.
        Those who are kept waiting go on."""
        self._call("POST", "faults/clear", {"function": function})

    def _order_fault(self, kind: str, function: str | None, **rule: float) -> None:
        self._call("POST", "faults", {"kind": kind, "function": function, **rule})

    def slow(self, function: str, factor: float) -> None:
        """Divide what a function's instances can send by ``factor``."""
        self._call("POST", "network", {"function": function, "slow": factor})

    def cut(self, function: str) -> int:
        """Let a function's connections come to a standstill, in silence; how many there were."""
        return int(self._call("POST", "network", {"function": function, "cut": True})["sockets"])

    def heal(self, function: str) -> None:
        """End :meth:`slow` and :meth:`cut`."""
        self._call("POST", "network", {"function": function, "heal": True})

    def hang(self, function: str) -> int:
        """Stop a function's busy instances in the middle of their work; how many there were."""
        return int(self._call("POST", "hang", {"function": function})["hung"])

    def stats(self) -> dict[str, Any]:
        """Counters since the start (invocations, cold_starts, started, frozen, thawed, reclaimed, ended, throttled,
        failed, delayed, function_errors, out_of_memory; alive is now), instances by state, and ``bill_usd``."""
        stats: dict[str, Any] = self._call("GET", "stats")
        return stats

    def bill(self) -> dict[str, Any]:
        """``total_usd``, and by reason of invocation: count, seconds and GB-seconds billed, USD."""
        bill: dict[str, Any] = self._call("GET", "bill")
        return bill

    def shutdown(self) -> None:
        """End the platform and every instance."""
        self._call("POST", "shutdown")

    def _call(self, method: str, what: str, body: Any = None) -> Any:
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(f"{self.endpoint}{_ROOT}/{what}", data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                detail = error.read().decode(errors="replace")
            raise PlatformError(operation=f"admin {what}", function="", detail=detail) from None
        except (OSError, ValueError) as error:
            detail = f"no platform answers at {self.endpoint}: {error}"
            raise PlatformError(operation=f"admin {what}", function="", detail=detail) from None


# ---------------------------------------------------------------- routes


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
