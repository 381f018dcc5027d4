"""A pool in one process: a real shard, real agents in threads, and a platform that breaks what a test wants broken.

Every agent runs the very session code that functions run, over loopback. What differs from a platform: instances
share this process, so "killed" means that the connection is cut and the chunks are dropped, and "frozen" that the
session's thread waits at a gate.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from node_peer import DEADLINE_S, SECRET, until
from script import Answer, GatedCoder

from infiniray.codec.schemes import SchemePolicy
from infiniray.core.events import TimerFired
from infiniray.core.ids import InstanceId, NodeId
from infiniray.core.policy import Policy
from infiniray.core.reading import ChunkState, Read
from infiniray.core.shard import ShardState
from infiniray.core.table import ObjectRecord
from infiniray.errors import StaleEpoch
from infiniray.runtime.certificates import ShardCertificate
from infiniray.runtime.coordination import LoneCoordinator
from infiniray.runtime.driver import ShardDriver
from lambda_agent.handler import answer
from lambda_agent.instance import Channel, Instance
from lambda_agent.invocation import Invocation
from lambda_agent.link import LinkLost
from lambda_agent.session import Session
from lambda_agent.store import Chunk

SHIPPED = ("rs:10+2", "rs:4+2", "xor:5+1", "mirror:3", "stripe:8")
SESSION_S = 60.0


class GridSession(Session):
    """A session that stops where its node's switches say."""

    def __init__(self, node: GridNode, instance: Instance, invocation: Invocation, end_s: float) -> None:
        super().__init__(instance, invocation, end_s)
        self._node = node
        self._is_stopped = False

    def _serve_on_new_link(self) -> None:
        if self._instance not in self._node.instances:
            raise LinkLost("reclaimed")  # the dead do not dial again when they lose a connection
        super()._serve_on_new_link()

    def _take_in(self, channel: Channel) -> bool:
        self._node.wait_at_gate()
        return super()._take_in(channel)

    def _give_out(self, channel: Channel) -> bool:
        self._is_stopped = False
        moved = super()._give_out(channel)
        if self._is_stopped:
            self._node.wait_at_gate()
        return moved or self._is_stopped  # what came in meanwhile is looked at first

    def _queue_segment(self, channel: Channel) -> bool:
        if channel.chunks and not self._node.may_send(channel):
            self._is_stopped = True
            return False
        return super()._queue_segment(channel)


