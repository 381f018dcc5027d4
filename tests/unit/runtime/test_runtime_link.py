"""One connection to a node: what goes over it, and what a node may say."""

from __future__ import annotations

import asyncio
import zlib
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
from grid import random_bytes
from node_peer import NodePeer, describe, until
from script import Stage, facts_of

from infiniray.core import commands as cmd
from infiniray.core import events as ev
from infiniray.core.commands import ObjectFacts
from infiniray.core.custody import RETAIN_BATCH
from infiniray.core.ids import LinkId, RequestId
from infiniray.wire.describe import ChunkId, ChunkInfo, SeqSpans
from infiniray.wire.frames import HEADER_BYTES, SEGMENT_BYTES, Kind, pack

WITH_TLS_TOO = True  # see conftest
#: Larger than what sockets take in when nobody reads at the other end.
LARGE_BYTES = 24 << 20
SMALL_WINDOW = {"receive_buffer_bytes": 64 << 10}


def store(link: LinkId, request: int, op: Any, facts: ObjectFacts, index: int = 0, seq: int = 1) -> cmd.StoreChunk:
    return cmd.StoreChunk(link=link, request=RequestId(request), op=op, index=index, seq=seq, facts=facts)


def fetch(link: LinkId, request: int, op: Any, facts: ObjectFacts, crc: int, index: int = 0) -> cmd.FetchChunk:
    return cmd.FetchChunk(link=link, request=RequestId(request), op=op, index=index, crc=crc, facts=facts)


async def end(stage: Stage, task: asyncio.Task[Any], op: Any, facts: ObjectFacts) -> Any:
    stage.do(cmd.Complete(op=op, facts=facts), cmd.Release(op=op))
    return await task


async def receive_store(peer: NodePeer, request: int) -> tuple[ChunkInfo, bytes]:
    first = await peer.expect(Kind.STORE, request)
    info = ChunkInfo.from_wire(first.meta["chunk"])
    body = bytearray(first.body)
    while len(body) < info.chunk_bytes:
        body += (await peer.expect(Kind.DATA, request)).body
    return info, bytes(body)


# ---------------------------------------------------------------- holding


async def test_holds_are_in_whole_milliseconds_and_go_at_once(stage: Stage) -> None:
    peer, opened = await stage.connect()
    for for_s, for_ms in ((2.5, 2500), (0.0, 0), (0.0001, 1), (600, 600_000)):
        stage.do(cmd.Hold(link=opened.link, for_s=for_s))
        assert (await peer.expect(Kind.HOLD)).meta == {"for_ms": for_ms}


async def test_who_is_to_leave_hears_of_it_behind_what_was_sent_before(stage: Stage) -> None:
    peer, opened = await stage.connect(**SMALL_WINDOW)
    data, facts = np.zeros(LARGE_BYTES, np.uint8), facts_of(LARGE_BYTES)
    task, put = await stage.begin_put("k", data)
    stage.do(store(opened.link, 1, put.op, facts), store(opened.link, 2, put.op, facts))
    stage.do(cmd.Hold(link=opened.link, for_s=0.0))
    kinds = []
    while Kind.HOLD not in kinds:
        kinds.append((await peer.receive()).kind)
    assert kinds.count(Kind.STORE) == 2
    assert peer.n_body_bytes == 2 * LARGE_BYTES
    await end(stage, task, put.op, facts)


async def test_what_is_given_up_does_not_hold_up_the_leave(stage: Stage) -> None:
    peer, opened = await stage.connect(**SMALL_WINDOW)
    data, facts = np.zeros(LARGE_BYTES, np.uint8), facts_of(LARGE_BYTES)
    task, put = await stage.begin_put("k", data)
    stage.do(store(opened.link, 1, put.op, facts), cmd.Hold(link=opened.link, for_s=0.0))
    stage.do(cmd.AbortStore(link=opened.link, request=RequestId(1)))
    kinds = []
    while Kind.HOLD not in kinds:
        kinds.append((await peer.receive()).kind)
    assert kinds[-2:] == [Kind.ABORT, Kind.HOLD]
    await end(stage, task, put.op, facts)


