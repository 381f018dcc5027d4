"""A shard's requests on their way to instances of the modelled platform, and the answers on their way back."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from infiniray.codec.schemes import SchemeKind
from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import LinkId, RequestId
from infiniray.sim.buffers import Buffers
from infiniray.sim.clock import VirtualClock
from infiniray.sim.platform import Instance, SimPlatform, Token
from infiniray.sim.violation import Violation
from infiniray.wire.describe import ChunkId, ChunkInfo

__all__ = ["Errands"]


class Errands:
    """I carry one incarnation's requests, and check that they go over connections that are open, with bytes that are
    there. What is cancelled is not answered.

    Args:
        feed: tells the shard.
    """

    def __init__(
        self, clock: VirtualClock, platform: SimPlatform, buffers: Buffers, feed: Callable[[ev.Event], None]
    ) -> None:
        self.clock = clock
        self.platform = platform
        self.buffers = buffers
        self.feed = feed
        self._links: set[LinkId] = set()  # as far as the shard knows
        self._requests: set[RequestId] = set()  # STOREs, FETCHes and copies, until they are answered or cancelled
        #: of chunks on their way: when they left, and when they will be here
        self._coming: dict[RequestId, tuple[float, float]] = {}

    @property
    def open_requests(self) -> list[RequestId]:
        """STOREs and FETCHes that were neither answered nor cancelled."""
        return sorted(self._requests)

    def note(self, event: ev.Event) -> None:
        """The shard is told this: what connections it knows of."""
        if isinstance(event, ev.LinkOpened):
            self._links.add(event.link)
        elif isinstance(event, ev.LinkClosed):
            self._links.discard(event.link)

    def close(self, command: cmd.CloseLink) -> None:
        self._links.discard(command.link)
        self.platform.close(command.link)

    def give_up(self, command: cmd.AbortStore | cmd.CancelFetch | cmd.CancelCopy) -> None:
        """Whatever comes of it now is not told."""
        self._requests.discard(command.request)
        self._coming.pop(command.request, None)

    # ------------------------------------------------------------ sessions

    def ping(self, command: cmd.Ping) -> None:
        self._check_link(command)

        def pong(instance: Instance) -> None:
            session = instance.session
            if session is not None and instance.link == command.link:
                self.platform.answer(instance, 0, lambda: ev.PongReceived(link=command.link, session=session))

        self.platform.send(command.link, 0, pong)

    def hold(self, command: cmd.Hold) -> None:
        self._check_link(command)

        def hold(instance: Instance) -> None:
            instance.held_until_s = self.clock.now_s + command.for_s
            instance.is_let_go = command.for_s == 0

        self.platform.send(command.link, 0, hold)

    # ------------------------------------------------------------ chunks

    def store(self, command: cmd.StoreChunk) -> None:
        self._check_link(command)
        facts, request, buffer = command.facts, command.request, self.buffers.held(command)
        is_parity = facts.scheme.kind is not SchemeKind.MIRROR and command.index >= facts.scheme.k
        if is_parity and not buffer.is_coded:
            raise Violation(f"parity is sent before it is computed: {command}")
        token: Token = (facts.key, facts.version, command.index, buffer.value)
        n_bytes = facts.scheme.stored_bytes(command.index, facts.size_bytes)
        self._requests.add(request)

        def store(instance: Instance) -> None:
            if request not in self._requests:
                instance.spans.add(command.seq)  # seen, and there is nothing to have of it
                return
            done: ev.Event
            info = ChunkInfo(
                key=facts.key, version=facts.version, index=command.index, seq=command.seq, scheme=str(facts.scheme),
                object_bytes=facts.size_bytes, chunk_bytes=n_bytes, crc=_crc(token), expires_s=facts.expires_s,
                head=facts.head,
            )  # fmt: skip
            if instance.keep(info, token):
                instance.spans.add(command.seq)
                done = ev.ChunkStored(request=request, crc=info.crc)
            else:
                done = ev.RequestRefused(request=request, reason="full")
                if info.id not in instance.chunks:  # else it is sent again, its STORED was lost with a connection
                    self.platform.full.add(instance.node)
            self.platform.answer(instance, 0, lambda: self._answered(request, done))

        self.platform.send(command.link, n_bytes, store)

    def fetch(self, command: cmd.FetchChunk) -> None:
        facts, request, index = command.facts, command.request, command.index
        self._check_link(command)
        buffer = self.buffers.held(command)
        self._requests.add(request)

        def arrive(token: Token) -> ev.Event | None:
            if request not in self._requests:
                return None
            if _crc(token) != command.crc:
                return self._answered(request, ev.ChunkDamaged(request=request))
            if buffer.is_sealed:
                raise Violation(f"chunk {index} came into an object that is put together: {command}")
            buffer.received[index] = token
            if buffer.is_for_one_chunk:
                buffer.value, buffer.is_coded = token[3], True
            return self._answered(request, ev.ChunkArrived(request=request))

        def fetch(instance: Instance) -> None:
            if request not in self._requests:
                return
            kept = instance.chunks.get(ChunkId(facts.key, facts.version, index))
            if kept is None:
                self.platform.answer(instance, 0, lambda: self._answered(request, ev.ChunkMissing(request=request)))
                return
            token, n_bytes = kept.token, kept.info.chunk_bytes
            if instance.is_corrupt:
                token = (*token[:3], "damaged")
            self.platform.answer(instance, n_bytes, lambda: arrive(token))
            self._coming[request] = (self.clock.now_s, instance.free_at_s + self.platform.model.network_s)

        self.platform.send(command.link, 0, fetch)

    def gauge(self, command: cmd.Gauge) -> None:
        shares = tuple(self._share_of(request) for _, request in command.requests)
        self.clock.after(0.0, lambda: self.feed(ev.Gauged(op=command.op, shares=shares)))

    def _share_of(self, request: RequestId) -> float:
        """How much has come by now of a chunk that is on its way."""
        start_s, end_s = self._coming.get(request, (0.0, 0.0))
        return min(1.0, (self.clock.now_s - start_s) / (end_s - start_s)) if end_s > start_s else 0.0

    def delete(self, command: cmd.DeleteChunks) -> None:
        self._check_link(command)

        def delete(instance: Instance) -> None:
            instance.spans.add(command.seq)
            for chunk in command.chunk_ids:
                instance.drop(chunk)
            self.platform.answer(instance, 0, lambda: ev.ChunksDeleted(request=command.request))

        self.platform.send(command.link, 0, delete)

    def retain(self, command: cmd.Retain) -> None:
        self._check_link(command)

        def retain(instance: Instance) -> None:
            instance.retain(command.first, command.last, set(command.keep))
            instance.spans.update(command.seen)
            self.platform.answer(instance, 0, lambda: ev.Retained(request=command.request))

        self.platform.send(command.link, 0, retain)

    def list_chunks(self, command: cmd.ListChunks) -> None:
        self._check_link(command)

        def tell(instance: Instance) -> None:
            infos = sorted(kept.info for chunk, kept in instance.chunks.items() if _is_after(chunk, command.after))
            page = tuple(infos[: command.limit])
            inventory = ev.InventoryArrived(request=command.request, chunks=page, more=len(infos) > command.limit)
            self.platform.answer(instance, 0, lambda: inventory)

        self.platform.send(command.link, 0, tell)

    def copy(self, command: cmd.CopyChunk) -> None:
        """As runtime/copies.py: the chunk is fetched whole, and then stored. Ends even if a connection does."""
        request, chunk = command.request, command.chunk
        self._requests.add(request)

        def watch() -> None:
            if request in self._requests:
                if self.platform.is_open(command.source) and self.platform.is_open(command.target):
                    self.clock.after(0.05, watch)
                else:
                    fail("a connection closed", is_missing=False)

        def fail(detail: str, *, is_missing: bool) -> None:
            answer = self._answered(request, ev.CopyFailed(request=request, is_missing=is_missing, detail=detail))
            if answer is not None:
                self.feed(answer)

        def fetch(instance: Instance) -> None:
            kept = instance.chunks.get(chunk)
            if kept is None or kept.info.seq != command.seq or instance.is_corrupt:
                self.platform.answer(instance, 0, lambda: fail("it is not there", is_missing=True))
                return

            def bring(info: ChunkInfo = kept.info, token: Token = kept.token) -> None:
                if request in self._requests:
                    self.platform.send(command.target, info.chunk_bytes, lambda target: store(target, info, token))

            self.platform.answer(instance, kept.info.chunk_bytes, bring)

        def store(target: Instance, info: ChunkInfo, token: Token) -> None:
            if request not in self._requests:
                return
            if target.keep(info, token):
                target.spans.add(info.seq)
                self.platform.answer(target, 0, lambda: self._answered(request, ev.ChunkCopied(request=request)))
            else:
                self.platform.answer(target, 0, lambda: fail("full", is_missing=False))

        self.platform.send(command.source, 0, fetch)
        watch()

    def _answered(self, request: RequestId, answer: ev.Event) -> ev.Event | None:
        """The answer, unless the request was cancelled while it was on its way."""
        if request not in self._requests:
            return None
        self._requests.remove(request)
        self._coming.pop(request, None)
        return answer

    def _check_link(
        self,
        command: cmd.Ping | cmd.Hold | cmd.StoreChunk | cmd.FetchChunk | cmd.DeleteChunks | cmd.Retain | cmd.ListChunks,
    ) -> None:
        if command.link not in self._links:
            raise Violation(f"sent over a connection that is closed: {command}")


def _crc(token: Token) -> int:
    return zlib.crc32(repr(token).encode())


def _is_after(chunk: ChunkId, after: ChunkId | None) -> bool:
    return after is None or chunk > after
