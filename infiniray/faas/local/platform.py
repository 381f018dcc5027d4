"""The platform itself: which instance serves an invocation, and when instances come and go."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infiniray.faas.local.faults import FaultKind, Faults
from infiniray.faas.local.functions import Function, FunctionRegistry
from infiniray.faas.local.instances import Instance, InstanceState, Outcome
from infiniray.faas.local.metering import Meter
from infiniray.faas.local.network import Network
from infiniray.faas.local.nursery import Nursery
from infiniray.faas.local.refusals import Refusal, service_error, too_many
from infiniray.faas.local.scaling import ScalingLimit
from infiniray.faas.local.settings import LocalPlatformSettings

__all__ = ["Platform"]

#: Processes forked at the same time: more only queue for the processors.
_FORKS_AT_ONCE = 8
#: How long an INIT may hold one of these places: it may well wait for something else than a processor.
_FORK_PLACE_S = 0.5
_END_TIMEOUT_S = 5.0
_COUNTERS = (
    "invocations", "cold_starts", "throttled", "failed", "delayed", "function_errors", "out_of_memory",
    "started", "frozen", "thawed", "reclaimed", "ended", "alive",
)  # fmt: skip


@dataclass(slots=True)
class _Fleet:
    """The instances of one function."""

    scaling: ScalingLimit
    instances: list[Instance] = field(default_factory=list)
    n_running: int = 0  # invocations, those that wait for a new instance included


class Platform:
    """I run functions. I promise one invocation at a time to an instance, and a new instance when all are busy."""

    def __init__(
        self, settings: LocalPlatformSettings, directory: Path, on_broken: Callable[[], None] = lambda: None
    ) -> None:
        self.settings = settings
        self.registry = FunctionRegistry(directory / "code")
        self.meter = Meter(directory / "bill.jsonl", settings)
        self.network = Network(settings.bandwidth)
        self.counters: Counter[str] = Counter(dict.fromkeys(_COUNTERS, 0))
        self.random = random.Random(settings.seed)
        self.faults = Faults(self.random)
        self._nursery = Nursery.start(on_broken)
        self._forking = asyncio.Semaphore(_FORKS_AT_ONCE)
        self._fleets: dict[str, _Fleet] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._is_closed = False

    # ------------------------------------------------------------ invoking

    async def invoke(self, function: Function, payload: bytes) -> Outcome:
        """Run one invocation.

        Raises:
            Refusal: throttled, or a service error.
        """
        await self._meet_faults(function.name)
        if self._is_closed:
            raise service_error()
        function = self.registry.get(function.name)  # a delay may have outlived what was asked for
        fleet = self._fleet(function.name)
        self._admit(function, fleet)
        instance = self._pick(function, fleet)
        if instance is None:
            self._admit_instance(fleet)
        self.counters["invocations"] += 1
        fleet.n_running += 1
        try:
            init_s = 0.0
            if instance is None:
                self.counters["cold_starts"] += 1
                instance = await self._start(function, fleet)
                init_s = instance.init_s
            outcome = instance.init_failure or await instance.run(payload)
        finally:
            fleet.n_running -= 1
        self.counters["function_errors"] += outcome.error_type is not None
        self.meter.note(
            function=function.name,
            instance=instance.id,
            payload=payload,
            init_s=init_s,
            duration_s=outcome.duration_s,
            memory_mb=function.memory_mb,
        )
        return outcome

    def _fleet(self, name: str) -> _Fleet:
        if name not in self._fleets:
            limit = ScalingLimit(n_instances=self.settings.scaling_instances, window_s=self.settings.scaling_window_s)
            self._fleets[name] = _Fleet(limit)
        return self._fleets[name]

    async def _meet_faults(self, function: str) -> None:
        delay = self.faults.meets(FaultKind.DELAY, function)
        if delay is not None:
            self.counters["delayed"] += 1
            await self.faults.stall(delay, function)
        if self.faults.meets(FaultKind.FAIL, function):
            self.counters["failed"] += 1
            raise service_error()
        if self.faults.meets(FaultKind.THROTTLE, function):
            self._throttle("ConcurrentInvocationLimitExceeded")

    def _admit(self, function: Function, fleet: _Fleet) -> None:
        reserved = function.reserved_concurrency
        if reserved is not None and fleet.n_running >= reserved:
            self._throttle("ReservedFunctionConcurrentInvocationLimitExceeded")
        if sum(other.n_running for other in self._fleets.values()) >= self.settings.concurrency_limit:
            self._throttle("ConcurrentInvocationLimitExceeded")

    def _admit_instance(self, fleet: _Fleet) -> None:
        """May it get one more?"""
        if self.counters["alive"] >= self.settings.max_instances:
            self._throttle("ConcurrentInvocationLimitExceeded")
        wait_s = fleet.scaling.wait_s(time.monotonic())
        if wait_s > 0:
            # AWS names no reason for this limit; of those that it has, this is the one of a function's rate.
            self._throttle("FunctionInvocationRateLimitExceeded", wait_s)

    def _throttle(self, reason: str, retry_after_s: float = 0.0) -> None:
        self.counters["throttled"] += 1
        raise too_many(reason, math.ceil(retry_after_s))

    def _pick(self, function: Function, fleet: _Fleet) -> Instance | None:
        """A free instance of the function as it is now."""
        idle = [i for i in fleet.instances if i.is_free and i.function.revision == function.revision]
        if not idle:
            return None
        match self.settings.selection:
            case "random":
                return self.random.choice(idle)
            case "lru":
                return min(idle, key=lambda i: i.used_s)
            case _:
                return max(idle, key=lambda i: i.used_s)

    async def _start(self, function: Function, fleet: _Fleet) -> Instance:
        """A new instance, after its INIT: taken, or with its :attr:`Instance.init_failure`."""
        instance = Instance(function, self._changed)
        fleet.instances.append(instance)
        fleet.scaling.note(instance.started_s)
        self.counters["alive"] += 1
        self.counters["started"] += 1
        try:
            async with self._forking:
                if self._is_closed:
                    raise ConnectionError("the platform is being shut down")
                await instance.fork(self._nursery)
                await instance.init_ended(_FORK_PLACE_S)
        except (OSError, asyncio.TimeoutError) as error:
            instance.state = InstanceState.GONE
            self._changed(instance)
            raise Refusal(500, "ServiceException", f"no instance could be started: {error}") from None
        await instance.init(self.settings.init_timeout_s)
        return instance

    def _changed(self, instance: Instance) -> None:
        """An instance told us of its new state."""
        match instance.state:
            case InstanceState.IDLE:
                self.counters["frozen"] += 1
                self.network.rest(instance)
                if not instance.is_taken and instance.function.revision != self.registry.revision_of(
                    instance.function.name
                ):
                    instance.kill("outdated")
            case InstanceState.BUSY:
                self.counters["thawed"] += 1
                self.network.watch(instance)
            case InstanceState.GONE:
                self._bury(instance)

    def _bury(self, instance: Instance) -> None:
        fleet = self._fleets[instance.function.name]
        if instance not in fleet.instances:
            return
        fleet.instances.remove(instance)
        self.network.forget(instance)
        self.counters["alive"] -= 1
        self.counters["ended"] += 1
        if instance.kill_reason in ("reclaimed", "stale"):
            self.counters["reclaimed"] += 1
        task = asyncio.get_running_loop().create_task(instance.close())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    # ------------------------------------------------------------ what the admin and the policies do

    @property
    def instances(self) -> list[Instance]:
        return [instance for fleet in self._fleets.values() for instance in fleet.instances]

    def reclaim(self, instances: list[Instance], *, is_silent: bool = False, reason: str = "reclaimed") -> int:
        """Take these instances away without notice; how many really fell silent, without a FIN, if asked to."""
        n_silent = 0
        for instance in instances:
            if is_silent:
                n_silent += self.network.silence(instance)
            instance.kill(reason)
        return n_silent

    def some_instances(self, n: int, accept: Callable[[Instance], bool] = lambda _: True) -> list[Instance]:
        """``n`` of the living that ``accept`` takes, at random (seeded)."""
        alive = self.living(accept)
        return self.random.sample(alive, min(n, len(alive)))

    def living(self, accept: Callable[[Instance], bool] = lambda _: True) -> list[Instance]:
        """Those that ``accept`` takes and nobody has killed yet."""
        return [i for i in self.instances if i.pid and not i.kill_reason and accept(i)]

    def retire(self, name: str) -> None:
        """The function changed, or went: its idle instances serve no more."""
        revision = self.registry.revision_of(name)
        for instance in list(self._fleet(name).instances):
            if instance.is_free and instance.function.revision != revision:
                instance.kill("outdated")

    def stats(self) -> dict[str, Any]:
        """Counters, instances by state, and the bill's total."""
        states = Counter(instance.state.value for instance in self.instances)
        return {
            **dict(self.counters),
            "instances": {
                state.value: states[state.value] for state in InstanceState if state is not InstanceState.GONE
            },
            "bill_usd": self.meter.bill.total_usd,
        }

    async def close(self) -> None:
        """End every instance and the zygote, and wait until they have ended."""
        if self._is_closed:
            return
        self._is_closed = True
        self.faults.clear()
        self.network.close()
        for instance in self.instances:
            instance.kill("shutdown")
        deadline_s = time.monotonic() + _END_TIMEOUT_S
        while self.instances and time.monotonic() < deadline_s:
            await asyncio.sleep(0.005)
        await self._nursery.close()
        for instance in self.instances:
            await instance.close()
        if self._ending:
            await asyncio.wait(self._ending, timeout=_END_TIMEOUT_S)
        self.meter.close()