class GridNode:
    """One function, with its instances and its switches."""

    def __init__(self, name: str, limit_bytes: int) -> None:
        self.name = name
        self.instances: list[Instance] = []
        self.errors: list[Exception] = []  # raised by the platform, one an invocation
        self.secret = SECRET  # in the function's settings, for instances to come
        self.n_invocations = 0
        self.n_segments = 0  # of chunks, sent to the shard
        self.is_broken = False
        self.stopped = threading.Event()  # a session waits at the gate, or was cut off
        self._gate = threading.Event()
        self._gate.set()
        self._segments_left = -1  # until it stops; below 0: it does not
        self._is_cut_off = False  # whether it loses its connection where it would stop
        self._limit_bytes = limit_bytes
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    # ------------------------------------------------------------ switches

    def hang(self) -> None:
        """Frozen: connected, but it neither reads nor writes until :meth:`resume`."""
        self._gate.clear()

    def stop_after(self, n_segments: int, *, is_cut_off: bool = False) -> None:
        """Freeze, or cut the connection, when so many more segments of chunks are sent."""
        with self._lock:
            self._segments_left, self._is_cut_off = n_segments, is_cut_off

    def resume(self) -> None:
        with self._lock:
            self._segments_left, self._is_cut_off = -1, False
            self._gate.set()

    def break_(self) -> None:
        """Every session fails from now on, those that run included."""
        self.is_broken = True
        self.cut()

    def reclaim(self, instance: Instance | None = None) -> None:
        """The platform takes the instances, or one of them: chunks and connections are gone."""
        with self._lock:
            taken = self.instances if instance is None else [instance]
            self.instances = [other for other in self.instances if other not in taken]
            for instance in taken:
                if instance.id not in self._busy:  # or its session hangs up, when it notices
                    instance.hang_up()
            _cut(taken)

    def cut(self) -> None:
        """The network forgets the connections."""
        _cut(self.instances)

    def corrupt(self) -> None:
        """Flip a bit in the middle of every chunk."""
        for chunk in self.chunks():
            chunk.body[len(chunk.body) // 2] ^= 0x10

    def relabel(self, **changes: Any) -> None:
        """Have every chunk say something else of itself."""
        for instance in self.instances:
            for chunk_id, chunk in instance.store._chunks.items():
                instance.store._chunks[chunk_id] = Chunk(chunk.info._replace(**changes), chunk.body)

    def chunks(self) -> list[Chunk]:
        return [chunk for instance in self.instances for chunk in instance.store._chunks.values()]

    # ------------------------------------------------------------ sessions, in threads

    def run(self, payload: bytes) -> Answer:
        instance = self._take_instance()
        try:
            if self.is_broken:
                raise RuntimeError("broken")
            end_s = time.monotonic() + SESSION_S
            summary = answer(instance, json.loads(payload), end_s, functools.partial(GridSession, self))
            return Answer(payload=json.dumps(summary).encode())
        except Exception as error:
            told = {"errorMessage": str(error), "errorType": type(error).__name__}
            return Answer(function_error="Unhandled", payload=json.dumps(told).encode())
        finally:
            self._give_back(instance)

    def wait_at_gate(self) -> None:
        if not self._gate.is_set():
            self.stopped.set()
            assert self._gate.wait(DEADLINE_S)

    def may_send(self, channel: Channel) -> bool:
        """Whether one more segment may go; if not, this is where the node stops or loses its connection."""
        with self._lock:
            if self._segments_left:
                self._segments_left -= 1
                self.n_segments += 1
                return True
            if self._is_cut_off:
                _shut(channel)
                self.stopped.set()
            else:
                self._gate.clear()
            return False

    def close(self) -> None:
        self.resume()
        for instance in self.instances:
            instance.hang_up()

    def _take_instance(self) -> Instance:
        with self._lock:
            for instance in self.instances:
                if instance.id not in self._busy:
                    break
            else:
                instance = Instance(self.secret, self._limit_bytes)
                self.instances.append(instance)
            self._busy.add(instance.id)
            return instance

    def _give_back(self, instance: Instance) -> None:
        with self._lock:
            self._busy.discard(instance.id)
            if instance not in self.instances:
                instance.hang_up()  # reclaimed while it ran


def _cut(instances: Sequence[Instance]) -> None:
    for instance in instances:
        channel = instance.channel
        if channel is not None:
            _shut(channel)


def _shut(channel: Channel) -> None:
    with contextlib.suppress(OSError):
        channel.link._sock.shutdown(socket.SHUT_RDWR)  # not close: a thread may be waiting on it


@dataclass
class GridPlatform:
    """Invokes agents in threads, in the place of HTTP and processes."""

    nodes: dict[str, GridNode]
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(64, "grid"))

    async def invoke(self, function: str, payload: bytes, *, timeout_s: float) -> Answer:
        node = self.nodes[function]
        node.n_invocations += 1
        if node.errors:
            raise node.errors.pop(0)
        return await asyncio.get_running_loop().run_in_executor(self.threads, node.run, payload)

    async def close(self) -> None:
        return None


class GridCoordinator(LoneCoordinator):
    """Speaks for one incarnation of the shard, until the next one takes over what is on record."""

    def __init__(self, epoch: int, former: GridCoordinator | None = None) -> None:
        super().__init__()
        self.epoch = self.newest_epoch = epoch
        if former is not None:
            self.copies = dict(former.copies)
            former.newest_epoch = epoch

    async def register(self, copies: Mapping[NodeId, InstanceId]) -> None:
        await self.confirm()
        await super().register(copies)

    async def confirm(self) -> None:
        if self.newest_epoch > self.epoch:
            raise StaleEpoch(seen=self.epoch, current=self.newest_epoch)


