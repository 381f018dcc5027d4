"""One session: from the platform's start of the handler until it returns."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import accumulate
from typing import ClassVar, TypeGuard

from infiniray.wire import auth
from infiniray.wire.describe import ChunkId, ChunkInfo, SeqSpans
from infiniray.wire.frames import MAX_META_BYTES, Frame, Kind, ProtocolError, pack
from lambda_agent.instance import Channel, Instance
from lambda_agent.invocation import MAX_LINGER_MS, Invocation
from lambda_agent.link import LinkLost, NotTheShard
from lambda_agent.store import json_bytes
from lambda_agent.transfers import PartialStore

__all__ = ["HandshakeFailed", "Session"]

DIAL_S = 2.0
HANDSHAKE_S = 2.0
#: A chunk, either way, of which nothing has moved for this long will not come any more.
STALL_S = 5.0
#: Silence that a backup bears, until the shard says how long to stay: its other end has to be invoked first.
BACKUP_HOLD_S = 2.0
#: The session is over this long before the platform would kill the function ...
RETURN_BEFORE_S = 0.5
#: ... and begins to end so much earlier, to send what is half sent.
WIND_UP_S = 0.25
#: Segments are sent together up to this.
BATCH_BYTES = 256 << 10
#: Room for the rest of a meta around the descriptions in it.
_META_SLACK_BYTES = 1024


class HandshakeFailed(ConnectionError):
    """Whoever was dialled did not prove in time to be a shard of this pool, or did not accept this node."""


class Session:
    """I serve one invocation on the instance's connection, and leave it fit for the next one or closed.

    I stay while there is work, then for the linger time; a HOLD has me stay longer, or leave without lingering.

    Whatever happens, chunks that are whole stay. An exception that leaves me has closed the connection.
    """

    def __init__(self, instance: Instance, invocation: Invocation, end_s: float) -> None:
        """``end_s``: when the platform kills the function, on the monotonic clock."""
        self._instance = instance
        self._store = instance.store
        self._invocation = invocation
        self._stop_s = end_s - RETURN_BEFORE_S - WIND_UP_S
        self._linger_s = invocation.linger_s
        if invocation.reason == "backup":
            self._linger_s = max(self._linger_s, BACKUP_HOLD_S)
        self._held_until_s = 0.0  # by a HOLD
        self._n_requests = 0
        self._n_protocol_errors = 0
        self._bytes_in = 0
        self._bytes_out = 0
        self._lingered_s = 0.0

    def run(self) -> dict[str, object]:
        """Serve until the shard is silent for the linger time, hangs up, or time is up: what was done.

        Raises:
            LinkLost: the shard cannot be reached.
            HandshakeFailed: it is not a shard of this pool.
        """
        try:
            if not self._serve_on_kept_link():
                self._serve_on_new_link()
        except ProtocolError:
            self._n_protocol_errors += 1
            self._hang_up()
        except BaseException:
            self._hang_up()
            raise
        finally:
            self._store.spares.clear()
        return self._work()

    # ------------------------------------------------------------ connections

    def _serve_on_kept_link(self) -> bool:
        """Go on where the last session ended; False if that connection is no use (any more)."""
        channel = self._instance.channel
        if channel is None:
            return False
        self._bytes_in, self._bytes_out = -channel.link.bytes_in, -channel.link.bytes_out
        try:
            wanted = (self._invocation.address, self._invocation.certificate)
            if (channel.link.address, channel.link.certificate) == wanted and channel.link.is_open():
                self._say(channel, Kind.PONG, {"session": self._invocation.session})
                self._serve(channel)
                return True
        except LinkLost:
            pass  # a frozen node learns late that its shard went: it may be back at the same address
        self._hang_up()
        return False

    def _serve_on_new_link(self) -> None:
        timeout_s = min(DIAL_S, self._stop_s - time.monotonic())
        if timeout_s <= 0:
            raise LinkLost("no time left to dial the shard")
        certificate = self._invocation.certificate
        try:
            channel = Channel(self._store, self._invocation.address, timeout_s, certificate)
        except NotTheShard as error:
            raise HandshakeFailed(str(error)) from error
        self._instance.channel = channel
        self._shake_hands(channel)
        try:
            self._serve(channel)
        except LinkLost:
            self._hang_up()  # the shard's way of ending a session early

    def _hang_up(self) -> None:
        channel = self._instance.channel
        if channel is not None:
            self._count_bytes(channel)
            self._instance.hang_up()

    def _count_bytes(self, channel: Channel) -> None:
        self._bytes_in += channel.link.bytes_in
        self._bytes_out += channel.link.bytes_out

    def _shake_hands(self, channel: Channel) -> None:
        """Prove that this is the node, and have it proved that that is the shard.

        Raises:
            HandshakeFailed
        """
        deadline_s = min(time.monotonic() + HANDSHAKE_S, self._stop_s)
        node, instance, secret = self._invocation.node, self._instance.id, self._instance.secret
        shard_nonce = self._expect(channel, Kind.CHALLENGE, deadline_s).meta.get("nonce")
        if not isinstance(shard_nonce, str):
            raise HandshakeFailed("the challenge has no nonce")
        nonce = auth.new_nonce()
        bound = {"shard_nonce": shard_nonce, "node_nonce": nonce, "node": node, "certificate": channel.link.certificate}
        mac = auth.hello_proof(secret, **bound, instance=instance)
        self._say(channel, Kind.HELLO, {"key": auth.key_id(secret), "nonce": nonce, "mac": mac, **self._introduction()})
        welcome = self._expect(channel, Kind.WELCOME, deadline_s)
        proof = auth.welcome_proof(secret, **bound, epoch=welcome.epoch)
        if not auth.matches(proof, welcome.meta.get("mac")):
            raise HandshakeFailed(f"whoever answers at {channel.link.address} is not a shard of this pool")
        self._instance.epoch = max(self._instance.epoch, welcome.epoch)

    def _introduction(self) -> dict[str, object]:
        return {
            "node": self._invocation.node,
            "instance": self._instance.id,
            "session": self._invocation.session,
            "reason": self._invocation.reason,
            "spans": self._store.spans.to_wire(),
            "n_chunks": self._store.n_chunks,
            "used_bytes": self._store.used_bytes,
            "limit_bytes": self._store.limit_bytes,
        }

    def _expect(self, channel: Channel, kind: Kind, deadline_s: float) -> Frame:
        link = channel.link
        try:
            while not link.inbox:
                moved = link.send_some()
                if not link.receive() and not moved and not link.wait(deadline_s - time.monotonic()):
                    raise HandshakeFailed(f"no {kind.name} from {link.address} in time")
        except (LinkLost, ProtocolError) as error:
            raise HandshakeFailed(f"instead of {kind.name}: {error}") from error
        frame = link.inbox.popleft()
        if frame.kind is not kind:
            raise HandshakeFailed(f"{frame.kind.name} from {link.address} instead of {kind.name}")
        return frame

    # ------------------------------------------------------------ serving

    def _serve(self, channel: Channel) -> None:
        """Answer requests until silence or the end of the time, then say BYE."""
        goes_on = True
        while goes_on and time.monotonic() < self._stop_s:
            took_in = self._take_in(channel)
            gave_out = self._give_out(channel)
            goes_on = took_in or gave_out or self._rest(channel)
        self._say_bye(channel)

    def _take_in(self, channel: Channel) -> bool:
        """Handle what one read brings; False if it brings nothing."""
        received = channel.link.receive() if not channel.link.inbox else False
        if received:
            channel.stores.touch()
        frames = channel.link.inbox
        handled = bool(frames)
        while frames:
            self._handle(channel, frames.popleft())
        return received or handled

    def _give_out(self, channel: Channel) -> bool:
        """One write: many small chunks, or a segment of a large one, so that a CANCEL is seen between any two. False if
        nothing moved."""
        while channel.link.waiting_bytes < BATCH_BYTES and self._queue_segment(channel):
            pass
        return channel.link.send_some()

    def _queue_segment(self, channel: Channel) -> bool:
        """Have the next segment sent that somebody asked for; False if there is none."""
        segment = channel.chunks.next_segment()
        if segment is None:
            return False
        head = self._head(segment.kind, segment.request, segment.meta, len(segment.body))
        channel.link.queue(head, segment.body)
        return True

    def _rest(self, channel: Channel) -> bool:
        """Wait for the shard; False if the session is over."""
        now_s = time.monotonic()
        if not channel.is_busy:
            stay_s = max(self._linger_s, self._held_until_s - now_s)
            ready = channel.link.wait(min(stay_s, self._stop_s - now_s))
            self._lingered_s += time.monotonic() - now_s
            return ready
        if channel.link.sending and channel.link.sent_s + STALL_S <= now_s:
            raise LinkLost(f"the shard took no bytes for {STALL_S:g} s")
        for request in channel.stores.stalled(now_s - STALL_S):
            channel.drop_store(request)
        if not channel.is_busy:
            return False
        moves_s = [channel.link.sent_s] if channel.link.sending else []
        if channel.stores:
            moves_s.append(channel.stores.oldest_move_s())
        channel.link.wait(min(self._stop_s, *(moved_s + STALL_S for moved_s in moves_s)) - now_s)
        return True

    def _say_bye(self, channel: Channel) -> None:
        """End the session on this connection: from here on nothing is read until the next one."""
        for request in channel.stores.requests():
            channel.drop_store(request)
        for request in channel.chunks.take_all():
            self._say(channel, Kind.ABORT, None, request)
        self._say(channel, Kind.BYE, {"session": self._invocation.session})
        if channel.link.flush(max(self._stop_s, time.monotonic()) + WIND_UP_S):
            self._count_bytes(channel)
        else:
            self._hang_up()

    # ------------------------------------------------------------ requests

    def _handle(self, channel: Channel, frame: Frame) -> None:
        handler = self._HANDLERS.get(frame.kind)
        if handler is None:
            raise ProtocolError(f"a shard does not send {frame.kind.name} here")
        self._instance.epoch = max(self._instance.epoch, frame.epoch)
        if frame.kind in self._REQUESTS:
            self._n_requests += 1
            if frame.epoch < self._instance.epoch:
                self._fence(channel, frame)
                return
        handler(self, channel, frame)

    def _fence(self, channel: Channel, frame: Frame) -> None:
        """Refuse a shard that no longer owns this node; nothing changes."""
        if frame.kind is Kind.STORE:
            channel.stores.begun(frame)
            channel.drop_store(frame.request)
        self._say(channel, Kind.REFUSED, {"reason": "epoch", "epoch": self._instance.epoch}, frame.request)

    def _on_ping(self, channel: Channel, frame: Frame) -> None:
        self._say(channel, Kind.PONG, {"session": self._invocation.session}, frame.request)

    def _on_hold(self, channel: Channel, frame: Frame) -> None:
        """Stay for so long, work or no work, and then linger; 0: do not even linger. The last HOLD counts."""
        for_ms = frame.meta.get("for_ms")
        if not isinstance(for_ms, int | float) or not for_ms >= 0:  # nor NaN
            raise ProtocolError(f"not a HOLD: {frame.meta!r:.120}")
        if frame.epoch < self._instance.epoch:
            return
        for_s = min(for_ms, MAX_LINGER_MS) / 1000
        self._linger_s = self._invocation.linger_s if for_s else 0.0
        self._held_until_s = time.monotonic() + for_s

    def _on_store(self, channel: Channel, frame: Frame) -> None:
        part = channel.stores.begun(frame)
        if json_bytes(part.info) > MAX_META_BYTES - _META_SLACK_BYTES:
            self._refuse_store(channel, frame.request, part, "description")  # no LIST could ever show it
        elif part.body is None or not self._store.reserve(part.info):
            self._refuse_store(channel, frame.request, part, "full")
        else:
            part.reserved = True
            self._on_data(channel, frame)

    def _refuse_store(self, channel: Channel, request: int, part: PartialStore, reason: str) -> None:
        channel.drop_store(request)
        if not part.is_copy:  # seen, and there is nothing to have of it: a gap for each would split the spans
            self._store.spans.add(part.info.seq)
        sizes = {"used_bytes": self._store.used_bytes, "limit_bytes": self._store.limit_bytes}
        self._say(channel, Kind.REFUSED, {"reason": reason, **sizes}, request)

    def _on_data(self, channel: Channel, frame: Frame) -> None:
        part = channel.stores.get(frame.request)
        if part is None:
            return  # of a store that was refused or dropped
        channel.stores.took(part, frame.body_bytes)
        if part.is_whole:
            channel.stores.finish(frame.request)
            self._say(channel, Kind.STORED, None, frame.request)

    def _on_abort(self, channel: Channel, frame: Frame) -> None:
        """A STORE ends here, or was given up before it began: its number is seen, with nothing to have of it.

        Unless it was a copy: another instance has the chunk under that number, and this one still lacks it.
        """
        part = channel.stores.get(frame.request)
        seq = part.info.seq if part is not None else frame.meta.get("seq")
        if part is not None:
            channel.drop_store(frame.request)
        if part is not None and part.is_copy:
            return
        if isinstance(seq, int) and seq > 0 and frame.epoch >= self._instance.epoch:
            self._store.spans.add(seq)

    def _on_fetch(self, channel: Channel, frame: Frame) -> None:
        chunk = self._store.get(ChunkId.from_wire(frame.meta.get("chunk_id")))
        if chunk is None:
            self._say(channel, Kind.MISSING, None, frame.request)
        else:
            channel.chunks.add(frame.request, chunk)

    def _on_cancel(self, channel: Channel, frame: Frame) -> None:
        if channel.chunks.cancel(frame.request):
            self._say(channel, Kind.CANCELLED, None, frame.request)

    def _on_delete(self, channel: Channel, frame: Frame) -> None:
        seq, chunk_ids = frame.meta.get("seq"), frame.meta.get("chunk_ids")
        if type(seq) is not int or seq < 1 or not isinstance(chunk_ids, list):
            raise ProtocolError(f"not a DELETE: {frame.meta!r:.120}")
        self._store.delete(seq, [ChunkId.from_wire(chunk_id) for chunk_id in chunk_ids])
        self._say(channel, Kind.DELETED, None, frame.request)

    def _on_list(self, channel: Channel, frame: Frame) -> None:
        after, limit = frame.meta.get("after"), frame.meta.get("limit")
        if type(limit) is not int or limit < 1:
            raise ProtocolError(f"not a LIST: {frame.meta!r:.120}")
        start = None if after is None else ChunkId.from_wire(after)
        infos: list[ChunkInfo]
        infos, more = self._store.page(start, limit, MAX_META_BYTES - _META_SLACK_BYTES)
        self._say(channel, Kind.INVENTORY, {"chunks": infos, "more": more}, frame.request)

    def _on_retain(self, channel: Channel, frame: Frame) -> None:
        first, last, deltas = (frame.meta.get(name) for name in ("first", "last", "keep"))
        seen = SeqSpans.from_wire(frame.meta.get("seen"))
        if not (type(first) is int and type(last) is int and first > 0 <= last and _are_distances(deltas)):
            raise ProtocolError(f"not a RETAIN: {frame.meta!r:.120}")
        self._store.retain(first, last, accumulate(deltas))
        self._store.spans.update(seen)
        self._say(channel, Kind.RETAINED, None, frame.request)

    _HANDLERS: ClassVar[dict[Kind, Callable[[Session, Channel, Frame], None]]] = {
        Kind.PING: _on_ping,
        Kind.HOLD: _on_hold,
        Kind.STORE: _on_store,
        Kind.DATA: _on_data,
        Kind.ABORT: _on_abort,
        Kind.FETCH: _on_fetch,
        Kind.CANCEL: _on_cancel,
        Kind.DELETE: _on_delete,
        Kind.LIST: _on_list,
        Kind.RETAIN: _on_retain,
    }
    #: Kinds that get an answer about chunks, so only from the shard that owns this node now.
    _REQUESTS = frozenset({Kind.STORE, Kind.FETCH, Kind.DELETE, Kind.LIST, Kind.RETAIN})

    # ------------------------------------------------------------ saying

    def _head(self, kind: Kind, request: int, meta: dict[str, object] | None, body_bytes: int = 0) -> bytes:
        return pack(kind, request, self._instance.epoch, meta, body_bytes)

    def _say(self, channel: Channel, kind: Kind, meta: dict[str, object] | None, request: int = 0) -> None:
        channel.link.queue(self._head(kind, request, meta))

    def _work(self) -> dict[str, object]:
        return {
            "requests": self._n_requests,
            "bytes_in": self._bytes_in,
            "bytes_out": self._bytes_out,
            "linger_ms": round(self._lingered_s * 1000, 3),
            "protocol_errors": self._n_protocol_errors,
        }


def _are_distances(value: object) -> TypeGuard[list[int]]:
    """Whether this is a list of positive numbers."""
    return isinstance(value, list) and set(map(type, value)) <= {int} and (not value or min(value) > 0)
