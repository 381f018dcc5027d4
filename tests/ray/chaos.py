"""What goes wrong, done to a running cache on purpose: processes killed, functions reclaimed, networks cut, a platform
that refuses."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import ray
from linearize import Span

from infiniray import Cache
from infiniray.cluster import rayapi
from infiniray.faas.local.admin import PlatformAdmin

__all__ = ["Chaos", "Injury"]

_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Injury:
    """Something that was done."""

    what: str
    whom: str
    span: Span

    def __str__(self) -> str:
        return f"[{self.span.begin_ns / 1e9:.6f}..{self.span.end_ns / 1e9:.6f}] {self.what}: {self.whom}"


class Chaos:
    """I hurt one cache, at random from a seed, and keep a list of what I did. For one thread."""

    def __init__(self, cache: Cache, seed: int) -> None:
        status = cache.status()
        self.admin = PlatformAdmin(status["endpoint_url"])
        self.injuries: list[Injury] = []
        self._name: str = status["name"]
        self._nodes: dict[str, list[str]] = status["nodes"]
        self._random = random.Random(seed)

    # ------------------------------------------------------------ functions

    def kill_function(self) -> None:
        """SIGKILL the process of one instance, if there is any."""
        instances = self.admin.instances()
        if instances:
            chosen = self._random.choice(instances)
            with self._injury("SIGKILL of an instance", chosen["function"]), contextlib.suppress(ProcessLookupError):
                os.kill(chosen["pid"], signal.SIGKILL)

    def reclaim_burst(self, share: float = 0.5, *, silent: bool = False) -> None:
        """Take many instances away at once, whatever they are doing."""
        with self._injury("reclaim, silent" if silent else "reclaim", f"{share:.0%} of all instances"):
            self.admin.reclaim(share=share, silent=silent)

    @contextlib.contextmanager
    def cut_node(self) -> Iterator[str]:
        """One node's connections are at a standstill for as long as this lasts: its name."""
        node = self._random.choice([node for nodes in self._nodes.values() for node in nodes])
        with self._injury("network cut", node):
            self.admin.cut(node)
            try:
                yield node
            finally:
                self.admin.heal(node)

    # ------------------------------------------------------------ the platform's API

    def throttle(self, n: int) -> None:
        with self._injury("429", f"{n} invocations"):
            self.admin.throttle(n)

    def fail(self, n: int) -> None:
        with self._injury("500", f"{n} invocations"):
            self.admin.fail(n)

    # ------------------------------------------------------------ actors

    def kill_shard(self) -> None:
        """SIGKILL the process of one shard, once it runs; Ray restarts it."""
        self._kill_actor(self._random.choice(sorted(self._nodes)))

    def kill_shards(self) -> None:
        for shard in self._nodes:
            self._kill_actor(shard)

    def kill_supervisor(self) -> None:
        self._kill_actor("supervisor")

    def _kill_actor(self, actor: str) -> None:
        pid = self.pid_of(actor)
        with self._injury("SIGKILL of an actor", actor):
            os.kill(pid, signal.SIGKILL)

    def pid_of(self, actor: str) -> int:
        """The process in which an actor runs now; one that is being restarted is waited for."""
        give_up_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                handle = rayapi.find_actor(f"{self._name}:{actor}")
                # a local function, which is sent by value: actors do not know the folders of tests
                return int(ray.get(handle.__ray_call__.remote(lambda _: os.getpid()), timeout=_PATIENCE_S))
            except ray.exceptions.ActorUnavailableError:
                assert time.monotonic() < give_up_s, f"{actor} does not come back"
                time.sleep(0.1)

    # ------------------------------------------------------------ all of it

    def pids(self) -> set[int]:
        """Of all that runs for this cache alone: actors and instances."""
        actors = [self.pid_of(actor) for actor in ("supervisor", *self._nodes)]
        return {*actors, *(instance["pid"] for instance in self.admin.instances())}

    def everything(self, between: Callable[[], None]) -> None:
        """Each of the above once, in random order; what lasts, lasts as long as ``between`` takes."""
        actions: list[Callable[[], object]] = [
            self.kill_function,
            self.reclaim_burst,
            self.kill_shard,
            self.kill_supervisor,
            lambda: self.throttle(6),
            lambda: self.fail(6),
            self.cut_node,
        ]
        for act in self._random.sample(actions, len(actions)):
            lasting = act()
            with lasting if isinstance(lasting, contextlib.AbstractContextManager) else contextlib.nullcontext():
                between()

    @property
    def spans(self) -> list[Span]:
        return [injury.span for injury in self.injuries]

    @contextlib.contextmanager
    def _injury(self, what: str, whom: str) -> Iterator[None]:
        begin_ns = time.monotonic_ns()
        try:
            yield
        finally:
            span = Span(begin_ns=begin_ns, end_ns=time.monotonic_ns())
            self.injuries.append(Injury(what=what, whom=whom, span=span))