async def test_a_hold_replaces_a_leave_that_waits(stage: Stage) -> None:
    peer, opened = await stage.connect(**SMALL_WINDOW)
    data, facts = np.zeros(LARGE_BYTES, np.uint8), facts_of(LARGE_BYTES)
    task, put = await stage.begin_put("k", data)
    stage.do(store(opened.link, 1, put.op, facts))
    stage.do(cmd.Hold(link=opened.link, for_s=0.0), cmd.Hold(link=opened.link, for_s=9.0))
    holds, n_bytes = [], 0
    while n_bytes < LARGE_BYTES:
        got = await peer.receive()
        n_bytes += len(got.body)
        holds += [got.meta["for_ms"]] if got.kind is Kind.HOLD else []
    stage.do(cmd.Ping(link=opened.link))
    assert (await peer.receive()).kind is Kind.PING
    assert holds == [9000]
    await end(stage, task, put.op, facts)


# ---------------------------------------------------------------- what instances hold, and are to hold


def listing(link: LinkId, after: ChunkId | None = None) -> cmd.ListChunks:
    return cmd.ListChunks(link=link, request=RequestId(4), after=after, limit=100)


async def test_inventories(stage: Stage) -> None:
    peer, opened = await stage.connect()
    infos = [describe(facts_of(10), index, b"x" * 10, seq=index + 1) for index in range(3)]
    for after, more in ((None, True), (infos[1].id, False)):
        stage.do(listing(opened.link, after))
        asked = await peer.expect(Kind.LIST, 4)
        assert asked.meta == {"after": None if after is None else list(after), "limit": 100}
        page = infos[:2] if more else infos[2:]
        await peer.send(Kind.INVENTORY, 4, {"chunks": page, "more": more})
        arrived = await stage.script.next(ev.InventoryArrived)
        assert arrived == ev.InventoryArrived(request=RequestId(4), chunks=tuple(page), more=more)
    stage.do(listing(opened.link))
    await peer.send(Kind.INVENTORY, 4, {"chunks": [], "more": False})
    assert (await stage.script.next(ev.InventoryArrived)).chunks == ()


@pytest.mark.parametrize(
    "meta",
    [{}, {"chunks": [], "more": True}, {"chunks": [[1]], "more": False}, {"chunks": [], "more": 0}, {"more": False}],
)
async def test_what_is_no_inventory_closes_the_connection(stage: Stage, meta: Any) -> None:
    peer, opened = await stage.connect()
    stage.do(listing(opened.link))
    await peer.send(Kind.INVENTORY, 4, meta)
    assert (await stage.script.next(ev.LinkClosed)).link == opened.link
    assert stage.driver.counters["protocol_errors"] == 1


async def test_what_to_retain_is_told_in_distances(stage: Stage) -> None:
    peer, opened = await stage.connect()
    for keep, distances in (((), []), ((7,), [7]), ((1_700_000_000_000_000, 1_700_000_000_000_003), [17 * 10**14, 3])):
        stage.do(
            cmd.Retain(
                link=opened.link, request=RequestId(3), first=5, last=9, keep=keep, seen=((1, 4), (6, 6))
            )
        )  # fmt: skip
        asked = await peer.expect(Kind.RETAIN, 3)
        assert asked.meta == {"first": 5, "last": 9, "keep": distances, "seen": [[1, 4], [6, 6]]}
        await peer.send(Kind.RETAINED, 3)
        assert (await stage.script.next(ev.Retained)).request == 3


