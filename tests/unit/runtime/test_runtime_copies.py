"""A chunk goes from one instance to another: what crosses the wire, and how it ends when something goes wrong."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

import pytest
from grid import random_bytes
from node_peer import NodePeer, describe, until
from script import Stage, facts_of

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.ids import LinkId, RequestId
from infiniray.wire.describe import ChunkId, ChunkInfo
from infiniray.wire.frames import SEGMENT_BYTES, Kind

WITH_TLS_TOO = True  # see conftest
N_BYTES = 3 * SEGMENT_BYTES + 5
BODY = random_bytes(N_BYTES).tobytes()
INFO = describe(facts_of(10 * N_BYTES, "rs:10+2"), 4, BODY, seq=17, head="a head", expires_s=9e9)
REQUEST = RequestId(5)
COPIED = ev.ChunkCopied(request=REQUEST)


@dataclass
class Pair:
    """Two instances of a node, both connected."""

    stage: Stage
    source: NodePeer
    target: NodePeer
    command: cmd.CopyChunk

    async def begin(self) -> None:
        """Up to where the source is asked."""
        self.stage.do(self.command)
        fetch = await self.source.expect(Kind.FETCH, self.command.request)
        assert ChunkId.from_wire(fetch.meta["chunk_id"]) == INFO.id

    async def arrive(self) -> None:
        """Up to where the chunk is at the shard."""
        await self.begin()
        await self.source.send_chunk(REQUEST, INFO, BODY)

    async def failure(self) -> ev.CopyFailed:
        """That it failed, that this was all, and that nothing is kept."""
        failed = await self.stage.script.next(ev.CopyFailed)
        assert failed.request == REQUEST
        assert failed.detail
        await self.over()
        return failed

    async def over(self) -> None:
        assert self.stage.script.events.empty()
        assert self.stage.driver.stats()["copies"] == 0
        await until(lambda: self.stage.driver.pool.free_bytes >= N_BYTES)  # given back when all has been sent

    async def ping(self, peer: NodePeer, link: LinkId) -> None:
        """A round trip: whatever the peer had said before has been looked at."""
        await peer.send(Kind.PONG, meta={"session": "s0"})
        assert (await self.stage.script.next(ev.PongReceived)).link == link


@pytest.fixture
async def pair(stage: Stage) -> Pair:
    (source, at_source), (target, at_target) = [await stage.connect(receive_buffer_bytes=64 << 10) for _ in range(2)]
    command = cmd.CopyChunk(
        source=at_source.link, target=at_target.link, request=REQUEST, chunk=INFO.id, seq=INFO.seq, chunk_bytes=N_BYTES
    )
    return Pair(stage, source, target, command)


async def receive_copy(target: NodePeer) -> tuple[ChunkInfo, bytes]:
    first = await target.expect(Kind.STORE, REQUEST)
    assert first.meta["copy"] is True
    body = bytearray(first.body)
    while len(body) < N_BYTES:
        body += (await target.expect(Kind.DATA, REQUEST)).body
    return ChunkInfo.from_wire(first.meta["chunk"]), bytes(body)


async def test_a_chunk_is_copied_with_its_description(pair: Pair) -> None:
    await pair.arrive()
    assert await receive_copy(pair.target) == (INFO, BODY)
    assert pair.stage.script.events.empty()
    await pair.target.send(Kind.STORED, REQUEST)
    assert await pair.stage.script.next(ev.ChunkCopied) == COPIED
    await pair.over()
    assert pair.stage.driver.stats()["bytes_copied"] == N_BYTES


async def test_an_empty_chunk_is_copied(pair: Pair) -> None:
    info = describe(facts_of(0), 0, b"", seq=3)
    pair.stage.do(replace(pair.command, chunk=info.id, seq=3, chunk_bytes=0))
    await pair.source.expect(Kind.FETCH, REQUEST)
    await pair.source.send_chunk(REQUEST, info, b"")
    assert ChunkInfo.from_wire((await pair.target.expect(Kind.STORE)).meta["chunk"]) == info
    await pair.target.send(Kind.STORED, REQUEST)
    assert await pair.stage.script.next(ev.ChunkCopied) == COPIED


async def test_many_at_once(pair: Pair) -> None:
    infos = {i: INFO._replace(index=i, seq=i) for i in range(1, 9)}
    pair.stage.do(*(replace(pair.command, request=RequestId(i), chunk=info.id, seq=i) for i, info in infos.items()))
    for i in infos:
        await pair.source.expect(Kind.FETCH, i)
    for i in reversed(infos):
        await pair.source.send_chunk(i, infos[i], BODY)
        first = await pair.target.expect(Kind.STORE, i)
        n_bytes = len(first.body)
        while n_bytes < N_BYTES:
            n_bytes += len((await pair.target.expect(Kind.DATA, i)).body)
        await pair.target.send(Kind.STORED, i)
        assert (await pair.stage.script.next(ev.ChunkCopied)).request == i
    await pair.over()


# ---------------------------------------------------------------- what goes wrong at the source


async def test_the_source_does_not_have_it(pair: Pair) -> None:
    await pair.begin()
    await pair.source.send(Kind.MISSING, REQUEST)
    assert (await pair.failure()).is_missing


@pytest.mark.parametrize("change", [{"seq": 18}, {"version": 4}, {"index": 5}, {"key": "another"}])
async def test_the_source_has_something_else(pair: Pair, change: dict[str, object]) -> None:
    await pair.begin()
    await pair.source.send_chunk(REQUEST, INFO._replace(**change), BODY)
    assert (await pair.failure()).is_missing
    await pair.source.expect(Kind.CANCEL, REQUEST)


@pytest.mark.parametrize("change", [{"crc": zlib.crc32(BODY) ^ 1}, {"chunk_bytes": N_BYTES + 1}])
async def test_damage_on_the_way_is_noticed(pair: Pair, change: dict[str, int]) -> None:
    await pair.begin()
    await pair.source.send_chunk(REQUEST, INFO._replace(**change), BODY)
    failed = await pair.failure()
    assert not failed.is_missing
    assert "damaged" in failed.detail
    pair.stage.do(cmd.Ping(link=pair.command.target))
    await pair.target.expect(Kind.PING)  # and no STORE before it


async def test_no_description_at_all(pair: Pair) -> None:
    await pair.begin()
    await pair.source.send(Kind.CHUNK, REQUEST, {"chunk": "nonsense"}, BODY[:100])
    assert not (await pair.failure()).is_missing


@pytest.mark.parametrize(("kind", "reason"), [(Kind.REFUSED, "busy"), (Kind.ABORT, "time")])
async def test_the_source_will_not(pair: Pair, kind: Kind, reason: str) -> None:
    await pair.begin()
    await pair.source.send(kind, REQUEST, {"reason": reason})
    failed = await pair.failure()
    assert not failed.is_missing
    assert "source" in failed.detail
    assert reason in failed.detail


async def test_the_source_hangs_up_in_the_middle(pair: Pair) -> None:
    await pair.begin()
    await pair.source.send(Kind.CHUNK, REQUEST, {"chunk": list(INFO)}, BODY[:SEGMENT_BYTES])
    pair.source.close()
    failed = await pair.stage.script.next(ev.CopyFailed)
    assert (failed.request, failed.is_missing) == (REQUEST, False)
    assert (await pair.stage.script.next(ev.LinkClosed)).link == pair.command.source
    await pair.over()


async def test_a_source_that_has_sent_all_is_not_needed_any_more(pair: Pair) -> None:
    await pair.arrive()
    first = await pair.target.expect(Kind.STORE, REQUEST)
    pair.source.close()
    await pair.stage.script.next(ev.LinkClosed)
    n_bytes = len(first.body)
    while n_bytes < N_BYTES:
        n_bytes += len((await pair.target.expect(Kind.DATA, REQUEST)).body)
    await pair.target.send(Kind.STORED, REQUEST)
    assert await pair.stage.script.next(ev.ChunkCopied) == COPIED
    await pair.over()


# ---------------------------------------------------------------- what goes wrong at the target


async def test_the_target_is_full(pair: Pair) -> None:
    await pair.arrive()
    await pair.target.expect(Kind.STORE, REQUEST)
    await pair.target.send(Kind.REFUSED, REQUEST, {"reason": "full"})
    failed = await pair.stage.script.next(ev.CopyFailed)
    pair.stage.do(cmd.Ping(link=pair.command.target))
    while (await pair.target.receive()).kind is not Kind.PING:
        pass
    await pair.over()
    assert not failed.is_missing
    assert "target refused: full" in failed.detail


async def test_the_target_hangs_up_before_the_chunk_is_here(pair: Pair) -> None:
    await pair.begin()
    await pair.source.send(Kind.CHUNK, REQUEST, {"chunk": list(INFO)}, BODY[:SEGMENT_BYTES])
    pair.target.close()
    failed = await pair.stage.script.next(ev.CopyFailed)
    assert not failed.is_missing
    await pair.stage.script.next(ev.LinkClosed)
    await pair.source.expect(Kind.CANCEL, REQUEST)
    await pair.source.send(Kind.DATA, REQUEST, body=BODY[:SEGMENT_BYTES])  # crossed with it
    await pair.source.send(Kind.CANCELLED, REQUEST)
    await pair.ping(pair.source, pair.command.source)
    await pair.over()


async def test_the_target_hangs_up_in_the_middle(pair: Pair) -> None:
    await pair.arrive()
    await pair.target.expect(Kind.STORE, REQUEST)
    pair.target.close()
    failed = await pair.stage.script.next(ev.CopyFailed)
    assert not failed.is_missing
    assert (await pair.stage.script.next(ev.LinkClosed)).link == pair.command.target
    await pair.over()


@pytest.mark.parametrize("gone", ["source", "target"])
async def test_a_link_that_is_gone_already(pair: Pair, gone: str) -> None:
    pair.stage.do(cmd.CloseLink(link=getattr(pair.command, gone)))
    await pair.stage.script.next(ev.LinkClosed)
    pair.stage.do(pair.command)
    assert not (await pair.failure()).is_missing


async def test_a_newer_shard_has_taken_over(pair: Pair) -> None:
    await pair.begin()
    await pair.source.send(Kind.REFUSED, REQUEST, {"reason": "epoch", "epoch": 8})
    await pair.stage.script.next(ev.CopyFailed)
    await pair.stage.script.next(ev.Deposed)
    await pair.over()


# ---------------------------------------------------------------- cancelling


async def test_cancelled_while_it_comes(pair: Pair) -> None:
    await pair.begin()
    await pair.source.send(Kind.CHUNK, REQUEST, {"chunk": list(INFO)}, BODY[:SEGMENT_BYTES])
    pair.stage.do(cmd.CancelCopy(request=REQUEST))
    await pair.source.expect(Kind.CANCEL, REQUEST)
    await pair.source.send(Kind.CANCELLED, REQUEST)
    await pair.ping(pair.source, pair.command.source)
    await pair.over()


async def test_cancelled_while_it_goes(pair: Pair) -> None:
    await pair.arrive()
    await pair.target.expect(Kind.STORE, REQUEST)
    pair.stage.do(cmd.CancelCopy(request=REQUEST), cmd.CancelCopy(request=REQUEST))
    pair.stage.do(cmd.Ping(link=pair.command.target))
    kinds = []
    while Kind.PING not in kinds:
        kinds.append((await pair.target.receive()).kind)
    assert set(kinds) <= {Kind.DATA, Kind.ABORT, Kind.PING}
    await pair.target.send(Kind.STORED, REQUEST)  # if it had all of it
    await pair.ping(pair.target, pair.command.target)
    await pair.over()


async def test_the_target_has_no_say_before_it_is_asked(pair: Pair) -> None:
    await pair.begin()
    for kind in (Kind.STORED, Kind.MISSING, Kind.REFUSED):
        await pair.target.send(kind, REQUEST)
    await pair.ping(pair.target, pair.command.target)
    await pair.source.send_chunk(REQUEST, INFO, BODY)
    assert await receive_copy(pair.target) == (INFO, BODY)
    for kind in (Kind.MISSING, Kind.REFUSED):
        await pair.source.send(kind, REQUEST)
    await pair.ping(pair.source, pair.command.source)
    await pair.target.send(Kind.STORED, REQUEST)
    assert await pair.stage.script.next(ev.ChunkCopied) == COPIED