class Grid:
    """A shard over ``n_nodes`` agents, with one scheme for objects of all sizes. ``policy`` are further settings."""

    def __init__(
        self,
        scheme: str = "rs:4+2",
        *,
        n_nodes: int = 14,
        node_bytes: int = 256 << 20,
        linger_s: float = 0.02,
        hedge_delay_s: float = 5.0,  # not by chance: a test that wants hedging says so,
        ping_timeout_s: float = 5.0,  # or nodes that fall under suspicion
        certificate: ShardCertificate | None = None,
        **policy: Any,
    ) -> None:
        self.nodes = {f"n{i}": GridNode(f"n{i}", node_bytes) for i in range(n_nodes)}
        self.platform = GridPlatform(self.nodes)
        self.coder = GatedCoder()
        self.coordinator = GridCoordinator(epoch=7)
        self._policy = Policy(
            schemes=SchemePolicy.of([(None, scheme)]),
            hedge_delay_s=hedge_delay_s,
            ping_timeout_s=ping_timeout_s,
            **policy,
        )
        self._node_bytes = node_bytes
        self._linger_s = linger_s
        self.certificate = certificate
        self._former: list[ShardDriver] = []
        self.state, self.driver = self._new_incarnation()

    async def start(self) -> None:
        await self.driver.start()

    @property
    def fingerprint(self) -> str:
        """Of what the shard shows; "": it speaks no TLS."""
        return "" if self.certificate is None else self.certificate.fingerprint

    async def restart(self) -> ShardDriver:
        """A new incarnation of the shard, which knows what the one before put on record: that one, which lives on."""
        former = self.driver
        self._former.append(former)
        self.coordinator = GridCoordinator(self.coordinator.epoch + 1, self.coordinator)
        self.state, self.driver = self._new_incarnation()
        await self.start()
        return former

    def _new_incarnation(self) -> tuple[ShardState, ShardDriver]:
        state = ShardState(
            shard="shard-0",
            epoch=self.coordinator.epoch,
            nodes={NodeId(name): self._node_bytes for name in self.nodes},
            policy=self._policy,
        )
        driver = ShardDriver(
            state, self.platform, self.coder, SECRET,
            linger_s=self._linger_s, coordinator=self.coordinator, registered=self.coordinator.copies,
            certificate=self.certificate,
        )  # fmt: skip
        return state, driver

    async def close(self) -> None:
        self.coder.gate.set()
        for node in self.nodes.values():
            node.resume()
        for driver in (*self._former, self.driver):
            await driver.close()
        await asyncio.get_running_loop().run_in_executor(None, self.platform.threads.shutdown)
        for node in self.nodes.values():
            node.close()

    # ------------------------------------------------------------ verbs

    async def put(self, key: str, data: Any, *, timeout_s: float = DEADLINE_S) -> Any:
        return await self.driver.put(key, "head", data, expires_s=None, timeout_s=timeout_s)

    async def get(self, key: str, *, timeout_s: float = DEADLINE_S) -> np.ndarray:
        facts, data = await self.driver.get(key, timeout_s=timeout_s)
        assert facts.size_bytes == data.nbytes
        return data

    async def read_after_losses(self, key: str, n_lost: int) -> np.ndarray:
        """A read that ends no sooner than it has found out about ``n_lost`` chunks of the lowest indices."""
        survivors = self.holders(key, range(n_lost, self.record(key).facts.scheme.n))
        for node in survivors:
            node.hang()
        read = asyncio.ensure_future(self.get(key))
        await asyncio.sleep(0)
        (operation,) = self.state.operations.values()
        assert isinstance(operation, Read)
        self.driver.feed(TimerFired(timer=("hedge", operation.id)))  # ask for all that are not asked for yet
        await until(
            lambda: operation.states.count(ChunkState.MISSING) == n_lost,
            lambda: (operation.states, [self.state.nodes[place.node] for place in operation.record.places]),
        )
        for node in survivors:
            node.resume()
        return await asyncio.wait_for(read, DEADLINE_S)

    # ------------------------------------------------------------ where things are

    def record(self, key: str) -> ObjectRecord:
        record = self.state.table.find(key)
        assert record is not None
        return record

    def holder(self, key: str, index: int) -> GridNode:
        return self.nodes[self.record(key).places[index].node]

    def holders(self, key: str, indices: Sequence[int]) -> list[GridNode]:
        return [self.holder(key, index) for index in indices]

    def n_chunks(self) -> int:
        return sum(len(node.chunks()) for node in self.nodes.values())

    async def settled(self) -> None:
        """Until nothing is going on any more, repairs included."""
        await until(lambda: not self.state.operations)

    async def stops(self, node: GridNode) -> None:
        assert await asyncio.get_running_loop().run_in_executor(None, node.stopped.wait, DEADLINE_S)


def random_bytes(n_bytes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, n_bytes]).integers(0, 256, n_bytes, np.uint8)