async def test_the_largest_retention_of_a_shard_fits_a_frame(stage: Stage) -> None:
    peer, opened = await stage.connect()
    keep = tuple(range(1_700_000_000_000_000, 1_700_000_000_000_000 + 1_000_000 * RETAIN_BATCH, 1_000_000))
    seen = tuple((first, first + 1) for first in range(10**15, 10**15 + 4 * SeqSpans.MAX_SPANS, 4))
    stage.do(cmd.Retain(link=opened.link, request=RequestId(3), first=1, last=keep[-1], keep=keep, seen=seen))
    assert tuple(accumulate((await peer.expect(Kind.RETAIN, 3)).meta["keep"])) == keep


@pytest.mark.parametrize("kind", [Kind.RETAINED, Kind.DELETED, Kind.MISSING, Kind.CANCELLED])
async def test_an_answer_to_something_else_closes_the_connection(stage: Stage, kind: Kind) -> None:
    peer, opened = await stage.connect()
    stage.do(listing(opened.link))
    await peer.send(kind, 4)
    assert (await stage.script.next(ev.LinkClosed)).link == opened.link


async def test_answers_that_nobody_waits_for_are_dropped(stage: Stage) -> None:
    peer, _ = await stage.connect()
    for kind in (Kind.RETAINED, Kind.DELETED, Kind.INVENTORY):
        await peer.send(kind, 4)
    await peer.send(Kind.PONG, meta={"session": "s0"})
    await stage.script.next(ev.PongReceived)
    assert stage.driver.stats()["frames_discarded"] == 3


# ---------------------------------------------------------------- chunks out


@pytest.mark.parametrize("size", [0, 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES - 5])
async def test_a_chunk_travels_in_segments_and_describes_itself(stage: Stage, size: int) -> None:
    peer, opened = await stage.connect()
    data, facts = random_bytes(size), facts_of(size)
    task, put = await stage.begin_put("k", data)
    stage.do(store(opened.link, 5, put.op, facts, seq=9))
    info, body = await receive_store(peer, 5)
    assert body == data.tobytes()
    assert info == ("k", 3, 0, 9, "stripe:1", size, size, zlib.crc32(data), 0.0, "head")
    await peer.send(Kind.STORED, 5)
    assert await stage.script.next(ev.ChunkStored) == ev.ChunkStored(request=RequestId(5), crc=zlib.crc32(data))
    await end(stage, task, put.op, facts)


async def test_which_bytes_are_sent_for_which_index(stage: Stage) -> None:
    peer, opened = await stage.connect()
    data, facts = random_bytes(10_001), facts_of(10_001, "rs:4+2")
    task, put = await stage.begin_put("k", data)
    stage.do(cmd.Encode(op=put.op, facts=facts))
    await stage.script.next(ev.Encoded)
    stage.do(*(store(opened.link, index + 1, put.op, facts, index) for index in range(6)))
    bodies = [(await receive_store(peer, index + 1))[1] for index in range(6)]
    assert b"".join(bodies[:4]) == data.tobytes()
    assert list(map(len, bodies[3:])) == [10_001 - 3 * 2501, 2501, 2501]
    await end(stage, task, put.op, facts)


async def test_every_replica_of_a_mirror_is_the_whole_object(stage: Stage) -> None:
    peer, opened = await stage.connect()
    data, facts = random_bytes(5000), facts_of(5000, "mirror:3")
    task, put = await stage.begin_put("k", data)
    stage.do(*(store(opened.link, index + 1, put.op, facts, index) for index in range(3)))
    for index in range(3):
        info, body = await receive_store(peer, index + 1)
        assert (info.index, body) == (index, data.tobytes())
    await end(stage, task, put.op, facts)


