"""The admin interface: what a provider does behind its customers' backs, on command, for tests and fault injection.

Its routes are in :mod:`~infiniray.faas.local.admin_routes`: who asks does not load a server.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from infiniray.errors import PlatformError

__all__ = ["ADMIN_ROOT", "PlatformAdmin"]

#: Of its routes, on the platform's own port.
ADMIN_ROOT = "/_infiniray"
_TIMEOUT_S = 30.0


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
        request = urllib.request.Request(f"{self.endpoint}{ADMIN_ROOT}/{what}", data=data, method=method)
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
