"""A shard's brain that decides nothing: the test says which commands a driver gets, and sees what it reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

from node_peer import NodePeer, soon

from infiniray.codec.coder import Coder
from infiniray.codec.schemes import Scheme
from infiniray.core import events as ev
from infiniray.core.commands import Command, ObjectFacts
from infiniray.runtime.driver import ShardDriver

E = TypeVar("E")


@dataclass
class Answer:
    """What a platform answers."""

    function_error: str | None = None
    payload: bytes = b"{}"


class ScriptedInvoker:
    """A platform on which nothing runs: ``answer`` says what becomes of an invocation."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.is_closed = False
        self.answer: Answer | Exception | asyncio.Event = Answer()

    async def invoke(self, function: str, payload: bytes, *, timeout_s: float) -> Answer:
        self.payloads.append(payload)
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, asyncio.Event):
            await self.answer.wait()
            return Answer()
        return self.answer

    async def close(self) -> None:
        self.is_closed = True


class GatedCoder:
    """The real arithmetic, which can be held up, or fail."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.n_encodes = 0
        self.n_decodes = 0
        self._coder = Coder()

    async def encode(self, scheme: Scheme, data: Any, outputs: list[Any]) -> list[Any]:
        self.n_encodes += 1
        await self._pass()
        self._coder.encode_into(scheme, data, outputs)
        return outputs

    async def reconstruct(self, scheme: Scheme, object_bytes: int, present: Any, wanted: Any) -> None:
        self.n_decodes += 1
        await self._pass()
        self._coder.reconstruct(scheme, object_bytes, present, wanted)

    async def _pass(self) -> None:
        await self.gate.wait()
        if self.error is not None:
            raise self.error


@dataclass(frozen=True)
class _Do:
    commands: Sequence[Command]


class Script:
    """In ``ShardState``'s place. ``react`` maps an event to commands; ``events`` are those not looked at yet."""

    def __init__(self, nodes: Sequence[str] = ("n0",), epoch: int = 7) -> None:
        self.context = SimpleNamespace(epoch=epoch)
        self.nodes = dict.fromkeys(nodes, 1 << 30)
        self.events: asyncio.Queue[ev.Event] = asyncio.Queue()
        self.seen: list[ev.Event] = []
        self.times_s: list[float] = []
        self.react: Callable[[Any], list[Command]] = lambda event: []

    def handle(self, event: Any, now_s: float) -> list[Command]:
        if isinstance(event, _Do):
            return list(event.commands)
        self.seen.append(event)
        self.times_s.append(now_s)
        self.events.put_nowait(event)
        return self.react(event)

    def stats(self) -> dict[str, Any]:
        return {}

    async def next(self, kind: type[E]) -> E:
        """The next event, which must be of this kind."""
        event = await soon(self.events.get())
        assert isinstance(event, kind), event
        return event


class Stage:
    """A driver with its script, its platform and its coder."""

    def __init__(self, script: Script, invoker: ScriptedInvoker, coder: GatedCoder, driver: ShardDriver) -> None:
        self.script = script
        self.invoker = invoker
        self.coder = coder
        self.driver = driver
        #: fingerprint of what the driver shows; "": it speaks no TLS
        self.certificate = ""
        self._peers: list[NodePeer] = []

    def do(self, *commands: Command) -> None:
        """Have the driver execute commands, as if an event had brought them."""
        self.driver.feed(_Do(commands))  # type: ignore[arg-type]

    async def dial(self, **options: Any) -> NodePeer:
        peer = await NodePeer.dial(self.driver.address, **{"certificate": self.certificate, **options})
        self._peers.append(peer)
        return peer

    async def connect(self, **options: Any) -> tuple[NodePeer, ev.LinkOpened]:
        """A node with its link open."""
        peer = await self.dial(**options)
        await peer.greet()
        return peer, await self.script.next(ev.LinkOpened)

    async def begin_get(self, facts: ObjectFacts) -> tuple[asyncio.Task[Any], ev.GetRequested]:
        """A GET that waits for what the test has come next."""
        task = asyncio.ensure_future(self.driver.get(facts.key, timeout_s=5))
        return task, await self.script.next(ev.GetRequested)

    async def begin_put(self, key: str, data: Any) -> tuple[asyncio.Task[Any], ev.PutRequested]:
        task = asyncio.ensure_future(self.driver.put(key, "head", data, expires_s=None, timeout_s=5))
        return task, await self.script.next(ev.PutRequested)

    def hang_up(self) -> None:
        for peer in self._peers:
            peer.close()


def facts_of(size_bytes: int, scheme: str = "stripe:1", *, key: str = "k", version: int = 3) -> ObjectFacts:
    return ObjectFacts(
        key=key, version=version, scheme=Scheme.parse(scheme), size_bytes=size_bytes, head="head", expires_s=0.0
    )