async def test_small_frames_go_ahead_of_waiting_chunks(stage: Stage) -> None:
    peer, opened = await stage.connect(**SMALL_WINDOW)
    data, facts = np.zeros(LARGE_BYTES, np.uint8), facts_of(LARGE_BYTES)
    task, put = await stage.begin_put("k", data)
    stage.do(store(opened.link, 1, put.op, facts))
    stage.do(cmd.Ping(link=opened.link))
    kinds = [(await peer.receive()).kind for _ in range(LARGE_BYTES // SEGMENT_BYTES + 1)]
    assert kinds[0] is Kind.STORE
    assert kinds[-1] is Kind.DATA
    assert kinds.count(Kind.PING) == 1
    await end(stage, task, put.op, facts)


async def test_an_aborted_chunk_stops_between_two_segments(stage: Stage) -> None:
    peer, opened = await stage.connect(**SMALL_WINDOW)
    data, facts = np.zeros(LARGE_BYTES, np.uint8), facts_of(LARGE_BYTES)
    task, put = await stage.begin_put("k", data)
    stage.do(store(opened.link, 1, put.op, facts))
    stage.do(store(opened.link, 2, put.op, facts, seq=7))
    stage.do(
        cmd.AbortStore(link=opened.link, request=RequestId(2)), cmd.AbortStore(link=opened.link, request=RequestId(1))
    )
    stage.do(cmd.Ping(link=opened.link))
    kinds = []
    while Kind.PING not in kinds:
        got = await peer.receive()
        if got.request == 2:  # it had not begun: of it the node hears its number only
            assert (got.kind, got.meta) == (Kind.ABORT, {"seq": 7})
        kinds.append(got.kind)
    assert kinds[-3:] == [Kind.ABORT, Kind.ABORT, Kind.PING]
    assert peer.n_body_bytes < LARGE_BYTES
    await peer.send(Kind.STORED, 1)  # as if it had not been heard in time
    await peer.send(Kind.PONG, meta={"session": "s0"})
    await stage.script.next(ev.PongReceived)  # and no ChunkStored before it
    await end(stage, task, put.op, facts)


async def test_a_refused_chunk_is_not_sent_to_its_end(stage: Stage) -> None:
    peer, opened = await stage.connect(**SMALL_WINDOW)
    data, facts = np.zeros(LARGE_BYTES, np.uint8), facts_of(LARGE_BYTES)
    task, put = await stage.begin_put("k", data)
    stage.do(store(opened.link, 1, put.op, facts))
    await peer.expect(Kind.STORE)
    await peer.send(Kind.REFUSED, 1, {"reason": "full"})
    refused = await stage.script.next(ev.RequestRefused)
    assert (refused.request, refused.reason) == (1, "full")
    while (await peer.receive()).kind is not Kind.ABORT:
        pass
    assert peer.n_body_bytes < LARGE_BYTES
    await end(stage, task, put.op, facts)


async def test_deletes_name_chunks(stage: Stage) -> None:
    peer, opened = await stage.connect()
    chunks = (ChunkId("a", 1, 0), ChunkId("b", 2, 5))
    stage.do(cmd.DeleteChunks(link=opened.link, request=RequestId(4), seq=8, chunk_ids=chunks))
    got = await peer.expect(Kind.DELETE, 4)
    assert got.meta == {"seq": 8, "chunk_ids": [["a", 1, 0], ["b", 2, 5]]}
    assert got.epoch == 7
    await peer.send(Kind.DELETED, 4)
    assert (await stage.script.next(ev.ChunksDeleted)).request == 4


# ---------------------------------------------------------------- chunks in


@pytest.mark.parametrize("size", [0, 1, SEGMENT_BYTES, 2 * SEGMENT_BYTES + 3])
async def test_a_chunk_lands_in_its_place(stage: Stage, size: int) -> None:
    peer, opened = await stage.connect()
    data, facts = random_bytes(size), facts_of(size)
    task, get = await stage.begin_get(facts)
    stage.do(fetch(opened.link, 5, get.op, facts, zlib.crc32(data)))
    assert (await peer.expect(Kind.FETCH, 5)).meta == {"chunk_id": ["k", 3, 0]}
    await peer.send_chunk(5, describe(facts, 0, data.tobytes()), data.tobytes())
    assert (await stage.script.next(ev.ChunkArrived)).request == 5
    _, got = await end(stage, task, get.op, facts)
    assert np.array_equal(got, data)


async def test_chunks_may_arrive_mixed_and_byte_by_byte(stage: Stage) -> None:
    peer, opened = await stage.connect()
    data, facts = random_bytes(300), facts_of(300, "stripe:3")
    task, get = await stage.begin_get(facts)
    pieces = [data[i * 100 : (i + 1) * 100].tobytes() for i in range(3)]
    stage.do(*(fetch(opened.link, i + 1, get.op, facts, zlib.crc32(pieces[i]), i) for i in range(3)))
    frames = b""
    for part in range(2):
        for i in (2, 0, 1):
            body = pieces[i][part * 50 : (part + 1) * 50]
            meta = None if part else {"chunk": list(describe(facts, i, pieces[i]))}
            frames += pack(Kind.DATA if part else Kind.CHUNK, i + 1, 0, meta, len(body)) + body
    for start in range(0, len(frames), 7):
        await peer.send_raw(frames[start : start + 7])
    assert [(await stage.script.next(ev.ChunkArrived)).request for _ in range(3)] == [3, 1, 2]
    _, got = await end(stage, task, get.op, facts)
    assert np.array_equal(got, data)


@pytest.mark.parametrize(
    "changes", [{"key": "other"}, {"version": 4}, {"index": 1}, {"chunk_bytes": 1999}, {"crc": "no number"}]
)
async def test_a_chunk_that_is_another_is_damaged_and_not_taken(stage: Stage, changes: dict[str, Any]) -> None:
    peer, opened = await stage.connect()
    data, facts = random_bytes(2000), facts_of(2000)
    task, get = await stage.begin_get(facts)
    stage.do(fetch(opened.link, 5, get.op, facts, zlib.crc32(data)))
    place = stage.driver._buffers[get.op].object(facts)
    place[:] = 7
    await peer.expect(Kind.FETCH)
    await peer.send_chunk(5, describe(facts, 0, data.tobytes(), **changes), data.tobytes())
    assert (await stage.script.next(ev.ChunkDamaged)).request == 5
    await peer.expect(Kind.CANCEL, 5)
    assert (place == 7).all()
    await end(stage, task, get.op, facts)


@pytest.mark.parametrize("described", [{"chunk": [1, 2]}, {"chunk": None}, {}])
async def test_a_chunk_without_description_is_damaged(stage: Stage, described: dict[str, Any]) -> None:
    peer, opened = await stage.connect()
    facts = facts_of(2000)
    task, get = await stage.begin_get(facts)
    stage.do(fetch(opened.link, 5, get.op, facts, 0))
    await peer.send(Kind.CHUNK, 5, described, bytes(2000))
    assert (await stage.script.next(ev.ChunkDamaged)).request == 5
    await end(stage, task, get.op, facts)


async def test_a_wrong_checksum_is_damage(stage: Stage) -> None:
    peer, opened = await stage.connect()
    data, facts = random_bytes(2 * SEGMENT_BYTES), facts_of(2 * SEGMENT_BYTES)
    task, get = await stage.begin_get(facts)
    stage.do(fetch(opened.link, 5, get.op, facts, zlib.crc32(data)))
    damaged = bytearray(data)
    damaged[-1] ^= 1
    # what it says of its own checksum does not matter
    await peer.send_chunk(5, describe(facts, 0, data.tobytes()), bytes(damaged))
    assert (await stage.script.next(ev.ChunkDamaged)).request == 5
    await end(stage, task, get.op, facts)


@pytest.mark.parametrize("kinds", [(Kind.DATA,), (Kind.CHUNK, Kind.CHUNK), (Kind.CHUNK, Kind.DATA)])
async def test_segments_that_do_not_fit_together_are_damage(stage: Stage, kinds: tuple[Kind, ...]) -> None:
    """Bytes without a description, two descriptions, more bytes than the chunk has."""
    peer, opened = await stage.connect()
    facts = facts_of(2000)
    task, get = await stage.begin_get(facts)
    stage.do(fetch(opened.link, 5, get.op, facts, 0))
    meta = {"chunk": list(describe(facts, 0, bytes(2000)))}
    for kind in kinds:
        await peer.send(kind, 5, meta if kind is Kind.CHUNK else None, bytes(1500))
    assert (await stage.script.next(ev.ChunkDamaged)).request == 5
    await end(stage, task, get.op, facts)


async def test_after_a_cancellation_nothing_is_written_in_the_middle_of_a_frame(stage: Stage) -> None:
    peer, opened = await stage.connect()
    size = 4 << 20
    data, facts = random_bytes(size), facts_of(size)
    task, get = await stage.begin_get(facts)
    stage.do(fetch(opened.link, 5, get.op, facts, zlib.crc32(data)))
    await peer.expect(Kind.FETCH)
    place = stage.driver._buffers[get.op].object(facts)
    place[:] = 7
    head = pack(Kind.CHUNK, 5, 0, {"chunk": list(describe(facts, 0, data.tobytes()))}, SEGMENT_BYTES)
    half = SEGMENT_BYTES // 2
    await peer.send_raw(head + data[:half].tobytes())
    await until(lambda: stage.driver.stats()["bytes_in"] == len(head) + half)
    stage.do(cmd.CancelFetch(link=opened.link, request=RequestId(5)))
    await peer.expect(Kind.CANCEL, 5)
    place[:] = 9
    await peer.send_raw(data[half:SEGMENT_BYTES].tobytes())
    await peer.send(Kind.DATA, 5, body=data[SEGMENT_BYTES : 2 * SEGMENT_BYTES])
    await peer.send(Kind.CANCELLED, 5)
    await peer.send(Kind.PONG, meta={"session": "s1"})
    assert (await stage.script.next(ev.PongReceived)).session == "s1"  # the stream has kept its meaning
    assert (place == 9).all()
    assert stage.driver.stats()["frames_discarded"] == 2
    await end(stage, task, get.op, facts)


async def test_cancelling_one_chunk_does_not_touch_another(stage: Stage) -> None:
    peer, opened = await stage.connect()
    data, facts = random_bytes(4000), facts_of(4000, "stripe:2")
    task, get = await stage.begin_get(facts)
    first, second = data[:2000].tobytes(), data[2000:].tobytes()
    stage.do(
        fetch(opened.link, 1, get.op, facts, zlib.crc32(first)),
        fetch(opened.link, 2, get.op, facts, zlib.crc32(second), 1),
    )
    await peer.send_raw(pack(Kind.CHUNK, 2, 0, {"chunk": list(describe(facts, 1, second))}, 2000) + second[:900])
    await until(lambda: stage.driver.stats()["bytes_in"] > HEADER_BYTES + 900)
    stage.do(cmd.CancelFetch(link=opened.link, request=RequestId(1)))
    await peer.send_raw(second[900:])
    assert (await stage.script.next(ev.ChunkArrived)).request == 2
    _, got = await end(stage, task, get.op, facts)
    assert got[2000:].tobytes() == second


async def test_chunks_that_nobody_asked_for_are_discarded(stage: Stage) -> None:
    peer, _ = await stage.connect()
    body = random_bytes(3 * SEGMENT_BYTES).tobytes()
    await peer.send_chunk(99, describe(facts_of(len(body)), 0, body), body)
    await peer.send(Kind.PONG, meta={"session": "s1"})
    await stage.script.next(ev.PongReceived)
    assert stage.driver.stats()["frames_discarded"] == 3


@pytest.mark.parametrize(
    ("kind", "event"),
    [
        (Kind.MISSING, ev.ChunkMissing),
        (Kind.CANCELLED, ev.FetchCancelled),
        (Kind.ABORT, ev.RequestRefused),
        (Kind.REFUSED, ev.RequestRefused),
    ],
)
async def test_how_a_fetch_may_end_without_a_chunk(stage: Stage, kind: Kind, event: type) -> None:
    peer, opened = await stage.connect()
    facts = facts_of(100)
    task, get = await stage.begin_get(facts)
    stage.do(fetch(opened.link, 5, get.op, facts, 0))
    await peer.send(kind, 5)
    assert (await stage.script.next(event)).request == 5
    await peer.send(kind if kind is not Kind.REFUSED else Kind.MISSING, 5)  # a second end of it is no news
    await peer.send(Kind.BYE, meta={"session": "s0"})
    assert (await stage.script.next(ev.ByeReceived)).session == "s0"
    await end(stage, task, get.op, facts)


# ---------------------------------------------------------------- the end of a connection


@pytest.mark.parametrize(
    "kind",
    [Kind.CHALLENGE, Kind.HELLO, Kind.WELCOME, Kind.PING, Kind.STORE, Kind.FETCH, Kind.CANCEL, Kind.DELETE, Kind.LIST],
)
async def test_what_a_node_must_not_say_ends_the_connection(stage: Stage, kind: Kind) -> None:
    peer, opened = await stage.connect()
    await peer.send(kind)
    assert (await stage.script.next(ev.LinkClosed)).link == opened.link
    assert await peer.is_hung_up()
    assert stage.driver.counters["protocol_errors"] == 1


@pytest.mark.parametrize("said", [b"\x00" * 40, pack(Kind.PONG)[:12] + b"\xff" * 20])
async def test_garbage_ends_the_connection(stage: Stage, said: bytes) -> None:
    peer, opened = await stage.connect()
    await peer.send_raw(said)
    assert (await stage.script.next(ev.LinkClosed)).link == opened.link
    assert await peer.is_hung_up()
    assert stage.driver.counters["protocol_errors"] == 1


async def test_a_node_that_hangs_up(stage: Stage) -> None:
    peer, opened = await stage.connect()
    await peer.send(Kind.BYE, meta={"session": "s0"})
    peer.close()
    await stage.script.next(ev.ByeReceived)
    assert (await stage.script.next(ev.LinkClosed)).link == opened.link
    stage.do(cmd.Ping(link=opened.link), cmd.CloseLink(link=opened.link))  # too late is no harm
    assert stage.driver.stats()["links"] == 0


async def test_a_node_that_hangs_up_while_it_is_sent_to(stage: Stage) -> None:
    peer, opened = await stage.connect(**SMALL_WINDOW)
    data, facts = np.zeros(LARGE_BYTES, np.uint8), facts_of(LARGE_BYTES)
    task, put = await stage.begin_put("k", data)
    stage.do(store(opened.link, 1, put.op, facts))
    await peer.expect(Kind.STORE)
    peer.close()  # with bytes unread: the shard sees a reset
    assert (await stage.script.next(ev.LinkClosed)).link == opened.link
    await end(stage, task, put.op, facts)


async def test_a_closed_link_is_reported_once_and_after_its_command(stage: Stage) -> None:
    peer, opened = await stage.connect()
    stage.do(cmd.CloseLink(link=opened.link), cmd.CloseLink(link=opened.link))
    assert (await stage.script.next(ev.LinkClosed)).link == opened.link
    assert await peer.is_hung_up()
    assert stage.script.events.empty()


async def test_two_instances_of_one_node_have_links_of_their_own(stage: Stage) -> None:
    first, opened = await stage.connect()
    second, opened_too = await stage.connect()
    assert opened.link != opened_too.link
    stage.do(cmd.Ping(link=opened_too.link))
    await second.expect(Kind.PING)
    first.close()
    assert (await stage.script.next(ev.LinkClosed)).link == opened.link
    stage.do(cmd.Ping(link=opened_too.link))
    await second.expect(Kind.PING)
